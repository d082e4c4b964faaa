"""What is known of each job, kept where the next process finds it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from geotile.core.digest import digest
from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.service.queue import Delivery
from geotile.service.request import JobRequest
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)

Status = Literal["QUEUED", "IN_PROGRESS", "SUCCESS", "PARTIAL", "FAILED"]
FINISHED = ("SUCCESS", "PARTIAL")
_NAME = 100


class Attempt(BaseModel):
    """One time that a job was worked on."""

    began: float
    host: str
    process: int
    error: str | None = None
    """Why it failed; None while it goes on, or if its process died."""


class ImageRecord(BaseModel):
    """What came of one image."""

    image: str
    status: Status = "QUEUED"
    tiles: int = 0
    failed_tiles: list[list[int]] = []
    """``[y0, y1, x0, x1]`` in image pixels, the first hundred."""
    failures: int = 0
    detections: int = 0
    requests: int = 0
    """Sent in all attempts whose end was seen."""
    seconds: float = 0.0
    outputs: dict[str, str] = {}
    """Where each was written, by its name."""


class JobRecord(BaseModel):
    """What is known of a job. Holds no secret."""

    job_id: str
    job_name: str = ""
    digest: str = ""
    delivery: str = ""
    """The delivery that it came by."""
    endpoint: str = ""
    status: Status = "QUEUED"
    queued: float = Field(default_factory=time.time)
    began: float | None = None
    ended: float | None = None
    attempts: list[Attempt] = []
    images: list[ImageRecord] = []
    reasons: list[str] = []
    """Why it failed, each time."""
    warnings: list[str] = []


@dataclass(frozen=True)
class Records:
    """The records of all jobs, in a folder: ``records/<job>.json``, and ``work/<job>/`` while it is worked on."""

    folder: Folder

    def load(self, job_id: str) -> JobRecord | None:
        """Return what is known of a job.

        Raises
        ------
        OutputError
            If it cannot be read.
        """
        return self._read(f"{file_name(job_id)}.json")

    def save(self, record: JobRecord) -> None:
        """Keep what is known of a job.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        self._records.write(f"{file_name(record.job_id)}.json", record.model_dump_json(indent=1).encode())

    def all(self) -> Iterator[JobRecord]:
        """Yield all records."""
        for name in sorted(self._records.names()):
            if name.endswith(".json") and (record := self._read(name)) is not None:
                yield record

    def work(self, job_id: str) -> Folder:
        """Return where a job's checkpoints and detections are."""
        return self.folder.sub("work").sub(file_name(job_id))

    def clear(self, job_id: str) -> None:
        """Remove a job's checkpoints and detections: its outputs hold what it found."""
        files, path = self.work(job_id).files()
        try:
            if files.exists(path):
                files.rm(path, recursive=True)
        except Exception as error:  # each file system has errors of its own; what is left does no harm
            _log.warning("%s was not removed: %s", self.work(job_id).display_name, redact(str(error)))

    @property
    def _records(self) -> Folder:
        return self.folder.sub("records")

    def _read(self, name: str) -> JobRecord | None:
        data = self._records.read(name)
        try:
            return None if data is None else JobRecord.model_validate_json(data)
        except ValueError as error:
            raise OutputError(
                f"{self._records.display_name}/{name} is damaged: {str(error)[:200]}; remove it"
            ) from None


def new_record(request: JobRequest, delivery: Delivery, before: JobRecord | None = None) -> JobRecord:
    """Return the record of a job that begins; what is done of it goes on from `before`."""
    return JobRecord(
        job_id=request.job_id, job_name=request.job_name, digest=request.digest, delivery=delivery.name,
        endpoint=redact(request.image_processor.endpoint), queued=delivery.sent,
        began=before.began if before else None,
        images=before.images if before else [ImageRecord(image=redact(url)) for url in request.image_urls],
        warnings=[f"unknown field {name}" for name in request.unknown()],
    )  # fmt: skip


def image_id(record: JobRecord, image: ImageRecord) -> str:
    """Return what OversightML calls an image: its job's id and its url."""
    return f"{record.job_id}:{image.image}"


def read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return what a small file says, None if there is none."""
    data = folder.read(name)
    found: dict[str, Any] | None = None if data is None else json.loads(data)
    return found


def file_name(job_id: str) -> str:
    """Return a file name for a job id, whatever is in it.

    >>> file_name("a/b.c"), len(file_name(400 * "x"))
    ('a%2Fb%2Ec', 32)
    """
    safe = quote(job_id, safe=" ").replace(".", "%2E") if len(job_id) <= _NAME else ""
    return safe if 0 < len(safe) <= _NAME else digest(job_id.encode(), 32)
