"""Outputs of jobs: tried before the model is asked, written where the request says, or refused with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from aws import aws
from helpers import crowd
from s3fs import S3FileSystem
from service_process import request as whole_request

import geotile
from geotile.geometry.georeference import WGS84, Georeference
from geotile.geometry.placement import AffinePlacement
from geotile.results.geojson import features
from geotile.service.request import JobRequest
from geotile.testing import ModelServer

MARS = 'GEOGCS["Mars",DATUM["Mars",SPHEROID["Mars",3396190,169.89]],PRIMEM["Reference",0],UNIT["degree",0.0174532925199433]]'
LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'
QUICK = {"once": True, "max_attempts": 1, "endpoint_options": {"retries": 0, "ready_timeout_s": 1}}


def request(image, url, *outputs, job_id="a", **more):
    return whole_request(job_id, image, url, list(outputs), **more)


def file(path, **more):
    return {"type": "File", "path": str(path), **more}


def bucket(name, **more):
    return {"type": "S3", "bucket": name, "prefix": "out", **more}


@pytest.fixture(scope="module")
def cloud():
    with aws() as server:
        server.setup("outputs")
        yield server


@pytest.fixture
def there(cloud, monkeypatch):
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return cloud


@pytest.fixture(scope="module")
def model():
    with ModelServer(crowd) as server:
        yield server


@pytest.fixture
def run(tmp_path, model):
    """Serve one job for each list of outputs; return their records, and how many requests the model got."""
    numbers = iter(range(100))

    def run(image, *outputs, job_ids="abcdef"):
        queue, asked = tmp_path / f"queue-{next(numbers)}", model.requests
        for name, each in zip(job_ids, outputs, strict=False):
            geotile.submit(request(image, model.url, *each, job_id=name), queue)
        geotile.serve(queue, **QUICK)
        records = sorted(geotile.jobs(queue), key=lambda record: record.job_id)
        return records, model.requests - asked

    return run


@pytest.fixture
def path(write_tiff, noise):
    return write_tiff(noise)


@pytest.mark.slow
@pytest.mark.parametrize("crs", [MARS, LOCAL], ids=["Mars", "local"])
def test_a_format_that_cannot_hold_the_crs_fails_the_job_at_once(crs, run, write_tiff, noise, tmp_path):
    image, out = write_tiff(noise, crs=crs, transform=Affine(1e-4, 0, 10, 0, -1e-4, 20)), tmp_path / "out"
    (wrong, good), asked = run(image, [file(out, format="parquet"), file(out)], [file(out, format="parquet")])
    assert (wrong.status, wrong.attempts) == ("FAILED", [])
    assert wrong.reasons[0].startswith("outputs[1]: GeoJSON cannot hold results of the CRS")
    assert '"format": "parquet"' in wrong.reasons[0]
    assert (good.status, good.images[0].requests) == ("SUCCESS", asked)


@pytest.mark.slow
def test_a_place_that_cannot_be_written_fails_the_job_at_once(run, path, tmp_path):
    (tmp_path / "taken" / "d.geojson").mkdir(parents=True)
    places = {
        "/etc/passwd/x": "Not a directory", "/etc/passwd": "Not a directory", "/proc/x": "No such file",
        str(tmp_path / "taken"): "a folder has the name of the output",
    }  # fmt: skip
    records, asked = run(path, *[[file(tmp_path / "good"), file(place)] for place in places])
    assert asked == 0
    for record, (place, text) in zip(records, places.items(), strict=True):
        assert (record.status, record.attempts) == ("FAILED", [])
        assert record.reasons[0].startswith(f"outputs[1]: cannot write {place}/{record.job_id}.geojson: ")
        assert text in record.reasons[0]
    assert not (tmp_path / "good").exists()  # nothing is left of the trial
    assert not list(tmp_path.glob(".geotile-*"))


@pytest.mark.slow
def test_reasons_speak_json(run, write_tiff, noise, tmp_path):
    path = write_tiff(noise[:1].astype("c8"))
    (record,), asked = run(path, [file(tmp_path / "out")])
    assert (record.status, asked) == ("FAILED", 0)
    assert 'with "geotile": {"sar": "amplitude"} or "geotile": {"sar": "quarter_power"}' in record.reasons[0]


@pytest.mark.slow
def test_buckets_and_streams_are_tried(there, run, path):
    good, stream = bucket(there.bucket), {"type": "Kinesis", "stream": there.stream}
    nowhere = [[bucket("nowhere-at-all")], [{"type": "Kinesis", "stream": "nowhere"}]]
    (record, *wrong), asked = run(path, [good, stream], *nowhere)
    assert (record.status, record.images[0].requests) == ("SUCCESS", asked)
    uploads = there.client("s3").list_multipart_uploads(Bucket=there.bucket)
    assert (there.stored(), uploads.get("Uploads")) == (["out/a.geojson"], None)  # nothing is left of the trial
    found = [feature for each in there.records() for feature in each["features"]]
    assert len(found) == record.images[0].detections > 0
    texts = ("cannot write s3://nowhere-at-all/out/b.geojson: The specified bucket", "Kinesis stream nowhere does not")
    for each, text in zip(wrong, texts, strict=True):
        assert (each.status, each.attempts) == ("FAILED", [])
        assert each.reasons[0].startswith(f"outputs[0]: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["credentials", "server"])
def test_access_that_may_come_is_waited_for(missing, there, run, path, monkeypatch):
    S3FileSystem.clear_instance_cache()
    if missing == "server":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    stream = {"type": "Kinesis", "stream": there.stream}
    records, asked = run(path, [stream], *([[bucket(there.bucket)]] if missing == "credentials" else []))
    assert asked == 0
    for record in records:
        assert (record.status, len(record.attempts)) == ("FAILED", 1)  # the only one that `QUICK` allows
        assert re.search("Could not connect" if missing == "server" else "credentials", record.reasons[0])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"jobId": "a\0b"}, 'jobId: must be text without control characters; got "a\\u0000b"'),
        ({"jobId": "a\n"}, "jobId: must be text without control characters"), ({"jobId": "a\x85"}, "without control"),
        ({"jobId": "a" * 256}, "the file name of 'aaaaaaaa"), ({"jobId": "ä" * 130}, "has 268 bytes; files may have 255"),
        ({"jobId": "a/"}, "jobId: must not end in /"), ({"jobId": "/"}, "jobId: must not end in /"),
        ({"jobId": "a\ud800"}, 'be valid JSON: "\\ud800" is half of a character'),
        ({"featureProperties": [{"a": "\ud800"}]}, "is half of a character"), ({"jobName": "\udfff"}, "is half of a character"),
        ({"imageUrls": ["a\0.tif"]}, "imageUrls[0]: must be text without control"),
        ({"imageUrls": ["a.tif", "b" * 250]}, "the file name of 'a-bbbbbbb"),
        ({"imageProcessor": {"name": "pla\tnes"}}, "imageProcessor.name: must be text without control"),
        ({"outputs": [file("a\0b")]}, "outputs[0].path: must be text without control"),
        ({"outputs": [file("s3://b/x/y")]}, 'local folder; for object storage give {"type": "S3", "bucket": "b", "prefix": "x/y"}'),
        ({"outputs": [file("https://h/x")]}, "must be a local folder"), ({"outputs": [file("memory://x")]}, "is lost when the process ends"),
        ({"outputs": [file("file://other/x")]}, "must name a file of this machine"), ({"outputs": [file("simplecache::x")]}, "must not contain '::'"),
        ({"outputs": [file("")]}, "outputs[0].path must be text of at least 1"),
        ({"outputs": [bucket("a/b")]}, "outputs[0].bucket: must be the name of a bucket"), ({"outputs": [bucket("ab")]}, "bucket: must be"),
        ({"outputs": [bucket("abc", prefix="x/../y")]}, "outputs[0].prefix: must not have . or .."),
        ({"outputs": [bucket("abc", prefix="x\0")]}, "prefix: must be text without control"),
        ({"outputs": [bucket("abc", prefix="x" * 1020)]}, "bytes; S3 allows 1024"),
        ({"outputs": [{"type": "Kinesis", "stream": "a b"}]}, "outputs[0].stream: must be the name of a Kinesis stream"),
    ],
)  # fmt: skip
def test_what_the_text_of_a_request_tells_is_refused_with_it(change, text, tmp_path):
    with pytest.raises(geotile.ArgumentError) as caught:
        geotile.submit(request("a.tif", "http://127.0.0.1:9/x", file("out")) | change, tmp_path / "queue")
    assert text in str(caught.value)
    assert not (tmp_path / "queue").exists()


@pytest.mark.parametrize("name", ["arn:aws:s3:us-west-2:123456789012:accesspoint/found", "a.b-c_D9"])
def test_buckets_of_all_kinds_are_taken(name):
    parsed = JobRequest.parse(json.dumps(request("a.tif", "http://127.0.0.1:9/x", bucket(name, prefix="/x/"))))
    assert parsed.outputs[0].uri("job") == f"s3://{name}/x/job.geojson"


@pytest.mark.slow
def test_files_are_written_where_the_request_says(run, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    outputs = [file(f"file://{tmp_path}/a%20b"), file("~/x"), file("found"), file(f"{tmp_path}/d/../e/")]
    (record,), _ = run(path, outputs)
    places = ["a b", "home/x", "found", "e"]
    assert list(record.images[0].outputs.values()) == [str(tmp_path / each / "a.geojson") for each in places]
    assert len({(tmp_path / each / "a.geojson").read_bytes() for each in places}) == 1
    assert not [each for each in Path().iterdir() if each.name.startswith(("~", "file:"))]


@pytest.mark.slow
def test_of_two_jobs_with_one_file_the_later_one_replaces_it_whole(run, path, tmp_path):
    records, _ = run(path, [file(tmp_path / "out")], [file(tmp_path / "out")], job_ids=["x/same", "y/same"])
    assert [record.status for record in records] == ["SUCCESS", "SUCCESS"]
    features = json.loads((tmp_path / "out" / "same.geojson").read_text())["features"]
    ids = {each["properties"]["inferenceMetadata"]["jobId"] for each in features}
    assert ids in ({"x/same"}, {"y/same"})
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["same.geojson"]


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize(
    ("field", "text"),
    [
        (lambda value: {"imageProcessorTileSize": value}, "imageProcessorTileSize must be a whole number; got"),
        (lambda value: {"imageProcessorTileOverlap": value}, "imageProcessorTileOverlap must be a whole number; got"),
        (lambda value: {"outputs": [{"type": "Kinesis", "stream": "s", "batchSize": value}]}, "outputs[0].batchSize must be a whole number; got"),
        *[
            (lambda value, name=name: {"postProcessing": [{"step": "FEATURE_DISTILLATION", "algorithm": {name: value}}]},
             f"postProcessing[0].algorithm.{name} must be a number; got")
            for name in ("iouThreshold", "skipBoxThreshold", "sigma")
        ],
    ],
)  # fmt: skip
def test_true_and_false_are_no_numbers(field, text, wrong, tmp_path):
    with pytest.raises(geotile.ArgumentError) as caught:
        geotile.submit(request("a.tif", "http://127.0.0.1:9/x", file("out")) | field(wrong), tmp_path / "queue")
    assert f"{text} {json.dumps(wrong)}" in str(caught.value)


def test_numbers_in_text_are_numbers_as_in_requests_of_oversightml():
    fields = {
        "imageProcessorTileSize": "512", "imageProcessorTileOverlap": "64",
        "outputs": [{"type": "Kinesis", "stream": "s", "batchSize": "100"}],
        "postProcessing": [{"step": "FEATURE_DISTILLATION", "algorithm": {"iouThreshold": "0.5", "sigma": "1"}}],
    }  # fmt: skip
    parsed = JobRequest.parse(json.dumps(request("a.tif", "http://127.0.0.1:9/x", file("out")) | fields))
    assert (parsed.image_processor_tile_size, parsed.image_processor_tile_overlap) == (512, 64)
    assert (parsed.outputs[0].batch_size, parsed.merge.iou_threshold) == (100, 0.5)
    for wrong in ("inf", "nan", "x"):
        fields["postProcessing"][0]["algorithm"]["sigma"] = wrong
        with pytest.raises(geotile.ArgumentError, match=r"sigma must be "):
            JobRequest.parse(json.dumps(request("a.tif", "http://127.0.0.1:9/x", file("out")) | fields))


def test_outputs_do_not_need_the_image_again(path, tmp_path):
    """What the run has opened says where the detections lie, also if the image is gone or another one by then."""

    def last_look(tile):
        Path(path).unlink(missing_ok=True)
        return crowd(tile)

    with ModelServer(last_look) as model:
        geotile.submit(request(path, model.url, file(tmp_path / "out")), tmp_path / "queue")
        geotile.serve(tmp_path / "queue", **QUICK)
    (record,) = geotile.jobs(tmp_path / "queue")
    assert (record.status, record.reasons) == ("SUCCESS", [])
    found = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    assert len(found) > 20
    assert all("center_longitude" in each["properties"] for each in found)


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_the_metadata_of_a_nitf_are_those_of_the_image_that_was_read(what, tmp_path):
    first, second = (nitf(tmp_path / f"{title}.ntf", title) for title in ("FIRST", "SECOND"))

    def last_look(tile):
        if what == "removed":
            first.unlink(missing_ok=True)
        elif second.exists():
            second.replace(first)
        return crowd(tile)

    with ModelServer(last_look) as model:
        geotile.submit(request(str(first), model.url, file(tmp_path / "out")), tmp_path / "queue")
        geotile.serve(tmp_path / "queue", **QUICK)
    (record,) = geotile.jobs(tmp_path / "queue")
    assert (record.status, record.reasons) == ("SUCCESS", [])
    found = json.loads(next((tmp_path / "out").glob("*")).read_text())["features"]
    assert {each["properties"]["sourceMetadata"][0]["sourceId"] for each in found} == {"FIRST"}


def nitf(path, title):
    pixels = np.random.default_rng(0).integers(0, 255, (1, 300, 400), np.uint8)
    where = {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 10, 0, -1e-4, 50), "ICORDS": "G", "FTITLE": title}
    with rasterio.open(path, "w", driver="NITF", height=300, width=400, count=1, dtype="uint8", **where) as image:
        image.write(pixels)
    return path


def test_a_later_attempt_does_not_place_detections_by_another_image(tmp_path, write_tiff, noise):
    """The run has ended, its output cannot be written, and the image is another one by the next attempt."""
    path, out, queue = write_tiff(noise), tmp_path / "out", tmp_path / "queue"
    moved = write_tiff(noise, "moved.tif", transform=Affine(0.5, 0, 600_000, 0, -0.5, 5_000_000))
    lock = threading.Lock()

    def last_look(tile):
        with lock:
            if os.path.exists(moved):
                os.replace(moved, path)
                shutil.rmtree(out, ignore_errors=True)
                out.write_text("in the way")
        return crowd(tile)

    with ModelServer(last_look) as model:
        geotile.submit(request(path, model.url, file(out / "deep")), queue)
        geotile.serve(queue, **QUICK)
        (record,) = geotile.jobs(queue)
        assert "Not a directory" in str(record.reasons)
        out.unlink()
        asked = model.requests
        for status, reason in (
            ("FAILED", "the image has changed since the model was asked. Submit the request again"),
            ("SUCCESS", ""),
        ):
            geotile.retry(record.job_id, queue)
            geotile.serve(queue, **QUICK)
            (record,) = geotile.jobs(queue)
            assert record.status == status
            assert reason in str(record.reasons)
    assert model.requests == 2 * asked


def test_coordinates_have_an_elevation_of_0():
    shapes = shapely.from_wkt(
        [
            "POINT (1 2)", "LINESTRING (0 0, 1.1 -2)", "POLYGON ((0 0, 9 0, 9 9, 0 0), (5 1, 8 1, 8 4, 5 1))",
            "POLYGON Z ((0 0 3, 9 0 3, 9 9 3, 0 0 3))", "POLYGON ((179 0, 181 0, 181 2, 179 2, 179 0))",
            "MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)), ((5 5, 6 5, 6 6, 5 5)))",
            "GEOMETRYCOLLECTION (POINT (0.1 0.30000000000000004), LINESTRING (0 0, 1 1))", "POLYGON EMPTY", None,
        ]
    )  # fmt: skip
    table = gpd.GeoDataFrame({"score": 0.5}, geometry=gpd.GeoSeries(shapes, crs="OGC:CRS84"), index=range(len(shapes)))
    placed = Georeference(AffinePlacement(Affine.identity()), WGS84).to_world(shapes[:-2], WGS84)
    mappings = [shapely.geometry.mapping(each) for each in shapely.force_3d(placed, 0.0)]
    wanted = [*json.loads(json.dumps(mappings)), None, None]
    assert json.dumps([each["geometry"] for each in features(table, exact=True)]) == json.dumps(wanted)
