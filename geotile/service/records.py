"""The records of jobs, saved where the next process finds them."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from geotile.core.digest import digest
from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.service.queue import MAX_TIME_S, Delivery
from geotile.service.request import JobRequest
from geotile.service.tasks import TaskName
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)

Status = Literal["QUEUED", "IN_PROGRESS", "SUCCESS", "PARTIAL", "FAILED", "CANCELLED"]
FINISHED = ("SUCCESS", "PARTIAL")
GIVEN_UP = ("FAILED", "CANCELLED")
ENDED = (*FINISHED, *GIVEN_UP)
JOB_LEASE = "lease"
"""Name of the lease in the folder of a job."""
_MAX_NAME_LENGTH = 100
_MAX_SIDE_PX = 2**40

Time = Annotated[float, Field(ge=0, le=MAX_TIME_S, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Side = Annotated[int, Field(gt=0, le=_MAX_SIDE_PX)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Window = Annotated[list[Annotated[int, Field(ge=-_MAX_SIDE_PX, le=_MAX_SIDE_PX)]], Field(min_length=4, max_length=4)]


class DamagedRecord(OutputError):
    """A file in the place of a record that is none."""


class Attempt(BaseModel):
    """One attempt at a job."""

    started: Time
    """Start time, in seconds since 1970."""
    host: str
    """Name of the machine."""
    process: int
    """Process id."""
    error: str | None = None
    """Reason of the failure; None while the attempt is in progress or if its process died."""


class ImageProgress(BaseModel):
    """Progress of an image that is running, or how far it had come when it was stopped."""

    tiles: Count
    """Number of tiles."""
    done: Count
    """Number of tiles that are done, including those kept from an earlier attempt."""
    failures: Count
    """Number of tiles that failed in this attempt."""
    detections: Count
    """Number of detections before merging, in this attempt and in tiles kept from an earlier one."""
    tiles_per_s: Finite
    """Tiles per second in this attempt."""
    left_s: Finite | None
    """Estimated seconds until the image is done; None before the first tile is done."""
    waiting_for: str = ""
    """Why no tiles are sent; empty while they are."""
    process: str = ""
    """Process that runs it, and its machine."""
    running: bool = True
    """Whether it is running; False if it was stopped or its process has ended."""


class ImageRecord(BaseModel):
    """Status and figures of one image of a job."""

    image: str
    """URI of the image, without secrets."""
    status: Status = "QUEUED"
    """Status of the image."""
    shape_yx: tuple[Side, Side] | None = None
    """Height and width of the image in pixels; None until a run of it has begun."""
    scale_yx: tuple[Scale, Scale] = (1.0, 1.0)
    """Pixels of the file per pixel of the image, down and across. Boxes in outputs are in pixels of the file."""
    tiles: Count = 0
    """Number of tiles."""
    failed_tiles: Annotated[list[Window], Field(max_length=1000)] = []
    """Windows ``[y0, y1, x0, x1]`` of the first 100 failed tiles, in image pixels."""
    failures: Count = 0
    """Number of failed tiles."""
    failure_reasons: Annotated[dict[str, Count], Field(max_length=10)] = {}
    """Number of failed tiles by reason, of the most frequent reasons."""
    detections: Count = 0
    """Number of detections after merging; 0 if the task of the job is another one."""
    pixels_missing: Count = 0
    """Number of pixels of a raster that belong to failed tiles and that no other tile has answered."""
    requests: Count = 0
    """Number of requests sent, over all attempts that did not end with the death of their process. Those that were in
    flight when an attempt was stopped do not count."""
    seconds: Finite = 0.0
    """Processing time in seconds, over the same attempts."""
    outputs: dict[str, str] = {}
    """URI of each written output, by the number and type of the output."""
    is_outdated: bool = False
    """Whether its finished regions are those of another version of the image or of the model. If the request is
    submitted again, the image starts from its beginning."""
    progress: ImageProgress | None = None
    """Progress of the latest attempt at an image that is not done."""


class JobRecord(BaseModel):
    """Status, attempts and images of a job. It contains no secrets."""

    job_id: str
    """Id of the job."""
    job_name: str = ""
    """Name of the job."""
    task: TaskName = "detect"
    """What the model answers."""
    digest: str = ""
    """Digest of the request, see `JobRequest.digest`."""
    delivery: str = ""
    """Name of the request in the queue, at its latest delivery."""
    endpoint: str = ""
    """Endpoint of the model, without secrets."""
    status: Status = "QUEUED"
    """Status of the job."""
    queued: Time = Field(default_factory=time.time)
    """Time at which the request was submitted first, in seconds since 1970."""
    started: Time | None = None
    """Start time of the first attempt, in seconds since 1970."""
    finished: Time | None = None
    """Time at which the job succeeded or was rejected, in seconds since 1970."""
    attempts: list[Attempt] = []
    """All counted attempts."""
    images: list[ImageRecord] = []
    """The images, in the order of the request."""
    reasons: list[str] = []
    """Error of each attempt, if the job was rejected."""
    warnings: list[str] = []
    """Warnings about the request."""
    waiting_for: str = ""
    """Why a job that has started sends no tiles."""

    def duration_s(self) -> float:
        """Return the seconds from the first start to the end, or to now if the job has not finished."""
        finished = self.finished or time.time()
        return finished - (self.started or finished)


@dataclass(frozen=True)
class Records:
    """The records of all jobs in a folder: ``records/<job>.json``, and ``work/<job>/`` while a job is in progress."""

    folder: Folder

    def load(self, job_id: str) -> JobRecord | None:
        """Return the record of a job, None if there is none.

        Raises
        ------
        OutputError
            If the record cannot be read.
        """
        return self.read(f"{file_name(job_id)}.json")

    def save(self, record: JobRecord) -> None:
        """Write the record of a job.

        Raises
        ------
        OutputError
            If the record cannot be written.
        """
        self._records.write(f"{file_name(record.job_id)}.json", record.model_dump_json(indent=1).encode())

    def versions(self) -> dict[str, str]:
        """Return the file name of each record, and a text that differs once it was replaced.

        Raises
        ------
        OutputError
            If the records cannot be listed.
        """
        return self._records.versions()

    def work_folder(self, job_id: str) -> Folder:
        """Return the folder of a job's checkpoints and results."""
        return self.folder.sub("work").sub(file_name(job_id))

    def clear(self, job_id: str) -> None:
        """Remove a job's checkpoints and results, which are in its outputs by then."""
        _remove(self.work_folder(job_id))

    def clear_image(self, job_id: str, number: int) -> None:
        """Remove the checkpoint and the results of an image of a job."""
        _remove(self.work_folder(job_id).sub(str(number)))

    @property
    def _records(self) -> Folder:
        return self.folder.sub("records")

    def read(self, name: str) -> JobRecord | None:
        """Return the record in a file, None if there is none.

        Raises
        ------
        DamagedRecord
            If the file holds something else.
        OutputError
            If it cannot be read.
        """
        data = self._records.read(name)
        try:
            return None if data is None else JobRecord.model_validate_json(data)
        except ValueError as error:
            raise DamagedRecord(
                f"{self._records.display_name}/{name} is not a valid job record: {str(error)[:200]}. Remove the file."
            ) from None


def new_record(request: JobRequest, delivery: Delivery, previous: JobRecord | None = None) -> JobRecord:
    """Return the record of a job that has not started, with what an earlier submission of the request has left."""
    new = JobRecord(
        job_id=request.job_id, job_name=request.job_name, task=request.task, digest=request.digest,
        delivery=delivery.name, endpoint=redact(request.image_processor.endpoint), queued=delivery.sent,
        images=[ImageRecord(image=redact(url)) for url in request.image_urls],
        warnings=[f"unknown field {name}" for name in request.unknown_fields()],
    )  # fmt: skip
    return new if previous is None else submitted_again(new, previous)


def submitted_again(new: JobRecord, previous: JobRecord) -> JobRecord:
    """Return a new record of a job with the times and images of an earlier submission of the same request."""
    if new.digest != previous.digest:
        return new
    images = [
        each if each.status in FINISHED else each.model_copy(update={"status": "QUEUED"}) for each in previous.images
    ]
    return new.model_copy(update={"queued": previous.queued, "started": previous.started, "images": images})


def new_attempt() -> Attempt:
    """Return an attempt of this process that begins now."""
    return Attempt(started=time.time(), host=socket.gethostname(), process=os.getpid())


def _remove(folder: Folder) -> None:
    files, path = folder.files()
    try:
        if files.exists(path):
            files.rm(path, recursive=True)
    except Exception as error:  # each file system has its own exceptions; files that remain do no harm
        _log.warning("%s was not removed: %s", folder.display_name, redact(str(error)))


def image_id(record: JobRecord, image: ImageRecord) -> str:
    """Return the image id as OversightML forms it: the job id, a colon and the URL of the image."""
    return f"{record.job_id}:{image.image}"


def read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return the content of a small JSON file, None if the file does not exist."""
    data = folder.read(name)
    content: dict[str, Any] | None = None if data is None else json.loads(data)
    return content


def file_name(job_id: str) -> str:
    """Return a safe file name for a job id.

    >>> file_name("a/b.c"), len(file_name(400 * "x"))
    ('a%2Fb%2Ec', 32)
    """
    safe = quote(job_id, safe=" ").replace(".", "%2E") if len(job_id) <= _MAX_NAME_LENGTH else ""
    return safe if 0 < len(safe) <= _MAX_NAME_LENGTH else digest(job_id.encode(), 32)
