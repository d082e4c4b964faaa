"""The coordinators on Dask's scheduler, where every worker reaches them; and whose run each is."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from geotile.traffic.link import stop_run
from geotile.traffic.runs import Runs


class TrafficPlugin(SchedulerPlugin):  # type: ignore[misc]  # distributed is not typed
    """Answers the words of gates on workers; ends the runs of clients that are gone."""

    name = "geotile-traffic"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """Take part in what the scheduler answers."""
        self.runs, self.scheduler = Runs(), scheduler
        self.clients: dict[str, str] = {}
        self.stopping: set[asyncio.Task[None]] = set()
        scheduler.handlers["geotile_traffic"] = self.hear
        scheduler.handlers["geotile_traffic_end"] = self.end
        scheduler.handlers["geotile_traffic_now"] = self.now
        scheduler.handlers["geotile_begin"] = self.begin
        scheduler.handlers["geotile_stop"] = self.stop

    async def begin(self, run: str, client: str) -> None:
        """Note whose run it is."""
        self.clients[run] = client

    async def hear(self, run: str, said: bytes) -> bytes:
        """Take a word to its run's coordinator."""
        return pickle.dumps(self.runs.hear(run, *pickle.loads(said)))

    async def end(self, run: str) -> bytes:
        """Forget a run."""
        self.clients.pop(run, None)
        return pickle.dumps(self.runs.end(run))

    async def now(self) -> bytes:
        """Return what is in flight."""
        return pickle.dumps(self.runs.now())

    async def stop(self, run: str, reason: str) -> None:
        """End a run in all workers."""
        self.clients.pop(run, None)
        self.runs.end(run)
        said = {"function": pickle.dumps(stop_run), "args": pickle.dumps((run, reason)), "kwargs": pickle.dumps({})}
        await self.scheduler.broadcast(msg={"op": "run", "wait": True, **said}, on_error="return")

    def remove_worker(self, scheduler: Any, worker: str, **more: Any) -> None:
        """Free the share of a worker that died."""
        self.runs.gone(worker)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """End the runs of a client that is gone: what its regions would still ask nobody waits for."""
        for run in [run for run, owner in self.clients.items() if owner == client]:
            task = asyncio.ensure_future(self.stop(run, "the run's client is gone"))
            self.stopping.add(task)
            task.add_done_callback(self.stopping.discard)
