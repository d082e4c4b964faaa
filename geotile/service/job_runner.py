"""One job: run each image into the job's folder, write the outputs from there; resume after an interruption."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import dask

from geotile.checkpoints.checkpoint import OtherJobError
from geotile.core.redact import redact
from geotile.errors import EndpointError, GeotileError, OutputError, ServiceError
from geotile.grid.tile_grid import TileGrid
from geotile.planning.plan import Plan
from geotile.results.failures import counted_reasons
from geotile.results.report import Report
from geotile.running.hooks import RunHooks
from geotile.running.progress import Progress
from geotile.service.admission import endpoint_of
from geotile.service.backlog import Job
from geotile.service.image_run import metadata_of, result_of, run_image, stored_result
from geotile.service.job_progress import JobProgress, as_image_progress
from geotile.service.json_words import speaking_json
from geotile.service.logs import JobContext
from geotile.service.metrics import ServiceMetrics
from geotile.service.notifications import Notifier
from geotile.service.outputs import write_output
from geotile.service.records import FINISHED, ImageRecord, JobRecord, Records, Status, image_id, read_json
from geotile.service.run_control import JobCancelled, OutdatedRegions, RunControl, ServiceStopped
from geotile.service.stored_results import StoredDetections, StoredResult
from geotile.service.tasks import TaskName
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
_MAX_FAILED_TILES = 100
_RESULT = "result.json"


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
        OutdatedRegions
            If nothing failed but images whose finished regions are those of another version of them.
        GeotileError
            If an image or an output fails. Finished regions and written outputs are kept.
        ServiceStopped, JobCancelled
            If the service is stopping, or the job was cancelled.
        """
        try:
            return self._run_images(job, record)
        finally:
            record.waiting_for = ""
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
        if errors:  # another attempt may help, unless all say that it cannot
            raise next((each for each in errors if not isinstance(each, OutdatedRegions)), errors[0])
        return "PARTIAL" if any(image.status == "PARTIAL" for image in record.images) else "SUCCESS"

    def _run_image(self, job: Job, record: JobRecord, number: int, image: ImageRecord) -> None:
        folder = self.records.work_folder(record.job_id).sub(str(number))
        full_id = image_id(record, image)
        if image.is_outdated:  # it was submitted again, although what is kept of it is that of another version
            self.records.clear_image(record.job_id, number)
            image.is_outdated, image.progress = False, None
        result, plan = read_json(folder, _RESULT), None
        if result is None:
            image.status = "IN_PROGRESS"
            self.records.save(record)
            self.notifier.notify("IN_PROGRESS", record.job_id, "sending tiles to the model", image_id=full_id)
            result, plan = self._run_model(job, record, number, image, folder)
        try:
            stored = stored_result(job.request, number, folder, result, full_id, record.started or 0.0, plan)
        except OutdatedRegions as error:
            raise _outdated(image, str(error)) from None
        if isinstance(stored, StoredDetections):
            image.scale_yx = stored.place.scale_yx
        self._write_outputs(job, record, image, stored, folder)
        image.status = result["status"]
        self.notifier.notify(
            image.status, record.job_id, _summary(job.request.task, image), image_id=full_id,
            duration_s=image.seconds, failed_tiles=image.failed_tiles,
        )  # fmt: skip

    def _run_model(
        self, job: Job, record: JobRecord, number: int, image: ImageRecord, folder: Folder
    ) -> tuple[dict[str, Any], Plan]:  # fmt: skip
        """Run an image into the folder of its job; write and return ``result.json``, and return the plan of the run."""
        try:
            report, plan, metadata = self._report_of_run(job, record, number, image, folder)
        except OtherJobError as error:
            raise _outdated(image, error.found) from None
        except BaseException:
            _update_unfinished(image, self.progress.take_last(record.job_id))
            raise
        _update_image(image, report)
        self.metrics.count_run(report)
        if report.status == "FAILED":
            raise EndpointError(
                f"{_all_tiles(len(report.failures))} of {image.image} failed: {report.failures[0].reason}"
            )
        self._notify_of_failed_regions(record, image, report, plan.grid)
        result = metadata | result_of(job.request, folder, report.status)
        folder.write(_RESULT, json.dumps(result).encode())
        return result, plan

    def _report_of_run(
        self, job: Job, record: JobRecord, number: int, image: ImageRecord, folder: Folder
    ) -> tuple[Report, Plan, dict[str, Any]]:
        request, processor = job.request, job.request.image_processor
        runs: list[tuple[Plan, dict[str, Any]]] = []

        @contextmanager
        def around(run: str, plan: Plan) -> Iterator[None]:
            runs.append((plan, metadata_of(request, number, plan)))
            image.shape_yx, record.waiting_for = plan.grid.shape_yx, ""
            self.records.save(record)
            with (
                self.control.tracked(run, record.job_id),
                self.job_context.of_run(run, record.job_id, image_id(record, image)),
            ):
                yield

        hooks = RunHooks(group=request.endpoint_key, around=around, waiting=lambda reason: self._wait(record, reason))
        settings: dict[str, Any] = {
            "concurrency": self.limits.get(processor.name, self.concurrency), "region_size": self.region_size,
            "progress": self.progress.callback(record, number),
        }  # fmt: skip
        with dask.annotate(priority=-round(math.log2(job.tiles + 1))):  # small jobs overtake large ones
            model = endpoint_of(request, self.endpoint_options)
            report = run_image(request, number, model, folder, image.failures > 0, settings, hooks)
        return report, *runs[-1]

    def _wait(self, record: JobRecord, reason: str) -> None:
        """Record why a job waits before its run has begun; raise an error if it is to be stopped."""
        self.control.raise_if_stopped(record.job_id)
        if record.waiting_for != reason:
            record.waiting_for = reason
            self.records.save(record)

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
        self, job: Job, record: JobRecord, image: ImageRecord, stored: StoredResult, folder: Folder
    ) -> None:
        """Write the outputs that have not been written yet; an output that fails does not stop the others."""
        errors: list[str] = []
        for number, output in enumerate(job.request.outputs):
            name = f"{number}-{output.type}"
            if name in image.outputs:
                continue
            self.control.raise_if_stopped(record.job_id)
            try:
                image.outputs[name] = write_output(stored, output, folder, name)
            except (OutputError, ServiceError, OSError) as error:
                errors.append(f"outputs[{number}]: {redact(str(error))}")
            self.records.save(record)
        if errors:
            raise OutputError("; ".join(errors))


def _outdated(image: ImageRecord, reason: str) -> OutdatedRegions:
    """Mark an image whose kept results are those of another version, and return the error that says so."""
    image.is_outdated = True
    return OutdatedRegions(
        f"the finished regions of {image.image} cannot be used: {reason}. Submit the request again to start this "
        "image from its beginning, or submit it with another jobId"
    )


def _summary(task: TaskName, image: ImageRecord) -> str:
    """Return the result of an image in a few words."""
    match task:
        case "detect":
            return f"{image.detections} detections"
        case "predict":
            return f"{image.pixels_missing} pixels without an answer"
        case "embed":
            return f"{image.failures} tiles without an answer"


def _all_tiles(count: int) -> str:
    return "the only tile" if count == 1 else f"all {count:,} tiles"


def _update_unfinished(image: ImageRecord, last: Progress | None) -> None:
    """Copy the last figures of a run that has not ended into an image's record."""
    if last is not None:
        image.tiles = last.tiles
        image.progress = as_image_progress(last, running=False)
        image.requests += last.requests
        image.seconds += round(last.seconds, 3)


def _update_image(image: ImageRecord, report: Report) -> None:
    """Copy the figures of a run into an image's record."""
    image.tiles, image.failures, image.progress = report.tiles, len(report.failures), None
    image.failure_reasons = {redact(reason): tiles for reason, tiles in counted_reasons(report.failures)}
    image.failed_tiles = [failure.window for failure in report.failures[:_MAX_FAILED_TILES]]
    image.detections = report.get("detections_after", 0)
    image.pixels_missing = report.get("pixels_missing", 0)
    image.requests += report.requests
    image.seconds += round(report.seconds, 3)
