"""One job: detect on each image into a dataset, then write the dataset to the outputs; resume after an interruption."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import dask

from geotile.core.redact import redact
from geotile.errors import EndpointError, GeotileError, OutputError, ServiceError
from geotile.grid.tile_grid import TileGrid
from geotile.pipeline import detect_to_dataset
from geotile.results.dataset import part_names
from geotile.results.report import Report
from geotile.running.progress import Progress
from geotile.running.run import Run
from geotile.service.admission import endpoint_of
from geotile.service.backlog import Job
from geotile.service.features import ImagePlace, job_properties, source_metadata
from geotile.service.job_progress import JobProgress
from geotile.service.json_words import speaking_json
from geotile.service.logs import JobContext
from geotile.service.metrics import ServiceMetrics
from geotile.service.notifications import Notifier
from geotile.service.outputs import StoredDetections, write_output
from geotile.service.records import FINISHED, ImageRecord, JobRecord, Records, Status, image_id, read_json
from geotile.storage.folder import Folder
from geotile.traffic import stop_run_everywhere

_log = logging.getLogger(__name__)
_MAX_FAILED_TILES = 100
_RESULT = "result.json"


class ServiceStopped(GeotileError):
    """The service is stopping; the job returns to the queue."""


class JobCancelled(GeotileError):
    """Somebody has cancelled the job."""


@dataclass
class RunControl:
    """The runs of this process, which any thread can stop."""

    stopping: threading.Event = field(default_factory=threading.Event)
    _runs: dict[str, str] = field(default_factory=dict)  # the job of each run
    _cancelled: set[str] = field(default_factory=set)

    def stop(self) -> None:
        """Stop all runs, and each run that starts later."""
        self.stopping.set()
        for run in list(self._runs):
            stop_run_everywhere(run, "the service is stopping")

    def cancel(self, job_id: str) -> None:
        """Stop the runs of a job, and each that starts before `forget`."""
        self._cancelled.add(job_id)
        for run, job in list(self._runs.items()):
            if job == job_id:
                stop_run_everywhere(run, "the job was cancelled")

    def forget(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._cancelled.discard(job_id)

    def raise_if_stopped(self, job_id: str) -> None:
        """Raise `ServiceStopped` if the service is stopping, and `JobCancelled` if the job was cancelled."""
        if job_id in self._cancelled:
            raise JobCancelled("the job was cancelled")
        if self.stopping.is_set():
            raise ServiceStopped("the service is stopping")

    @contextmanager
    def tracked(self, run: Run, job_id: str) -> Iterator[None]:
        """Make the run of a job stoppable inside the block; raise an error at its end if it was stopped."""
        self._runs[run.job.run] = job_id
        try:
            self.raise_if_stopped(job_id)
            try:
                yield
            finally:  # also where its end was an error
                self.raise_if_stopped(job_id)
        finally:
            self._runs.pop(run.job.run, None)


@dataclass(frozen=True, kw_only=True)
class JobRunner:
    """Runs the images of jobs and writes their outputs.

    Parameters
    ----------
    records : Records
        The saved records.
    notifier : Notifier
        Receiver of status changes.
    control : RunControl
        The runs that can be stopped.
    concurrency : int or "auto"
        Maximum number of requests in flight at an endpoint, over all its jobs.
    limits : mapping of str to int
        `concurrency` of single endpoints, by name or URL.
    region_size : int or "auto"
        Side of a region in pixels, as for `geotile.detect`.
    endpoint_options : mapping
        Options of the endpoints; each gets those that apply to it.
    metrics : ServiceMetrics
        Counters of tiles and requests.
    job_context : JobContext
        Filter that adds the job of each run to log records.
    progress : JobProgress
        Receiver of the progress of each run.
    """

    records: Records
    notifier: Notifier
    control: RunControl
    concurrency: int | Literal["auto"]
    limits: Mapping[str, int]
    region_size: int | Literal["auto"]
    endpoint_options: Mapping[str, Any]
    metrics: ServiceMetrics
    job_context: JobContext
    progress: JobProgress

    def run(self, job: Job, record: JobRecord) -> Status:
        """Run the images of a job that are not finished, and return the job's status.

        Raises
        ------
        GeotileError
            If an image or an output fails. Finished regions and written outputs are kept.
        ServiceStopped, JobCancelled
            If the service is stopping, or the job was cancelled.
        """
        try:
            return self._run_images(job, record)
        finally:
            self.progress.end(record.job_id)

    def _run_images(self, job: Job, record: JobRecord) -> Status:
        errors: list[GeotileError] = []
        for number, image in enumerate(record.images):
            self.control.raise_if_stopped(record.job_id)
            if image.status not in FINISHED:
                try:
                    with speaking_json():
                        self._run_image(job, record, number, image)
                except (ServiceStopped, JobCancelled):
                    raise
                except GeotileError as error:
                    _log.warning("job %s: %s", record.job_id, error, extra={"job_id": record.job_id})
                    errors.append(error)
                self.records.save(record)
        if errors:
            raise errors[0]
        return "PARTIAL" if any(image.status == "PARTIAL" for image in record.images) else "SUCCESS"

    def _run_image(self, job: Job, record: JobRecord, number: int, image: ImageRecord) -> None:
        folder = self.records.work_folder(record.job_id).sub(str(number))
        full_id = image_id(record, image)
        result = read_json(folder, _RESULT)
        if result is None:
            image.status = "IN_PROGRESS"
            self.records.save(record)
            self.notifier.notify("IN_PROGRESS", record.job_id, "sending tiles to the model", image_id=full_id)
            result = self._detect(job, record, number, image, folder)
        detections = StoredDetections(
            folder=folder.sub("detections"), parts=result["parts"], job_id=record.job_id, image_id=full_id,
            extra_properties=job_properties(
                record.job_id, record.started or 0.0, result["source"], job.request.feature_properties
            ),
            name=job.request.output_names()[number],
            place=ImagePlace.of(job.request.image_urls[number], job.request.options()),
        )  # fmt: skip
        self._write_outputs(job, record, image, detections, folder)
        image.status = result["status"]
        self.notifier.notify(
            image.status, record.job_id, f"{image.detections} detections", image_id=full_id, duration_s=image.seconds,
            failed_tiles=image.failed_tiles,
        )  # fmt: skip

    def _detect(self, job: Job, record: JobRecord, number: int, image: ImageRecord, folder: Folder) -> dict[str, Any]:
        """Run an image into the dataset ``detections/``; write and return ``result.json``."""
        try:
            report, grid = self._run_to_dataset(job, record, number, image, folder)
        except BaseException:
            _update_unfinished(image, self.progress.take_last(record.job_id))
            raise
        _update_image(image, report)
        self.metrics.count_run(report)
        if report.status == "FAILED":
            raise EndpointError(
                f"{_all_tiles(len(report.failures))} of {image.image} failed: {report.failures[0].reason}"
            )
        self._notify_of_failed_regions(record, image, report, grid)
        url = job.request.image_urls[number]
        result = {
            "status": report.status, "parts": part_names(folder.sub("detections")),
            "source": source_metadata(url, job.request.options()),
        }  # fmt: skip
        folder.write(_RESULT, json.dumps(result).encode())
        return result

    def _run_to_dataset(
        self, job: Job, record: JobRecord, number: int, image: ImageRecord, folder: Folder
    ) -> tuple[Report, TileGrid]:
        request, processor = job.request, job.request.image_processor
        grids: list[TileGrid] = []

        @contextmanager
        def around(run: Run) -> Iterator[None]:
            grids.append(run.job.grid)
            with (
                self.control.tracked(run, record.job_id),
                self.job_context.of_run(run.job.run, record.job_id, image_id(record, image)),
            ):
                yield

        with dask.annotate(priority=-round(math.log2(job.tiles + 1))):  # small jobs overtake large ones
            report = detect_to_dataset(
                request.image_urls[number],
                endpoint_of(request, self.endpoint_options),
                folder.sub("detections"),
                request.options(
                    overwrite=True, checkpoint=folder.sub("checkpoint").uri, retry_failed=image.failures > 0,
                    concurrency=self.limits.get(processor.name, self.concurrency), region_size=self.region_size,
                    progress=self.progress.callback(record, number),
                ),
                group=request.endpoint_key, around=around,
                waiting=lambda: self.control.raise_if_stopped(record.job_id),
            )  # fmt: skip
        return report, grids[0]

    def _notify_of_failed_regions(self, record: JobRecord, image: ImageRecord, report: Report, grid: TileGrid) -> None:
        """Send a status for each region that has failed tiles."""
        failed_windows: dict[tuple[int, int], list[list[int]]] = {}
        for failure in report.failures[:_MAX_FAILED_TILES]:
            region = grid.region_of(*divmod(failure.tile, grid.tiles_yx[1]))
            failed_windows.setdefault(region, []).append(failure.window)
        for (row, column), windows in failed_windows.items():
            y0, y1, x0, x1 = grid.region_window(row, column)
            all_failed = len(windows) == len(grid.region_tiles(row, column))
            self.notifier.notify(
                "FAILED" if all_failed else "PARTIAL", record.job_id, f"{len(windows)} tiles failed",
                image_id=image_id(record, image),
                region_id=f"[[{y0}, {x0}], [{x1 - x0}, {y1 - y0}]]", failed_tiles=windows,
            )  # fmt: skip

    def _write_outputs(
        self, job: Job, record: JobRecord, image: ImageRecord, detections: StoredDetections, folder: Folder
    ) -> None:
        """Write the outputs that have not been written yet; an output that fails does not stop the others."""
        errors: list[str] = []
        for number, output in enumerate(job.request.outputs):
            name = f"{number}-{output.type}"
            if name in image.outputs:
                continue
            self.control.raise_if_stopped(record.job_id)
            try:
                image.outputs[name] = write_output(detections, output, folder, name)
            except (OutputError, ServiceError, OSError) as error:
                errors.append(f"outputs[{number}]: {redact(str(error))}")
            self.records.save(record)
        if errors:
            raise OutputError("; ".join(errors))


def _all_tiles(count: int) -> str:
    return "the only tile" if count == 1 else f"all {count:,} tiles"


def _update_unfinished(image: ImageRecord, last: Progress | None) -> None:
    """Copy the last figures of a run that has not ended into an image's record."""
    if last is not None:
        image.tiles = last.tiles
        image.requests += last.requests
        image.seconds += round(last.seconds, 3)


def _update_image(image: ImageRecord, report: Report) -> None:
    """Copy the figures of a run into an image's record."""
    image.tiles, image.failures = report.tiles, len(report.failures)
    image.failed_tiles = [failure.window for failure in report.failures[:_MAX_FAILED_TILES]]
    image.detections = report.detections_after
    image.requests += report.requests
    image.seconds += round(report.seconds, 3)
