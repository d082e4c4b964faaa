"""What is finished is kept, whole; the same call goes on from there; another job is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from helpers import cli, crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import BUCKET, KEYS, object_store

import geotile
import geotile.testing
from geotile.checkpoints.checkpoint import Checkpoint
from geotile.checkpoints.differences import differences
from geotile.checkpoints.region_answer import RegionAnswer
from geotile.merging.detections import concat, detections
from geotile.results.failures import TileFailure
from geotile.storage.folder import Folder

pytestmark = pytest.mark.slow

JOB = {"tile_size": 64, "overlap": 16, "region_size": 128}


class Counted:
    """A model that counts its tiles, and fails on those it is told to."""

    def __init__(self, fails=lambda n: False):
        self.asked, self.fails = [], fails

    def __call__(self, tile):
        self.asked.append(tile.tobytes())
        if self.fails(len(self.asked)):
            raise RuntimeError("not this one")
        return crowd(tile)


class Store:
    def __init__(self, proxy):
        self.proxy, self.options = proxy, {**KEYS, "endpoint_url": proxy.url}


@pytest.fixture(scope="module")
def store_here():
    with object_store() as proxy:
        yield Store(proxy)


@pytest.fixture
def store(store_here):
    yield store_here
    store_here.proxy.fault = lambda method, path: None


def rows(table: gpd.GeoDataFrame) -> str:
    return table.to_csv()


# --- what is kept


def test_the_same_call_asks_only_for_what_is_missing(write_tiff, noise, tmp_path):
    path, cp, model = write_tiff(noise), tmp_path / "cp", Counted()
    whole = geotile.detect(path, crowd, **JOB)
    first = geotile.detect(path, model, checkpoint=cp, **JOB)
    tiles = first.attrs["report"].tiles
    assert rows(first) == rows(whole)
    assert len(model.asked) == tiles
    parts = sorted(cp.glob("*/*.parquet"))
    assert len(parts) == first.attrs["report"].regions
    for part in parts[::2]:
        part.unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-20])  # damaged: run again
    again = geotile.detect(path, model, checkpoint=cp, **JOB)
    assert rows(again) == rows(whole)
    report = again.attrs["report"]
    assert 0 < report.tiles_resumed == 2 * tiles - len(model.asked) < tiles
    assert report.requests == len(model.asked) - tiles
    assert sorted(cp.glob("*/*.parquet")) == parts
    kept = geotile.detect(path, model, checkpoint=cp, iou_threshold=0.1, **JOB)
    assert kept.attrs["report"].requests == 0
    assert rows(kept) == rows(geotile.detect(path, crowd, iou_threshold=0.1, **JOB))


@pytest.mark.slow
def test_a_computed_array_is_not_computed_where_it_is_kept(tmp_path):
    computed = []

    def block(chunk):
        computed.append(chunk.shape)
        return chunk + 1

    pixels = np.random.default_rng(1).integers(0, 200, (1, 512, 512), np.uint8)
    image = xr.DataArray(
        da.from_array(pixels, (1, 128, 128)).map_blocks(block, dtype=np.uint8, name="computed", meta=pixels[:, :0, :0]),
        dims=("band", "y", "x"),
    )
    job = JOB | {"checkpoint": tmp_path / "cp"}
    first = geotile.detect(image, crowd, **job)
    computed.clear()
    again = geotile.detect(image, crowd, **job)
    assert not computed
    assert rows(first) == rows(again)
    one = sorted((tmp_path / "cp").glob("*/*.parquet"))[0]
    one.unlink()
    assert rows(geotile.detect(image, crowd, **job)) == rows(first)
    assert 0 < len(computed) <= 4  # the region and those its halo lies in
    one.write_bytes(b"")
    with pytest.raises(geotile.OutputError, match=r"region 0, 0 in .* is damaged or missing"):
        geotile.detect(image, crowd, **job)


@pytest.mark.parametrize("retry", [False, True])
def test_failed_tiles_are_asked_again_only_on_request(write_tiff, noise, tmp_path, retry):
    path, model = write_tiff(noise), Counted(fails=lambda n: n % 5 == 0)
    job = JOB | {"checkpoint": tmp_path / "cp", "concurrency": 1}
    with pytest.warns(UserWarning, match="tiles failed"):
        first = geotile.detect(path, model, **job)
    failed = len(first.attrs["report"].failures)
    assert failed == first.attrs["report"].tiles // 5
    model.fails = lambda n: False
    before = len(model.asked)
    if retry:
        seen = []
        again = geotile.detect(path, model, retry_failed=True, progress=seen.append, **job)
        assert (seen[0].done, seen[0].kept) == (0, 0)
        assert (seen[-1].done, seen[-1].kept) == (seen[-1].tiles, seen[-1].tiles - failed)
        assert all(each.done - each.kept <= failed for each in seen)  # a tile that is asked again is not done before
        assert again.attrs["report"].status == "SUCCESS"
        assert len(model.asked) - before == again.attrs["report"].requests == failed
        assert rows(again) == rows(geotile.detect(path, crowd, **JOB))
        assert geotile.detect(path, model, **job).attrs["report"].status == "SUCCESS"
    else:
        with pytest.warns(UserWarning, match="tiles failed"):
            again = geotile.detect(path, model, **job)
        assert len(model.asked) == before
        assert again.attrs["report"].failures == first.attrs["report"].failures


def test_a_region_is_kept_only_when_all_its_tiles_were_answered(write_tiff, noise, tmp_path):
    path, model = write_tiff(noise), Counted(fails=lambda n: n == 20)
    job = JOB | {"checkpoint": tmp_path / "cp", "concurrency": 1}
    with pytest.raises(geotile.TileError) as stopped:
        geotile.detect(path, model, errors="raise", **job)
    assert any("kept in" in note for note in stopped.value.__notes__)
    ends = time.monotonic() + 10  # the tile that was asked when the run stopped
    while any("geotile-tile" in each.name for each in threading.enumerate()) and time.monotonic() < ends:
        time.sleep(0.01)
    before, kept = len(model.asked), len(list((tmp_path / "cp").glob("*/*.parquet")))
    model.fails = lambda n: False
    done = geotile.detect(path, model, **job)
    report = done.attrs["report"]
    assert rows(done) == rows(geotile.detect(path, crowd, **JOB))
    assert kept < report.regions
    assert len(model.asked) - before == report.tiles - report.tiles_resumed


# --- whose it is


def test_a_checkpoint_of_another_job_is_refused(write_tiff, noise, tmp_path):
    path, cp = write_tiff(noise), tmp_path / "cp"
    job = JOB | {"checkpoint": cp}
    geotile.detect(path, crowd, **job)
    for change, says in [
        ({"tile_size": 128}, "tile_size was 64 and is now 128"),
        ({"score_threshold": 0.5}, r"score_threshold was None and is now 0\.5"),
        ({"pad": True}, "pad was False and is now True"),
        ({"skip_nodata": False}, "skip_nodata was True and is now False"),
        ({"bands": [1, 2]}, r"bands was \[1, 2, 3\] and is now \[1, 2\]"),
        ({"overlap": (8, 16)}, r"overlap was 16 and is now \(8, 16\)"),
        ({"resolution": 2.0}, "resolution or subdataset has"),
        (
            {"roi": gpd.GeoDataFrame(geometry=[shapely.box(500_010, 4_999_950, 500_040, 4_999_990)], crs="EPSG:32631")},
            "roi is given now, and was not before",
        ),
        ({"region_size": 512}, "region_size, in whole blocks of the file, was"),
    ]:
        with pytest.raises(geotile.ArgumentError, match=f"another job: {says}[^;]*Pass"):  # nothing else
            geotile.detect(path, crowd, **job | change)
    with pytest.raises(geotile.ArgumentError, match=r"the model was 'helpers.crowd' and is now"):
        geotile.detect(path, Counted(), **job)
    os.utime(path, (1, 1))
    with pytest.raises(geotile.ArgumentError, match=r"job: the image file has changed. Pass"):
        geotile.detect(path, crowd, **job)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"model": "onnx:m", "version": "a"}, {"version": "b"}, "the model file has changed"),
        ({"options": "[('family', 'yolox')]"}, {"options": "[]"}, "family was 'yolox' and is now the default"),
        ({"options": "[]"}, {"options": "[('labels', <x>)]"}, "the options of the decoder have changed"),
        ({"params": {"A": "1", "B": "2"}}, {"params": {"A": "1"}}, "the endpoint parameter B has changed"),
        ({"seed": 1}, {"seed": 2}, "seed of the model was 1 and is now 2"),
    ],
)
def test_a_changed_model_is_told_in_words(old, new, said):
    old = {"model": "http://h/x"} | old
    assert differences({"model": old}, {"model": old | new}) == [said]


def test_a_file_is_no_checkpoint(write_tiff, noise, tmp_path):
    (tmp_path / "p.gpkg").write_text("mine")
    for more in ({}, {"region_size": 128}):
        with pytest.raises(geotile.ArgumentError, match=r"checkpoint must be a folder; .*p\.gpkg is a file"):
            geotile.detect(write_tiff(noise), crowd, **JOB | {"checkpoint": tmp_path / "p.gpkg"} | more)
    job = ("detect", "none.tif", "http://127.0.0.1:9/x", "-o", tmp_path / "a.fgb", "--checkpoint")
    assert "--checkpoint must be a folder" in cli(*job, tmp_path / "p.gpkg", status=2).stderr
    for command in ("resume", "status"):
        assert "p.gpkg is" in cli(command, tmp_path / "p.gpkg", status=2).stderr


def test_a_version_of_a_model_tells_it_from_the_next(write_tiff, noise, tmp_path):
    model = Counted()
    model.version = "1"
    job = JOB | {"checkpoint": tmp_path / "cp"}
    geotile.detect(write_tiff(noise), model, **job)
    model.version = "2"
    with pytest.raises(geotile.ArgumentError, match="the version of the model was '1' and is now '2'"):
        geotile.detect(str(tmp_path / "image.tif"), model, **job)


def test_regions_are_those_of_the_checkpoint(write_tiff, noise, tmp_path):
    path, job = write_tiff(noise), {"tile_size": 64, "overlap": 16, "checkpoint": tmp_path / "cp"}
    first = geotile.detect(path, crowd, region_size=128, **job)
    again = geotile.detect(path, crowd, **job)  # "auto" would choose others
    assert again.attrs["report"].regions == first.attrs["report"].regions != 1
    assert again.attrs["report"].requests == 0


def test_what_is_no_checkpoint_is_left_alone(write_tiff, noise, tmp_path):
    path, place = write_tiff(noise), tmp_path / "photos"
    place.mkdir()
    (place / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(geotile.ArgumentError, match=r"is not a checkpoint: it holds cat\.jpg"):
        geotile.detect(path, crowd, checkpoint=place, **JOB)
    (place / "job.json").write_text("{}")
    with pytest.raises(geotile.ArgumentError, match="is not that of a geotile checkpoint"):
        geotile.detect(path, crowd, checkpoint=place, **JOB)
    (place / "job.json").write_text(json.dumps({"format": 99, "identity": {}}))
    with pytest.raises(geotile.ArgumentError, match="format 99"):
        geotile.detect(path, crowd, checkpoint=place, **JOB)
    assert sorted(p.name for p in place.iterdir()) == ["cat.jpg", "job.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(geotile.ArgumentError, match="is a file"):
        geotile.detect(path, crowd, checkpoint=tmp_path / "file", **JOB)
    with pytest.raises(geotile.ArgumentError, match="give checkpoint="):
        geotile.detect(path, crowd, retry_failed=True)


@pytest.mark.slow
def test_a_signed_url_tells_no_secret(write_tiff, noise, tmp_path):
    with geotile.testing.ModelServer(geotile.testing.bright_objects) as server:
        url = server.url.replace("http://", "http://me:hush@")
        geotile.detect(write_tiff(noise), url, checkpoint=tmp_path / "cp", **JOB)
    kept = b"".join(p.read_bytes() for p in (tmp_path / "cp").rglob("*") if p.is_file())
    assert b"hush" not in kept


# --- two at once

HOLD = """
import sys, time
from geotile.storage.lease import lease
from geotile.storage.folder import Folder
from geotile.checkpoints.checkpoint import LEASE
with lease(Folder.at(sys.argv[1], eval(sys.argv[2])), LEASE, "it"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(place, options=None) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), repr(options or {})], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow
def test_of_two_runs_on_one_checkpoint_one_is_told(write_tiff, noise, tmp_path):
    path, cp = write_tiff(noise), tmp_path / "cp"
    other = hold(cp)
    try:
        with pytest.raises(geotile.OutputError, match=rf"is in use by another run \(process {other.pid}"):
            geotile.detect(path, crowd, checkpoint=cp, **JOB)
    finally:
        other.kill()
        other.wait()
    geotile.detect(path, crowd, checkpoint=cp, **JOB)  # a claim dies with its process
    assert not (cp / "lease").exists()


@pytest.mark.parametrize("name", ["found.geojson", "found/"])
def test_of_two_runs_on_one_output_one_is_told(write_tiff, noise, tmp_path, name):
    path, out = write_tiff(noise), str(tmp_path / "out") + "/"
    os.mkdir(out)
    told = []

    def model(tile):
        if not told:
            told.append(None)
            with pytest.raises(geotile.OutputError, match="is in use by another run") as error:
                geotile.detect_to(path, crowd, out + name, **JOB)
            told[0] = str(error.value)
        return crowd(tile)

    geotile.detect_to(path, model, out + name, concurrency=1, **JOB)
    assert told[0]
    assert os.listdir(out) == [name.rstrip("/")]


# --- in object storage


@pytest.mark.slow
def test_a_checkpoint_in_s3(store, write_tiff, noise):
    path, cp = write_tiff(noise), f"s3://{BUCKET}/checkpoint"
    job = JOB | {"checkpoint": cp, "output_options": store.options}
    model = Counted()
    first = geotile.detect(path, model, **job)
    again = geotile.detect(path, model, **job)
    assert rows(first) == rows(again) == rows(geotile.detect(path, crowd, **JOB))
    assert len(model.asked) == first.attrs["report"].tiles
    other = hold(cp, store.options)
    try:
        with pytest.raises(geotile.OutputError, match=rf"process {other.pid} on .*, which renewed its lease"):
            geotile.detect(path, crowd, **job)
    finally:
        other.kill()
        other.wait()
    geotile.detect(path, model, **job)  # its process is gone, on this machine


@pytest.mark.slow
def test_slow_down_is_survived_and_denial_is_said(store, write_tiff, noise):
    path, cp = write_tiff(noise), f"s3://{BUCKET}/slow"
    job = JOB | {"checkpoint": cp, "output_options": store.options}
    busy = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    refused = []

    def slow_down(method, path):
        if method == "PUT" and len(refused) < 12 and len(refused) % 2 == 0:
            refused.append(path)
            return 503, {"Content-Type": "application/xml"}, busy
        if method == "PUT" and len(refused) < 12:
            refused.append("")
        return None

    store.proxy.fault = slow_down
    first = geotile.detect(path, crowd, **job)
    assert refused
    assert rows(first) == rows(geotile.detect(path, crowd, **JOB))
    store.proxy.fault = lambda method, path: (
        (403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        if method == "PUT" and path.endswith(".parquet")
        else None
    )
    with pytest.raises(geotile.OutputError, match="cannot write s3://") as error:
        geotile.detect(path, crowd, checkpoint=f"s3://{BUCKET}/denied", output_options=store.options, **JOB)
    assert "kept in" in "".join(error.value.__notes__)


def test_a_disk_that_fills_is_said_and_nothing_is_half_written(write_tiff, noise, tmp_path):
    """A file system of 128 KiB, in memory, where this machine lets us mount one."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        path = write_tiff(noise)
        whole = rows(geotile.detect(path, crowd, **JOB))
        filler = small / "filler"
        filler.write_bytes(b"x" * 80 * 1024)
        with pytest.raises(geotile.OutputError, match=r"cannot write .*No space left") as error:
            geotile.detect(path, crowd, checkpoint=small / "cp", **JOB)
        assert "kept in" in "".join(error.value.__notes__)
        parts = list((small / "cp").glob("*/*.parquet"))
        assert parts
        for part in parts:
            RegionAnswer.from_parquet(part.read_bytes())
        assert not list((small / "cp").rglob("*geotile-draft*"))
        with pytest.raises(geotile.OutputError, match="No space left"):
            geotile.detect_to(path, crowd, f"{small}/out/", **JOB)
        assert not (small / "out").exists()
        filler.unlink()
        for left in small.glob(".out.geotile-draft-*"):
            shutil.rmtree(left)
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        again = geotile.detect(path, crowd, checkpoint=small / "cp", **JOB)
        assert rows(again) == whole
        assert again.attrs["report"].tiles_resumed > 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- a part holds every bit

numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s), max_leaves=5
)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            numbers, numbers, numbers, st.text(), st.none() | st.dictionaries(st.text(), json_values), st.booleans()
        )
    )
)
def test_a_part_holds_every_bit(values):
    found = detections(
        np.array([[x, y, x, y] for x, y, *_ in values]).reshape(-1, 4),
        np.array([v[2] for v in values]),
        [v[3] for v in values],
        [shapely.Point(v[0], v[1]) if v[5] else None for v in values],
        [[{"iri": v[3], "score": v[2]}] if v[5] else None for v in values],
        [v[4] or None for v in values],
    )
    answer = RegionAnswer(
        detections=found, failures=(TileFailure(tile=3, window=[0, 1, 2, 3], reason="ü\n"),), without_data=7
    )
    data = answer.to_parquet()
    back = RegionAnswer.from_parquet(data)
    assert back.to_parquet() == data
    assert back.failures == answer.failures
    assert back.without_data == 7
    for name in ("boxes", "scores", "tiles", "ordinals"):
        assert getattr(back.detections, name).tobytes() == getattr(found, name).tobytes()
        assert getattr(back.detections, name).dtype == getattr(found, name).dtype
    for name in ("labels", "geometries", "classes", "properties"):
        assert getattr(back.detections, name).tolist() == getattr(found, name).tolist()


@given(st.binary(max_size=200))
def test_what_is_no_part_is_told(data):
    with pytest.raises(ValueError, match=r".+"):
        RegionAnswer.from_parquet(data)


@pytest.mark.slow
def test_a_cut_part_is_told(tmp_path):
    whole = RegionAnswer(detections=concat([])).to_parquet()
    cp = Checkpoint(folder=Folder.at(tmp_path), digest="x")
    cp.parts.write("00000-00000.parquet", whole)
    assert cp.load(0, 0) is not None
    assert cp.finished((2, 2)).tolist() == [[True, False], [False, False]]
    for length in range(len(whole)):
        Path(tmp_path, "x", "00000-00000.parquet").write_bytes(whole[:length])
        assert cp.load(0, 0) is None
    assert cp.load(1, 1) is None


def test_another_query_or_header_is_another_model(write_tiff, noise, tmp_path):
    path = write_tiff(noise)
    with geotile.testing.ModelServer(crowd) as server:
        for name, first, second in (
            ("query", (f"{server.url}?model=cars&token=a", {}), (f"{server.url}?model=ships&token=a", {})),
            ("headers", (server.url, {"headers": {"X-Target": "a"}}), (server.url, {"headers": {"X-Target": "b"}})),
        ):
            geotile.detect(path, first[0], checkpoint=tmp_path / name, **JOB, **first[1])
            with pytest.raises(geotile.ArgumentError, match=r"the query parameter model has|the header X-Target has"):
                geotile.detect(path, second[0], checkpoint=tmp_path / name, **JOB, **second[1])
        rotated = server.url + "?model=cars&token=b"
        geotile.detect(path, rotated, checkpoint=tmp_path / "query", headers={"Authorization": "new"}, **JOB)
    assert b"cars" not in (tmp_path / "query" / "job.json").read_bytes()


def test_partials_of_different_functions_are_different_models(write_tiff, noise, tmp_path):
    def other(tile, score):
        return [[1, 1, 9, 9]], [score]

    def scored(tile, score):
        return [[1, 1, 5, 5]], [score]

    path = write_tiff(noise)
    geotile.detect(path, partial(scored, score=0.5), checkpoint=tmp_path / "cp", **JOB)
    for another in (partial(other, score=0.5), partial(scored, score=0.25), partial(scored, score=np.float64(0.5))):
        with pytest.raises(geotile.ArgumentError, match="checkpoint of another job"):
            geotile.detect(path, another, checkpoint=tmp_path / "cp", **JOB)
    assert len(geotile.detect(path, partial(scored, score=0.5), checkpoint=tmp_path / "cp", **JOB))


def _of_file(tile, file):
    return [[1, 1, 5, 5]], [0.5], [str(file)]


@pytest.mark.parametrize(
    ("first", "second"),
    [(Path("a.pt"), Path("b.pt")), ([1], [2]), ({"t": 1}, {"t": 2}), ((1,), (2,)), (np.zeros(3), np.ones(3))],
)
def test_any_argument_of_a_partial_distinguishes_models(write_tiff, noise, tmp_path, first, second):
    path = write_tiff(noise)
    geotile.detect(path, partial(_of_file, file=first), checkpoint=tmp_path / "cp", **JOB)
    again = geotile.detect(path, partial(_of_file, file=first), checkpoint=tmp_path / "cp", **JOB)
    assert geotile.report(again).requests == 0
    with pytest.raises(geotile.ArgumentError, match="checkpoint of another job"):
        geotile.detect(path, partial(_of_file, file=second), checkpoint=tmp_path / "cp", **JOB)


def test_images_inside_a_file_have_a_version(tmp_path, noise):
    import rasterio

    path = tmp_path / "pages.tif"
    for page, pixels in enumerate((noise, 255 - noise)):
        with rasterio.open(
            path, "w", driver="GTiff", count=3, height=300, width=420, dtype="uint8", APPEND_SUBDATASET="YES" if page else "NO"
        ) as file:  # fmt: skip
            file.write(pixels)
    first = geotile.detect(path, crowd, subdataset=0, checkpoint=tmp_path / "cp", **JOB)
    again = geotile.detect(path, crowd, subdataset=0, checkpoint=tmp_path / "cp", **JOB)
    assert geotile.report(again).tiles_resumed == geotile.report(first).tiles
    with pytest.raises(geotile.ArgumentError, match="subdataset, or the file inside"):
        geotile.detect(path, crowd, subdataset=1, checkpoint=tmp_path / "cp", **JOB)


def test_a_damaged_image_does_not_fill_the_log(write_tiff, noise, caplog):
    """The first failures are logged, and then the regions count them."""
    model = Counted(fails=lambda n: True)
    with caplog.at_level("INFO", "geotile"), pytest.warns(UserWarning, match="tiles failed"):
        found = geotile.detect(write_tiff(noise), model, **JOB)
    said = [record.getMessage() for record in caplog.records]
    failed = len(found.attrs["report"].failures)
    assert failed > 50
    assert len([text for text in said if text.startswith("tile ")]) == 20
    assert len([text for text in said if text.startswith("more tiles failed")]) == 1
    assert sum(int(text.rpartition(", ")[2].split()[0]) for text in said if text.startswith("region ")) == failed
