"""The progress of running jobs: as gauges, as lines of status, and as other processes read it from the state folder."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.running.progress import Progress, ProgressCallback
from geotile.running.status import read_status
from geotile.service.metrics import Gauge, Gauges
from geotile.service.notifications import Notifier
from geotile.service.records import (
    ENDED,
    FINISHED,
    JOB_LEASE,
    ImageProgress,
    ImageRecord,
    JobRecord,
    Records,
    image_id,
)
from geotile.storage.folder import Folder
from geotile.storage.lease import is_leased

_log = logging.getLogger(__name__)
_LINE_INTERVAL_S = 10.0
_MAX_REASONS = 10  # of failed tiles
_GAUGES: dict[str, tuple[str, Callable[[ImageProgress], float]]] = {
    "job_tiles": ("Tiles of the image that a job is running", lambda now: now.tiles),
    "job_tiles_done": ("Tiles of that image that are done", lambda now: now.done),
    "job_tile_failures": ("Tiles of that image that failed", lambda now: now.failures),
    "job_tiles_per_second": ("Tiles per second of that image", lambda now: now.tiles_per_s),
    "job_seconds_left": ("Estimated seconds until that image is done", lambda now: now.left_s or 0.0),
}


class JobProgress:
    """Progress of the jobs that run in this process.

    Parameters
    ----------
    notifier : Notifier
        Receiver of a line every ten seconds. They are not published.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier, self._lock = notifier, Lock()
        self._running: dict[str, ImageProgress] = {}
        self._last: dict[str, Progress] = {}

    def callback(self, record: JobRecord, number: int) -> ProgressCallback:
        """Return the callback for the progress of an image's run."""
        said_at = time.monotonic()

        def show(state: Progress) -> None:
            nonlocal said_at
            with self._lock:
                self._running[record.job_id] = now = as_image_progress(state)
                self._last[record.job_id] = state
            if time.monotonic() - said_at >= _LINE_INTERVAL_S:
                said_at = time.monotonic()
                self._notifier.notify(
                    "IN_PROGRESS", record.job_id, str(state), image_id=image_id(record, record.images[number]),
                    publish=False, progress=now.model_dump(),
                )  # fmt: skip

        return show

    def take_last(self, job_id: str) -> Progress | None:
        """Return the last progress of a job's image, once; None if its run has not begun."""
        with self._lock:
            return self._last.pop(job_id, None)

    def end(self, job_id: str) -> None:
        """Forget a job that no longer runs."""
        with self._lock:
            self._running.pop(job_id, None)
            self._last.pop(job_id, None)

    def gauges(self) -> Gauges:
        """Return the gauges of the running jobs."""
        with self._lock:
            running = dict(self._running)
        return {
            name: Gauge(description, "job", {job: float(value(now)) for job, now in running.items()})
            for name, (description, value) in _GAUGES.items()
        }


def as_image_progress(state: Progress, process: str = "", running: bool = True) -> ImageProgress:
    """Return the progress of a run as a record shows it."""
    done_now = state.done - state.kept
    return ImageProgress(
        tiles=state.tiles, done=state.done, failures=state.failures, detections=state.detections,
        tiles_per_s=round(done_now / state.seconds, 3) if state.seconds > 0 else 0.0,
        left_s=None if state.eta_s is None else round(state.eta_s, 1), waiting_for=redact(state.waiting_for),
        process=process, running=running,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JobFigures:
    """Figures of a job over some of its images. The list of jobs, a job's page and ``geotile jobs`` show these."""

    tiles: int | None
    """Number of tiles; None if no run of an image has begun."""
    done: int | None
    """Number of tiles that are done; None if none of its images is running or was stopped."""
    failures: int | None
    """Number of tiles that failed; None if no run of an image has begun."""
    detections: int | None
    """Number of detections; None if no run has begun, or if the model answers rasters or vectors."""
    is_merged: bool
    """Whether the detections of all these images were merged."""
    tiles_per_s: float | None
    """Tiles per second; None if no image is running."""
    left_s: float | None
    """Estimated seconds until the image that is running is done; None if that is not known, or while it waits."""


def job_figures(record: JobRecord, images: Sequence[ImageRecord] | None = None) -> JobFigures:
    """Return the figures of a job, whose progress was added by `add_progress`, or of some of its images.

    Examples
    --------
    >>> figures = job_figures(JobRecord(job_id="a", images=[ImageRecord(image="b.tif", tiles=9, failures=2)]))
    >>> figures.tiles, figures.done, figures.failures
    (9, None, 2)
    """
    images = record.images if images is None else images
    begun = any(each.tiles or each.progress for each in images)
    parts = [each.progress for each in images if each.progress]
    running = next((each for each in parts if each.running), None)
    found = sum(each.progress.detections if each.progress else each.detections for each in images)
    return JobFigures(
        tiles=sum(each.progress.tiles if each.progress else each.tiles for each in images) if begun else None,
        done=sum(each.progress.done if each.progress else each.tiles for each in images) if parts else None,
        failures=sum(each.progress.failures if each.progress else each.failures for each in images) if begun else None,
        detections=found if begun and record.task == "detect" else None, is_merged=not parts,
        tiles_per_s=running.tiles_per_s if running else None,
        left_s=running.left_s if running and not record.waiting_for else None,
    )  # fmt: skip


def last_reason(record: JobRecord) -> str:
    """Return why a job or its tiles failed, or what it waits for and why its last attempt failed."""
    if record.status in FINISHED:  # attempts before are of no interest
        return failed_tiles_text(record)
    reasons = record.reasons or [each.error for each in record.attempts if each.error]
    return "; ".join(filter(None, [record.waiting_for, str(reasons[-1]) if reasons else ""]))


def failed_tiles_text(record: JobRecord) -> str:
    """Return the most frequent reason of failed tiles, and how many there are; nothing without any.

    Examples
    --------
    >>> image = ImageRecord(image="b.tif", tiles=9, failures=3, failure_reasons={"HTTP 500": 2, "HTTP 413": 1})
    >>> failed_tiles_text(JobRecord(job_id="a", images=[image]))
    '2 of 3 failed tiles: HTTP 500'
    """
    reasons = tile_reasons(record)
    if not reasons:
        return ""
    (reason, tiles), failed = reasons[0], sum(image.failures for image in record.images)
    number = f"{tiles:,} of {failed:,} failed tiles" if tiles < failed else f"{failed:,} failed tiles"
    return f"{number}: {reason}" if failed > 1 else f"1 failed tile: {reason}"


def tile_reasons(record: JobRecord) -> list[tuple[str, int]]:
    """Return the most frequent reasons of failed tiles of a job, and the number of tiles of each."""
    counts = Counter[str]()
    for image in record.images:
        counts.update(image.failure_reasons)
    return counts.most_common(_MAX_REASONS)


def add_progress(records: Records, record: JobRecord) -> None:
    """Add to the record of a job that has not ended how far its images have come, and why it sends no tiles.

    The record of a job that has ended has its last figures.
    """
    if record.status in ENDED:
        return
    folder = records.work_folder(record.job_id)
    for number, image in enumerate(record.images):
        if image.status not in FINISHED and image.status != "QUEUED":
            image.progress = _stored_progress(folder.sub(str(number)).sub("checkpoint"), image)
    if record.status == "IN_PROGRESS" and not is_leased(folder, JOB_LEASE):
        has_died = bool(record.attempts) and record.attempts[-1].error is None
        record.waiting_for = "waiting; its process has ended" if has_died else "waiting for its next attempt"
    elif running := next((each.progress for each in record.images if each.progress and each.progress.running), None):
        record.waiting_for = running.waiting_for


def _stored_progress(checkpoint: Folder, image: ImageRecord) -> ImageProgress | None:
    """Return the progress of an image that its run has stored, or that of its record if there is none."""
    try:
        status = read_status(checkpoint)
    except OutputError as error:  # the other jobs have nothing to do with it
        _log.warning("%s", error)
        return image.progress
    if status is None or (status.get("state") == "finished" and image.tiles and not image.progress):
        return image.progress  # the record has the figures of its report
    return _from_status(status)


def _from_status(status: dict[str, Any]) -> ImageProgress | None:
    names = set(Progress.__dataclass_fields__)
    try:
        state = Progress(**{name: value for name, value in status.items() if name in names})
        return as_image_progress(
            state, f"{status['process']} on {status['host']}", running=status["state"] == "running"
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError):  # of another version, or damaged
        return None
