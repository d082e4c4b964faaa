"""The list of a queue's jobs, and jobs that are submitted again."""

import io

import pytest
from helpers import cli

import geotile
from geotile.options import ServiceOptions
from geotile.service import job_list
from geotile.service.backlog import Job
from geotile.service.folder_queue import FolderQueue
from geotile.service.job_list import JobList
from geotile.service.logs import JobContext
from geotile.service.loop import Service
from geotile.service.metrics import ServiceMetrics
from geotile.service.notifications import Notifier
from geotile.service.records import ImageRecord, JobRecord, Records
from geotile.service.submit import state_folder

REQUEST = {
    "jobId": "a", "imageUrls": ["none.tif"], "outputs": [{"type": "File", "path": "found"}],
    "imageProcessor": {"name": "http://127.0.0.1:9/x", "type": "HTTP_ENDPOINT"},
}  # fmt: skip


def record_of(queue, job_id, status, finished, **more):
    """Store the record of a job; return the records of its queue."""
    records = Records(state_folder(queue, None))
    records.save(JobRecord(job_id=job_id, status=status, queued=finished - 9, finished=finished, **more))
    return records


def test_a_job_that_failed_is_submitted_again(tmp_path):
    geotile.submit(REQUEST | {"imageUrls": [str(tmp_path / "missing.tif")]}, tmp_path)
    geotile.serve(tmp_path, once=True)
    (tmp_path / "failed" / "a-3.json").write_text("{}")  # of somebody else
    assert geotile.retry("a", tmp_path).status == "FAILED"
    assert [each.status for each in geotile.jobs(tmp_path)] == ["QUEUED"]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "failed" / "a.json").read_bytes()
    with pytest.raises(geotile.ServiceError, match=r"its status is QUEUED\. Only jobs that failed"):
        geotile.retry("a", tmp_path)
    geotile.serve(tmp_path, once=True)
    said = cli("jobs", "--queue", tmp_path, "--retry", "a").stdout
    assert said == "a: submitted again; it resumes from its finished regions\n"


def test_a_retry_needs_the_job_and_its_request(tmp_path):
    record_of(tmp_path, "a", "FAILED", 10.0, digest="5d0c")
    for name, reason in (("b", "has no job 'b'"), ("a", "its request is not in")):
        said = cli("jobs", "--queue", tmp_path, "--retry", name, status=1).stderr
        assert reason in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("status", "digest", "queue", "said"),
    [
        ("PARTIAL", "5d0c", None, r"without some tiles\. Submit its request with a new jobId"),
        ("FAILED", "", None, "its request is not valid"),
        ("IN_PROGRESS", "5d0c", None, "its status is IN_PROGRESS"),
        ("FAILED", "5d0c", "sqs://jobs", r"dead letters of the SQS queue\. .*start-message-move-task"),
    ],
)
def test_why_a_job_cannot_be_retried_is_said(tmp_path, status, digest, queue, said):
    record_of(tmp_path, "a", status, 10.0, digest=digest)
    with pytest.raises(geotile.ServiceError, match=said):
        geotile.retry("a", queue or tmp_path, tmp_path / "state")


def test_a_cancelled_job_that_still_waits_is_retried_in_its_place(tmp_path):
    geotile.submit(REQUEST, tmp_path)
    geotile.cancel("a", tmp_path)
    geotile.retry("a", tmp_path)
    assert [each.status for each in geotile.jobs(tmp_path)] == ["QUEUED"]


def test_a_list_reads_again_only_what_has_changed(tmp_path, monkeypatch):
    records = record_of(tmp_path, "a", "SUCCESS", 10.0)
    record_of(tmp_path, "b", "IN_PROGRESS", 11.0)
    geotile.submit(REQUEST | {"jobId": "c"}, tmp_path)
    jobs, read = JobList(str(tmp_path), records), []
    assert [each.job_id for each in jobs.read()] == ["a", "b", "c"]
    of_file = Records.read
    monkeypatch.setattr(Records, "read", lambda self, name: read.append(name) or of_file(self, name))
    monkeypatch.setattr(job_list, "read_request", lambda path: read.append(path.name))
    jobs.read()
    assert not read
    record_of(tmp_path, "b", "SUCCESS", 20.0)
    assert [each.status for each in jobs.read()] == ["SUCCESS", "SUCCESS", "QUEUED"]
    assert read == ["b.json"]
    (tmp_path / "state" / "records" / "a.json").unlink()
    (tmp_path / "c.json").unlink()
    assert [each.job_id for each in jobs.read()] == ["b"]


def test_rasters_have_no_number_of_detections(tmp_path):
    record_of(tmp_path, "a", "SUCCESS", 10.0, task="predict", images=[ImageRecord(image="a.tif", tiles=4)])
    row = cli("jobs", "--queue", tmp_path).stdout.splitlines()[1].split()
    assert row[-2:] == ["4", "0"]  # tiles and failed tiles


def service_at(queue, said) -> tuple[Service, Job]:
    """A service, and the job that it holds already."""
    notifier, options = Notifier(stream=said), ServiceOptions(max_attempts=1)
    service = Service(FolderQueue(queue), state_folder(queue, None), notifier, options, ServiceMetrics(), JobContext())
    (delivery,) = service.queue.receive(1, 0.0)
    return service, Job(request=geotile.JobRequest.parse(delivery.body), delivery=delivery)


def run(service, job):
    service.backlog.running.append(job)
    service._run_job(job)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
@pytest.mark.parametrize("then", ["runs", "inspects", "cancels"])
def test_a_job_that_ended_in_one_service_is_not_run_by_another_that_holds_its_request(tmp_path, end, then):
    geotile.submit(REQUEST | {"imageUrls": [str(tmp_path / "missing.tif")]}, tmp_path)
    said = io.StringIO()
    (first, job), (second, held) = service_at(tmp_path, said), service_at(tmp_path, said)
    if end == "cancelled":
        geotile.cancel("a", tmp_path)
    run(first, job)
    (before,), lines = geotile.jobs(tmp_path), said.getvalue()
    assert before.status == end.upper()
    if then == "runs":
        run(second, held)
    elif then == "inspects":
        second.backlog.inspecting["a"] = held
        second.intake._inspect(held)
    else:
        second._cancel_or_release(held)
    assert (geotile.jobs(tmp_path), said.getvalue()) == ([before], lines)
    assert sorted(each.name for each in (tmp_path / "failed").iterdir()) == ["a.json", "a.status.json"]
    assert len(second.backlog) == 0
    geotile.retry("a", tmp_path)
    assert [each.name for each in second.queue.receive(1, 0.0)] == ["a.json"]  # submitted again, it is delivered


def test_a_job_that_another_service_runs_is_cancelled_by_that_one(tmp_path):
    geotile.submit(REQUEST, tmp_path)
    said = io.StringIO()
    (first, job), (second, held) = service_at(tmp_path, said), service_at(tmp_path, said)
    geotile.cancel("a", tmp_path)
    with first._lease_of(job):
        second._cancel_or_release(held)
    assert (second.records.load("a"), said.getvalue(), (tmp_path / "a.json").exists()) == (None, "", True)
    run(first, job)
    assert first.records.load("a").status == "CANCELLED"


def test_a_request_that_was_replaced_before_its_job_starts_is_delivered_as_it_is_now(tmp_path):
    geotile.submit(REQUEST, tmp_path)
    service, held = service_at(tmp_path, io.StringIO())
    (tmp_path / "a.json").write_text("{}")
    run(service, held)
    assert not (tmp_path / "failed").exists()
    assert [each.body for each in service.queue.receive(1, 0.0)] == [b"{}"]
