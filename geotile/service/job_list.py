"""The list of a queue's jobs: the records in the state folder, and the requests that wait in the folder of a queue.

::

    state/records/<job>.json ─┐
    queue/<request>.json ─────┼─▶ JobList.read ─▶ records in the order of submission
    state/cancelled/<job>.json┘
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from geotile.errors import ArgumentError, ServiceError
from geotile.service.cancellation import Cancellations
from geotile.service.folder_queue import FolderQueue
from geotile.service.queue import Delivery
from geotile.service.records import ENDED, DamagedRecord, JobRecord, Records, new_record, submitted_again
from geotile.service.request import JobRequest
from geotile.service.request_file import read_request

_log = logging.getLogger(__name__)
_READERS = 16  # threads, since a record in object storage takes 30 ms


class JobList:
    """Reader of a queue's jobs. What has not changed since the last call is not read again. Any thread may use it.

    Parameters
    ----------
    queue : str
        The queue, as for `geotile.serve`.
    records : Records
        The records of its service.

    Examples
    --------
    >>> import tempfile
    >>> from geotile.storage.folder import Folder
    >>> folder = tempfile.mkdtemp()
    >>> JobList(folder, Records(Folder.at(f"{folder}/state"))).read()
    []
    """

    def __init__(self, queue: str, records: Records) -> None:
        self._queue, self._records, self._lock = queue, records, threading.Lock()
        self._stored: dict[str, tuple[str, JobRecord | None]] = {}
        self._waiting: dict[str, tuple[tuple[int, ...], JobRecord | None]] = {}

    def read(self) -> list[JobRecord]:
        """Return the records of all jobs in the order of submission, without progress. Copy one to change it.

        Raises
        ------
        OutputError
            If the state folder cannot be read.
        ServiceError
            If the queue's folder does not exist.
        """
        with self._lock:
            records = {each.job_id: each for each in self._read_stored()}
            for waiting in self._read_waiting():
                known = records.get(waiting.job_id)
                if known is None or (known.status in ENDED and waiting.queued > (known.finished or 0.0)):
                    records[waiting.job_id] = waiting if known is None else submitted_again(waiting, known)
        for job_id in Cancellations(self._records.folder).asked():
            if job_id in records and records[job_id].status == "QUEUED":
                records[job_id] = records[job_id].model_copy(update={"status": "CANCELLED"})
        return sorted(records.values(), key=lambda record: record.queued)

    def _read_stored(self) -> Iterable[JobRecord]:
        versions = {name: each for name, each in self._records.versions().items() if name.endswith(".json")}
        self._stored = {name: each for name, each in self._stored.items() if name in versions}
        changed = [name for name, each in versions.items() if not each or self._stored.get(name, ("", None))[0] != each]
        if len(changed) > 1 and not self._records.folder.is_local:
            with ThreadPoolExecutor(_READERS, "geotile-records") as readers:
                found = list(readers.map(self._record, changed))
        else:
            found = [self._record(name) for name in changed]
        self._stored |= {name: (versions[name], record) for name, record in zip(changed, found, strict=True)}
        return [record for _, (_, record) in sorted(self._stored.items()) if record is not None]

    def _record(self, name: str) -> JobRecord | None:
        try:
            return self._records.read(name)
        except DamagedRecord as error:  # the other jobs have nothing to do with it
            _log.warning("%s", error)
            return None

    def _read_waiting(self) -> Iterable[JobRecord]:
        if "://" in self._queue:
            return []
        folder = Path(self._queue).absolute()
        if not folder.is_dir():
            raise ServiceError(f"there is no queue at {self._queue}; its folder is created by the first submission")
        found = {}
        for name in FolderQueue(folder).names():
            try:
                state = os.lstat(folder / name)
                key = (state.st_mtime_ns, state.st_size, state.st_ino)
                known = self._waiting.get(name)
                found[name] = known if known and known[0] == key else (key, _waiting(folder / name, state.st_mtime))
            except OSError:  # it was moved meanwhile, or cannot be read: the service reports it
                continue
        self._waiting = found
        return [record for _, record in found.values() if record is not None]


def _waiting(path: Path, queued: float) -> JobRecord | None:
    """Return the record of a request that waits in a folder; None if it is incomplete or invalid."""
    try:
        request = JobRequest.parse(read_request(path))
    except ArgumentError:  # the service will report it
        return None
    return new_record(request, Delivery(name=path.name, body=b"", sent=queued))
