"""Submit the request of a job again that failed or was cancelled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from geotile.core.checks import check_path
from geotile.errors import ArgumentError, ServiceError
from geotile.public import public
from geotile.service.cancellation import Cancellations
from geotile.service.folder_queue import FAILED, FolderQueue, stem_of
from geotile.service.job_list import JobList
from geotile.service.records import ENDED, GIVEN_UP, JobRecord, Records, file_name
from geotile.service.request import JobRequest
from geotile.service.request_file import read_request
from geotile.service.submit import state_folder

_OF_SQS = (
    "its request is in the dead letters of the SQS queue. Move it back with `aws sqs start-message-move-task` or the "
    "console, or submit it again; the job then goes on from its finished regions"
)


@public
def retry(job_id: str, queue: str | os.PathLike[str], state: str | os.PathLike[str] | None = None) -> JobRecord:
    """Submit the request of a job again that failed or was cancelled.

    The request is copied from ``failed/`` into the queue. The job has all its attempts again, and resumes from its
    finished regions, images and outputs. A job that was cancelled and still waits in the queue is no longer cancelled.

    Parameters
    ----------
    job_id : str
        Id of the job.
    queue : str or path
        The folder of the queue, as for `geotile.serve`.
    state : str or path, optional
        The state folder of the service. By default, ``state/`` in the queue's folder.

    Returns
    -------
    JobRecord
        The record of the job before it is submitted again.

    Raises
    ------
    ServiceError
        If the queue has no such job, its status is neither ``"FAILED"`` nor ``"CANCELLED"``, its request is no longer
        in ``failed/`` or is not valid, or the queue is in SQS.
    OutputError
        If the queue cannot be written.

    Examples
    --------
    >>> import geotile, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> request = {"jobId": "first", "imageUrls": ["missing.tif"], "outputs": [{"type": "File", "path": folder}],
    ...            "imageProcessor": {"name": "http://127.0.0.1:8080/invocations", "type": "HTTP_ENDPOINT"}}
    >>> _ = geotile.submit(request, folder)
    >>> geotile.serve(folder, once=True)  # doctest: +ELLIPSIS
    {"time": ..., "status": "FAILED", "job_id": "first", ...}
    ...
    >>> geotile.retry("first", folder).status
    'FAILED'
    >>> [job.status for job in geotile.jobs(folder)]
    ['QUEUED']
    """
    uri = check_path(queue, "queue")
    records = Records(state_folder(uri, state))
    return retry_in(JobList(uri, records), records, uri, job_id)


def retry_in(jobs: JobList, records: Records, queue: str, job_id: str) -> JobRecord:
    """Submit the request of a job of a list again, as `retry` does.

    Raises
    ------
    ServiceError, OutputError
        As `retry`.
    """
    record = next((each for each in jobs.read() if each.job_id == job_id), None)
    if record is None:
        raise ServiceError(f"the queue has no job {job_id!r}. List its jobs with geotile.jobs")
    if (obstacle := retry_obstacle(record, queue)) is not None:
        raise ServiceError(f"the job {job_id!r} cannot be retried: {obstacle}")
    stored, marks = records.load(job_id), Cancellations(records.folder)
    if record.status == "CANCELLED" and (stored is None or stored.status not in ENDED):
        marks.withdraw(job_id)  # no service has cancelled it yet
        return record
    requests = FolderQueue(Path(queue).absolute())
    body = _failed_request(requests.path, record)
    marks.withdraw(job_id)
    try:
        requests.send(file_name(job_id), body)
    except ArgumentError as error:
        raise ServiceError(f"the job {job_id!r} cannot be retried: {error}") from None
    return record


def retry_obstacle(record: JobRecord, queue: str) -> str | None:
    """Return why the request of a job cannot be submitted again, as far as its record tells; None if it can."""
    if record.status == "PARTIAL":
        return "it is done, without some tiles. Submit its request with a new jobId to ask for all of them again"
    if record.status not in GIVEN_UP:
        return f"its status is {record.status}. Only jobs that failed or were cancelled can be retried"
    if not record.digest:
        return "its request is not valid. Correct it and submit it"
    return _OF_SQS if "://" in queue else None


def _failed_request(folder: Path, record: JobRecord) -> bytes:
    """Return the request of a job from the folder of failed ones."""
    for path in _candidates(folder / FAILED, stem_of(record.delivery)):
        try:
            body = read_request(path)
            request = JobRequest.parse(body)
        except (ArgumentError, OSError):  # it is another file, or was moved meanwhile
            continue
        if request.job_id == record.job_id and request.digest == record.digest:
            return body
    raise ServiceError(
        f"the job {record.job_id!r} cannot be retried: its request is not in {folder / FAILED}. Submit it again"
    )


def _candidates(folder: Path, stem: str) -> Iterator[Path]:
    """Yield the files in which a request may be, the latest first: ``<stem>.json``, ``<stem>-2.json`` and so on."""
    names = os.listdir(folder) if folder.is_dir() else []
    numbered = re.compile(re.escape(stem) + r"(?:-(\d+))?\.json")
    found = {int(match[1] or 1): folder / match[0] for match in map(numbered.fullmatch, names) if match}
    for number in sorted(found, reverse=True):
        yield found[number]
