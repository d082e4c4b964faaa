"""Checkpoints of rasters and vectors whose files were damaged: run again or refused, never wrong results."""

import io
import json
import logging
import shutil

import numpy as np
import pytest
import xarray as xr
from object_store import BUCKET, KEYS, object_store
from rasters import bordered, means, scene

import geotile
from geotile.checkpoints.checkpoint import Checkpoint
from geotile.errors import ArgumentError, OutputError
from geotile.results.raster_output import _copy
from geotile.results.raster_store import RasterStore
from geotile.running.status import checkpoint_rows
from geotile.storage.folder import Folder

JOB = {"tile_size": 200, "overlap": 40, "region_size": 512}
DEEP = b"[" * 100_000


class Counting:
    """A model that counts its requests, and has the same name in every run."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, tile):
        self.calls += 1
        return self.model(tile)

    __qualname__ = "Counting"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with finished checkpoints of both calls."""
    folder = tmp_path_factory.mktemp("runs")
    path, _ = scene(folder, (1100, 1100))
    raster, vectors = Counting(bordered), Counting(means)
    geotile.predict_to(path, raster, folder / "want.zarr", checkpoint=folder / "predict", **JOB)
    geotile.embed_to(path, vectors, folder / "want.parquet", checkpoint=folder / "embed", **JOB)
    return folder


def copied(runs, tmp_path, name):
    return shutil.copytree(runs / name, tmp_path / "cp")


def predicted(runs, tmp_path, name="out.zarr", **options):
    model = Counting(bordered)
    report = geotile.predict_to(
        runs / "scene.tif", model, tmp_path / name, checkpoint=tmp_path / "cp", **JOB | options
    )  # fmt: skip
    return report, model.calls


def pixels(path):
    return xr.open_zarr(path, mask_and_scale=False).prediction.values


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


# --- chunks of a raster -----------------------------------------------------------------------------------------------

CHUNKS = {"removed": None, "empty": lambda content: b"", "cut": lambda content: content[:40], "flipped": flipped}


@pytest.mark.parametrize("damage", CHUNKS)
def test_a_block_with_a_damaged_chunk_is_run_again(runs, tmp_path, caplog, damage):
    chunk = next(copied(runs, tmp_path, "predict").glob("*/prediction/c/0/0"))
    if CHUNKS[damage] is None:
        chunk.unlink()
    else:
        chunk.write_bytes(CHUNKS[damage](chunk.read_bytes()))
    report, calls = predicted(runs, tmp_path)
    assert (report.status, report.requests) == ("SUCCESS", calls)
    assert 0 < calls < report.tiles
    assert "00000-00000.json is damaged, so its block is run again: prediction/c/0/0" in caplog.text
    np.testing.assert_array_equal(pixels(tmp_path / "out.zarr"), pixels(runs / "want.zarr"))
    assert predicted(runs, tmp_path, "again.zarr")[1] == 0


def test_a_checkpoint_of_a_version_that_kept_no_checksums_is_resumed(runs, tmp_path, caplog):
    for each in copied(runs, tmp_path, "predict").glob("*/blocks/*.json"):
        report = json.loads(each.read_bytes())
        assert report.pop("chunks")
        each.write_text(json.dumps(report))
    assert predicted(runs, tmp_path)[1] == 0
    assert "damaged" not in caplog.text
    np.testing.assert_array_equal(pixels(tmp_path / "out.zarr"), pixels(runs / "want.zarr"))


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_chunk_without_checksum_is_named(runs, tmp_path, damage):
    place = copied(runs, tmp_path, "predict")
    for each in place.glob("*/blocks/*.json"):
        each.write_text(json.dumps({**json.loads(each.read_bytes()), "chunks": {}}))
    chunk = next(place.glob("*/prediction/c/0/0"))
    chunk.write_bytes(CHUNKS[damage](chunk.read_bytes()))
    with pytest.raises(OutputError, match="remove that folder and run again") as caught:
        predicted(runs, tmp_path, "out.tif")
    assert str(chunk.parents[3]) in str(caught.value)
    assert not (tmp_path / "out.tif").exists()


def test_damaged_chunks_in_object_storage_are_noticed_by_their_size(runs, tmp_path, caplog):
    with object_store() as proxy:
        options = {**KEYS, "endpoint_url": proxy.url}
        place, model = f"s3://{BUCKET}/cp", Counting(bordered)
        job = JOB | {"checkpoint": place, "output_options": options}
        geotile.predict_to(runs / "scene.tif", model, f"s3://{BUCKET}/a.zarr", **job)
        files, path = Folder.at(place, options).files()
        files.invalidate_cache()
        chunk = next(each for each in files.find(path) if each.endswith("prediction/c/1/0"))
        files.pipe_file(chunk, b"short")
        before = model.calls
        report = geotile.predict_to(runs / "scene.tif", model, f"s3://{BUCKET}/b.zarr", **job)
        found = xr.open_zarr(f"s3://{BUCKET}/b.zarr", storage_options=options, mask_and_scale=False).prediction.values
    assert 0 < model.calls - before < report.tiles
    assert "is damaged, so its block is run again" in caplog.text
    np.testing.assert_array_equal(found, pixels(runs / "want.zarr"))


def test_a_file_that_disappears_while_a_store_is_copied_is_named(tmp_path, monkeypatch):
    source = Folder(str(tmp_path / "a"))
    source.write("c/0", b"1")
    source.write("c/.1.geotile-draft-5", b"a draft of a killed worker")
    _copy(source, Folder(str(tmp_path / "b")), skip=())
    assert [each.name for each in (tmp_path / "b").rglob("*") if each.is_file()] == ["0"]
    monkeypatch.setattr(Folder, "read", lambda folder, name: None)
    with pytest.raises(OutputError, match="a/c/0 has disappeared"):
        _copy(source, Folder(str(tmp_path / "b")), skip=())


WHOLE = {"failures": [], "tiles": 1, "without_data": 0, "is_touched": False, "missing": 0, "unfinished": False}
FAILURE = {"tile": 1, "window": [0, 1, 0, 1], "reason": "x"}
REPORTS = [
    b"", b"{", b"[]", b"null", b"{}", b"5", DEEP, b"\xff\xfe",
    *(json.dumps(WHOLE | change).encode() for change in (
        {"failures": 5}, {"failures": [{}]}, {"failures": [5]}, {"failures": [FAILURE | {"window": [1]}]},
        {"failures": [FAILURE | {"tile": "x"}]}, {"tiles": "x"}, {"tiles": -1}, {"missing": None}, {"is_touched": 2},
        {"unfinished": []}, {"chunks": []}, {"chunks": {"prediction/c/0/0": 5}}, {"chunks": {"prediction/c/0/0": [1, "x"]}},
    )),
]  # fmt: skip


@pytest.mark.parametrize("content", REPORTS, ids=lambda content: content[:20])
def test_a_damaged_report_of_a_block_is_left_out(tmp_path, caplog, content):
    store = RasterStore(folder=Folder(str(tmp_path)), array=b"")
    store.folder.write("blocks/00000-00000.json", content)
    store.folder.write("blocks/00000-00001.json", json.dumps(WHOLE | {"failures": [FAILURE]}).encode())
    assert list(store.reports((1, 2))) == [(0, 1)]
    assert "00000-00000.json is damaged, so its block is run again" in caplog.text


@pytest.mark.parametrize("content", [b"", b"null", DEEP], ids=["empty", "null", "deep"])
def test_a_block_with_a_damaged_report_is_run_again(runs, tmp_path, content):
    next(copied(runs, tmp_path, "predict").glob("*/blocks/00000-00001.json")).write_bytes(content)
    report, calls = predicted(runs, tmp_path)
    assert 0 < calls < report.tiles
    np.testing.assert_array_equal(pixels(tmp_path / "out.zarr"), pixels(runs / "want.zarr"))


# --- vectors ----------------------------------------------------------------------------------------------------------


def npz(arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def with_more(content):
    return lambda z: npz(
        z | {"more": np.frombuffer(content if isinstance(content, bytes) else json.dumps(content).encode(), np.uint8)}
    )


def npy(arrays):
    out = io.BytesIO()
    np.save(out, np.ones(3))
    return out.getvalue()


PARTS = {
    "empty": lambda z: b"", "npy": npy, "cut": lambda z: npz(z)[:-10], "more {}": with_more({}),
    "more []": with_more([]), "more deep": with_more(DEEP),
    "failures": with_more({"failures": [{}], "without_data": 0, "asked": 9}),
    "asked": with_more({"failures": [], "without_data": 0, "asked": "x"}),
    "fewer vectors": lambda z: npz(z | {"vectors": z["vectors"][:-1]}),
    "shorter vectors": lambda z: npz(z | {"vectors": z["vectors"][:, :2]}),
    "1-d vectors": lambda z: npz(z | {"vectors": z["vectors"][:, 0]}),
    "dtype of vectors": lambda z: npz(z | {"vectors": z["vectors"].astype("f8")}),
    "text": lambda z: npz(z | {"vectors": z["vectors"].astype(str)}),
    "boxes": lambda z: npz(z | {"boxes": z["boxes"][:, :3]}),
    "tiles": lambda z: npz(z | {"tiles": z["tiles"].astype(float)}),
    "0-d tiles": lambda z: npz(z | {"tiles": np.array(3)}),
    "missing": lambda z: npz({name: z[name] for name in ("tiles", "more")}),
}  # fmt: skip


@pytest.mark.parametrize("damage", PARTS)
def test_a_region_with_damaged_vectors_is_run_again(runs, tmp_path, caplog, damage):
    part = min(copied(runs, tmp_path, "embed").glob("*/*.npz"))
    part.write_bytes(PARTS[damage](dict(np.load(part))))
    model = Counting(means)
    report = geotile.embed_to(
        runs / "scene.tif", model, tmp_path / "out.parquet", checkpoint=tmp_path / "cp", **JOB
    )  # fmt: skip
    assert 0 < model.calls == report.requests < report.tiles
    assert f"{part.name} is damaged, so its region is run again" in caplog.text
    assert (tmp_path / "out.parquet").read_bytes() == (runs / "want.parquet").read_bytes()


def test_no_byte_of_a_stored_region_can_be_changed_into_an_error(runs, tmp_path):
    from geotile.running.embedding_checkpoint import EmbeddingCheckpoint

    whole = min((runs / "embed").glob("*/*.npz")).read_bytes()
    kept = EmbeddingCheckpoint(folder=Folder(str(tmp_path)), length=3, dtype="float32", retry_failed=False)
    rng, damaged, level = np.random.default_rng(0), 0, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for _ in range(600):
            content = bytearray(whole)
            for _ in range(rng.integers(1, 4)):
                content[-rng.integers(1, 260) if rng.random() < 0.6 else rng.integers(len(content))] = rng.integers(256)
            (tmp_path / "00000-00000.npz").write_bytes(content)
            damaged += kept.load(0, 0) is None
    finally:
        logging.disable(level)
    assert damaged > 100


def test_a_damaged_failure_of_a_detection_region_is_noticed(tmp_path, caplog):
    import pyarrow.parquet as pq

    geotile.detect_to(
        scene(tmp_path)[0], lambda tile: ([], []), tmp_path / "a.parquet", checkpoint=tmp_path / "cp", tile_size=64, overlap=0
    )  # fmt: skip
    part = next((tmp_path / "cp").glob("*/*.parquet"))
    table = pq.read_table(part)
    for notes in (b'{"failures": [{}], "without_data": 0}', b'{"failures": 5}', b"[]", b"5", DEEP):
        pq.write_table(table.replace_schema_metadata({b"geotile": notes}), part)
        checkpoint = Checkpoint(folder=Folder(str(tmp_path / "cp")), digest=part.parent.name)
        caplog.clear()
        assert checkpoint.load(*map(int, part.stem.split("-"))) is None
        assert "is damaged, so its region is run again" in caplog.text


# --- job.json ---------------------------------------------------------------------------------------------------------


def changed(job, path, value):
    *parents, last = path.split(".")
    for each in parents:
        job = job[each]
    job[last] = value


FORMS = [
    *(("predict", "answer", value) for value in (None, 5, {}, [], "x")),
    *(("predict", f"answer.{name}", value) for name, value in (
        ("shape", "x"), ("shape", [10**9] * 3), ("shape", [2, 200]), ("shape", [2, 0, 200]), ("dtype", "zz"), ("dtype", "O"), ("dtype", 5),
        ("sent", 7), ("sent", [0, 0]), ("sent", [1]), ("flat", "x"), ("classes", 5), ("classes", [5]),
    )),
    *(("embed", "length", value) for value in ("x", -1, 0, [3], None, 2.5)),
    *((call, path, value) for call in ("predict", "embed") for path, value in (
        ("identity.grid", [1]), ("identity.grid", None), ("identity.grid", {}), ("identity.grid.chunks", [[5], [6]]),
        ("identity.grid.chunks", "ab"), ("identity.grid.chunks", [[-1100], [1100]]), ("regions", "x"), ("identity", 5),
    )),
]  # fmt: skip


def started(runs, tmp_path, call, model, **options):
    run, name = {
        "predict": (geotile.predict_to, "out.zarr"), "embed": (geotile.embed_to, "out.parquet"),
        "detect": (geotile.detect_to, "out.parquet"),
    }[call]  # fmt: skip
    return run(runs / "scene.tif", model, tmp_path / name, checkpoint=tmp_path / "cp", **JOB | options)


@pytest.mark.parametrize(("call", "path", "value"), FORMS)
def test_a_job_file_of_another_form_is_refused(runs, tmp_path, call, path, value):
    (tmp_path / "cp").mkdir()
    job = json.loads((runs / call / "job.json").read_bytes())
    changed(job, path, value)
    (tmp_path / "cp/job.json").write_text(json.dumps(job))
    model = Counting(bordered if call == "predict" else means)
    with pytest.raises(ArgumentError, match=r"cp/job.json is not that of a geotile checkpoint .*Choose a new folder"):
        started(runs, tmp_path, call, model, region_size="auto")
    assert model.calls == 0


@pytest.mark.parametrize("value", [[[5], [6]], "ab", None])
def test_regions_of_another_form_are_refused_for_detections_too(runs, tmp_path, value):
    def model(tile):
        return [], []

    started(runs, tmp_path, "detect", model)
    job = json.loads((tmp_path / "cp/job.json").read_bytes())
    changed(job, "identity.grid.chunks", value)
    (tmp_path / "cp/job.json").write_text(json.dumps(job))
    (tmp_path / "out.parquet").unlink()
    with pytest.raises(ArgumentError, match=r"job.json is not that of a geotile checkpoint"):
        started(runs, tmp_path, "detect", model, region_size="auto")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"state": "finished"}', b'{"state": "finished", "at": "now"}', DEEP]
)
def test_a_damaged_status_hides_nothing_of_its_checkpoint(runs, tmp_path, content):
    """It was said that the folder holds no checkpoint."""
    (copied(runs, tmp_path, "predict") / "status.json").write_bytes(content)
    rows = checkpoint_rows(tmp_path / "cp")
    assert rows["regions kept"] == "4 of 4"
    assert rows["state"].startswith("unknown: status.json is damaged")


@pytest.mark.parametrize(("stored", "call"), [("embed", "predict"), ("predict", "embed")])
def test_a_checkpoint_of_another_call_is_refused_before_the_model_is_asked(runs, tmp_path, stored, call):
    copied(runs, tmp_path, stored)
    model = Counting(bordered if call == "predict" else means)
    with pytest.raises(ArgumentError, match=r"is the checkpoint of another (call|job)"):
        started(runs, tmp_path, call, model)
    assert model.calls == 0


@pytest.mark.parametrize(("call", "missing"), [("predict", "answer"), ("embed", "length")])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "of another call: its job.json has no"),
        ({"tile_size": 192}, "tile_size was 200 and is now 192"),
        ({"pad": True}, "pad was False and is now True"),
    ],
)
def test_another_job_is_refused_before_the_model_is_asked(runs, tmp_path, call, missing, options, said):
    (tmp_path / "cp").mkdir()
    job = json.loads((runs / call / "job.json").read_bytes())
    del job[missing]
    (tmp_path / "cp/job.json").write_text(json.dumps(job))
    model = Counting(bordered if call == "predict" else means)
    with pytest.raises(ArgumentError, match=said):
        started(runs, tmp_path, call, model, **options)
    assert model.calls == 0
