"""A GeoParquet dataset written by the workers: whole or not at all, the rows those of one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from helpers import crowd
from object_store import BUCKET, KEYS, object_store

import geotile
import geotile.results.dataset
from geotile.results.dataset import METADATA, part_names
from geotile.storage.folder import Folder

pytestmark = pytest.mark.slow

JOB = {"tile_size": 64, "overlap": 16, "region_size": 64}


def ranked(table: gpd.GeoDataFrame) -> str:
    """All there is in a table, whatever the order of its rows."""
    text = pd.DataFrame(table).assign(
        geometry=table.geometry.to_wkt(), image_geometry=geotile.image_geometry(table).to_wkt()
    )
    return text.sort_values([*text.columns], ignore_index=True).to_csv()


def one_file(path, tmp_path, **job) -> gpd.GeoDataFrame:
    geotile.detect_to(path, crowd, tmp_path / "one.parquet", **JOB | job)
    return gpd.read_parquet(tmp_path / "one.parquet")


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of at least ten rows, in this process."""
    monkeypatch.setattr(geotile.results.dataset, "PART_ROWS", 10)


def test_the_rows_are_those_of_one_file(write_tiff, noise, tmp_path, small_parts):
    path = write_tiff(noise)
    want = one_file(path, tmp_path)
    report = geotile.detect_to(path, crowd, f"{tmp_path}/out/", **JOB)
    parts = sorted((tmp_path / "out").glob("part-*.parquet"))
    assert len(parts) > 2
    assert report.detections_after == len(want) == sum(pq.read_metadata(part).num_rows for part in parts)
    found = gpd.read_parquet(tmp_path / "out")
    assert found.crs == want.crs
    assert ranked(found) == ranked(want)
    for part in parts:
        scores = gpd.read_parquet(part).score
        assert scores.is_monotonic_decreasing


def test_metadata_lists_all_parts(write_tiff, noise, tmp_path, small_parts):
    path = write_tiff(noise)
    geotile.detect_to(path, crowd, f"{tmp_path}/out/", **JOB)
    names = part_names(Folder.at(f"{tmp_path}/out/"))
    assert sorted(names) == sorted(p.name for p in (tmp_path / "out").glob("part-*"))
    geo = pq.read_schema(tmp_path / "out" / "_metadata.parquet")
    west, south, east, north = gpd.read_parquet(tmp_path / "out").total_bounds
    box = json.loads(geo.metadata[b"geo"])["columns"]["geometry"]["bbox"]
    assert np.allclose(box, [west, south, east, north])


@pytest.mark.parametrize(
    "roi", [None, "POLYGON ((3.0005 45.15, 3.0015 45.15, 3.0015 45.154, 3.0005 45.154, 3.0005 45.15))"]
)
def test_of_nothing_there_is_one_empty_part(write_tiff, noise, tmp_path, roi):
    path = write_tiff(noise)
    report = geotile.detect_to(path, lambda tile: ([], []), f"{tmp_path}/out/", roi=roi, **JOB)
    assert report.detections_after == 0
    found = gpd.read_parquet(tmp_path / "out")
    assert len(found) == 0
    assert found.crs == "EPSG:32631"
    assert list(found.columns) == list(one_file(path, tmp_path).columns)


def test_what_is_there_is_left_alone(write_tiff, noise, tmp_path):
    path, out = write_tiff(noise), f"{tmp_path}/out/"
    geotile.detect_to(path, crowd, out, **JOB)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(geotile.OutputError, match=r"exists\. Pass overwrite=True"):
        geotile.detect_to(path, crowd, out, **JOB)
    geotile.detect_to(path, crowd, out, overwrite=True, **JOB)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    geotile.detect_to(path, crowd, out, overwrite=True, **JOB | {"iou_threshold": 0.1})
    after = [p.name for p in (tmp_path / "out").iterdir()]
    assert len(after) == 2  # one part, and _metadata.parquet
    assert set(after) != set(before)
    (tmp_path / "out" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(geotile.OutputError, match=r"holds cat\.jpg"):
        geotile.detect_to(path, crowd, out, overwrite=True, **JOB)
    (tmp_path / "file").write_text("")
    with pytest.raises(geotile.OutputError, match="is a file"):
        geotile.detect_to(path, crowd, f"{tmp_path}/file/", **JOB)
    with pytest.raises(geotile.ArgumentError, match="compute=False"):
        geotile.detect_to(path, crowd, f"{tmp_path}/more/", compute=False, **JOB)
    assert sorted(os.listdir(tmp_path)) == ["file", "image.tif", "out"]


def test_a_run_that_fails_leaves_nothing(write_tiff, noise, tmp_path, small_parts):
    path = write_tiff(noise)
    asked = []

    def fails_late(tile):
        asked.append(tile)
        if len(asked) > 30:
            raise RuntimeError("enough")
        return crowd(tile)

    with pytest.raises(geotile.TileError):
        geotile.detect_to(path, fails_late, f"{tmp_path}/out/", errors="raise", concurrency=1, **JOB)
    assert not (tmp_path / "out").exists()
    geotile.detect_to(path, crowd, f"{tmp_path}/out/", **JOB)
    assert ranked(gpd.read_parquet(tmp_path / "out")) == ranked(one_file(path, tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["image.tif", "one.parquet", "out"]


DIES_AT_RENAME = """
import os, sys
from geotile.results.dataset import DatasetOutput
from geotile.storage.folder import Folder
rename, renames = os.replace, []

def replace(source, target):
    if not os.path.isdir(source):
        return rename(source, target)
    renames.append(target)
    if len(renames) == int(sys.argv[2]):
        os._exit(9)
    rename(source, target)

os.replace = replace
output = DatasetOutput.reserve(Folder.at(sys.argv[1]), overwrite=True)
output.begin()
output.drafts.write("part-new.parquet", b"new")
DatasetOutput.commit.__globals__["_metadata"] = lambda parts: b"new"
output.commit([])
"""


@pytest.mark.slow
@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_while_a_dataset_is_replaced_leaves_the_old_one(write_tiff, noise, tmp_path, renames):
    """Dies before the old one is moved aside, and between that and the move of the new one."""
    path, out = write_tiff(noise), f"{tmp_path}/out/"
    geotile.detect_to(path, crowd, out, **JOB)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert subprocess.run([sys.executable, "-c", DIES_AT_RENAME, out, str(renames)]).returncode == 9
    assert (tmp_path / "out").exists() == (renames == 1)
    with pytest.raises(geotile.OutputError, match="exists"):
        geotile.detect_to(path, crowd, out, **JOB)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    geotile.detect_to(path, crowd, out, overwrite=True, **JOB)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["image.tif", "out"]


def test_write_takes_a_folder_too(write_tiff, noise, tmp_path):
    found = geotile.detect(write_tiff(noise), crowd, **JOB)
    geotile.write(found, f"{tmp_path}/out/")
    assert ranked(gpd.read_parquet(tmp_path / "out")) == ranked(one_file(str(tmp_path / "image.tif"), tmp_path))


@pytest.mark.slow
def test_workers_write_to_s3(write_tiff, noise, tmp_path, workers):
    path, out = write_tiff(noise), f"s3://{BUCKET}/found/"
    with object_store() as proxy, workers.as_current():
        options = {**KEYS, "endpoint_url": proxy.url}
        geotile.detect_to(path, crowd, out, output_options=options, **JOB)
        found = gpd.read_parquet(out, storage_options=options)
        assert ranked(found) == ranked(one_file(path, tmp_path))
        assert all(request.path.startswith(f"/{BUCKET}") for request in proxy.requests)
        with pytest.raises(geotile.OutputError, match="exists"):
            geotile.detect_to(path, crowd, out, output_options=options, **JOB)
        geotile.detect_to(path, crowd, out, output_options=options, overwrite=True, iou_threshold=0.1, **JOB)
        fsspec.filesystem("s3", **options).invalidate_cache()
        assert len(gpd.read_parquet(out, storage_options=options)) < len(found)


def test_a_dataset_that_cannot_be_completed_keeps_its_parts(write_tiff, noise, tmp_path):
    out = tmp_path / "out"

    def appears(tile):
        out.mkdir(exist_ok=True)
        (out / METADATA).write_bytes(b"of another run")
        return crowd(tile)

    with pytest.raises(
        geotile.OutputError, match=r"appeared during the run.*The detections are in the parts \(1 file"
    ) as caught:
        geotile.detect_to(write_tiff(noise), appears, f"{out}/", **JOB)
    assert not getattr(caught.value, "__notes__", [])
    folder = str(caught.value).split(" part-*.parquet) in ")[1].split("; copy")[0]
    assert len(gpd.read_parquet(folder)) == len(one_file(write_tiff(noise), tmp_path))


def test_other_readers_read_the_folder(write_tiff, noise, tmp_path, small_parts):
    report = geotile.detect_to(write_tiff(noise), crowd, f"{tmp_path}/out/", **JOB)
    assert ds.dataset(tmp_path / "out").count_rows() == report.detections_after
    assert len(gpd.read_parquet(tmp_path / "out")) == report.detections_after
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(tmp_path / "out").height == report.detections_after
    assert polars.scan_parquet(f"{tmp_path}/out/").select("label").collect().height == report.detections_after
