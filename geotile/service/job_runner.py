"""One job: its images through the model into datasets, those into its outputs; begun again where it ended."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import dask

from geotile.core.redact import redact
from geotile.endpoints import endpoint as as_endpoint
from geotile.errors import EndpointError, GeotileError, OutputError, ServiceError
from geotile.grid.tile_grid import TileGrid
from geotile.options import DetectToOptions
from geotile.pipeline import detect_to_dataset
from geotile.results.report import Report
from geotile.running.run import Run
from geotile.service.backlog import Job
from geotile.service.features import added_properties, part_names, source_metadata
from geotile.service.logs import RunNames
from geotile.service.metrics import Meters
from geotile.service.notifications import Announcer
from geotile.service.outputs import Found, deliver
from geotile.service.records import FINISHED, ImageRecord, JobRecord, Records, Status, image_id, read_json
from geotile.storage.folder import Folder
from geotile.traffic import stop_run_everywhere

_log = logging.getLogger(__name__)
_FAILED_TILES = 100
_RESULT = "result.json"


class Stopped(GeotileError):
    """The service stops: the job is handed back."""


@dataclass
class Control:
    """Stops the runs of this process, from any thread."""

    stopping: threading.Event = field(default_factory=threading.Event)
    _runs: set[str] = field(default_factory=set)

    def stop(self) -> None:
        """Stop all runs, and those that begin."""
        self.stopping.set()
        for run in list(self._runs):
            stop_run_everywhere(run, "the service stops")

    def check(self) -> None:
        """Raise Stopped if the service stops."""
        if self.stopping.is_set():
            raise Stopped("the service stops")

    @contextmanager
    def watched(self, run: Run) -> Iterator[None]:
        """Have a run stopped when all are; raise Stopped at its end if it was."""
        self._runs.add(run.job.run)
        try:
            self.check()
            yield
            self.check()
        finally:
            self._runs.discard(run.job.run)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Does jobs.

    Parameters
    ----------
    records : Records
    announcer : Announcer
    control : Control
    concurrency : int or "auto"
        Requests in flight at an endpoint, over all its jobs.
    limits : dict
        The same for some endpoints, by name or url.
    region_size : "auto" or int
        As for `geotile.detect`.
    endpoint_options : dict
        Of every endpoint.
    meters : Meters
    names : RunNames
        Notes whose job each run is, for the logs.
    """

    records: Records
    announcer: Announcer
    control: Control
    concurrency: int | Literal["auto"]
    limits: dict[str, int]
    region_size: int | Literal["auto"]
    endpoint_options: dict[str, Any]
    meters: Meters
    names: RunNames

    def do(self, job: Job, record: JobRecord) -> Status:
        """Do what is left of a job; return its status.

        Raises
        ------
        GeotileError
            If some of it fails; what is done is kept.
        Stopped
            If the service stops.
        """
        failed: list[GeotileError] = []
        for number, image in enumerate(record.images):
            self.control.check()
            if image.status not in FINISHED:
                try:
                    self._image(job, record, number, image)
                except Stopped:
                    raise
                except GeotileError as error:
                    _log.warning("job %s: %s", record.job_id, error, extra={"job_id": record.job_id})
                    failed.append(error)
                self.records.save(record)
        if failed:
            raise failed[0]
        return "PARTIAL" if any(image.status == "PARTIAL" for image in record.images) else "SUCCESS"

    def _image(self, job: Job, record: JobRecord, number: int, image: ImageRecord) -> None:
        place = self.records.work(record.job_id).sub(str(number))
        named = image_id(record, image)
        result = read_json(place, _RESULT)
        if result is None:
            image.status = "IN_PROGRESS"
            self.announcer.say("IN_PROGRESS", record.job_id, "its tiles are asked about", image_id=named)
            result = self._detect(job, record, number, image, place)
        found = Found(
            folder=place.sub("found"), parts=result["parts"], job_id=record.job_id, image_id=named,
            added=added_properties(
                record.job_id, record.began or 0.0, result["source"], job.request.feature_properties
            ),
            name=job.request.image_names()[number],
        )  # fmt: skip
        self._deliver(job, record, image, found, place)
        image.status = result["status"]
        self.announcer.say(
            image.status, record.job_id, f"{image.detections} detections", image_id=named, seconds=image.seconds,
            failed_tiles=image.failed_tiles,
        )  # fmt: skip

    def _detect(self, job: Job, record: JobRecord, number: int, image: ImageRecord, place: Folder) -> dict[str, Any]:
        request, url = job.request, job.request.image_urls[number]
        uri, detector = request.image_processor.endpoint, request.image_processor.name
        grids: list[TileGrid] = []

        @contextmanager
        def around(run: Run) -> Iterator[None]:
            grids.append(run.job.grid)
            with (
                self.control.watched(run),
                self.names.noted(run.job.run, record.job_id, image_id(record, image)),
            ):
                yield

        with dask.annotate(priority=-round(math.log2(job.tiles + 1))):  # small jobs pass big ones
            report = detect_to_dataset(
                url, as_endpoint(uri, **self.endpoint_options, **request.asking()), place.sub("found"),
                DetectToOptions(
                    overwrite=True, checkpoint=place.sub("checkpoint").uri, retry_failed=image.failures > 0,
                    merge=request.merge, concurrency=self.limits.get(detector, self.concurrency),
                    region_size=self.region_size, skip_nodata=request.geotile.skip_nodata,
                    score_threshold=request.geotile.score_threshold, **request.cutting(), **request.opening(),
                ),
                group=request.target, around=around,
            )  # fmt: skip
        self._note(image, report)
        self.meters.ran(report)
        if report.status == "FAILED":
            raise EndpointError(
                f"all {len(report.failures)} tiles of {image.image} failed: {report.failures[0].reason}"
            )
        self._announce_regions(record, image, report, grids[0])
        result = {
            "status": report.status, "parts": part_names(place.sub("found")),
            "source": source_metadata(redact(url), {"uri": url, **request.opening()}),
        }  # fmt: skip
        place.write(_RESULT, json.dumps(result).encode())
        return result

    def _note(self, image: ImageRecord, report: Report) -> None:
        image.tiles, image.failures = report.tiles, len(report.failures)
        image.failed_tiles = [failure.window for failure in report.failures[:_FAILED_TILES]]
        image.detections = report.detections_after
        image.requests += report.requests
        image.seconds += round(report.seconds, 3)

    def _announce_regions(self, record: JobRecord, image: ImageRecord, report: Report, grid: TileGrid) -> None:
        """Announce the regions that have failed tiles."""
        regions: dict[tuple[int, int], list[list[int]]] = {}
        for failure in report.failures[:_FAILED_TILES]:
            at = grid.region_of(*divmod(failure.tile, grid.tiles_yx[1]))
            regions.setdefault(at, []).append(failure.window)
        for (row, column), windows in regions.items():
            y0, y1, x0, x1 = grid.region_window(row, column)
            failed = len(windows) == len(grid.region_tiles(row, column))
            self.announcer.say(
                "FAILED" if failed else "PARTIAL", record.job_id, f"{len(windows)} tiles failed",
                image_id=image_id(record, image),
                region_id=f"[[{y0}, {x0}], [{x1 - x0}, {y1 - y0}]]", failed_tiles=windows,
            )  # fmt: skip

    def _deliver(self, job: Job, record: JobRecord, image: ImageRecord, found: Found, place: Folder) -> None:
        """Write to each output that was not written to; those that fail fail alone."""
        failed: list[str] = []
        for number, output in enumerate(job.request.outputs):
            name = f"{number}-{output.type}"
            if name in image.outputs:
                continue
            self.control.check()
            try:
                image.outputs[name] = deliver(found, output, place, name)
            except (OutputError, ServiceError, OSError) as error:
                failed.append(f"outputs[{number}]: {redact(str(error))}")
            self.records.save(record)
        if failed:
            raise OutputError("; ".join(failed))
