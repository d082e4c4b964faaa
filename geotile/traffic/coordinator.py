"""A run's requests, or those of a group of runs, over all processes: shares of one number, and one circuit."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from geotile.results.report import Traffic
from geotile.traffic.circuit import Circuit
from geotile.traffic.limit import AutoLimit, FixedLimit, Tally

_log = logging.getLogger(__name__)
_TALK_S = 0.1
_WORDS_A_SECOND = 500  # over all processes: with more than 50 each speaks less often


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a run asks for."""

    concurrency: int | Literal["auto"]
    ready_timeout_s: float
    outage_timeout_s: float
    group: str | None = None
    """Runs of one group share one number and one circuit."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What a process tells."""

    process: str
    worker: str | None
    """Address of the Dask worker that it is."""
    wanted: int
    """Requests that it has to make, those in flight among them."""
    in_flight: int
    tally: Tally
    """Since its last word."""
    streak: int
    """Failures since its last answer."""
    reason: str
    """The last of them."""
    all_throttled: bool
    """Whether the endpoint itself refused all of them."""
    probed: tuple[str | None] | None
    """What the probe found that it was told to make; None if there was none."""
    suspects: bool
    """Whether a tile is about to be given up, though nobody was answered since it was first sent."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a process is told."""

    cap: int
    """Requests that it may have in flight."""
    probe: bool = False
    """Ask the model whether it is there."""
    state: Literal["closed", "open", "trial"] = "closed"
    outages: int = 0
    ended: str | None = None
    alone: bool = False
    """Whether no other request is wanted anywhere."""
    next_s: float = _TALK_S
    """Seconds until its next word."""


@dataclass
class _Process:
    wanted: int = 0
    in_flight: int = 0
    cap: int = 0
    """What it was last granted."""
    held: int = 0
    """Requests that it may have in flight by now: until its next word, also by the grant before."""


@dataclass
class Coordinator:
    """Hears words, gives grants. Not thread-safe; the clock is the caller's."""

    rules: Rules
    limit: AutoLimit | FixedLimit = field(init=False)
    circuit: Circuit = field(init=False)
    throttled: int = 0
    _processes: dict[str, _Process] = field(default_factory=dict)
    _workers: dict[str, set[str]] = field(default_factory=dict)
    _trial: str | None = None
    heard: float = 0.0
    """When the last word came."""

    def __post_init__(self) -> None:
        asked = self.rules.concurrency
        self.limit = AutoLimit() if asked == "auto" else FixedLimit(asked)
        self.circuit = Circuit(self.rules.ready_timeout_s, self.rules.outage_timeout_s)

    def hear(self, word: GateReport, now: float) -> Allowance:
        """Take in a word, answer with a grant."""
        self.heard = now
        process = self._processes.setdefault(word.process, _Process())
        if word.worker is not None:
            self._workers.setdefault(word.worker, set()).add(word.process)
        process.wanted, process.in_flight = word.wanted, word.in_flight
        was = self.circuit.state
        self._notice(word, now)
        probe = self.circuit.probe(now)
        if self.circuit.state != was or self.circuit.ended:
            self._tell(was)
        before, process.cap = process.cap, self._cap(word.process)
        process.held = max(before, process.cap, word.in_flight)
        if word.wanted == process.held == 0:
            del self._processes[word.process]
        return Allowance(
            cap=process.cap, probe=probe, state=self.circuit.state,
            outages=self.circuit.outages, ended=self.circuit.ended,
            alone=sum(each.wanted for each in self._processes.values()) == 1,
            next_s=max(_TALK_S, len(self._processes) / _WORDS_A_SECOND),
        )  # fmt: skip

    def gone(self, worker: str) -> None:
        """Forget a worker that died: its share is free."""
        self.left(self._workers.pop(worker, ()))

    def left(self, processes: Iterable[str]) -> None:
        """Forget processes that make no more requests: their shares are free."""
        for name in processes:
            self._processes.pop(name, None)

    def now(self) -> tuple[int, int]:
        """Return how many requests are in flight, by the last words, and how many may be."""
        return sum(each.in_flight for each in self._processes.values()), self.limit.limit

    def traffic(self) -> Traffic:
        """Return what came of all requests so far."""
        return Traffic(
            concurrency=self.limit.limit, throttled=self.throttled,
            outages=self.circuit.outages, outage_s=round(self.circuit.seconds_open, 3),
        )  # fmt: skip

    def _notice(self, word: GateReport, now: float) -> None:
        tally, circuit = word.tally, self.circuit
        self.throttled += tally.throttled
        if circuit.state == "closed":
            self.limit.observe(now, tally)
        else:
            self.limit.interrupted()
        if word.probed is not None:
            circuit.probed(now, word.probed[0])
        if tally.answered:
            circuit.answered(now, tally.latency_s / tally.answered)
        failures = min(word.streak, tally.failed + tally.throttled)
        if failures:
            circuit.failed(now, failures, word.all_throttled, word.reason)
        if word.suspects:
            circuit.suspect(now)

    def _cap(self, name: str) -> int:
        if self.circuit.state == "open" or self.circuit.ended:
            return 0
        others = sum(each.held for key, each in self._processes.items() if key != name)
        if self.circuit.state == "closed":
            limit = self.limit.limit
            return max(0, min(self._fair(name, limit), limit - others))
        tries = self._processes.get(self._trial or "")
        if tries is None or not tries.wanted:
            self._trial = name
        return max(0, min(self._processes[name].wanted, 1 - others)) if self._trial == name else 0

    def _fair(self, name: str, limit: int) -> int:
        """Return a process's share: as even as can be, none more than it wants."""
        left = limit
        order = sorted(self._processes, key=lambda key: (self._processes[key].held > 0, self._processes[key].wanted))
        for position, key in enumerate(order):  # who has some comes last: what does not divide stays with it
            share = min(self._processes[key].wanted, left // (len(order) - position))
            if key == name:
                return share
            left -= share
        return 0

    def _tell(self, was: str) -> None:
        if self.circuit.ended:
            _log.error("the run ends with what it has: %s", self.circuit.ended)
        elif was == "closed":
            _log.warning(
                "nothing but failures from the model (%s); requests wait until it answers", self.circuit.reason
            )
        elif self.circuit.state == "closed":
            _log.warning("the model answers again")
