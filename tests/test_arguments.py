"""Positional arguments of another type are refused by their name."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import geotile
from geotile.cli.settings import _read as read_settings
from geotile.detectors.class_names import class_names
from geotile.detectors.onnx import read_model
from geotile.testing import bright_objects, write_example

WRONG = [None, 5, [1], {"a": 1}, b"a.tif", object(), ""]


def image():
    return geotile.open_image(write_example())


@pytest.mark.parametrize("wrong", WRONG)
def test_an_image_is_a_path_or_an_array(wrong):
    with pytest.raises(geotile.ArgumentError, match=r"^uri must be "):
        geotile.open_image(wrong)
    for call in (geotile.plan, lambda each: geotile.detect(each, bright_objects, tile_size=64, overlap=0)):
        with pytest.raises(geotile.ArgumentError, match=r"^image must be "):
            call(wrong)


def test_a_dataset_and_a_link_are_no_images():
    with pytest.raises(geotile.ArgumentError, match=r"^image must be one array, and a Dataset holds several"):
        geotile.detect(xr.Dataset({"a": (("y", "x"), np.zeros((3, 3)))}), bright_objects)
    with pytest.raises(geotile.ArgumentError, match=r"^image must be .* got dict"):
        geotile.detect({"href": "a.tif"}, bright_objects)
    with pytest.raises(geotile.ArgumentError, match=r"^image must be "):
        geotile.detect(5, bright_objects, asset="visual")
    with pytest.raises(geotile.ArgumentError, match=r"^uri must be "):
        geotile.open_image(5, asset="visual")


@pytest.mark.parametrize("wrong", WRONG)
def test_an_output_is_a_path(wrong):
    with pytest.raises(geotile.ArgumentError, match=r"^output must be "):
        geotile.detect_to(write_example(), bright_objects, wrong)
    frame = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    with pytest.raises(geotile.ArgumentError, match=r"^output must be "):
        geotile.write(frame, wrong)


@pytest.mark.parametrize("wrong", WRONG)
def test_detections_are_a_frame(wrong, tmp_path):
    calls = (
        lambda: geotile.write(wrong, tmp_path / "a.geojson"), lambda: geotile.image_geometry(wrong),
        lambda: geotile.report(wrong), lambda: geotile.plot_detections(image(), wrong),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(geotile.ArgumentError, match=r"^detections must "):
            call()


@pytest.mark.parametrize("wrong", [5, None, b"http://127.0.0.1/x", ["http://127.0.0.1/x"], Path("x"), "", "host/x"])
def test_an_endpoint_is_a_url(wrong):
    with pytest.raises(geotile.ArgumentError, match=r"^endpoint must be an HTTP\(S\) URL"):
        geotile.HttpEndpoint(wrong)


@pytest.mark.parametrize("wrong", ["u8.tif", None, 5, np.zeros((1, 3, 3)), xr.Dataset(), xr.DataArray([1.0])])
def test_steps_take_arrays(wrong):
    calls = (
        lambda: geotile.stretch(wrong), lambda: geotile.rescale(wrong, 0, 1), lambda: geotile.cast(wrong, "uint8"),
        lambda: geotile.plot_detections(wrong, None),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(geotile.ArgumentError, match=r"^image must "):
            call()


@pytest.mark.parametrize("wrong", ["2,98", None, 5, (1,), (2, "98"), (98, 2), [1, 2, 3], (float("nan"), 5), {1: 2}])
def test_percentiles_are_two_numbers(wrong):
    with pytest.raises(geotile.ArgumentError, match=r"^percentiles must be two ascending numbers"):
        geotile.stretch(image(), wrong)


@pytest.mark.parametrize(
    "wrong", ["a", None, b"1", ["a", 1, 2], (1, 2), [[1, 2, 3]], float("nan"), {1: 2}, object(), [], "123"]
)
def test_limits_are_numbers(wrong):
    with pytest.raises(geotile.ArgumentError, match=r"^low must be one finite number"):
        geotile.rescale(image(), wrong, 500)
    with pytest.raises(geotile.ArgumentError, match=r"^high must be one finite number"):
        geotile.rescale(image(), 0, wrong)
    assert geotile.rescale(image(), np.array([0, 1, 2]), 500).dtype == "uint8"


@pytest.mark.parametrize("wrong", ["x", None, [["a"] * 4], object()])
def test_boxes_and_scores_are_numbers(wrong):
    with pytest.raises(geotile.ArgumentError, match=r"^boxes must "):
        geotile.nms(wrong, [1.0])
    with pytest.raises(geotile.ArgumentError, match=r"^scores must "):
        geotile.nms([[0, 0, 1, 1]], wrong)


def test_whole_numbers_are_neither_arrays_nor_without_limit():
    for name in ("bands", "tile_size", "concurrency"):
        with pytest.raises(geotile.ArgumentError, match=f"^{name} must be"):
            geotile.detect(write_example(), bright_objects, **{name: np.array(3)})
    for name in ("threads", "batch_size"):
        with pytest.raises(geotile.ArgumentError, match=f"^{name} must be at most"):
            geotile.endpoint("onnx:m.onnx", **{name: 10**30})


def test_the_other_arguments_are_checked():
    frame = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    calls = {
        "tile": lambda: geotile.endpoint(bright_objects).check("x"), "body": lambda: geotile.JobRequest.parse(5),
        "grid": lambda: geotile.plot_detections(image(), frame, grid=5), "dtype": lambda: geotile.cast(image(), None),
        "window": lambda: geotile.plot_detections(image(), frame, window=(0, 1, 0, 1)),
        "queue": lambda: geotile.jobs("a\0b"), "request": lambda: geotile.submit("a\0b", "q"),
        "output": lambda: geotile.write(frame, "a\0b.geojson"), "uri": lambda: geotile.open_image("a\0b.tif"),
    }  # fmt: skip
    for name, call in calls.items():
        with pytest.raises(geotile.ArgumentError, match=f"^{name} must be"):
            call()


def test_a_signed_url_is_not_kept_in_the_array(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(write_example()).rename("a.tif?token=hush")
    image = geotile.open_image("a.tif?token=hush")
    assert image.encoding["source"] == "a.tif?token=***"
    assert "hush" not in repr(geotile.plan(image, tile_size=64, overlap=0))


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["labels", "model", "stac", "verify", "cert", "roi", "config"])
def test_a_file_that_would_be_read_for_ever_is_refused(name, kind, tmp_path):
    path = tmp_path / f"a{'.onnx' if name == 'model' else ''}"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    path = str(path)
    asked = {
        "labels": lambda: class_names(path), "model": lambda: read_model(path),
        "stac": lambda: geotile.open_image(path, asset="a"), "roi": lambda: geotile.plan(write_example(), tile_size=64, overlap=0, roi=path),
        "verify": lambda: geotile.HttpEndpoint("https://h/x", verify=path),
        "cert": lambda: geotile.HttpEndpoint("https://h/x", cert=(path, path)), "config": lambda: read_settings(path),
    }  # fmt: skip
    pytest.importorskip("pystac")
    with pytest.raises(
        (geotile.ArgumentError, geotile.ImageOpenError), match={"pipe": "a named pipe"}.get(kind, "a device")
    ):
        asked[name]()
