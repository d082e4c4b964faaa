"""Submit requests to a queue, and list and cancel its jobs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geotile.core.checks import check_path
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ServiceError
from geotile.public import public
from geotile.service.cancellation import Cancellations
from geotile.service.job_list import JobList
from geotile.service.job_progress import add_progress
from geotile.service.open_queue import open_queue
from geotile.service.records import ENDED, JobRecord, Records, file_name
from geotile.service.request import JobRequest
from geotile.service.request_checks import MAX_REQUEST_BYTES
from geotile.storage.folder import Folder

_STATE = "state"


@public
def submit(request: Mapping[str, Any] | str | os.PathLike[str], queue: str | os.PathLike[str]) -> JobRequest:
    """Check a request and put it into a queue that `geotile.serve` reads.

    Parameters
    ----------
    request : mapping, str or path
        A job request with OversightML's field names, or the path of a JSON file with one.
    queue : str or path
        A folder, which is created if it does not exist, or ``sqs://`` followed by the URL or name of an SQS queue.

    Returns
    -------
    JobRequest
        The parsed request. `JobRequest.unknown_fields` lists the fields that have no effect.

    Raises
    ------
    ArgumentError
        If the request is invalid (the message names each field by its path), the SQS queue does not exist, or the
        folder cannot be created.

    Examples
    --------
    >>> import geotile, tempfile
    >>> request = {"jobId": "first", "imageUrls": ["scene.tif"], "outputs": [{"type": "File", "path": "found"}],
    ...            "imageProcessor": {"name": "http://127.0.0.1:8080/invocations", "type": "HTTP_ENDPOINT"}}
    >>> folder = tempfile.mkdtemp()
    >>> geotile.submit(request, folder).job_id
    'first'
    >>> [job.status for job in geotile.jobs(folder)]
    ['QUEUED']
    """
    uri = check_path(queue, "queue")
    body = _as_json(request) if isinstance(request, Mapping) else _read(Path(check_path(request, "request")))
    parsed = JobRequest.parse(body)
    open_queue(uri, check=False).send(file_name(parsed.job_id), body)
    return parsed


@public
def jobs(queue: str | os.PathLike[str], state: str | os.PathLike[str] | None = None) -> list[JobRecord]:
    """Return the records of the jobs of a queue.

    Parameters
    ----------
    queue : str or path
        The queue, as for `geotile.serve`. Waiting requests are included if it is a folder. Requests in SQS have a
        record once a service has received them.
    state : str or path, optional
        The state folder of the service. By default, ``state/`` in the queue's folder.

    Returns
    -------
    list of JobRecord
        The records, in the order of submission. Images that are running have their `progress`, which is a few seconds
        old.

    Raises
    ------
    ArgumentError
        If the queue is in SQS and `state` is not given.
    OutputError
        If the state folder cannot be read.
    ServiceError
        If the queue's folder does not exist.

    Examples
    --------
    >>> import geotile, tempfile
    >>> geotile.jobs(tempfile.mkdtemp())
    []
    """
    uri = check_path(queue, "queue")
    stored = Records(state_folder(uri, state))
    records = JobList(uri, stored).read()
    for record in records:
        add_progress(stored, record)
    return records


@public
def cancel(
    job_id: str, queue: str | os.PathLike[str], state: str | os.PathLike[str] | None = None
) -> JobRecord:  # fmt: skip
    """Cancel a job of a queue: the service that has it stops it within seconds, or does not start it.

    Its status becomes ``"CANCELLED"``, and its request goes where failed ones go. Its finished regions are kept: if the
    request is submitted again, the job resumes from there.

    Parameters
    ----------
    job_id : str
        Id of the job.
    queue : str or path
        The queue, as for `geotile.serve`.
    state : str or path, optional
        The state folder of the service. By default, ``state/`` in the queue's folder.

    Returns
    -------
    JobRecord
        The record of the job before it is cancelled.

    Raises
    ------
    ServiceError
        If the queue has no such job, or it has ended.
    ArgumentError
        If the queue is in SQS and `state` is not given.
    OutputError
        If the state folder cannot be written.

    Examples
    --------
    >>> import geotile, tempfile
    >>> request = {"jobId": "first", "imageUrls": ["scene.tif"], "outputs": [{"type": "File", "path": "found"}],
    ...            "imageProcessor": {"name": "http://127.0.0.1:8080/invocations", "type": "HTTP_ENDPOINT"}}
    >>> folder = tempfile.mkdtemp()
    >>> _ = geotile.submit(request, folder)
    >>> _ = geotile.cancel("first", folder)
    >>> [job.status for job in geotile.jobs(folder)]
    ['CANCELLED']
    """
    uri = check_path(queue, "queue")
    records = Records(state_folder(uri, state))
    return cancel_in(JobList(uri, records), records, job_id)


def cancel_in(jobs: JobList, records: Records, job_id: str) -> JobRecord:
    """Cancel a job of a list, as `cancel` does.

    Raises
    ------
    ServiceError
        If the list has no such job, or it has ended.
    OutputError
        If the state folder cannot be written.
    """
    looked = time.time()
    record = next((each for each in jobs.read() if each.job_id == job_id), None)
    if record is None:
        raise ServiceError(
            f"the queue has no job {job_id!r}. List its jobs with geotile.jobs; requests in SQS are listed once their "
            "job has started"
        )
    if record.status in ENDED:
        raise ServiceError(f"the job {job_id!r} has ended as {record.status}; there is nothing to cancel")
    marks = Cancellations(records.folder)
    marks.ask(job_id)
    now = records.load(job_id) or record
    if now.status in ENDED and now.status != "CANCELLED" and (now.finished or 0.0) >= looked:
        marks.withdraw(job_id)  # it ended meanwhile; the mark would cancel what is submitted under this name later
        raise ServiceError(f"the job {job_id!r} has ended as {now.status}; there is nothing to cancel")
    return record


def state_folder(queue: str | os.PathLike[str], state: str | os.PathLike[str] | None) -> Folder:
    """Return the state folder of a service."""
    if state is not None:
        return Folder.at(check_path(state, "state"))
    if "://" in str(queue):
        raise ArgumentError(
            f"state must be given for the queue {redact(str(queue))}. "
            "Use a folder or s3://bucket/prefix, which will hold records and checkpoints."
        )
    return Folder.at(Path(queue) / _STATE)


def _as_json(request: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(request), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"request must hold values of JSON only: str, finite numbers, bool, None, list and dict; {error}. Convert "
            "the others, such as paths with str()"
        ) from None


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:  # also a pipe: the user chose it
            return file.read(MAX_REQUEST_BYTES + 1)
    except OSError as error:
        raise ArgumentError(f"the request file {path} cannot be read: {error}") from None
