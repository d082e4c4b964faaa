"""A plugin of Dask's scheduler that holds the coordinators, where every worker reaches them."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from geotile.traffic.coordinator import WORKER_LEFT
from geotile.traffic.gates import stop_run
from geotile.traffic.run_registry import RunRegistry


class TrafficPlugin(SchedulerPlugin):  # type: ignore[misc]  # distributed is not typed
    """Answers the reports of the workers' gates, and stops the runs of clients that disconnect."""

    name = "geotile-traffic"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """Register the handlers that clients and workers call."""
        self.registry, self.scheduler = RunRegistry(), scheduler
        self.client_by_run: dict[str, str] = {}
        self.stop_tasks: set[asyncio.Task[None]] = set()
        scheduler.handlers["geotile_traffic"] = self.update
        scheduler.handlers["geotile_traffic_end"] = self.finish
        scheduler.handlers["geotile_traffic_now"] = self.in_flight_and_limits
        scheduler.handlers["geotile_waiting_for"] = self.waiting_for
        scheduler.handlers["geotile_begin"] = self.register
        scheduler.handlers["geotile_stop"] = self.stop

    async def register(self, run: str, client: str) -> None:
        """Record which client a run belongs to."""
        self.client_by_run[run] = client

    async def update(self, run: str, message: bytes) -> bytes:
        """Pass a report to its run's coordinator and return the allowance; both are pickled.

        A worker that has left can still report, until its process ends. Its share must not be taken again.
        """
        settings, report = pickle.loads(message)
        if report.worker is not None and report.worker not in self.scheduler.workers:
            address = self.scheduler.coerce_address(report.worker)  # it may know a host by its number
            if address not in self.scheduler.workers:
                return pickle.dumps(WORKER_LEFT)
            report = replace(report, worker=address)
        return pickle.dumps(self.registry.update(run, settings, report))

    async def finish(self, run: str) -> bytes:
        """Remove a run and return the summary of its requests, pickled."""
        self.client_by_run.pop(run, None)
        return pickle.dumps(self.registry.finish(run))

    async def in_flight_and_limits(self) -> bytes:
        """Return the numbers of requests in flight and the limits, pickled."""
        return pickle.dumps(self.registry.in_flight_and_limits())

    async def waiting_for(self, run: str) -> str:
        """Return why a run sends no requests."""
        return self.registry.waiting_for(run)

    async def stop(self, run: str, reason: str) -> None:
        """Stop a run in all workers."""
        self.client_by_run.pop(run, None)
        self.registry.finish(run)
        call = {"function": pickle.dumps(stop_run), "args": pickle.dumps((run, reason)), "kwargs": pickle.dumps({})}
        await self.scheduler.broadcast(msg={"op": "run", "wait": True, **call}, on_error="return")

    def remove_worker(self, scheduler: Any, worker: str, **more: Any) -> None:
        """Free the share of a worker that left."""
        self.registry.remove_worker(worker)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Stop the runs of a client that disconnected, because no one needs the results of further requests."""
        for run in [run for run, owner in self.client_by_run.items() if owner == client]:
            task = asyncio.ensure_future(self.stop(run, "the run's client has disconnected"))
            self.stop_tasks.add(task)
            task.add_done_callback(self.stop_tasks.discard)
