"""Outputs: whole or not at all, read back by other readers."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import UUID

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet
import pyogrio
import pytest
import shapely
import xarray as xr
from helpers import crowd

import geotile
from geotile import OutputError
from geotile.results.sinks import Output
from geotile.storage.folder import Folder

JOB = {"tile_size": 64, "overlap": 16}


@pytest.fixture
def detections(write_tiff, noise):
    return geotile.detect(write_tiff(noise), crowd, **JOB)


@pytest.mark.parametrize("suffix", [".geojson", ".geojsonl", ".parquet", ".fgb", ".gpkg"])
@pytest.mark.parametrize("empty", [False, True])
def test_every_format_reads_back(detections, tmp_path, suffix, empty):
    rows = detections.iloc[:0] if empty else detections
    path = tmp_path / f"out{suffix}"
    geotile.write(rows, path)
    if suffix == ".geojsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == len(rows)
        return
    back = gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)
    assert len(back) == len(rows)
    if empty:
        return
    if suffix != ".geojson":
        assert back.crs == rows.crs
    if suffix != ".fgb":  # which sorts rows by place
        want = rows.to_crs(back.crs).geometry.bounds.to_numpy()
        np.testing.assert_allclose(back.geometry.bounds.to_numpy(), want, atol=1e-6)
    assert sorted(back["label"]) == sorted(rows["label"])


def test_geojson_is_rfc_7946_with_osmls_properties(detections, tmp_path):
    geotile.write(detections, tmp_path / "out.geojson")
    collection = json.loads((tmp_path / "out.geojson").read_text())
    assert set(collection) == {"type", "features"}  # no crs member
    feature = collection["features"][0]
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert ((ring >= [2.9, 45.0]) & (ring <= [3.1, 45.3])).all()
    x, y = ring.T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0  # counterclockwise
    assert set(feature["properties"]) >= {"imageGeometry", "imageBBox", "featureClasses", "label", "score"}
    assert feature["properties"]["imageBBox"] == detections[["xmin", "ymin", "xmax", "ymax"]].iloc[0].tolist()
    assert len(feature["bbox"]) == 4


def table(**columns):
    shapes = [shapely.box(0, 0, 1, 1), shapely.box(0, 0, 2, 2)]
    return gpd.GeoDataFrame({"score": [0.5, 0.4], "label": ["x", "y"], **columns}, geometry=shapes, crs=4326)


@pytest.mark.parametrize("suffix", [".parquet", ".geojson", ".gpkg", ".fgb"])
@pytest.mark.parametrize(
    ("values", "read"),
    [
        (pd.array(["a\ud800\0b", None], dtype="string[python]"), "a\ufffd\ufffdb"),
        (pd.Categorical(["a\ud800\0b", "y"]), "a\ufffd\ufffdb"),
        (["a", "a\0b"], "a"),
        (["a\0b", "a"], "a\ufffdb"),
        ([b"ab\xff", None], "ab\ufffd"),
        ([UUID(int=7), None], "00000000-0000-0000-0000-000000000007"),
        ([Decimal("1.5"), None], 1.5),
        (pd.PeriodIndex(["2020", "2021"], freq="Y").astype(object), "2020"),
    ],
)
def test_values_of_any_kind_are_written_by_each_format_or_by_none(tmp_path, values, read, suffix):
    path = tmp_path / f"a{suffix}"
    geotile.write(table(extra=values), path)
    rows = (
        gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path, layer=pyogrio.list_layers(path)[0, 0])
    )
    assert str(rows.set_index("label").loc["x", "extra"]) == str(read)
    assert rows["extra"].nunique(dropna=False) == 2


@pytest.mark.parametrize(
    ("names", "suffix", "said"),
    [
        (["a\ud800"], ".parquet", "without lone surrogates and NUL"),
        (["a\0b"], ".geojson", "without lone surrogates and NUL"),
        (["Label"], ".gpkg", "differ in more than case; got 'label' and 'Label'"),
        (["fid", "FID"], ".gpkg", "differ in more than case; got 'fid' and 'FID'"),
    ],
)
def test_names_that_a_format_cannot_hold_are_refused(tmp_path, names, suffix, said):
    with pytest.raises(geotile.ArgumentError, match=said):
        geotile.write(table(**dict.fromkeys(names, 1)), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_geopackage_has_columns_of_any_other_name(tmp_path):
    given = table(geom=1, GEOM_1=2, fid=3)
    geotile.write(given, tmp_path / "a.gpkg")
    assert gpd.read_file(tmp_path / "a.gpkg", layer="detections")[["geom", "GEOM_1", "fid"]].iloc[0].tolist() == [
        1,
        2,
        3,
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
        assert list(database.execute("SELECT f_geometry_column FROM layer_styles")) == [("geom_2",)]
        assert list(database.execute("SELECT column_name FROM gpkg_geometry_columns")) == [("geom_2",)]
    geotile.write(table(**{"class": 1}).drop(columns="score"), tmp_path / "b.gpkg")
    assert pyogrio.list_layers(tmp_path / "b.gpkg")[0, 0] == "polygons"


def test_empty_polygons_have_no_ring_in_geojson(tmp_path):
    empty = ["POLYGON EMPTY", "GEOMETRYCOLLECTION (POLYGON EMPTY, POINT (1 1))"]
    frame = table(image_geometry=empty, xmin=0.0, ymin=0.0, xmax=1.0, ymax=1.0)
    geotile.write(frame, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [each["properties"]["imageGeometry"] for each in features] == [
        {"type": "Polygon", "coordinates": []},
        {"type": "GeometryCollection", "geometries": [
            {"type": "Polygon", "coordinates": []}, {"type": "Point", "coordinates": [1.0, 1.0]},
        ]},
    ]  # fmt: skip


def test_parquet_is_geoparquet_1_1_with_a_bbox_column(detections, tmp_path):
    geotile.write(detections, tmp_path / "out.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "out.parquet")
    meta = json.loads(schema.metadata[b"geo"])
    assert meta["version"] == "1.1.0"
    assert "bbox" in schema.names
    assert meta["columns"]["geometry"]["covering"]["bbox"]
    assert gpd.read_parquet(tmp_path / "out.parquet").attrs["report"]["status"] == "SUCCESS"


def test_geopandas_own_writers_take_the_result(detections, tmp_path):
    detections.to_parquet(tmp_path / "own.parquet")
    assert len(gpd.read_parquet(tmp_path / "own.parquet")) == len(detections)


def test_an_image_without_a_place_gives_features_without_one(tmp_path):
    image = xr.DataArray(np.zeros((1, 40, 50), np.uint8), dims=("band", "y", "x"))
    report = geotile.detect_to(image, lambda tile: ([[1, 2, 3, 4]], [0.5]), tmp_path / "out.geojson")
    feature = json.loads((tmp_path / "out.geojson").read_text())["features"][0]
    assert feature["geometry"] is None
    assert feature["properties"]["imageBBox"] == [1, 2, 3, 4]
    assert report.detections_after == 1


def test_an_output_is_checked_before_the_model_is_asked(write_tiff, noise, tmp_path):
    def never(tile):
        raise AssertionError("the model was asked")

    path = write_tiff(noise)
    (tmp_path / "there.parquet").write_text("mine")
    for name, said in {
        "out.shp": "must end in one of", "there.parquet": "overwrite=True", "none/out.parquet": "no folder",
        ".": "must end", "memory://../x/there.geojson": "is lost", "a::b.geojson": "must not contain '::'",
    }.items():  # fmt: skip
        with pytest.raises(geotile.GeotileError, match=said):
            geotile.detect_to(path, never, name if "::" in name or "://" in name else tmp_path / name, **JOB)
    with pytest.raises(OutputError, match="cannot write"):
        geotile.detect_to(path, never, "/proc/out.parquet", **JOB)
    assert (tmp_path / "there.parquet").read_text() == "mine"
    geotile.detect_to(path, crowd, tmp_path / "there.parquet", overwrite=True, **JOB)
    assert len(gpd.read_parquet(tmp_path / "there.parquet"))


def test_a_failed_run_or_write_leaves_nothing(write_tiff, noise, tmp_path, detections):
    def broken(tile):
        raise RuntimeError("no")

    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(geotile.TileError):
        geotile.detect_to(write_tiff(noise), broken, folder / "a.parquet", errors="raise", **JOB)
    bad = detections.copy()
    bad["properties"] = [{"a": object()}] * len(bad)
    for suffix in (".geojson", ".geojsonl", ".parquet", ".gpkg", ".fgb"):
        with pytest.raises(geotile.GeotileError, match="JSON"):
            geotile.write(bad, folder / f"a{suffix}")
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_s3(detections, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        geotile.write(detections, "s3://bucket/deep/out.parquet")
        with pytest.raises(OutputError, match="exists"):
            geotile.write(detections, "s3://bucket/deep/out.parquet")
        with pytest.raises(OutputError, match="cannot write"):
            geotile.write(detections, "s3://no-such-bucket/out.parquet")
        assert len(gpd.read_parquet("s3://bucket/deep/out.parquet")) == len(detections)
        listed = boto3.client("s3").list_objects_v2(Bucket="bucket")["Contents"]
        assert [each["Key"] for each in listed] == ["deep/out.parquet"]
    finally:
        server.stop()


@pytest.mark.slow
def test_what_a_killed_run_left_goes_with_the_next(write_tiff, noise, tmp_path):
    code = "import os, sys; from geotile.results.sinks import Output; Output(sys.argv[1], True, (), 'run').put(lambda draft: os._exit(9))"
    out = tmp_path / "found.geojson"
    assert subprocess.run([sys.executable, "-c", code, str(out)]).returncode == 9
    assert [each.name.startswith(".found.geojson.geotile-draft") for each in tmp_path.glob(".*")] == [True]
    image = write_tiff(noise)
    geotile.detect_to(image, crowd, out)
    assert not list(tmp_path.glob(".*"))


def _killed_before_the_rename(code: str, *words: str) -> None:
    """Run code in a process that dies where the draft would take its place."""
    code = f"import os, sys; os.replace = lambda *paths: os._exit(9)\n{code}"
    assert subprocess.run([sys.executable, "-c", code, *words]).returncode == 9


@pytest.mark.slow
def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path, detections):
    out = tmp_path / "found.gpkg"
    out.write_text("old")
    code = """
from pathlib import Path
from geotile.results.sinks import Output
Output(sys.argv[1], True, (), "run").put(lambda draft: Path(draft).write_text("new"))
"""
    _killed_before_the_rename(code, str(out))
    assert out.read_text() == "old"
    assert len(list(tmp_path.glob(".found.gpkg.geotile-draft-*"))) == 1
    sink = Output.reserve(out, overwrite=True, owner="run")
    sink.put(lambda draft: sink.writer(detections, draft))
    assert len(gpd.read_file(out)) == len(detections)
    assert not list(tmp_path.glob(".*"))


def test_a_small_file_is_old_or_new_and_drafts_go_with_the_next_run(tmp_path):
    folder = Folder.at(tmp_path)
    folder.write("job.json", b"old")
    code = "from geotile.storage.folder import Folder; Folder.at(sys.argv[1]).write('job.json', b'new')"
    for _ in range(2):
        _killed_before_the_rename(code, str(tmp_path))
    assert folder.read("job.json") == b"old"
    assert len(list(tmp_path.glob(".*"))) == 2
    folder.remove_drafts()
    assert os.listdir(tmp_path) == ["job.json"]


def test_two_writers_of_one_small_file_do_not_meet(tmp_path):
    folder, contents = Folder.at(tmp_path), [bytes([i]) * 200_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(lambda data: folder.write("status.json", data), contents))
            assert folder.read("status.json") in contents
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_draft_of_a_long_name_fits(tmp_path):
    name = "ü" * 120 + ".json"  # 245 bytes of the 255 that a file system allows
    Folder.at(tmp_path).write(name, b"{}")
    assert os.listdir(tmp_path) == [name]
