"""The report of a run that has ended, and the warning if tiles failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from geotile.core.timing import sum_timings, take_timings, timed
from geotile.core.warning_filter import warn_caller
from geotile.errors import FailedTilesWarning
from geotile.results.failures import Flaws, TileFailure, failure_text
from geotile.results.report import NO_TRAFFIC, Report, Status, Traffic


def make_report(
    *, image: str, endpoint: str, tiles: int, regions: int, outside_roi: int, without_data: int, resumed: int,
    requests: int, retries: int, failures: Iterable[TileFailure], counts: Mapping[str, Any], seconds: float,
    traffic: Traffic | None, timing: Mapping[str, float], notes: Iterable[str],
) -> Report:  # fmt: skip
    """Return the report of a run; its status follows from the number of failures.

    Parameters
    ----------
    counts : mapping of str to object
        The fields that only runs of its kind have: `detection_counts`, or those of a raster.
    """
    listed = sorted(failures, key=lambda failure: failure.tile)
    return Report(
        status=_status(len(listed), tiles - outside_roi - without_data), image=image, endpoint=endpoint, tiles=tiles,
        regions=regions, tiles_outside_roi=outside_roi, tiles_without_data=without_data, tiles_resumed=resumed,
        requests=requests, retries=retries,
        **(traffic or NO_TRAFFIC), **counts,
        seconds=seconds, timing={name: round(value, 6) for name, value in timing.items()}, failures=listed,
        notes=list(notes),
    )  # fmt: skip


def after_writing(report: Report, write: Callable[[], object]) -> Report:
    """Write the result of a run; return its report with the time of the writing.

    Parameters
    ----------
    report : Report
    write : callable
        ``write()`` writes the result, in this thread.
    """
    started = time.perf_counter()
    take_timings()  # what this thread did before
    with timed("write"):
        write()
    timing = {name: round(seconds, 6) for name, seconds in sum_timings(report.timing, take_timings()).items()}
    return Report({**report, "seconds": report.seconds + time.perf_counter() - started, "timing": timing})


def detection_counts(*, rejected: Flaws, repaired: Flaws, before: int, after: int, at_seams: int) -> dict[str, Any]:
    """Return the fields that only reports of detections have."""
    return {
        "boxes_rejected": rejected.rows,
        "first_rejection": rejected.text(),
        "shapes_repaired": repaired.rows,
        "first_repair": repaired.text(),
        "detections_before": before,
        "detections_after": after,
        "detections_at_seams": at_seams,
    }


def warn_of_failures(report: Report, where: str) -> None:
    """Warn if tiles failed; `where` says what lists all of them."""
    if not report.failures:
        return
    first = report.failures[0]
    text = failure_text(first.tile, first.window, first.reason.rstrip("."))
    warn_caller(
        f"{len(report.failures)} of {report.tiles} tiles failed (status {report.status}); the first one is {text}. "
        f"{where}",
        FailedTilesWarning,
    )


def _status(failed: int, asked: int) -> Status:
    return "SUCCESS" if not failed else "FAILED" if failed == asked else "PARTIAL"
