"""Jobs of the service whose model answers rasters or vectors: as `predict_to` and `embed_to`, and as jobs of detections."""

import hashlib
import json
import math
import os
import re
import threading
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aws import aws
from distributed import LocalCluster
from helpers import cli
from rasters import bordered, encoded, means, raster_server, scene
from service_process import ServiceProcess, reasons, request, until

import geotile
from geotile.planning import raster_plan
from geotile.service.backlog import Job
from geotile.service.lifecycle import JobLifecycle
from geotile.service.queue import Delivery
from geotile.service.records import JobRecord
from geotile.testing.server import decode_tile

NPY = "application/x-npy"
TILING, TILES = {"tile_size": 128, "overlap": 32}, 15
SIDE, VECTORS = 96, 35  # of jobs that embed
RASTER = {"output": "scores", "blend": "hann", "classes": ["dark", "bright"]}
SMALL = "import geotile.planning.raster_plan as plan\nplan._CHUNK = 64\n"
QUICK = {"retry_delay_s": 0.1, "max_attempts": 2, "endpoint_options": {"retries": 0, "outage_timeout_s": 2}}


def both(tile):
    """Vectors of tiles of the size that jobs have here which embed, and scores of all others."""
    return means(tile) if tile.shape[1] == SIDE else bordered(tile)


class Model:
    """A server's model: how often it was asked, also for vectors, and by how many at once at most."""

    def __init__(self):
        self.function, self.latency_s, self.answered = both, 0.0, math.inf  # requests; the next one waits
        self.requests = self.vectors = self.now = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, body):
        tile = decode_tile(body)
        with self.lock:
            self.requests += 1
            number = self.requests
            self.vectors += tile.shape[1] == SIDE
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            time.sleep(self.latency_s)
            while number > self.answered:
                time.sleep(0.01)
            return 200, {"Content-Type": NPY}, encoded(NPY, self.function(tile))
        except ValueError as error:
            return 400, {}, str(error).encode()
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture
def model():
    served = Model()
    with raster_server(served) as served.url:
        yield served


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(raster_plan, "_CHUNK", 64)


@pytest.fixture
def path(tmp_path):
    return scene(tmp_path)[0]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "jobs"


def file(path, **more):
    return {"type": "File", "path": str(path), **more}


def content(path):
    if path.is_file():
        return path.read_bytes()
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def submit(folder, job_id, image, model, outputs, task="predict", **more):
    own = {"geotile": RASTER} if task == "predict" else {"imageProcessorTileSize": SIDE}
    more = own | more
    return geotile.submit(request(job_id, image, model.url, outputs, task=task, **more), folder)


def record_of(folder, job_id="a"):
    return next(each for each in geotile.jobs(folder) if each.job_id == job_id)


# --- the same results


@pytest.mark.slow
def test_names_that_the_model_does_not_have_are_no_reason_to_try_again(folder, tmp_path, path, model):
    submit(folder, "a", path, model, [file(tmp_path / "out")], geotile=RASTER | {"output": "classes", "classes": ["a"]})
    geotile.serve(folder, once=True, max_attempts=5, retry_delay_s=60)
    record = record_of(folder)
    assert (record.status, len(record.attempts)) == ("FAILED", 1)
    assert "classes must have 2 names" in record.reasons[0]


@pytest.mark.slow
def test_a_raster_job_writes_what_predict_to_writes(folder, tmp_path, path, model, capsys):
    second = tmp_path / "second.tif"
    second.write_bytes((tmp_path / "scene.tif").read_bytes())
    outputs = [file(tmp_path / "out"), file(tmp_path / "out", format="zarr"), file(tmp_path / "more", format="tif")]
    options = RASTER | {"output": "classes"}
    said = request("a", [path, str(second)], model.url, outputs, task="predict", geotile=options)
    (tmp_path / "request.json").write_text(json.dumps(said))
    assert "a: 2 images" in cli("submit", tmp_path / "request.json", "--queue", folder).stdout
    geotile.serve(folder, once=True)
    record, asked = record_of(folder), model.requests
    assert (record.status, [each.status for each in record.images]) == ("SUCCESS", 2 * ["SUCCESS"])
    assert asked == sum(each.requests for each in record.images) == 2 * (TILES + 1)
    assert record.images[1].outputs["1-File"] == str(tmp_path / "out" / "a-second.tif.zarr")
    for name in ("want.tif", "want.zarr"):
        geotile.predict_to(path, model.url, tmp_path / name, **TILING, **options)
    for image in ("scene.tif", "second.tif"):
        assert content(tmp_path / "out" / f"a-{image}.tif.aux.xml") == content(tmp_path / "want.tif.aux.xml")
        assert content(tmp_path / "out" / f"a-{image}.tif") == content(tmp_path / "want.tif")
        assert content(tmp_path / "more" / f"a-{image}.tif") == content(tmp_path / "want.tif")
        assert content(tmp_path / "out" / f"a-{image}.zarr") == content(tmp_path / "want.zarr")
    assert len(os.listdir(tmp_path / "out")) == 6
    assert not list((folder / "state" / "work").iterdir())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == ["STARTED", "STARTED", *2 * ["IN_PROGRESS", "SUCCESS"], "SUCCESS"]
    assert re.search("a +SUCCESS", cli("jobs", "--queue", folder).stdout)


@pytest.mark.slow
def test_an_embedding_job_writes_what_embed_to_writes(folder, tmp_path, path, model, monkeypatch):
    monkeypatch.setattr("geotile.running.embedding.PART_ROWS", 4)  # so that there are several parts
    model.function = means
    outputs, small = [file(tmp_path / "out"), file(tmp_path / "more")], {"tile_size": 64, "overlap": 32}
    fields = {"imageProcessorTileSize": 64, "geotile": {"dtype": "float16"}}
    submit(folder, "a", path, model, outputs, "embed", **fields)
    geotile.serve(folder, once=True, region_size=64)
    assert record_of(folder).status == "SUCCESS"
    assert model.requests == geotile.plan(path, **small).tiles + 1
    geotile.embed_to(path, model.url, tmp_path / "want.parquet", dtype="float16", **small)
    want, found = (gpd.read_parquet(each) for each in (tmp_path / "want.parquet", tmp_path / "out" / "a.parquet"))
    found = found.sort_values("tile", ignore_index=True)
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(want["embedding"]))
    assert found.drop(columns="embedding").equals(want.drop(columns="embedding"))
    read = pq.ParquetFile(tmp_path / "out" / "a.parquet")
    assert read.schema_arrow.field("embedding").type == pa.list_(pa.float16(), 3)
    assert read.num_row_groups > 1
    bounds = json.loads(read.schema_arrow.metadata[b"geo"])["columns"]["geometry"]["bbox"]
    np.testing.assert_allclose(bounds, want.total_bounds)
    assert content(tmp_path / "out" / "a.parquet") == content(tmp_path / "more" / "a.parquet")
    assert not list((folder / "state" / "work").iterdir())


@pytest.mark.slow
def test_object_storage_holds_the_state_and_whole_outputs(folder, tmp_path, path, model, small, monkeypatch):
    with aws() as there:
        for name, value in there.environment().items():
            monkeypatch.setenv(name, value)
        there.setup("tasks")
        there.client("s3").put_object(Bucket=there.bucket, Key="out/foreign.zarr/mine.txt", Body=b"mine")
        for name in ("prediction/c/9/9", ".geotile-draft"):  # a copy that was interrupted
            there.client("s3").put_object(Bucket=there.bucket, Key=f"out/a.zarr/{name}", Body=b"")
        bucket = {"type": "S3", "bucket": there.bucket, "prefix": "out"}
        submit(folder, "a", path, model, [bucket, bucket | {"format": "zarr"}])
        submit(folder, "foreign", path, model, [bucket | {"format": "zarr"}])
        submit(folder, "v", path, model, [bucket], "embed")
        geotile.serve(folder, state=f"s3://{there.bucket}/state", once=True, region_size=128, **QUICK)
        records = {each.job_id: each for each in geotile.jobs(folder, f"s3://{there.bucket}/state")}
        assert (records["a"].status, records["v"].status) == ("SUCCESS", "SUCCESS")
        assert (records["foreign"].attempts, model.requests) == ([], TILES + 1 + VECTORS + 1)
        assert "holds something else than a Zarr 3 store" in records["foreign"].reasons[0]
        for name in ("want.tif", "want.zarr"):
            geotile.predict_to(path, model.url, tmp_path / name, **TILING, **RASTER)
        found = {key.removeprefix("out/"): there.object(key) for key in there.stored() if key.startswith("out/")}
        assert not [key for key in there.stored() if key.startswith("state/work")]
    assert found.pop("foreign.zarr/mine.txt") == b"mine"
    assert found.pop("a.tif") == content(tmp_path / "want.tif")
    assert len(gpd.read_parquet(pa.BufferReader(found.pop("v.parquet")))) == VECTORS
    assert found == {f"a.zarr/{name}": data for name, data in content(tmp_path / "want.zarr").items()}


# --- failures, and ends


def failing(*numbers):
    """A function that returns a tile, and fails for those whose digest says so."""

    def run(tile):
        if int(hashlib.sha256(tile.tobytes()).hexdigest()[:4], 16) % 8 in numbers:
            raise ValueError("bad luck")
        return tile

    return run


@pytest.mark.slow
def test_tiles_that_fail_make_a_job_partial(folder, tmp_path, path, model, capsys):
    model.function = lambda tile: both(failing(1)(tile))
    submit(folder, "a", path, model, [file(tmp_path / "out")])
    submit(folder, "v", path, model, [file(tmp_path / "out")], "embed")
    geotile.serve(folder, once=True, **QUICK)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with pytest.warns(geotile.FailedTilesWarning):
        report = geotile.predict_to(path, model.url, tmp_path / "want.tif", retries=0, **TILING, **RASTER)
    assert content(tmp_path / "out" / "a.tif") == content(tmp_path / "want.tif")
    assert len(gpd.read_parquet(tmp_path / "out" / "v.parquet")) == VECTORS - record_of(folder, "v").images[0].failures
    for job_id in ("a", "v"):
        record = record_of(folder, job_id)
        (image,) = record.images
        assert record.status == image.status == "PARTIAL"
        assert 0 < image.failures == len(image.failed_tiles) < image.tiles
        said = [line for line in lines if line["job_id"] == job_id]
        assert any("region_id" in line and line["status"] == "PARTIAL" for line in said)
        y0, y1, x0, x1 = image.failed_tiles[0]
        (told,) = [line["failed_tiles"] for line in said if line.get("image_status") == "PARTIAL"]
        assert told.startswith(f"[{{'1': [[{y0}, {x0}], [{x1 - x0}, {y1 - y0}]]}}")
    image = record_of(folder).images[0]
    assert [each.window for each in report.failures] == image.failed_tiles
    assert image.pixels_missing == report.pixels_missing > 0


@pytest.mark.slow
def test_a_job_whose_tiles_all_fail_is_tried_again_and_goes_on(folder, tmp_path, path, model, small):
    answers = iter([bordered])

    def broken(tile):
        if (first := next(answers, None)) is None:
            raise ValueError("broken")
        return first(tile)

    model.function = broken
    submit(folder, "a", path, model, [file(tmp_path / "out")])
    geotile.serve(folder, once=True, region_size=128, **QUICK)
    found = record_of(folder).reasons
    assert [bool(re.search("all 15 tiles of .* failed: .*broken", each)) for each in found] == [True, True]
    assert not (tmp_path / "out").exists()
    model.function, model.requests = bordered, 0
    os.replace(folder / "failed" / "a.json", folder / "a.json")  # somebody puts it back
    geotile.serve(folder, once=True, region_size=128, **QUICK)
    assert (record_of(folder).status, model.requests) == ("SUCCESS", TILES)  # the form of the answer is known
    geotile.predict_to(path, model.url, tmp_path / "want.tif", **TILING, **RASTER)
    assert content(tmp_path / "out" / "a.tif") == content(tmp_path / "want.tif")


@pytest.mark.slow
def test_an_output_that_fails_is_tried_again_without_the_model(folder, tmp_path, path, model):
    taken, out = tmp_path / "taken", tmp_path / "out"

    def taking(tile):  # the place is good before the first tile, and taken after it
        taken.write_text("a file where a folder is wanted")
        return both(tile)

    model.function = taking
    formats = ("tif", "zarr")
    submit(folder, "a", path, model, [file(place, format=each) for place in (taken, out) for each in formats])
    submit(folder, "v", path, model, [file(taken), file(out)], "embed")
    geotile.serve(folder, once=True, max_jobs=2, **QUICK)
    assert model.requests == TILES + 1 + VECTORS + 1
    assert {each.status for each in geotile.jobs(folder)} == {"FAILED"}
    assert "outputs[0]: [Errno 17] File exists" in record_of(folder).reasons[0]
    before = {each: each.stat().st_mtime_ns for each in out.iterdir()}
    assert {each.name for each in before} == {"a.tif", "a.zarr", "v.parquet"}
    taken.unlink()
    for each in ("a.json", "v.json"):
        os.replace(folder / "failed" / each, folder / each)
    geotile.serve(folder, once=True, **QUICK)
    assert model.requests == TILES + 1 + VECTORS + 1
    assert {each.status for each in geotile.jobs(folder)} == {"SUCCESS"}
    assert {each: each.stat().st_mtime_ns for each in out.iterdir()} == before  # they were there already
    assert {each.name: content(each) for each in taken.iterdir()} == {each.name: content(each) for each in before}


def progress(folder, job_id="a"):
    """Return the progress of the only image of a job, None before it has some."""
    images = record_of(folder, job_id).images
    return images[0].progress if images else None


def done_tiles(folder, job_id="a"):
    now = progress(folder, job_id)
    return now.done if now else 0


def blocks(folder):
    return len(list((folder / "state" / "work").glob("a/0/checkpoint/*/blocks/*.json")))


WORDS = ("--concurrency", 1, "--region-size", 64, "--grace-s", 0.1)
OFTEN = "import geotile.running.status as status\nstatus._INTERVAL_S = 0.1\n"


@pytest.mark.slow
def test_a_job_goes_on_where_it_was_stopped(folder, tmp_path, path, model, small):
    """It is cancelled and submitted again; its service is stopped, and the next one is killed; the last one ends it."""

    def hangs_after(requests):
        model.answered = model.requests + requests
        return lambda: model.requests > model.answered

    small_tiles = {"tile_size": 64, "overlap": 16}
    tiles, hangs = geotile.plan(path, **small_tiles).tiles, hangs_after(36)
    with ServiceProcess(folder, *WORDS, before=SMALL + OFTEN) as service:
        fields = {"imageProcessorTileSize": 64, "imageProcessorTileOverlap": 16}
        submit(folder, "a", path, model, [file(tmp_path / "out")], **fields)
        until(lambda: hangs() and done_tiles(folder) == 35)
        assert (progress(folder).running, progress(folder).tiles) == (True, tiles)
        geotile.cancel("a", folder)
        until(lambda: service.failed())
        first, hangs = blocks(folder), hangs_after(8)
        geotile.submit(folder / "failed" / "a.json", folder)
        until(hangs)
        service.process.terminate()
        service.process.wait(20)
    assert not progress(folder).running
    assert 10 <= done_tiles(folder) < tiles
    assert blocks(folder) >= first > 0
    model.answered, model.latency_s = math.inf, 0.3
    with ServiceProcess(folder, *WORDS, "--concurrency", 2, before=SMALL + OFTEN) as service:
        submit(folder, "v", path, model, [file(tmp_path / "out")], "embed")
        until(lambda: list((folder / "state" / "work").glob("v/0/checkpoint/*/*.npz")))
        service.process.kill()
        service.process.wait()
    assert not (tmp_path / "out" / "v.parquet").exists()
    assert record_of(folder, "v").waiting_for == "waiting; its process has ended"
    asked, model.vectors, model.latency_s = model.requests, 0, 0.0
    geotile.serve(folder, once=True, region_size=64)
    assert {each.status for each in geotile.jobs(folder)} == {"SUCCESS"}
    assert 0 < model.vectors < VECTORS
    assert 0 < model.requests - model.vectors - asked < tiles
    geotile.predict_to(path, model.url, tmp_path / "want.tif", **small_tiles, **RASTER)
    assert content(tmp_path / "out" / "a.tif") == content(tmp_path / "want.tif")
    assert len(gpd.read_parquet(tmp_path / "out" / "v.parquet")) == VECTORS


@pytest.mark.slow
def test_a_job_is_cancelled_before_its_first_tile_is_answered(folder, tmp_path, path, model):
    model.latency_s = 60
    submit(folder, "a", path, model, [file(tmp_path / "out")])
    service = threading.Thread(target=geotile.serve, args=(folder,), kwargs={"once": True})
    service.start()
    until(lambda: model.requests)
    began = time.monotonic()
    geotile.cancel("a", folder)
    service.join(20)
    assert time.monotonic() - began < 10
    assert (reasons(folder), record_of(folder).status) == ({"a": "the job was cancelled"}, "CANCELLED")


# --- limits


@pytest.mark.slow
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_jobs_of_all_tasks_share_what_an_endpoint_bears(folder, tmp_path, path, model, where):
    model.latency_s = 0.01
    for job_id, task in (("a", "predict"), ("b", "predict"), ("v", "embed")):
        submit(folder, job_id, path, model, [file(tmp_path / "out")], task)
    if where == "threads":
        geotile.serve(folder, once=True, limits={model.url: 1}, concurrency=16)
    else:
        with LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster:
            geotile.serve(folder, once=True, scheduler=cluster.scheduler_address, concurrency=2, **QUICK)
    assert [record.status for record in geotile.jobs(folder)] == 3 * ["SUCCESS"]
    assert model.most <= (1 if where == "threads" else 2)
    assert content(tmp_path / "out" / "a.tif") == content(tmp_path / "out" / "b.tif")
    assert len(gpd.read_parquet(tmp_path / "out" / "v.parquet")) == VECTORS


# --- requests


def said(**more):
    return request("a", "a.tif", "http://127.0.0.1:9/x", [{"type": "File", "path": "out"}]) | more


STREAM = [{"type": "Kinesis", "stream": "found"}]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"task": "predcit"}, "task must be 'detect', 'predict' or 'embed'; got \"predcit\""), ({"task": 5}, "task must be"),
        ({"task": "predict", "outputs": STREAM}, 'outputs[0] is a Kinesis stream, which takes detections only; for "task": "predict" give {"type": "S3"'),
        ({"task": "embed", "outputs": STREAM}, "Kinesis stream, which takes detections only"),
        ({"task": "predict", "outputs": [file("x", format="geojson")]}, 'outputs[0].format must be "tif" or "zarr" for "task": "predict"; got "geojson"'),
        ({"task": "embed", "outputs": [file("x"), file("x", format="tif")]}, 'outputs[1].format must be "parquet" for "task": "embed"; got "tif"'),
        ({"outputs": [file("x", format="zarr")]}, 'outputs[0].format must be "geojson" or "parquet" for "task": "detect"; got "zarr"'),
        ({"task": "predict", "postProcessing": [{"step": "FEATURE_DISTILLATION"}]}, 'postProcessing would have no effect with "task": "predict"'),
        ({"task": "embed", "featureProperties": [{"a": 1}]}, 'featureProperties would have no effect with "task": "embed"'),
        ({"task": "predict", "geotile": {"merge": "nms"}}, "option 'merge' does not apply to \"task\": \"predict\"; leave it out, or give \"task\": \"detect\""),
        ({"geotile": {"blend": "hann"}}, "option 'blend' does not apply to \"task\": \"detect\"; leave it out, or give \"task\": \"predict\""),
        ({"task": "embed", "geotile": {"output": "scores"}}, "option 'output' does not apply to \"task\": \"embed\""),
        ({"task": "predict", "geotile": {"tokens": "mean"}}, 'leave it out, or give "task": "embed"'),
        ({"task": "predict", "geotile": {"polygons": "a.parquet"}}, "a job writes no polygons; leave their options out, and make polygons of its result with geotile.polygonize"),
        ({"task": "predict", "geotile": {"checkpoint": "a"}}, "the service keeps their checkpoints"), ({"task": "predict", "geotile": {"classes": "names.txt"}}, "classes must be a list of names; got 'names.txt'"),
        ({"task": "predict", "geotile": {"blnd": "hann"}}, "unknown option 'blnd'; did you mean 'blend'?"),
        ({"task": "predict", "geotile": {"blend": "mode"}}, "blend must be one of 'trim', 'hann', 'mean', 'vote'; got 'mode'"),
        ({"task": "predict", "geotile": {"output": "values", "threshold": 0.5}}, 'threshold would have no effect with "geotile": {"output": "values"}'),
        ({"task": "embed", "geotile": {"checkpoint": "x"}}, "option 'checkpoint' does not apply to jobs"),
        ({"tsk": "predict"}, "unknown field 'tsk'; did you mean 'task'?"), ({"output": []}, "did you mean 'outputs'?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_refused(fields, text, tmp_path):
    with pytest.raises(geotile.ArgumentError) as caught:
        geotile.submit(said(**fields), tmp_path / "queue")
    assert text in str(caught.value)
    assert not (tmp_path / "queue").exists()


def test_each_task_has_its_default_format():
    def formats(**more):
        outputs = [{"type": "File", "path": "x"}, {"type": "S3", "bucket": "abc"}, file("x", format="parquet")]
        parsed = geotile.JobRequest.parse(
            json.dumps(said(outputs=outputs[: 2 + (more.get("task") != "predict")], **more))
        )
        return [each.format for each in parsed.outputs]

    assert formats() == formats(task="detect") == ["geojson", "geojson", "parquet"]
    assert formats(task="predict") == ["tif", "tif"]
    assert formats(task="embed") == ["parquet", "parquet", "parquet"]


@pytest.mark.parametrize("page", ["service.md", "embeddings.md"])
def test_requests_of_the_documentation_are_taken(page):
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    (body,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert geotile.JobRequest.parse(body).unknown_fields() == []


def test_records_of_jobs_that_had_no_task_are_theirs(tmp_path):
    parsed = geotile.JobRequest.parse(
        json.dumps(said(imageProcessor={"name": "m"}, outputs=[{"type": "File", "path": "x"}]))
    )
    again = geotile.JobRequest.parse(json.dumps(said(imageProcessor={"name": "m"}, outputs=[file("x")], task="detect")))
    assert parsed.digest == again.digest == "6e3c48ef22c261ea"  # as the version before tasks had it
    assert (
        parsed.digest
        != geotile.JobRequest.parse(
            json.dumps(said(imageProcessor={"name": "m"}, outputs=[file("x")], task="predict"))
        ).digest
    )
    old = {
        "job_id": "a",
        "digest": parsed.digest,
        "status": "IN_PROGRESS",
        "images": [{"image": "a.tif", "detections": 3}],
    }
    record = JobRecord.model_validate_json(json.dumps(old))
    assert (record.images[0].detections, record.images[0].pixels_missing) == (3, 0)
    job = Job(request=parsed, delivery=Delivery(name="a.json", body=b"", sent=0.0))
    assert JobLifecycle._renewed(None, job, record) is record
