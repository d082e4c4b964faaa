"""The coordinators of all runs, in one place."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from geotile.results.report import Traffic
from geotile.traffic.coordinator import Allowance, Coordinator, GateReport, Rules

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
    throttled: int = 0


class Runs:
    """The coordinators of all runs, in one place: one a run, or one for all runs of a group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coordinators: dict[str, Coordinator] = {}
        self._runs: dict[str, _Run] = {}
        self._over: OrderedDict[str, str] = OrderedDict()

    def hear(self, run: str, rules: Rules, word: GateReport) -> Allowance:
        """Take a word to its run's coordinator."""
        now = time.monotonic()
        with self._lock:
            if run in self._over:  # a region that has not heard of it yet
                return Allowance(cap=0, ended=self._over[run])
            if run not in self._runs:
                self._begin(run, rules, now)
            known = self._runs[run]
            known.processes.add(word.process)
            known.throttled += word.tally.throttled
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
            concurrency=after.concurrency, throttled=known.throttled, outages=after.outages - before.outages,
            outage_s=round(after.outage_s - before.outage_s, 3),
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
