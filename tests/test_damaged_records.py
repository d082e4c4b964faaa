"""Damaged files in the state folder of a service: the job that a file belongs to suffers, and no other."""

import io
import json
import time

import pytest
from test_jobs import REQUEST, service_at

import geotile
from geotile.service.backlog import Job
from geotile.service.cancellation import Cancellations
from geotile.service.job_progress import add_progress
from geotile.service.queue import MAX_TIME_S, Delivery
from geotile.service.records import DamagedRecord, ImageProgress, JobRecord, Records
from geotile.service.submit import state_folder

HUGE, DEEP = 10**400, 100_000 * "["


@pytest.fixture
def records(tmp_path):
    """The records of a queue with the sound job "a"."""
    found = Records(state_folder(tmp_path, None))
    found.save(JobRecord(job_id="a", status="QUEUED", queued=1.0))
    return found


def stored(records, **more):
    """Store the record of the job "b", which is running, with other values than it can have."""
    image = {"image": "b.tif", "status": "IN_PROGRESS", "shape_yx": [9, 9], "tiles": 9}
    content = JobRecord(job_id="b", status="IN_PROGRESS", started=2.0).model_dump(mode="json") | {"images": [image]}
    image |= more.pop("image", {})
    records.folder.sub("records").write("b.json", json.dumps(content | more).encode())


@pytest.mark.parametrize(
    "more",
    [
        *({name: value} for name in ("queued", "started", "finished") for value in (float("nan"), 1e300, -1e18, HUGE)),
        {"attempts": [{"started": float("inf"), "host": "h", "process": 1}]},
        *({"image": {"shape_yx": shape}} for shape in ([0, 0], [-5, 3], [HUGE, 1], [9])),
        *({"image": {"failed_tiles": windows}} for windows in ([[1, 2, 3]], [[HUGE] * 4], [[1, 2, 3, 4]] * 200_000)),
        *({"image": {name: -1}} for name in ("tiles", "failures", "detections", "requests", "pixels_missing")),
        {"image": {"scale_yx": [0, 1]}},
        {"image": {"seconds": float("inf")}},
    ],
    ids=lambda more: str(more)[:60],
)
def test_a_record_with_impossible_values_is_damaged(records, tmp_path, more):
    stored(records)
    assert [each.job_id for each in geotile.jobs(tmp_path)] == ["a", "b"]
    stored(records, **more)
    with pytest.raises(DamagedRecord, match=r"Remove the file\."):
        records.load("b")
    assert [each.job_id for each in geotile.jobs(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    "mark",
    [DEEP, "[1]", "", *(f'{{"job_id": "a", "asked": {each}}}' for each in ("NaN", "1e300", HUGE, f"1{5000 * '0'}"))],
    ids=lambda mark: mark[:40],
)
def test_a_damaged_mark_cancels_no_job_and_keeps_none_from_it(records, tmp_path, mark):
    marks = Cancellations(records.folder)
    records.folder.sub("cancelled").write("b.json", mark.encode())
    assert marks.asked() == []
    geotile.cancel("a", tmp_path)
    assert (marks.asked(), [each.status for each in geotile.jobs(tmp_path)]) == (["a"], ["CANCELLED"])


def test_a_job_with_a_damaged_record_keeps_no_other_from_being_cancelled(records, tmp_path):
    marks = Cancellations(records.folder)
    for job_id in ("b", "c"):
        geotile.submit(REQUEST | {"jobId": job_id}, tmp_path)
        marks.ask(job_id)
    stored(records, started=-1)
    assert sorted(marks.asked()) == ["b", "c"]
    service, first = service_at(tmp_path, io.StringIO())
    (delivery,) = service.queue.receive(1, 0.0)
    for job in (first, Job(request=geotile.JobRequest.parse(delivery.body), delivery=delivery)):
        service.backlog.add(job)
    service._stopped.set()  # so that it does not wait first
    with pytest.raises(DamagedRecord):
        service._cancel_jobs()
    assert [each.name for each in (tmp_path / "failed").glob("c.json")] == ["c.json"]
    assert (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    "status",
    [DEEP, "[]", None, *({name: HUGE} for name in ("tiles", "done", "detections")), {"done": -5}, {"seconds": "x"}],
    ids=lambda status: str(status)[:40],
)
def test_a_damaged_status_hides_the_progress_of_its_image_alone(records, tmp_path, status):
    checkpoint = records.work_folder("b").sub("0").sub("checkpoint")
    good = {"state": "stopped", "at": time.time(), "host": "h", "process": 1, "tiles": 9, "done": 5, "seconds": 2.0}
    stored(records)
    checkpoint.write("status.json", json.dumps(good).encode())
    record = records.load("b")
    add_progress(records, record)
    assert record.images[0].progress == ImageProgress(
        tiles=9, done=5, failures=0, detections=0, tiles_per_s=2.5, left_s=1.6, process="1 on h", running=False
    )
    checkpoint.remove("status.json")
    if status is None:
        (tmp_path / "state/work/b/0/checkpoint/status.json").mkdir()
    else:
        text = status if isinstance(status, str) else json.dumps(good | status)
        checkpoint.write("status.json", text.encode())
    assert [(each.job_id, [image.progress for image in each.images]) for each in geotile.jobs(tmp_path)] == [
        ("a", []), ("b", [None]),
    ]  # fmt: skip


@pytest.mark.parametrize(("sent", "kept"), [(-5.0, 0.0), (1e300, MAX_TIME_S), (12.5, 12.5)])
def test_a_request_has_a_time_that_a_record_may_have(sent, kept):
    assert Delivery(name="a.json", body=b"", sent=sent).sent == kept
