"""The gates of this process, one for each run and Dask worker, and the link of each to its coordinator."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from geotile.core.cancellation import cancel_run
from geotile.core.dask_info import this_worker
from geotile.traffic.coordinator import WORKER_LEFT, Allowance, GateReport, TrafficSettings
from geotile.traffic.gate import Gate, Link
from geotile.traffic.run_registry import RunRegistry

_MAX_IDLE_GATES = 8
_RETRIES, _PAUSES_S = 8, (0.1, 5.0)  # of a report that did not reach the scheduler; the pauses double

local_registry = RunRegistry()
"""Coordinators of the runs that are computed in this process, without a cluster."""
_gates: dict[tuple[str, str | None], Gate] = {}  # by run and address of the worker: a process can be several
_lock = threading.Lock()


def stop_run(run: str, reason: str) -> None:
    """Stop a run in this process: nothing more is read or sent for it."""
    cancel_run(run, reason)
    for gate in _gates_of(run).values():
        gate.stop(reason)


def close_gates(run: str) -> None:
    """Remove the gates of a run that is over."""
    for key, gate in _gates_of(run).items():
        _gates.pop(key, None)
        gate.stop("the run is over")


def _gates_of(run: str) -> dict[tuple[str, str | None], Gate]:
    return {key: gate for key, gate in list(_gates.items()) if key[0] == run}


def gate_of(
    run: str, settings: TrafficSettings, probe: Callable[[], None], send: Callable[[Sequence[Any]], Any]
) -> Gate:
    """Return the gate of a run in this process or worker. Call it in a task's own thread, where the worker is known."""
    worker = this_worker()
    key = run, worker.address if worker else None
    with _lock:
        if key not in _gates:
            for idle in [each for each, gate in _gates.items() if gate.idle][:-_MAX_IDLE_GATES]:
                del _gates[idle]
            link = _scheduler_link(worker, run, settings) if worker else _local_link(run, settings)
            _gates[key] = Gate(link, probe, send, *key)
        return _gates[key]


def _local_link(run: str, settings: TrafficSettings) -> Link:
    return lambda report: local_registry.update(run, settings, report)


def _scheduler_link(worker: Any, run: str, settings: TrafficSettings) -> Link:
    from distributed.core import Status
    from distributed.utils import sync
    from distributed.utils_comm import retry

    async def send(report: GateReport) -> bytes:
        # A connection can break while worker and scheduler go on. If only the reply was lost, outcomes count twice.
        ask = partial(worker.scheduler.geotile_traffic, run=run, message=pickle.dumps((settings, report)))
        reply: bytes = await retry(ask, _RETRIES, *_PAUSES_S, operation="report to geotile's coordinator")
        return reply

    def link(report: GateReport) -> Allowance:
        try:
            allowance: Allowance = pickle.loads(sync(worker.loop, send, report))
        except Exception:
            if worker.status in (Status.closing, Status.closed, Status.failed):
                return WORKER_LEFT
            raise
        return allowance

    return link


def _forget_gates() -> None:
    """Forget the gates of the process that was forked: their threads are not in the child."""
    global _lock
    _lock = threading.Lock()
    _gates.clear()
    local_registry.__init__()  # type: ignore[misc]  # as new


os.register_at_fork(after_in_child=_forget_gates)
