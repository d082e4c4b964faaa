"""The gates of this process, one per run, and the link of each to its coordinator."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

from geotile.core.cancellation import cancel_run
from geotile.core.dask_info import this_worker
from geotile.traffic.coordinator import Allowance, GateReport, TrafficSettings
from geotile.traffic.gate import Gate, Link
from geotile.traffic.run_registry import RunRegistry

_MAX_IDLE_GATES = 8

local_registry = RunRegistry()
"""Coordinators of the runs that are computed in this process, without a cluster."""
_gates: dict[str, Gate] = {}
_lock = threading.Lock()


def stop_run(run: str, reason: str) -> None:
    """Stop a run in this process: nothing more is read or sent for it."""
    cancel_run(run, reason)
    if (gate := _gates.get(run)) is not None:
        gate.stop(reason)


def close_gate(run: str) -> None:
    """Remove the gate of a run that is over."""
    if (gate := _gates.pop(run, None)) is not None:
        gate.stop("the run is over")


def gate_of(
    run: str, settings: TrafficSettings, probe: Callable[[], None], send: Callable[[Sequence[Any]], Any]
) -> Gate:
    """Return this process's gate of a run. Call it in a task's own thread, where the Dask worker is known."""
    with _lock:
        if run not in _gates:
            for idle in [key for key, gate in _gates.items() if gate.idle][:-_MAX_IDLE_GATES]:
                del _gates[idle]
            worker = this_worker()
            link = _scheduler_link(worker, run, settings) if worker else _local_link(run, settings)
            _gates[run] = Gate(link, probe, send, run, worker.address if worker else None)
        return _gates[run]


def _local_link(run: str, settings: TrafficSettings) -> Link:
    return lambda report: local_registry.update(run, settings, report)


def _scheduler_link(worker: Any, run: str, settings: TrafficSettings) -> Link:
    from distributed.utils import sync

    async def send(report: GateReport) -> bytes:
        reply: bytes = await worker.scheduler.geotile_traffic(run=run, message=pickle.dumps((settings, report)))
        return reply

    def link(report: GateReport) -> Allowance:
        allowance: Allowance = pickle.loads(sync(worker.loop, send, report))
        return allowance

    return link


def _forget_gates() -> None:
    """Forget the gates of the process that was forked: their threads are not in the child."""
    global _lock
    _lock = threading.Lock()
    _gates.clear()
    local_registry.__init__()  # type: ignore[misc]  # as new


os.register_at_fork(after_in_child=_forget_gates)
