"""Requests into a queue, and what became of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geotile.errors import ArgumentError
from geotile.service.folder_queue import as_queue
from geotile.service.records import JobRecord, Records, file_name
from geotile.service.request import JobRequest
from geotile.storage.folder import Folder

STATE = "state"


def submit(request: Mapping[str, Any] | str | os.PathLike[str], queue: str | os.PathLike[str]) -> JobRequest:
    """Check a request and put it into a queue that `geotile.serve` watches.

    Parameters
    ----------
    request : mapping, str or path
        A job's request in OversightML's words, or the path of a JSON file of it.
    queue : str or path
        A folder, or ``sqs://`` and an SQS queue's url or name.

    Returns
    -------
    JobRequest
        As it was understood; `JobRequest.unknown` names fields that were not.

    Raises
    ------
    ArgumentError
        If the request is wrong, each field named by its path, or there is no such queue.

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
    body = json.dumps(dict(request)).encode() if isinstance(request, Mapping) else _read(Path(request))
    parsed = JobRequest.parse(body)
    as_queue(str(os.fspath(queue)), checked=False).send(file_name(parsed.job_id), body)
    return parsed


def jobs(queue: str | os.PathLike[str], state: str | os.PathLike[str] | None = None) -> list[JobRecord]:
    """Return what is known of the jobs of a queue.

    Parameters
    ----------
    queue : str or path
        As `serve` watches it. Requests that wait in a folder are listed; those in SQS show once a service has seen
        them.
    state : str or path, optional
        Where the service keeps its state; by default ``state/`` in the queue's folder.

    Returns
    -------
    list of JobRecord
        The newest last.

    Raises
    ------
    ArgumentError
        If the queue is SQS and no state is given.
    OutputError
        If the state cannot be read.

    Examples
    --------
    >>> import geotile, tempfile
    >>> geotile.jobs(tempfile.mkdtemp())
    []
    """
    records = {record.job_id: record for record in Records(state_folder(queue, state)).all()}
    if "://" not in str(queue):
        for path in Path(queue).glob("*.json"):
            try:
                request = JobRequest.parse(path.read_bytes())
            except (ArgumentError, OSError):  # half written, or no request: the service will say so
                continue
            records.setdefault(request.job_id, JobRecord(job_id=request.job_id, queued=path.stat().st_mtime))
    return sorted(records.values(), key=lambda record: record.queued)


def state_folder(queue: str | os.PathLike[str], state: str | os.PathLike[str] | None) -> Folder:
    """Return where a service keeps its state."""
    if state is not None:
        return Folder.at(state)
    if "://" in str(queue):
        raise ArgumentError(
            f"--state is needed with --queue {queue}: a folder or s3://bucket/prefix for records and checkpoints"
        )
    return Folder.at(Path(queue) / STATE)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArgumentError(f"the request {path} cannot be read: {error}") from None
