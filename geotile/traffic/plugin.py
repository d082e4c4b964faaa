"""The coordinators on Dask's scheduler, where every worker reaches them."""

from __future__ import annotations

import pickle
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from geotile.traffic.link import Runs


class TrafficPlugin(SchedulerPlugin):  # type: ignore[misc]  # distributed is not typed
    """Answers the words of gates on workers."""

    name = "geotile-traffic"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """Take part in what the scheduler answers."""
        self.runs = Runs()
        scheduler.handlers["geotile_traffic"] = self.hear
        scheduler.handlers["geotile_traffic_end"] = self.end

    async def hear(self, run: str, said: bytes) -> bytes:
        """Take a word to its run's coordinator."""
        return pickle.dumps(self.runs.hear(run, *pickle.loads(said)))

    async def end(self, run: str) -> bytes:
        """Forget a run."""
        return pickle.dumps(self.runs.end(run))

    def remove_worker(self, scheduler: Any, worker: str, **more: Any) -> None:
        """Free the share of a worker that died."""
        self.runs.gone(worker)
