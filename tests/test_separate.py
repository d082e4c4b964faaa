"""Images, outputs and checkpoints of one run are separate places; an output never replaces an image."""

import hashlib
import json
import os

import fsspec
import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from helpers import cli
from object_store import BUCKET, KEYS, object_store
from rasters import bordered, encoded, means, raster_server, scene
from service_process import request

import geotile
from geotile.running import embedding
from geotile.service.request import JobRequest
from geotile.storage.separate import NamedPlace, check_apart

JOB = {"tile_size": 64, "overlap": 16}
S3 = {"type": "S3", "bucket": "bucket"}
URL = "http://127.0.0.1:9/x"


def none(tile):
    return np.zeros((0, 4)), np.zeros(0)


@pytest.mark.parametrize(
    ("place", "output", "separate"),
    [
        ("/d/a.tif", "/d/a.tif", False), ("file:///d/a.tif", "/d/x/../a.tif", False), ("/d/a.tif", "/d/a.tiff", True),
        ("/d/found/a.tif", "/d/found/", False), ("/d/a.zarr/b", "/d/a.zarr", False), ("/d/a.zarr", "/d/a.zarr/b.zarr", False),
        ("/d/a.zarr", "/d/a.zarr2", True), ("s3://b/a.tif", "s3://b/a.tif", False), ("/vsis3/b/a.tif", "s3a://b/a.tif", False),
        ("s3://b/a.zarr", "s3://b/a.zarr/p.parquet", False), ("s3://b/a.tif", "s3://c/a.tif", True),
        ("s3://b/a.tif", "/b/a.tif", True), ("file://host/a.tif", "/a.tif", True), ("az://c/a.tif", "abfs://c/a.tif", False),
    ],
)  # fmt: skip
def test_places_are_compared_however_they_are_written(place, output, separate):
    places, outputs = [NamedPlace("image", place)], [NamedPlace("output", output)]
    if separate:
        check_apart(places, outputs)
        return
    with pytest.raises(geotile.ArgumentError, match="image and output must be separate") as caught:
        check_apart(places, outputs)
    assert place in str(caught.value)
    assert output in str(caught.value)


def test_a_link_is_the_file_that_it_names(tmp_path):
    path, _ = scene(tmp_path)
    (tmp_path / "link.tif").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)
    before = digest_of(path)
    for output in (path, tmp_path / "link.tif", tmp_path / "folder" / "scene.tif", os.path.relpath(path)):
        with pytest.raises(geotile.ArgumentError, match="image and destination must be separate"):
            geotile.predict_to(path, refuse, output, overwrite=True, **JOB)
        with pytest.raises(geotile.ArgumentError, match="image and destination"):
            geotile.predict_to(geotile.open_image(path), refuse, output, overwrite=True, **JOB)
    assert digest_of(path) == before


def refuse(tile):
    raise AssertionError("the model was asked")


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_a_zarr_image_is_not_replaced(tmp_path):
    image = tmp_path / "image.zarr"
    pixels = xr.DataArray(np.ones((1, 100, 100), "u1"), dims=("band", "y", "x"))
    pixels.to_dataset(name="a").to_zarr(image, zarr_format=3)
    for output in (image, image / "b.zarr"):
        with pytest.raises(geotile.ArgumentError, match="image and destination"):
            geotile.predict_to(str(image), refuse, output, overwrite=True, **JOB)
    with pytest.raises(geotile.ArgumentError, match="image and polygons"):
        geotile.predict_to(str(image), refuse, tmp_path / "a.tif", polygons=image / "p.parquet", **JOB)
    assert list(xr.open_zarr(image)) == ["a"]


@pytest.mark.parametrize(("run", "model"), [(geotile.detect_to, none), (geotile.embed_to, means)])
def test_a_dataset_does_not_replace_an_image_in_it(tmp_path, run, model):
    out = tmp_path / "out"
    run(scene(tmp_path)[0], model, f"{out}/", **JOB)
    (out / "images").mkdir()
    path, _ = scene(out / "images")
    with pytest.raises(geotile.ArgumentError, match="image and output must be separate"):
        run(path, refuse, f"{out}/", overwrite=True, **JOB)
    assert os.path.exists(path)


@pytest.mark.parametrize(
    ("run", "output", "more"),
    [
        (geotile.predict_to, "a.zarr", {"checkpoint": "a.zarr"}), (geotile.predict_to, "a.zarr", {"checkpoint": "a.zarr/ck"}),
        (geotile.predict_to, "ck/a.zarr", {"checkpoint": "ck"}), (geotile.predict_to, "a.tif", {"checkpoint": "ck", "polygons": "ck/p.parquet"}),
        (geotile.predict_to, "a.zarr", {"polygons": "a.zarr/p.parquet"}),
        (geotile.detect_to, "found/", {"checkpoint": "found"}), (geotile.detect_to, "found/", {"checkpoint": "found/ck"}),
        (geotile.detect_to, "ck/a.parquet", {"checkpoint": "ck"}), (geotile.embed_to, "found/", {"checkpoint": "found/ck"}),
        (geotile.embed_to, "ck/a.parquet", {"checkpoint": "ck"}),
    ],
)  # fmt: skip
def test_outputs_and_checkpoint_are_separate(tmp_path, run, output, more):
    path, _ = scene(tmp_path)
    (tmp_path / "ck").mkdir()
    more = {name: tmp_path / value for name, value in more.items()}
    for _ in range(2):
        with pytest.raises(geotile.ArgumentError, match=r"must be separate places, neither of them in the other; got"):
            run(path, refuse, f"{tmp_path}/{output}", overwrite=True, **more, **JOB)
    assert sorted(os.listdir(tmp_path)) == ["ck", "scene.tif"]
    assert not os.listdir(tmp_path / "ck")


def test_a_request_may_not_replace_its_images(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    path, _ = scene(tmp_path)
    here, there = {"type": "File", "path": str(tmp_path)}, {"type": "File", "path": str(tmp_path / "link")}
    bad = [
        request("scene", path, URL, [here], task="predict"), request("x/scene", path, URL, [there], task="predict"),
        request("a", "s3://bucket/x/a.tif", URL, [S3 | {"prefix": "x"}], task="predict"),
        request("a", ["s3://bucket/a-b.tif.tif", "s3://bucket/b.tif"], URL, [here, S3], task="predict"),
        request("a", "s3://bucket/a.zarr", URL, [S3 | {"format": "zarr"}], task="predict"),
    ]  # fmt: skip
    for each in bad:
        with pytest.raises(geotile.ArgumentError, match="imageUrls and outputs must be separate places"):
            JobRequest.parse(json.dumps(each))
    JobRequest.parse(json.dumps(request("b", path, URL, [here, S3], task="predict")))
    many = request("a", [f"/data/{n}.tif" for n in range(20_000)], URL, [here, S3], task="predict")
    JobRequest.parse(json.dumps(many))


def test_a_job_does_not_replace_its_image(tmp_path):
    path, _ = scene(tmp_path)
    before = digest_of(path)
    (tmp_path / "q").mkdir()
    with raster_server(
        lambda body: (200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", np.zeros((2, 2))))
    ) as url:
        job = request("scene", path, url, [{"type": "File", "path": str(tmp_path)}], task="predict")
        (tmp_path / "q" / "a.json").write_text(json.dumps(job))
        cli("serve", "--queue", tmp_path / "q", "--once", "--address", "127.0.0.1:0")
    assert "imageUrls and outputs must be separate places" in next((tmp_path / "q").rglob("*.status.json")).read_text()
    assert digest_of(path) == before


@pytest.mark.slow
def test_a_stopped_overwrite_in_object_storage_leaves_the_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "PART_ROWS", 5)  # several parts
    path, _ = scene(tmp_path, (600, 600))
    out, calls = f"s3://{BUCKET}/v/", []

    def second(tile):
        calls.append(1)
        if len(calls) > 25:
            raise ValueError("stop")
        return np.full(3, 2.0)

    with object_store() as proxy:
        options = {**KEYS, "endpoint_url": proxy.url}
        job = {"tile_size": 100, "overlap": 0, "region_size": 128, "output_options": options}
        geotile.embed_to(path, lambda tile: np.full(3, 1.0), out, **job)
        files = fsspec.filesystem("s3", **options)
        files.invalidate_cache()
        before = {name: files.cat_file(name) for name in files.ls(f"{BUCKET}/v")}
        assert len(before) > 3
        with dask_in_order(), pytest.raises(geotile.TileError):
            geotile.embed_to(path, second, out, overwrite=True, errors="raise", **job)
        files.invalidate_cache()
        assert len(files.ls(f"{BUCKET}/v")) > len(before)  # the new run has written parts
        assert {name: files.cat_file(name) for name in before} == before
        calls.clear()
        geotile.embed_to(path, lambda tile: np.full(3, 3.0), out, overwrite=True, crs="EPSG:4326", **job)
        files.invalidate_cache()
        found = gpd.read_parquet(out, storage_options=options)
        assert len(found) == 36
        assert {row[0] for row in found["embedding"]} == {3.0}


def dask_in_order():
    import dask

    return dask.config.set(scheduler="synchronous")


def test_vectors_do_not_replace_a_file_that_appeared(tmp_path):
    path, _ = scene(tmp_path)
    out = tmp_path / "a.parquet"

    def late(tile):
        out.write_text("mine")
        return means(tile)

    with pytest.raises(geotile.OutputError, match=r"appeared during the run.* The rows are saved in ") as caught:
        geotile.embed_to(path, late, out, **JOB)
    assert out.read_text() == "mine"
    saved = str(caught.value).split("saved in ")[1].split("; copy")[0]
    rows = pq.read_table(saved)
    assert pa.types.is_fixed_size_list(rows.schema.field("embedding").type)
    geotile.embed_to(path, means, tmp_path / "b.parquet", **JOB)
    assert rows.equals(pq.read_table(tmp_path / "b.parquet"))


def test_vectors_of_a_crs_that_cannot_be_written_are_not_asked_for(tmp_path, monkeypatch):
    path, _ = scene(tmp_path)

    def cannot(table, path):
        raise ValueError("no such CRS")

    monkeypatch.setitem(geotile.results.sinks._WRITERS, ".parquet", cannot)
    with pytest.raises(geotile.OutputError, match="cannot hold results of the CRS"):
        geotile.embed_to(path, refuse, tmp_path / "a.parquet", **JOB)


def test_an_error_ends_in_one_full_stop(tmp_path):
    path, _ = scene(tmp_path)

    def late(tile):
        (tmp_path / "a.tif").write_text("mine")
        return bordered(tile)

    with pytest.raises(geotile.OutputError, match=r"another name\. The blocks are in "):
        geotile.predict_to(path, late, tmp_path / "a.tif", **JOB)
