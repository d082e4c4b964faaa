"""Prometheus counters of a process. Dask's workers serve them at ``/metrics``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

_HELP = {
    "regions": "Finished regions",
    "tiles": "Finished tiles, including failed ones",
    "tile_failures": "Tiles that failed",
    "requests": "Requests sent to models, including retries",
    "retries": "Requests that were sent again",
    "detections": "Detections before merging",
}
_making = threading.Lock()  # `cache` lets two threads make the counters at once, and the second is refused


def count(timing: Mapping[str, float], **counts: int) -> None:
    """Add to the counters of this process. Does nothing if the process does not use `prometheus_client`.

    Parameters
    ----------
    timing : mapping of str to float
        Seconds of CPU by stage.
    **counts : int
        Increments, by the names of the counters.
    """
    if "prometheus_client" not in sys.modules:
        return  # the process serves no metrics
    with _making:
        counters, seconds = _counters()
    for name, value in counts.items():
        counters[name].inc(value)
    for stage, elapsed in timing.items():
        seconds.labels(step=stage).inc(max(0.0, elapsed))


@cache
def _counters() -> tuple[dict[str, Any], Any]:
    from prometheus_client import Counter

    counters = {name: Counter(f"geotile_{name}", text) for name, text in _HELP.items()}
    return counters, Counter("geotile_step_seconds", "Seconds of CPU by stage of a tile", ["step"])
