"""The report of a run whose model answers rasters or vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from geotile.core.warning_filter import warn_caller
from geotile.errors import FailedTilesWarning
from geotile.planning.plan import Plan
from geotile.results.failures import TileFailure, failure_text
from geotile.results.report import Report, make_raster_report
from geotile.running.tile_job import TileJob
from geotile.traffic import end_traffic


def raster_report(
    plan: Plan, tiles: TileJob, run: str, *, requests: int, retries: int, failures: Sequence[TileFailure],
    without_data: int, timing: Mapping[str, float], started: float, missing: int | None = None, resumed: int = 0,
) -> Report:  # fmt: skip
    """Return the report of a run that has ended, and warn if tiles failed."""
    report = make_raster_report(
        image=plan.name, endpoint=str(tiles.endpoint), tiles=plan.tiles, regions=plan.regions,
        outside_roi=plan.tiles - plan.requests, without_data=without_data, resumed=resumed, requests=requests,
        retries=retries, failures=failures, missing=missing, seconds=time.perf_counter() - started,
        traffic=end_traffic(run) if tiles.traffic is not None else None, timing=timing, notes=plan.notes,
    )  # fmt: skip
    if report.failures:
        first = report.failures[0]
        text = failure_text(first.tile, first.window, first.reason.rstrip("."))
        warn_caller(
            f"{len(report.failures)} of {report.tiles} tiles failed (status {report.status}); the first one is {text}. "
            "The report's failures list all of them",
            FailedTilesWarning,
        )
    return report
