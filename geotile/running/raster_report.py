"""The report of a run whose model answers rasters or vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from geotile.planning.plan import Plan
from geotile.results.failures import TileFailure
from geotile.results.report import Report
from geotile.results.run_report import make_report, warn_of_failures
from geotile.running.tile_job import TileJob
from geotile.traffic import end_traffic


def raster_report(
    plan: Plan, tiles: TileJob, run: str, *, requests: int, retries: int, failures: Sequence[TileFailure],
    without_data: int, timing: Mapping[str, float], started: float, missing: int | None = None, resumed: int = 0,
) -> Report:  # fmt: skip
    """Return the report of a run that has ended, and warn if tiles failed."""
    report = make_report(
        image=plan.name, endpoint=str(tiles.endpoint), tiles=plan.tiles, regions=plan.regions,
        outside_roi=plan.tiles - plan.requests, without_data=without_data, resumed=resumed, requests=requests,
        retries=retries, failures=failures, counts={} if missing is None else {"pixels_missing": missing},
        seconds=time.perf_counter() - started, traffic=end_traffic(run) if tiles.traffic is not None else None,
        timing=timing, notes=plan.notes,
    )  # fmt: skip
    warn_of_failures(report, "The report's failures list all of them")
    return report
