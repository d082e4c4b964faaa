"""Typical calls, read by mypy alone (`test_project.py`): what a type checker tells users. Nothing here runs.

A comment ``# type: ignore[code]`` marks a call that a type checker must refuse: without the error, mypy complains
about the comment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import geotile
from geotile.testing import ModelServer, bright_objects


def a_laptop(image: Path) -> None:
    detections = geotile.detect(image, "https://models.example/invocations", tile_size=512, overlap=(64, 32))
    assert_type(geotile.report(detections), geotile.Report)
    assert_type(geotile.report(detections).tiles, int)
    assert_type(geotile.report(detections).failures, list[geotile.TileFailure])
    assert_type(geotile.report(detections).failures[0].reason, str)
    geotile.write(detections, "found.parquet", overwrite=True)


def a_report(image: str) -> None:
    report = geotile.detect_to(image, bright_objects, "found.geojson", overwrite=True, retries=2, progress=True)
    assert_type(report, geotile.Report)
    assert_type(report.status == "SUCCESS", bool)


def every_family_of_options(image: str) -> None:
    geotile.detect(image, "s3", bands=[4, 3, 2], storage_options={"anon": True}, resolution=0.5, dem="dem.tif")
    geotile.detect(image, "http", bearer="token", timeout_s=(5.0, 60.0), retries=3, ready_timeout_s=600.0)
    geotile.detect(image, "onnx:m.onnx", family="yolov8", score_threshold=0.1, nms_iou_threshold=0.6, threads=2)
    geotile.detect(image, "onnx:m.onnx", labels={0: "ship"}, providers=["CUDA", "CPU"], mean=[0, 0, 0], std=(1, 1, 1))
    geotile.detect(image, "onnx:m.onnx", tile_size="auto", labels="names.txt", providers="CPU")
    geotile.detect(image, print, batch_size=8, factory=False)
    geotile.detect(image=image, endpoint=print, merge=geotile.Nms(0.3), crs="EPSG:4326", roi="POINT (1 2)")
    geotile.detect(
        image, print, merge=None, skip_nodata=0.5, roi="POINT (1 2)", outside_roi="keep", errors="raise", concurrency=8
    )
    geotile.detect(image, print, checkpoint="ck", retry_failed=True, output_options={"profile": "x"})
    geotile.detect(image, print, compute=False)


def what_a_type_checker_refuses(image: str) -> None:
    geotile.detect(image, print, tilesize=3)  # type: ignore[call-arg]
    geotile.detect(image, print, tile_size="large")  # type: ignore[arg-type]
    geotile.detect(image, print, errors="ignore")  # type: ignore[arg-type]
    geotile.detect(image, print, merge=3)  # type: ignore[arg-type]
    geotile.detect_to(image, print, "found.parquet", compute=False)  # type: ignore[call-arg]
    geotile.detect_to(image, print)  # type: ignore[call-arg]
    geotile.plan(image, retries=3)  # type: ignore[call-arg]
    geotile.open_image(image, band=3)  # type: ignore[call-arg]
    geotile.endpoint("https://host", colour="red")  # type: ignore[call-arg]


def a_plan(image: str) -> None:
    work = geotile.plan(
        image, tile_size=1024, region_size="auto", roi=None, endpoint="https://models.example/invocations"
    )
    assert_type(work, geotile.Plan)
    assert_type(work.tiles, int)
    assert_type(work.grid, geotile.TileGrid)
    assert_type(work.grid.tile_window(0, 0), geotile.Window)
    assert_type(work.advice, tuple[str, ...])


def an_image(uri: str) -> None:
    image = geotile.open_image(uri, bands=["red", "green"], chunks={"y": 4096, "x": 4096})
    assert_type(image, xr.DataArray)
    assert_type(geotile.stretch(image[:, :100], (2, 98)), xr.DataArray)
    assert_type(geotile.rescale(image, 0, 4000), xr.DataArray)


def an_endpoint() -> None:
    model = geotile.endpoint("https://models.example/invocations", auth=geotile.SigV4("us-west-2"), verify="ca.pem")
    assert_type(model, geotile.Endpoint)
    assert_type(model.check(), geotile.Check)
    assert_type(model.check().message, str)
    assert_type(geotile.RetryPolicy(retries=3).retries, int)


class Nothing(geotile.Endpoint):
    wants_bytes = remote = False

    def invoke(self, tiles: Any, content_type: str) -> list[Any]:
        return [([], []) for _ in tiles]


def progress(state: geotile.Progress) -> None:
    assert_type(state.eta_s, float | None)
    assert_type(state.tiles, int)


def model(tile: NDArray[Any]) -> tuple[list[list[float]], list[float], list[str]]:
    return [[0.0, 0, 1, 1]], [0.5], ["car"]


def a_model_of_ones_own(image: str) -> None:
    geotile.detect(image, Nothing(), progress=progress)
    geotile.detect(image, model)
    with ModelServer(model) as server:
        geotile.detect(image, server.url)


def arrays() -> None:
    kept = geotile.nms([[0, 0, 1, 1]], [0.5], iou_threshold=0.3, metric="ios")
    assert_type(kept, NDArray[np.int64])


def errors(image: str) -> None:
    try:
        geotile.detect(image, print)
    except geotile.EndpointError as error:
        assert_type(error.retryable, bool)
        assert_type(error.http_status, int | None)
    except geotile.GeotileError:
        pass


def jobs(folder: str) -> None:
    request = geotile.submit({"jobId": "first"}, folder)
    assert_type(request, geotile.JobRequest)
    assert_type(request.job_id, str)
