"""Where a run's coordinator is, and how its gates reach it."""

from __future__ import annotations

import pickle
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from geotile.ended import end_run
from geotile.errors import ArgumentError
from geotile.report import Traffic
from geotile.scheduler import active_client, this_worker
from geotile.traffic.coordinator import Coordinator, Grant, Rules, Word
from geotile.traffic.gate import Gate, Link

_STOP_S = 5.0
_REMEMBERED = 1000
_STALE_S = 6 * 3600.0  # a run that nobody speaks of is over: its client died


@dataclass
class _Run:
    """A run that has spoken."""

    key: str
    """Of its coordinator: its group, or itself."""
    coordinator: Coordinator
    processes: set[str]
    before: Traffic
    """What had come of its coordinator's requests when it began."""
    refused: int = 0


class Runs:
    """The coordinators of all runs, in one place: one a run, or one for all runs of a group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coordinators: dict[str, Coordinator] = {}
        self._runs: dict[str, _Run] = {}
        self._over: OrderedDict[str, str] = OrderedDict()

    def hear(self, run: str, rules: Rules, word: Word) -> Grant:
        """Take a word to its run's coordinator."""
        now = time.monotonic()
        with self._lock:
            if run in self._over:  # a region that has not heard of it yet
                return Grant(cap=0, ended=self._over[run])
            if run not in self._runs:
                self._begin(run, rules, now)
            known = self._runs[run]
            known.processes.add(word.process)
            known.refused += word.tally.refused
            return known.coordinator.hear(word, now)

    def end(self, run: str) -> Traffic | None:
        """Forget a run; return what came of it, None if no word was said."""
        with self._lock:
            self._end(run, "the run is over")
            known = self._runs.pop(run, None)
            if known is None:
                return None
            known.coordinator.left(known.processes)
            if known.key == run:
                self._coordinators.pop(run, None)
        after, before = known.coordinator.traffic(), known.before
        return Traffic(
            concurrency=after.concurrency, refused=known.refused, outages=after.outages - before.outages,
            seconds_out=round(after.seconds_out - before.seconds_out, 3),
        )  # fmt: skip

    def now(self) -> dict[str, tuple[int, int]]:
        """Return for each group how many requests are in flight, and how many may be."""
        with self._lock:
            return {key: each.now() for key, each in self._coordinators.items()}

    def gone(self, worker: str) -> None:
        """Forget a worker."""
        with self._lock:
            for each in self._coordinators.values():
                each.gone(worker)

    def _begin(self, run: str, rules: Rules, now: float) -> None:
        stale = {key for key, each in self._coordinators.items() if now - each.heard >= _STALE_S}
        self._runs = {name: each for name, each in self._runs.items() if each.key not in stale}
        self._coordinators = {key: each for key, each in self._coordinators.items() if key not in stale}
        key = rules.group or run
        mates = [name for name, each in self._runs.items() if each.key == key]
        held = self._coordinators.get(key)
        if held is not None and held.circuit.ended:  # the model was given up: this run begins anew, those do not
            for name in mates:
                self._end(name, held.circuit.ended)
            held = None
        if held is None or (not mates and held.rules != rules):
            held = Coordinator(rules)
        elif not mates:
            held.limit.interrupted()  # what was measured before ends here
        self._coordinators[key] = held
        self._runs[run] = _Run(key, held, set(), held.traffic())

    def _end(self, run: str, reason: str) -> None:
        self._over[run] = reason
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)


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
    end_run(run, reason)
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
    return ended or Traffic(concurrency=0, refused=0, outages=0, seconds_out=0.0)


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

    async def tell(word: Word) -> bytes:
        answer: bytes = await worker.scheduler.geotile_traffic(run=run, said=pickle.dumps((rules, word)))
        return answer

    def link(word: Word) -> Grant:
        grant: Grant = pickle.loads(sync(worker.loop, tell, word))
        return grant

    return link
