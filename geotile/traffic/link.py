"""Where a run's coordinator is, and how its gates reach it."""

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
from geotile.traffic.coordinator import Allowance, GateReport, Rules
from geotile.traffic.gate import Gate, Link
from geotile.traffic.runs import Runs

_STOP_S = 5.0


_here = Runs()
_gates: dict[str, Gate] = {}
_lock = threading.Lock()


def open_traffic() -> None:
    """Have a cluster's scheduler keep the coordinators, if there is a cluster.

    Raises
    ------
    ArgumentError
        If the scheduler cannot.
    """
    client = active_client()
    if client is None:
        return
    from geotile.traffic.plugin import TrafficPlugin

    try:
        client.register_plugin(TrafficPlugin(), name=TrafficPlugin.name)
    except OSError:
        raise  # it is gone, whatever it has installed
    except Exception as error:  # unpickling fails in any way where geotile is not, or is another
        raise ArgumentError(
            f"the Dask scheduler at {client.scheduler.address} cannot keep count of requests "
            f"({type(error).__name__}: {error}); install the same geotile there as here"
        ) from None


def begin_run(run: str) -> None:
    """Tell a cluster's scheduler whose run it is: it ends when its client is gone.

    Raises
    ------
    ArgumentError
        If the scheduler cannot be told.
    """
    open_traffic()
    if (client := active_client()) is not None:
        client.sync(client.scheduler.geotile_begin, run=run, client=client.id)


def stop_run(run: str, reason: str) -> None:
    """End a run in this process: nothing more is read or sent for it."""
    cancel_run(run, reason)
    if (gate := _gates.get(run)) is not None:
        gate.end(reason)


def stop_run_everywhere(run: str, reason: str) -> None:
    """End a run in all processes, if they can be reached."""
    stop_run(run, reason)
    client = active_client()
    if client is None or client.status != "running":
        _here.end(run)
        return
    with suppress(OSError, TimeoutError):  # the scheduler is gone, and so are its workers or will be
        client.sync(client.scheduler.geotile_stop, run=run, reason=reason, callback_timeout=_STOP_S)


def end_traffic(run: str) -> Traffic:
    """Forget a run; return what came of it."""
    gate = _gates.pop(run, None)
    if gate is not None:
        gate.end("the run is over")
    client, ended = active_client(), None
    if client is None:
        ended = _here.end(run)
    else:
        with suppress(OSError):  # the scheduler is gone, and what it knew: the run's own error says so
            ended = pickle.loads(client.sync(client.scheduler.geotile_traffic_end, run=run))
    return ended or Traffic(concurrency=0, throttled=0, outages=0, outage_s=0.0)


def traffic_now() -> dict[str, tuple[int, int]]:
    """Return for each group, or run of none, how many requests are in flight, and how many may be."""
    client = active_client()
    if client is None or not hasattr(client.scheduler, "geotile_traffic_now"):
        return _here.now()
    with suppress(OSError):  # the scheduler is gone
        found: dict[str, tuple[int, int]] = pickle.loads(client.sync(client.scheduler.geotile_traffic_now))
        return found
    return {}


def gate_of(run: str, rules: Rules, probe: Callable[[], None]) -> Gate:
    """Return this process's gate of a run. Called in a task's own thread."""
    with _lock:
        if run not in _gates:
            for over in [key for key, gate in _gates.items() if gate.idle][:-8]:
                del _gates[over]
            worker = this_worker()
            link = _to_scheduler(worker, run, rules) if worker else lambda word: _here.hear(run, rules, word)
            _gates[run] = Gate(link, probe, run, worker.address if worker else None)
        return _gates[run]


def _to_scheduler(worker: Any, run: str, rules: Rules) -> Link:
    from distributed.utils import sync

    async def tell(word: GateReport) -> bytes:
        answer: bytes = await worker.scheduler.geotile_traffic(run=run, said=pickle.dumps((rules, word)))
        return answer

    def link(word: GateReport) -> Allowance:
        grant: Allowance = pickle.loads(sync(worker.loop, tell, word))
        return grant

    return link
