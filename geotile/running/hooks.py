"""What a service adds to the runs of its jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from geotile.planning.plan import Plan


def _nothing(run: str, plan: Plan) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class RunHooks:
    """What a service adds to a run."""

    group: str | None = None
    """Group of the run. Runs of one group share one number of requests in flight."""
    around: Callable[[str, Plan], AbstractContextManager[Any]] = _nothing
    """``around(run, plan)`` is entered while the run of that name asks the model; if it raises at its end, there is no
    result. A run whose model answers rasters or vectors enters it twice: for its first tile, and for all."""
    waiting: Callable[[str], None] | None = None
    """Function that is called again and again while geotile waits for the model, with the reason; what it raises ends
    the wait."""
