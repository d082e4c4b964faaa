"""Where a run's coordinator is, and how the run's gates reach it."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from geotile.core.cancellation import cancel_run
from geotile.core.dask_info import active_client, this_worker
from geotile.errors import ArgumentError
from geotile.results.report import Traffic
from geotile.traffic.coordinator import Allowance, GateReport, TrafficSettings
from geotile.traffic.gate import Gate, Link
from geotile.traffic.run_registry import RunRegistry

_STOP_TIMEOUT_S = 5.0
_MAX_IDLE_GATES = 8

_local_registry = RunRegistry()
_gates: dict[str, Gate] = {}
_lock = threading.Lock()


def open_traffic() -> None:
    """Install the coordinators on the Dask cluster's scheduler, if there is a cluster.

    Raises
    ------
    ArgumentError
        If they cannot be installed there.
    """
    client = active_client()
    if client is None:
        return
    from geotile.traffic.plugin import TrafficPlugin

    try:
        client.register_plugin(TrafficPlugin(), name=TrafficPlugin.name)
    except OSError:
        raise  # the connection is lost, whatever is installed there
    except Exception as error:  # unpickling fails in many ways if geotile is missing or has another version
        raise ArgumentError(
            f"the Dask scheduler at {client.scheduler.address} cannot coordinate the requests "
            f"({type(error).__name__}: {error}); install the same version of geotile there as here"
        ) from None


def begin_run(run: str) -> None:
    """Register a run with the cluster's scheduler, which stops the run when this client disconnects.

    Raises
    ------
    ArgumentError
        If the scheduler cannot coordinate the requests.
    """
    open_traffic()
    if (client := active_client()) is not None:
        client.sync(client.scheduler.geotile_begin, run=run, client=client.id)


def stop_run(run: str, reason: str) -> None:
    """Stop a run in this process: nothing more is read or sent for it."""
    cancel_run(run, reason)
    if (gate := _gates.get(run)) is not None:
        gate.stop(reason)


def stop_run_everywhere(run: str, reason: str) -> None:
    """Stop a run in all processes that can be reached."""
    stop_run(run, reason)
    client = active_client()
    if client is None or client.status != "running":
        _local_registry.finish(run)
        return
    with suppress(OSError, TimeoutError):  # the scheduler is gone, and its workers are gone or stop soon
        client.sync(client.scheduler.geotile_stop, run=run, reason=reason, callback_timeout=_STOP_TIMEOUT_S)


def end_traffic(run: str) -> Traffic:
    """Remove a run; return the summary of its requests."""
    gate = _gates.pop(run, None)
    if gate is not None:
        gate.stop("the run is over")
    client, traffic = active_client(), None
    if client is None:
        traffic = _local_registry.finish(run)
    else:
        with suppress(OSError):  # the scheduler and its summary are gone; the run's own error reports that
            traffic = pickle.loads(client.sync(client.scheduler.geotile_traffic_end, run=run))
    return traffic or Traffic(concurrency=0, throttled=0, outages=0, outage_s=0.0)


def traffic_now() -> dict[str, tuple[int, int]]:
    """Return the number of requests in flight and the limit, for each group and each run without a group."""
    client = active_client()
    if client is None or not hasattr(client.scheduler, "geotile_traffic_now"):
        return _local_registry.in_flight_and_limits()
    with suppress(OSError):  # the scheduler is gone
        numbers: dict[str, tuple[int, int]] = pickle.loads(client.sync(client.scheduler.geotile_traffic_now))
        return numbers
    return {}


def gate_of(run: str, settings: TrafficSettings, probe: Callable[[], None]) -> Gate:
    """Return this process's gate of a run. Call it in a task's own thread, where the Dask worker is known."""
    with _lock:
        if run not in _gates:
            for idle in [key for key, gate in _gates.items() if gate.idle][:-_MAX_IDLE_GATES]:
                del _gates[idle]
            worker = this_worker()
            link = _scheduler_link(worker, run, settings) if worker else _local_link(run, settings)
            _gates[run] = Gate(link, probe, run, worker.address if worker else None)
        return _gates[run]


def _local_link(run: str, settings: TrafficSettings) -> Link:
    return lambda report: _local_registry.update(run, settings, report)


def _scheduler_link(worker: Any, run: str, settings: TrafficSettings) -> Link:
    from distributed.utils import sync

    async def send(report: GateReport) -> bytes:
        reply: bytes = await worker.scheduler.geotile_traffic(run=run, message=pickle.dumps((settings, report)))
        return reply

    def link(report: GateReport) -> Allowance:
        allowance: Allowance = pickle.loads(sync(worker.loop, send, report))
        return allowance

    return link
