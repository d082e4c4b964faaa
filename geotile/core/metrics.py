"""Counters of a process in Prometheus' form, where somebody serves them: Dask's workers do, at ``/metrics``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

_HELP = {
    "regions": "Regions done",
    "tiles": "Tiles done, failed ones among them",
    "tile_failures": "Tiles that failed",
    "requests": "Requests sent to models, retries among them",
    "retries": "Requests that were sent again",
    "detections": "Detections before merging",
}


def count(timing: Mapping[str, float], **counts: int) -> None:
    """Add to the counters of this process.

    Parameters
    ----------
    timing : mapping of str to float
        Seconds of CPU by step.
    **counts : int
        By the counters' names.
    """
    if "prometheus_client" not in sys.modules:
        return  # nobody serves them
    counters, seconds = _counters()
    for name, value in counts.items():
        counters[name].inc(value)
    for step, took in timing.items():
        seconds.labels(step=step).inc(max(0.0, took))


@cache
def _counters() -> tuple[dict[str, Any], Any]:
    from prometheus_client import Counter

    counters = {name: Counter(f"geotile_{name}", text) for name, text in _HELP.items()}
    return counters, Counter("geotile_step_seconds", "Seconds of CPU by step of a tile", ["step"])
