"""The service over real queues, topics, streams and buckets (moto's server), and real models."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import geopandas as gpd
import numpy as np
import pytest
import shapely
from aws import aws
from dask_gateway import Gateway
from gateway import gateway
from helpers import Counting, cli, crowd
from object_store import CountingProxy
from service_process import request

import geotile
from geotile.testing import ModelServer

pytestmark = pytest.mark.slow

QUICK = {
    "retry_delay_s": 0.1,
    "max_attempts": 2,
    "endpoint_options": {"retries": 1, "ready_timeout_s": 2, "outage_timeout_s": 2},
}


def poison(tile):
    """Fail on the tiles whose first pixel is less than 40 (one of `noise`), else as `crowd`."""
    if tile[0, 0, 0] < 40:
        raise ValueError("poison")
    return crowd(tile)


def broken(tile):
    raise ValueError("broken")


@pytest.fixture(scope="module")
def cloud():
    with aws() as server:
        yield server


@pytest.fixture
def there(cloud, monkeypatch, request):
    """AWS with a queue, a topic, a stream and a bucket of this test's own."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    cloud.setup(hashlib.sha256(request.node.name.encode()).hexdigest()[:12])
    return cloud


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "jobs"


@pytest.fixture
def path(write_tiff, noise):
    return write_tiff(noise)


def features_of(data) -> list[dict]:
    """Features without what differs between two runs of one job: its id and when it began."""
    return [plain(feature) for feature in json.loads(data)["features"]]


def plain(feature):
    """A feature without what OversightML's outputs add or write in another way; tests/test_osml.py compares that."""
    for name in ("inferenceMetadata", "sourceMetadata", "center_longitude", "center_latitude"):
        feature["properties"].pop(name, None)
    shape = shapely.normalize(shapely.force_2d(shapely.geometry.shape(feature["geometry"])))
    return {"geometry": shapely.to_wkt(shape, rounding_precision=-1), "properties": feature["properties"]}


def wanted(image, model, **options):
    """What a run of the library finds, as features."""
    found = geotile.detect(
        image, model, **({"tile_size": 128, "overlap": 32, "merge": geotile.Nms(0.75, geometry="box")} | options)
    )
    return [
        plain(feature) for feature in json.loads(json.dumps(list(geotile.results.geojson.features(found, exact=True))))
    ]


def alike(a, b) -> bool:
    return sorted(map(json.dumps, a)) == sorted(map(json.dumps, b))


# --- a folder of requests


def test_a_job_from_a_folder(folder, path, tmp_path, capsys):
    with ModelServer(crowd) as model:
        outputs = [
            {"type": "File", "path": str(tmp_path)},
            {"type": "File", "path": str(tmp_path), "format": "parquet"},
        ]
        said = request(
            "my job", path, model.url, outputs, featureProperties=[{"mission": "a"}, {"pass": 2}], colour="red"
        )
        assert geotile.submit(said, folder).unknown_fields() == ["colour"]
        assert [job.status for job in geotile.jobs(folder)] == ["QUEUED"]
        geotile.serve(folder, once=True)
    features = json.loads((tmp_path / "my job.geojson").read_text())["features"]
    assert {each["properties"]["inferenceMetadata"]["jobId"] for each in features} == {"my job"}
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+Z", features[0]["properties"]["inferenceMetadata"]["inferenceDT"])
    assert "sourceMetadata" not in features[0]["properties"]
    assert len({each["id"] for each in features}) == len(features) > 20
    want = wanted(path, crowd)
    for each in want:
        each["properties"] |= {"mission": "a", "pass": 2}
    assert alike(features_of((tmp_path / "my job.geojson").read_text()), want)
    table = gpd.read_parquet(tmp_path / "my job.parquet")
    assert len(table) == len(features)
    assert json.loads(table["properties"].iloc[0])["mission"] == "a"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == ["STARTED", "IN_PROGRESS", "SUCCESS", "SUCCESS"]
    assert lines[2]["image_id"] == f"my job:{path}"
    (record,) = geotile.jobs(folder)
    assert (record.status, record.warnings, len(record.attempts)) == ("SUCCESS", ["unknown field colour"], 1)
    assert record.images[0].requests == record.images[0].tiles > 0
    assert sorted(each.name for each in (folder / "done").iterdir()) == ["my job.json", "my job.status.json"]
    assert json.loads((folder / "done" / "my job.status.json").read_text())["status"] == "SUCCESS"
    assert not list((folder / "state" / "work").iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"imageProcessorTileSize": "big"}, "imageProcessorTileSize must be a whole number; got .*big"),
        (
            {"imageProcessorTileOverlap": 128},
            "imageProcessorTileOverlap must be smaller than imageProcessorTileSize; got 128 and 128",
        ),
        (
            {"imageProcessor": {"name": "planes", "type": "HTTP_ENDPOINT"}},
            "imageProcessor: the name of an HTTP_ENDPOINT must be its URL; got 'planes'",
        ),
        ({"imageProcessor": {"name": "planes", "type": "SM_BATCH"}}, "imageProcessor.type"),
        ({"imageUrls": []}, "imageUrls"),
        ({"outputs": [{"type": "S3"}]}, r"outputs\[0\].bucket must be given"),
        ({"outputs": [{"type": "Pigeon"}]}, r"outputs\[0\].*Pigeon"),
        ({"regionOfInterest": "POLYGON"}, "regionOfInterest: must be WKT"),
        ({"postProcessing": 2 * [{"step": "FEATURE_DISTILLATION"}]}, "2 steps"),
        ({"imageProcessorTileFormat": "BMP"}, "imageProcessorTileFormat"),
        ({"imageProcesorTileSize": 512}, "did you mean 'imageProcessorTileSize'"),
        ({"geotile": {"colour": 1}}, "geotile: unknown option 'colour'"),
    ],
)
def test_a_wrong_request_is_refused_with_its_path(folder, change, said):
    wrong = request("a", "a.tif", "http://127.0.0.1:1/invocations", [{"type": "File", "path": "x"}]) | change
    with pytest.raises(geotile.ArgumentError, match=said):
        geotile.submit(wrong, folder)
    (folder / "wrong.json").parent.mkdir(exist_ok=True)
    (folder / "wrong.json").write_text(json.dumps(wrong))
    geotile.serve(folder, once=True)
    status = json.loads((folder / "failed" / "wrong.status.json").read_text())
    assert re.search(said, status["reasons"][0])


def test_osml_requests_are_taken_as_they_are():
    """The request of OSML's README, strings for numbers and all, and one of its older fields."""
    said = {
        "jobArn": "arn:aws:oversightml:us-east-1:123456789012:ipj/job", "jobName": "n", "jobId": "id",
        "imageUrls": ["s3://bucket/small.ntf"],
        "outputs": [{"type": "S3", "bucket": "results", "prefix": "n/"}, {"type": "Kinesis", "stream": "s", "batchSize": 1000}],
        "imageProcessor": {"name": "aircraft", "type": "SM_ENDPOINT"}, "imageProcessorTileSize": "512",
        "imageProcessorTileOverlap": "128", "imageProcessorTileFormat": "NITF", "imageProcessorTileCompression": "JPEG",
        "postProcessing": [{"step": "FEATURE_DISTILLATION", "algorithm": {"algorithmType": "SOFT_NMS", "iouThreshold": 0.7}}],
    }  # fmt: skip
    parsed = geotile.JobRequest.parse(json.dumps(said))
    assert parsed.unknown_fields() == ["jobArn"]
    assert parsed.image_processor.endpoint == "sagemaker://aircraft"
    assert parsed.options().tile_size == 512
    assert parsed.outputs[1].records_per_call == 500
    assert isinstance(parsed.merge, geotile.SoftNms)
    old = {
        name: value
        for name, value in said.items()
        if name not in ("outputs", "postProcessing", "imageProcessorTileSize")
    }
    parsed = geotile.JobRequest.parse(
        json.dumps(old | {"outputBucket": "results", "outputPrefix": "x", "postProcessing": []})
    )
    assert (parsed.outputs[0].bucket, parsed.outputs[0].prefix) == ("results", "x")
    assert parsed.merge == geotile.Nms(0.75, geometry="box")
    assert parsed.options().tile_size == 1024
    assert (
        parsed.digest
        == geotile.JobRequest.parse(
            json.dumps(dict(reversed(list(old.items()))) | {"outputBucket": "results", "outputPrefix": "x"})
        ).digest
    )


def test_what_can_never_succeed_is_not_tried_again(folder, tmp_path, path):
    (tmp_path / "text.tif").write_text("no image")
    with ModelServer(crowd) as model:
        out = [{"type": "File", "path": str(tmp_path / "out")}]
        geotile.submit(request("missing", str(tmp_path / "none.tif"), model.url, out), folder)
        geotile.submit(request("text", str(tmp_path / "text.tif"), model.url, out), folder)
        geotile.submit(request("off", path, model.url, out, regionOfInterest="POINT (170 0)"), folder)
        geotile.serve(folder, once=True)
        assert model.requests == 0
    records = {record.job_id: record for record in geotile.jobs(folder)}
    assert "no such image" in records["missing"].reasons[0]
    assert "cannot open" in records["text"].reasons[0]
    assert {len(record.attempts) for record in records.values()} == {0}
    assert records["off"].status == "FAILED"


def test_a_job_that_fails_is_tried_again_and_then_given_up(folder, tmp_path, path):
    with ModelServer(broken) as model:
        geotile.submit(request("a", path, model.url, [{"type": "File", "path": str(tmp_path / "out")}]), folder)
        geotile.serve(folder, once=True, **QUICK)
        model.model = crowd
        (record,) = geotile.jobs(folder)
        assert record.status == "FAILED"
        assert len(record.attempts) == len(record.reasons) == 2
        assert all("tiles of" in reason and "failed" in reason for reason in record.reasons)
        assert not (tmp_path / "out").exists()
        os.replace(folder / "failed" / "a.json", folder / "a.json")  # somebody puts it back
        geotile.serve(folder, once=True, **QUICK)
    (record,) = geotile.jobs(folder)
    assert record.status == "SUCCESS"
    assert alike(features_of((tmp_path / "out" / "a.geojson").read_text()), wanted(path, crowd))


def test_an_image_that_has_changed_starts_from_its_beginning_once_its_job_is_submitted_again(
    folder, tmp_path, path, write_tiff, noise
):
    other = write_tiff(noise[::-1], name="other.tif")
    with ModelServer(broken) as model:
        outputs = [{"type": "File", "path": str(tmp_path / "out")}]
        geotile.submit(request("a", [path, other], model.url, outputs), folder)
        geotile.serve(folder, once=True, **QUICK | {"max_attempts": 1})
        model.model = crowd
        write_tiff(noise[:, ::-1])
        geotile.retry("a", folder)
        geotile.serve(folder, once=True, **QUICK)
        (record,) = geotile.jobs(folder)
        assert (record.status, len(record.attempts)) == ("FAILED", 1)
        assert "the image file has changed. Submit the request again to start this image" in record.reasons[0]
        assert [(each.status, each.is_outdated) for each in record.images] == [("FAILED", True), ("SUCCESS", False)]
        asked = model.requests
        geotile.retry("a", folder)
        geotile.serve(folder, once=True, **QUICK)
    (record,) = geotile.jobs(folder)
    assert record.status == "SUCCESS"
    assert not record.images[0].is_outdated
    assert model.requests - asked == record.images[0].tiles  # the other image is done
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_poison_tile_makes_a_job_partial(folder, tmp_path, path, capsys):
    with ModelServer(poison) as model:
        geotile.submit(request("a", [path, path], model.url, [{"type": "File", "path": str(tmp_path / "out")}]), folder)
        geotile.serve(folder, once=True, **QUICK)
    (record,) = geotile.jobs(folder)
    assert record.status == "PARTIAL"
    assert 0 < record.images[0].failures == len(record.images[0].failed_tiles) < record.images[0].tiles
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "a-image.tif-2.geojson",
        "a-image.tif.geojson",
    ]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    regions = [line for line in lines if "region_id" in line]
    assert regions
    assert all(line["status"] in ("PARTIAL", "FAILED") for line in regions)
    tiles = [line["failed_tiles"] for line in lines if line.get("image_status") == "PARTIAL"]
    y0, y1, x0, x1 = record.images[0].failed_tiles[0]
    assert tiles[0].startswith(f"[{{'1': [[{y0}, {x0}], [{x1 - x0}, {y1 - y0}]]}}")


def test_a_job_that_is_done_is_not_done_again(folder, tmp_path, path):
    with ModelServer(crowd) as model:
        said = request("a", path, model.url, [{"type": "File", "path": str(tmp_path / "out")}])
        geotile.submit(said, folder)
        geotile.serve(folder, once=True)
        asked = model.requests
        geotile.submit(said, folder)
        geotile.serve(folder, once=True)
        assert model.requests == asked
        geotile.submit(said | {"imageProcessorTileSize": 64}, folder)  # another request by its name
        geotile.serve(folder, once=True)
        assert model.requests == asked
    assert sorted(each.name for each in (folder / "done").glob("*.json")) == [
        "a-2.json",
        "a-2.status.json",
        "a.json",
        "a.status.json",
    ]
    assert "another request" in json.loads((folder / "failed" / "a.status.json").read_text())["reasons"][0]
    assert geotile.jobs(folder)[0].status == "SUCCESS"


def test_an_output_that_fails_fails_alone_and_asks_nobody_again(folder, tmp_path, path):
    def taking(tile):  # the place is good before the first tile, and taken after it
        (tmp_path / "taken").is_dir() and (tmp_path / "taken").rmdir()
        (tmp_path / "taken").write_text("a file where a folder is wanted")
        return crowd(tile)

    outputs = [{"type": "File", "path": str(tmp_path / "taken")}, {"type": "File", "path": str(tmp_path / "out")}]
    with ModelServer(taking) as model:
        geotile.submit(request("a", path, model.url, outputs), folder)
        geotile.serve(folder, once=True, **QUICK)
        asked = model.requests
        (record,) = geotile.jobs(folder)
        assert record.status == "FAILED"
        assert "outputs[0]" in record.reasons[0]
        written = (tmp_path / "out" / "a.geojson").stat().st_mtime_ns
        (tmp_path / "taken").unlink()
        os.replace(folder / "failed" / "a.json", folder / "a.json")
        geotile.serve(folder, once=True, **QUICK)
        assert model.requests == asked
    assert geotile.jobs(folder)[0].status == "SUCCESS"
    assert (tmp_path / "out" / "a.geojson").stat().st_mtime_ns == written  # it was there already
    assert (tmp_path / "taken" / "a.geojson").read_bytes() == (tmp_path / "out" / "a.geojson").read_bytes()


# --- stopping and dying


def start(*words, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "geotile", "serve", *map(str, words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def parts(folder) -> int:
    return len(list((folder / "state" / "work").glob("*/0/checkpoint/*/*.parquet")))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_that_ends_leaves_its_job_to_the_next(folder, tmp_path, path, how):
    with ModelServer(crowd, latency_s=0.3) as model:
        geotile.submit(request("a", path, model.url, [{"type": "File", "path": str(tmp_path / "out")}]), folder)
        words = ["--queue", folder, "--concurrency", 1, "--region-size", 128, "--grace-s", 0.2]
        service = start(*words)
        until(lambda: parts(folder) >= 2)
        service.send_signal(how)
        began = time.monotonic()
        _, err = service.communicate(timeout=30)
        assert service.returncode == (0 if how is signal.SIGTERM else -how), err
        assert time.monotonic() - began < 10
        kept, asked = parts(folder), model.requests
        assert (folder / "a.json").exists()
        assert not (tmp_path / "out").exists()
        model.latency_s = 0.0
        geotile.serve(folder, once=True, region_size=128)
    (record,) = geotile.jobs(folder)
    assert record.status == "SUCCESS"
    assert len(record.attempts) == (1 if how is signal.SIGTERM else 2)  # only death counts
    assert kept >= 2
    assert alike(features_of((tmp_path / "out" / "a.geojson").read_text()), wanted(path, crowd, region_size=128))
    assert model.requests < asked + record.images[0].tiles - 2


def test_a_job_whose_process_dies_each_time_is_given_up(folder, tmp_path, path):
    with ModelServer(crowd, latency_s=0.5) as model:
        geotile.submit(request("a", path, model.url, [{"type": "File", "path": str(tmp_path / "out")}]), folder)
        record = tmp_path / "jobs" / "state" / "records" / "a.json"
        for tries in (1, 2):
            service = start("--queue", folder, "--max-attempts", 2)
            until(lambda tries=tries: record.exists() and len(json.loads(record.read_text())["attempts"]) == tries)
            service.kill()
            service.communicate()
        geotile.serve(folder, once=True, max_attempts=2)
    (known,) = geotile.jobs(folder)
    assert known.status == "FAILED"
    assert [bool(re.match(r"process \d+ on \S+ ended", reason)) for reason in known.reasons] == [True, True]


def test_health_and_metrics(folder, tmp_path, path):
    with ModelServer(crowd, latency_s=0.3) as model:
        geotile.submit(
            request(
                "a",
                path,
                model.url.replace("http://", "http://me:hush@"),
                [{"type": "File", "path": str(tmp_path / "out")}],
            ),
            folder,
        )
        service = start("--queue", folder, "--address", "127.0.0.1:0", "--concurrency", 2)
        logs: list[str] = []
        threading.Thread(target=lambda: logs.extend(iter(service.stderr.readline, "")), daemon=True).start()
        until(lambda: any("health and metrics" in line for line in logs))
        url = re.search(r"http://127.0.0.1:\d+", next(line for line in logs if "health" in line))[0]

        def get(what):
            return urllib.request.urlopen(f"{url}/{what}").read().decode()

        assert get("healthz") == "200 OK"
        until(lambda: re.search(r"^geotile_service_in_flight\{endpoint=\S+\} 2\.0", get("metrics"), re.MULTILINE))
        assert get("readyz") == "200 OK"
        until(lambda: 'geotile_service_jobs_total{status="SUCCESS"} 1.0' in get("metrics"))
        metrics = get("metrics")
        for name in (
            "tiles_total",
            "requests_total",
            "retries_total",
            "throttled_total",
            'step_seconds_total{step="send"}',
            "queue_depth",
        ):
            assert f"geotile_service_{name}" in metrics
        service.send_signal(signal.SIGTERM)
        out, _ = service.communicate(timeout=20)
        assert service.returncode == 0
    assert "hush" not in out + "".join(logs) + metrics + geotile.jobs(folder)[0].model_dump_json()
    regions = [json.loads(line) for line in logs if "region (" in line]
    assert {(each["job_id"], each["image_id"]) for each in regions} == {("a", f"a:{path}")}
    assert all("region" in each for each in regions)


# --- AWS


JOBS = int(os.environ.get("SERVICE_TEST_JOBS", "10"))  # 100: two minutes more


def share(of_a_hundred: int) -> int:
    return -(-of_a_hundred * JOBS // 100)


def test_jobs_of_every_kind(there, tmp_path, path, noise, write_tiff):
    s3 = there.client("s3")
    images = {}
    for name, pixels in (("one.tif", noise), ("two.tif", noise[:, ::-1].copy())):
        images[f"s3://{there.bucket}/in/{name}"] = local = write_tiff(pixels, name)
        s3.upload_file(local, there.bucket, f"in/{name}")
    first, second = images
    with ModelServer(crowd) as good, ModelServer(poison) as bad, ModelServer(broken) as worse:
        jobs: dict[str, tuple[str, str, list[str]]] = {}  # id: status, model, images

        def send(job_id, status, model, image, outputs=None, **more):
            outputs = outputs or [{"type": "S3", "bucket": there.bucket, "prefix": f"out/{job_id}"}]
            there.send(request(job_id, image, model.url, outputs, **more))
            jobs[job_id] = status, model, [image] if isinstance(image, str) else image

        for i in range(share(46)):
            send(f"good-{i}", "SUCCESS", good, [first, second][i % 2])
        for i in range(share(8)):
            send(f"both-{i}", "SUCCESS", good, [first, second])
        for i in range(share(6)):
            outputs = [
                {"type": "Kinesis", "stream": there.stream, "batchSize": 7},
                {"type": "S3", "bucket": there.bucket, "prefix": f"out/stream-{i}"},
            ]
            send(f"stream-{i}", "SUCCESS", good, first, outputs)
        for i in range(share(6)):
            send(f"twice-{i}", "SUCCESS", good, first)
            send(f"twice-{i}", "SUCCESS", good, first)
        for i in range(share(8)):
            send(f"poison-{i}", "PARTIAL", bad, first)
        for i in range(share(3)):
            send(f"broken-{i}", "FAILED", worse, second)
        for i in range(share(10)):
            send(f"missing-{i}", "FAILED", good, f"s3://{there.bucket}/in/none-{i}.tif")
        for i in range(share(6)):
            send(f"nowhere-{i}", "FAILED", good, first, [{"type": "S3", "bucket": "no-such-bucket", "prefix": "x"}])
        for i in range(share(5)):
            there.send(
                request(
                    f"wrong-{i}", first, good.url, [{"type": "S3", "bucket": there.bucket}], imageProcessorTileSize=-1
                )
            )
            there.send("{no json" + str(i))
        assert len(jobs) + 2 * share(5) >= JOBS
        geotile.serve(
            f"sqs://{there.queue}", status=f"sns://{there.topic}", state=tmp_path / "state", once=True,
            allow_endpoints=[each.url for each in (good, bad, worse)], max_jobs_per_endpoint=6, **QUICK | {"endpoint_options": QUICK["endpoint_options"] | {"outage_timeout_s": 30}},
        )  # fmt: skip
        assert bad.requests > 0
        asked = good.requests
    records = {record.job_id: record for record in geotile.jobs(f"sqs://{there.queue}", tmp_path / "state")}
    assert {job_id: records[job_id].status for job_id in jobs} == {
        job_id: status for job_id, (status, *_) in jobs.items()
    }
    want = {uri: wanted(local, crowd) for uri, local in images.items()}
    tiles = geotile.plan(path, tile_size=128, overlap=32).tiles
    assert asked == tiles * sum(
        len(uris)
        for job, (_, model, uris) in jobs.items()
        if model is good and not job.startswith(("missing", "nowhere"))
    )
    for job_id, (status, model, uris) in jobs.items():
        names = [f"{job_id}-{uri.rpartition('/')[2]}" for uri in uris] if len(uris) > 1 else [job_id]
        keys = [f"out/{job_id}/{name}.geojson" for name in names]
        if job_id.startswith("nowhere") or status == "FAILED":
            assert not set(keys) & set(there.stored())
        elif model is good:
            for key, uri in zip(keys, uris, strict=True):
                assert alike(features_of(there.object(key)), want[uri]), job_id
    streamed = there.records()
    assert len(streamed) == share(6) * len(want[first])
    assert {each["key"] for each in streamed} == {f"stream-{i}" for i in range(share(6))}
    assert all(each["type"] == "FeatureCollection" and len(each["features"]) == 1 for each in streamed)
    heard = there.messages(there.heard)
    for job_id, (status, *_) in jobs.items():
        said = [each for each in heard if each["job_id"] == job_id]
        assert all("image_id" in each for each in said), job_id  # a status without one would look like a second end
        assert not any("region_id" in each for each in said), job_id
        assert {each["image_status"] for each in said if "image_status" in each} <= {"STARTED", "IN_PROGRESS", status}
    assert all(
        "processing_duration" in each
        for each in heard
        if each["status"] in ("SUCCESS", "PARTIAL", "FAILED") and "region_id" not in each
    )
    dead = there.messages(there.dead)
    assert len(dead) == sum(status == "FAILED" for status, *_ in jobs.values()) + 2 * share(5)
    reasons = {
        json.loads(each["body"])["jobId"]: json.loads(each["reasons"])
        for each in dead
        if not each["body"].startswith("{no")
    }
    assert len(reasons["broken-0"]) == 2
    assert "imageProcessorTileSize" in reasons["wrong-0"][0]
    assert "does not exist" in reasons["missing-0"][0] or "404" in reasons["missing-0"][0]
    assert "no-such-bucket" in reasons["nowhere-0"][0]
    assert there.messages(there.queue) == []
    assert {each.name[:6] for each in (tmp_path / "state" / "work").iterdir()} == {"broken"}


def test_records_that_a_stream_refuses_are_sent_again(there, folder, tmp_path, path, monkeypatch):
    proxy = CountingProxy(there.port)
    calls, largest = [], []

    def refusing(sent, headers, forward):
        """Refuse every third record of a call, as a busy shard does."""
        if not headers.get("x-amz-target", "").endswith("PutRecords"):
            return forward(sent)
        said = json.loads(sent)
        if "ExplicitHashKey" in said["Records"][0]:  # the trial before the model is asked
            return forward(sent)
        calls.append(len(said["Records"]))
        largest.append(len(sent))
        taken = [each for i, each in enumerate(said["Records"]) if i % 3 or len(said["Records"]) == 1]
        status, given, body = forward(json.dumps(said | {"Records": taken}).encode())
        results = iter(json.loads(body)["Records"])
        refused = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow down"}
        answer = [next(results) if each in taken else refused for each in said["Records"]]
        return (
            status,
            given,
            json.dumps({"FailedRecordCount": len(said["Records"]) - len(taken), "Records": answer}).encode(),
        )

    proxy.around = refusing
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", proxy.url)
    monkeypatch.setattr("geotile.service.outputs._RETRY_DELAY_S", 0.02)
    with ModelServer(crowd) as model:
        geotile.submit(
            request("a", path, model.url, [{"type": "Kinesis", "stream": there.stream, "batchSize": 20}]), folder
        )
        geotile.serve(folder, once=True)
    proxy.close()
    found = [each["features"][0] for each in there.records()]
    assert len({each["id"] for each in found}) == len(found)
    assert alike(features_of(json.dumps({"features": found})), wanted(path, crowd))
    assert max(calls) == 20
    assert len(calls) > len(found) / 20


def test_a_stream_goes_on_where_it_was_and_names_what_is_too_large(there, tmp_path, monkeypatch):
    from geotile.geometry.georeference import NO_GEOREFERENCE
    from geotile.service import outputs
    from geotile.service.features import ImagePlace
    from geotile.service.request_parts import KinesisOutput
    from geotile.storage.folder import Folder

    found = outputs.StoredDetections(
        folder=Folder.at(tmp_path),
        parts=[],
        extra_properties={},
        job_id="job",
        image_id="job:a",
        name="a",
        place=ImagePlace(NO_GEOREFERENCE, (1.0, 1.0)),
    )
    features = [{"id": f"{i}", "properties": {"x": "y" * (2**20 if i == 5 else 2**19)}} for i in range(25)]
    monkeypatch.setattr(outputs.StoredDetections, "features", lambda self: iter(features))
    notes = Folder.at(tmp_path / "notes")
    notes.write("0.sent.json", b'{"sent": 3}')
    with pytest.raises(geotile.OutputError, match="1 features are larger"):
        outputs.write_output(found, KinesisOutput(type="Kinesis", stream=there.stream), notes, "0")
    got = sorted(int(each["features"][0]["id"]) for each in there.records())
    assert got == [i for i in range(3, 25) if i != 5]
    assert json.loads(notes.read("0.sent.json")) == {"sent": 25}


def test_a_request_stays_invisible_while_its_job_lives(there, folder, tmp_path, path, monkeypatch):
    from geotile.service import loop, sqs

    monkeypatch.setattr(sqs, "VISIBILITY_TIMEOUT_S", 2)
    monkeypatch.setattr(loop, "_EXTEND_INTERVAL_S", 0.5)
    seen = []
    with ModelServer(crowd, latency_s=0.25) as model:
        there.send(request("a", path, model.url, [{"type": "S3", "bucket": there.bucket, "prefix": "out"}]))
        over = threading.Event()

        def look():
            while not over.wait(0.2):
                seen.extend(
                    there.client("sqs").receive_message(QueueUrl=there.queue, VisibilityTimeout=0).get("Messages", [])
                )

        watcher = threading.Thread(target=look)
        service = threading.Thread(
            target=lambda: geotile.serve(
                f"sqs://{there.queue}", state=tmp_path / "state", once=True, concurrency=1, allow_endpoints=model.url
            )
        )
        service.start()
        until(lambda: model.requests > 0)
        watcher.start()
        service.join()
        over.set()
        watcher.join()
        assert model.requests * 0.25 > 2.5  # longer than it is invisible
    assert seen == []
    assert there.stored() == ["out/a.geojson"]


def test_two_services_do_each_job_once(there, tmp_path, path):
    with ModelServer(crowd, latency_s=0.02) as model:
        for i in range(5):
            there.send(
                request(f"job-{i}", path, model.url, [{"type": "S3", "bucket": there.bucket, "prefix": f"out/{i}"}])
            )
            there.send(
                request(f"job-{i}", path, model.url, [{"type": "S3", "bucket": there.bucket, "prefix": f"out/{i}"}])
            )
        words = [
            "--queue",
            f"sqs://{there.queue}",
            "--state",
            f"s3://{there.bucket}/state",
            "--once",
            "--retry-delay-s",
            1,
            "--max-backlog",
            1,
            "--max-jobs",
            2,
            "--allow-endpoint",
            model.url,
        ]
        services = [start(*words, env=os.environ | there.environment()) for _ in range(2)]
        for service in services:
            _, err = service.communicate(timeout=100)
            assert service.returncode == 0, err[-2000:]
        tiles = geotile.plan(path, tile_size=128, overlap=32).tiles
        assert model.requests == 5 * tiles
    assert len([key for key in there.stored() if key.startswith("out/")]) == 5


def test_roles_are_assumed(there, path, folder, monkeypatch):
    """Moto takes any role; that STS is asked for each of them is what is seen."""
    proxy = CountingProxy(there.port)
    there.client("s3").upload_file(path, there.bucket, "in.tif")
    asked = []

    def noting(sent, headers, forward):
        if b"AssumeRole" in (sent or b""):
            asked.append(re.search(rb"RoleArn=[^&]*%2F(\w+)", sent)[1].decode())
        return forward(sent)

    proxy.around = noting
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.url)
    role = "arn:aws:iam::123456789012:role/"
    with ModelServer(crowd) as model:
        outputs = [{"type": "S3", "bucket": there.bucket, "prefix": "out", "assumedRole": role + "writer"}]
        geotile.submit(
            request("a", f"s3://{there.bucket}/in.tif", model.url, outputs, imageReadRole=role + "reader"), folder
        )
        geotile.serve(folder, once=True)
    proxy.close()
    assert set(asked) == {"reader", "writer"}
    assert alike(features_of(there.object("out/a.geojson")), wanted(path, crowd))


# --- fairness


def jobs_of(*said):
    from geotile.service.backlog import Backlog, Job
    from geotile.service.queue import Delivery

    backlog = Backlog(max_jobs=4, max_jobs_per_endpoint=3)
    for i, (endpoint, tiles) in enumerate(said):
        parsed = geotile.JobRequest.parse(
            json.dumps(request(f"{i}", "a.tif", f"http://{endpoint}/invocations", [{"type": "File", "path": "x"}]))
        )
        backlog.add(Job(request=parsed, delivery=Delivery(name=f"{i}", body=b"", sent=float(i)), tiles=tiles))
    return backlog


def started(backlog) -> list[str]:
    return [job.request.job_id for job in iter(backlog.start_next, None)]


def test_the_oldest_job_of_the_least_loaded_endpoint_is_next():
    backlog = jobs_of(*[("slow", 10)] * 5, *[("fast", 10)] * 3)
    assert started(backlog) == ["0", "5", "1", "6"]
    backlog.remove(backlog.running[1])
    assert started(backlog) == ["7"]
    backlog.remove(backlog.running[0])
    assert started(backlog) == ["2"]


def test_the_last_place_is_for_a_small_job():
    backlog = jobs_of(*[("one", 1000)] * 3, ("one", 5), ("one", 4))
    assert started(backlog) == ["0", "1", "3"]  # the third big one waits, a small one passes it
    backlog.remove(backlog.running[0])
    assert started(backlog) == ["4"]


def test_jobs_are_inspected_when_their_endpoint_needs_them():
    backlog = jobs_of(*[("slow", 10)] * 12, ("fast", 10))
    backlog.inspecting = {job.request.job_id: job for job in backlog.waiting}
    backlog.waiting = []
    picked = []
    while (job := backlog.next_to_inspect(all_can_begin=False)) is not None:
        picked.append(job.request.job_id)
        assert backlog.end_inspection(job)
        backlog.add(job)
    assert picked == ["0", "12", *"12345678"]  # three times what may run at once at each
    assert backlog.next_to_inspect(all_can_begin=True).request.job_id == "9"
    backlog.waiting.pop(0)
    assert backlog.next_to_inspect(all_can_begin=False).request.job_id == "10"


def test_an_inspection_that_ends_late_does_not_answer_for_another_job_of_its_id():
    backlog, other = jobs_of(("slow", 10)), jobs_of(("fast", 10))
    old, new = backlog.waiting.pop(), other.waiting.pop()
    backlog.inspecting["0"] = old
    assert backlog.remove_pending(old)
    backlog.inspecting["0"] = new
    assert not backlog.end_inspection(old)
    assert backlog.inspecting == {"0": new}


def test_a_request_returns_to_the_queue_if_its_failure_cannot_be_recorded(folder, tmp_path, monkeypatch):
    from geotile.service.lifecycle import JobLifecycle

    record, calls = JobLifecycle.record_admission_failure, []

    def fails_first(self, job, error):
        calls.append(job.request.job_id)
        if len(calls) == 1:
            raise geotile.OutputError("the state cannot be written")
        record(self, job, error)

    monkeypatch.setattr(JobLifecycle, "record_admission_failure", fails_first)
    out = [{"type": "File", "path": str(tmp_path / "out")}]
    geotile.submit(request("a", str(tmp_path / "none.tif"), "http://127.0.0.1:1/invocations", out), folder)
    geotile.serve(folder, once=True, max_attempts=1, retry_delay_s=0.1)
    assert calls == ["a", "a"]
    assert [job.status for job in geotile.jobs(folder)] == ["FAILED"]


def test_inspections_leave_the_processor_to_jobs(monkeypatch):
    from geotile.service import inspection_pace

    now, cpu = [100.0], [0.0]
    monkeypatch.setattr(inspection_pace.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(inspection_pace.time, "process_time", lambda: cpu[0])
    monkeypatch.setattr(inspection_pace.time, "thread_time", lambda: cpu[0])
    pace = inspection_pace.InspectionPace()
    assert pace.allows_more()
    with pace.counted():
        assert not pace.allows_more()  # one at a time
        now[0] += 5
        assert pace.allows_more()  # that one waits for a network
        cpu[0] += 0.1
    assert pace.allows_more()  # nothing else uses the processor
    now[0], cpu[0] = now[0] + 1, cpu[0] + 0.9
    with pace.counted():
        cpu[0] += 0.1
    assert not pace.allows_more()
    now[0], cpu[0] = now[0] + 0.8, cpu[0] + 0.8
    assert not pace.allows_more()
    now[0], cpu[0] = now[0] + 0.2, cpu[0] + 0.2
    assert pace.allows_more()  # a tenth of the time
    now[0] += 5
    assert pace.allows_more()  # idle


def test_jobs_that_wait_to_be_inspected_can_be_cancelled_and_released(folder, tmp_path, path):
    out = [{"type": "File", "path": str(tmp_path / "out")}]
    with ModelServer(lambda tile: ([], []), latency_s=0.02) as model:
        for i in range(16):
            geotile.submit(request(f"{i:02}", path, model.url, out), folder)
        for i in range(8, 16):
            geotile.cancel(f"{i:02}", folder)
        geotile.serve(folder, once=True, max_jobs=2, max_jobs_per_endpoint=1)
    statuses = [record.status for record in sorted(geotile.jobs(folder), key=lambda record: record.job_id)]
    assert statuses == ["SUCCESS"] * 8 + ["CANCELLED"] * 8


def test_a_big_image_does_not_hold_up_a_small_one(folder, tmp_path, path, write_tiff):
    big = write_tiff(np.zeros((1, 1024, 1024), np.uint8), "big.tif")
    with ModelServer(lambda tile: ([], []), latency_s=0.05) as model:
        out = [{"type": "File", "path": str(tmp_path / "out")}]
        more = {"geotile": {"skip_nodata": False}}
        for i in range(3):
            geotile.submit(request(f"big-{i}", big, model.url, out, **more), folder)
            os.utime(folder / f"big-{i}.json", (i, i))
        geotile.submit(request("small", path, model.url, out), folder)
        geotile.serve(folder, once=True, concurrency=4, max_jobs_per_endpoint=3)
    records = {record.job_id: record for record in geotile.jobs(folder)}
    assert records["small"].finished < min(record.finished for job_id, record in records.items() if job_id != "small")


@pytest.mark.parametrize("limit", [1, 3])
def test_jobs_share_what_an_endpoint_bears(folder, tmp_path, path, limit):
    """However much each of them would ask for by itself."""
    counting = Counting(0.02)
    with ModelServer(counting) as model:
        for i in range(3):
            geotile.submit(request(f"{i}", path, model.url, [{"type": "File", "path": str(tmp_path / "out")}]), folder)
        geotile.serve(folder, once=True, limits={model.url: limit}, concurrency=16)
    assert [record.status for record in geotile.jobs(folder)] == 3 * ["SUCCESS"]
    assert counting.most == limit


def test_a_service_on_a_cluster(folder, tmp_path, path, workers):
    counting = Counting(0.02, crowd)
    with ModelServer(counting) as model:
        for i in range(3):
            out = [{"type": "File", "path": str(tmp_path / f"out-{i}")}]
            geotile.submit(request(f"{i}", path, model.url, out), folder)
        geotile.serve(folder, once=True, scheduler=workers.scheduler.address, region_size=128, concurrency=3, **QUICK)
    assert 1 < counting.most <= 3  # over all jobs and workers
    assert [record.status for record in geotile.jobs(folder)] == 3 * ["SUCCESS"]
    want = wanted(path, crowd)
    for i in range(3):
        assert alike(features_of((tmp_path / f"out-{i}" / f"{i}.geojson").read_text()), want)


def test_a_service_on_a_gateway_outlives_its_cluster(folder, tmp_path, path):
    """It starts a cluster, starts another when that is lost, and leaves none behind."""
    with gateway(tmp_path) as address, ModelServer(crowd, latency_s=0.2) as model, Gateway(address) as there:
        geotile.submit(request("a", path, model.url, [{"type": "File", "path": str(tmp_path / "out")}]), folder)
        lost, asked = [], []

        def lose():
            until(lambda: parts(folder) >= 2)
            lost.extend(each.name for each in there.list_clusters())
            there.stop_cluster(lost[0])
            until(lambda: len(geotile.jobs(folder)[0].attempts) == 2, 100)  # the workers may still ask meanwhile
            asked.append(model.requests)
            model.latency_s = 0.0

        thread = threading.Thread(target=lose)
        thread.start()
        options = QUICK | {"max_attempts": 5, "concurrency": 1, "region_size": 128}
        geotile.serve(folder, once=True, gateway=address, workers=(1, 2), **options)
        thread.join()
        assert len(lost) == 1
        assert there.list_clusters() == []
    (record,) = geotile.jobs(folder)
    assert (record.status, len(record.attempts)) == ("SUCCESS", 2)
    assert model.requests - asked[0] <= record.images[0].tiles - 2  # of the second attempt: the rest was kept
    found = features_of((tmp_path / "out" / "a.geojson").read_text())
    assert alike(found, wanted(path, crowd, region_size=128))


def test_a_service_without_its_cluster_takes_no_jobs(folder, tmp_path, path):
    geotile.submit(
        request("a", path, "http://127.0.0.1:1/invocations", [{"type": "File", "path": str(tmp_path)}]), folder
    )
    service = start("--queue", folder, "--scheduler", "tcp://127.0.0.1:1", "--address", "127.0.0.1:0")
    logs: list[str] = []
    threading.Thread(target=lambda: logs.extend(iter(service.stderr.readline, "")), daemon=True).start()
    until(lambda: any("health and metrics" in line for line in logs))
    url = re.search(r"http://127.0.0.1:\d+", next(line for line in logs if "health" in line))[0]
    assert urllib.request.urlopen(f"{url}/healthz").status == 200
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{url}/readyz")
    until(lambda: any("no cluster" in line for line in logs))
    assert geotile.jobs(folder)[0].status == "QUEUED"
    service.send_signal(signal.SIGTERM)
    service.wait(timeout=30)
    assert service.returncode == 0


# --- the command line


def test_the_command_line(folder, tmp_path, path):
    def run(*words, status=0):
        done = cli(*words, status=status)
        return done.stdout + done.stderr

    with ModelServer(crowd) as model:
        (tmp_path / "r.json").write_text(
            json.dumps(request("cli", path, model.url, [{"type": "File", "path": str(tmp_path)}], colour=1))
        )
        said = run("submit", tmp_path / "r.json", "--queue", folder)
        assert "cli: 1 images" in said
        assert "unknown field colour" in said
        assert re.search(r"cli +QUEUED", run("jobs", "--queue", folder))
        run("serve", "--queue", folder, "--once", "--local")
    assert re.search(r"cli +SUCCESS", run("jobs", "--queue", folder))
    assert json.loads(run("jobs", "cli", "--queue", folder))["status"] == "SUCCESS"
    assert "no job" in run("jobs", "other", "--queue", folder, status=1)
    assert "state must be given" in run("jobs", "--queue", "sqs://x", status=2)
    (tmp_path / "wrong.json").write_text("{}")
    assert "jobId must be given" in run("submit", tmp_path / "wrong.json", "--queue", folder, status=2)
    assert "NAME=N" in run("serve", "--queue", folder, "--limit", "x", status=2)
