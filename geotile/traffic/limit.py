"""How many requests a server is given at once: a number, or the law that finds it.

`AutoLimit` climbs the hill of throughput over concurrency and keeps near its foot:

- it doubles while that brings throughput (slow start: Jacobson, "Congestion avoidance and control",
  1988), then goes to the number of requests that are really in service, rate × least latency
  (Little's law), and a tenth more;
- now and then it tries a step up and keeps it if throughput follows, else steps back and waits twice
  as long (hill climbing as in the .NET thread pool: Hellerstein, Morrison, Eilebrecht, "Optimizing
  concurrency levels in the .NET thread pool", 2008);
- latency well over the least seen says that requests queue (Brakmo, O'Malley, Peterson, "TCP Vegas",
  1994): it steps down to what is in service, and back if throughput falls;
- a refusal (429, 503, a time-out) cuts at once, and growth is additive after it (Chiu, Jain, 1989);
  a refusal must be paid for with answers before the next step up, which bounds their share.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

_FIRST, _MOST = 4, 256
_LEAST_ANSWERS = 10  # of a window
_STEP = 0.25  # of the limit
_FOLLOWS = 0.4  # share of a step up that throughput must follow with
_DOUBLES = 1.3  # what doubling must bring while starting
_KEEPS = 0.95  # share of throughput that a step down must keep
_CUT = 0.8
_QUEUES = 1.4  # latency over the least seen
_LONGEST_HOLD = 16  # windows between steps up
_ANSWERS_A_REFUSAL, _MOST_DEBT, _DEBT_OF_START = 250, 600, 100


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What came back in a while."""

    answered: int = 0
    latency_s: float = 0.0
    """Sum over the answered requests."""
    latency_s2: float = 0.0
    """Sum of their squares."""
    throttled: int = 0
    """429 and 503, and time-outs."""
    failed: int = 0
    """Other failures that may pass."""
    words: int = 1
    busy: int = 1
    """Of these, how many told that there was more to send than was allowed."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            answered=self.answered + other.answered, latency_s=self.latency_s + other.latency_s,
            latency_s2=self.latency_s2 + other.latency_s2, throttled=self.throttled + other.throttled,
            failed=self.failed + other.failed, words=self.words + other.words, busy=self.busy + other.busy,
        )  # fmt: skip


@dataclass
class FixedLimit:
    """A number that stays."""

    limit: int

    def observe(self, now: float, tally: Tally) -> None:
        """Do nothing."""

    def interrupted(self) -> None:
        """Do nothing."""


@dataclass
class AutoLimit:
    """The law above. `observe` is told every tenth of a second or so what came back."""

    limit: int = _FIRST
    most: int = _MOST
    _starting: bool = True
    _refusals_bound: bool = False  # refusals, not throughput, are what stopped growth
    _window: Tally = field(default_factory=lambda: Tally(words=0, busy=0))
    _began: float | None = None
    _settled: float = 0.0  # until then answers are of the limit before
    _before: tuple[int, float] | None = None  # limit and rate before the step that is being tried
    _step: int = 0
    _hold: int = 0
    _next_hold: int = 1
    _debt: float = 0.0
    _deaf_until: float = 0.0
    _rose: bool = False
    _spread: float = 0.3  # variance of latency over its mean squared
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=48))

    def observe(self, now: float, tally: Tally) -> None:
        """Take in what came back since the last call; `limit` may change.

        Parameters
        ----------
        now : float
            Seconds, of any clock that only goes forward.
        tally : Tally
        """
        self._debt = max(0.0, self._debt - tally.answered)
        if tally.throttled:
            self._cut(now, tally.throttled)
        elif now >= self._settled:
            if self._began is None:
                self._began = now
                return
            self._window += tally
            if self._window.answered >= self._enough():
                self._judge(now, self._began)

    def interrupted(self) -> None:
        """Forget what was being measured: no requests are sent for a while."""
        self._window, self._began, self._before = Tally(words=0, busy=0), None, None

    def _enough(self) -> float:
        """Return how many answers tell the throughput of this limit from that of the one before."""
        least = max(_LEAST_ANSWERS, 2 * self.limit)
        if self._starting or self._refusals_bound:
            return least
        step = abs(self.limit / self._before[0] - 1) if self._before else _STEP
        return min(max(least, 18 * self._spread / step**2), 50 + 20 * self.limit)

    def _watch(self, now: float) -> None:
        self._window, self._began = Tally(words=0, busy=0), now

    def _move(self, now: float, limit: int, latency: float) -> None:
        self.limit = max(1, min(self.most, limit))
        self._window, self._began, self._settled = Tally(words=0, busy=0), None, now + 1.5 * latency

    def _cut(self, now: float, throttled: int) -> None:
        most = _DEBT_OF_START if self._starting else _MOST_DEBT
        self._debt = min(self._debt + throttled * _ANSWERS_A_REFUSAL, most)
        if now < self._deaf_until:
            return  # these were sent before the last cut
        latency = min(self._latencies, default=0.1)
        grown = self._before is not None and self._before[0] < self.limit and not self._starting
        limit = self._before[0] if grown and self._before else math.floor(self.limit * _CUT)
        self._starting, self._refusals_bound, self._before, self._step = False, True, None, 1
        self._deaf_until = now + 2 * latency
        self._move(now, limit, latency)

    def _judge(self, now: float, began: float) -> None:
        seen = self._window
        rate, latency = seen.answered / (now - began), seen.latency_s / seen.answered
        self._latencies.append(latency)
        self._spread += 0.3 * (max(0.0, seen.latency_s2 / seen.answered / latency**2 - 1) - self._spread)
        floor = min(self._latencies)
        queues = latency > floor * (_QUEUES + 2.5 * math.sqrt(self._spread / seen.answered))
        in_service = math.ceil(1.1 * rate * floor) + 1
        before, self._before = self._before, None
        if seen.busy < seen.words / 2:
            self._watch(now)  # a want of tiles says nothing of the server
        elif self._starting:
            self._start(now, rate, latency, before, in_service)
        elif before is not None and not self._keeps(rate, before, queues):
            self._hold, self._next_hold = self._next_hold, min(2 * self._next_hold, _LONGEST_HOLD)
            self._step = 0
            if before[0] > self.limit:  # the server became slower, not fuller
                self._latencies.clear()
                self._latencies.append(latency)
            self._move(now, before[0], latency)
        else:
            if before is not None and self.limit > before[0]:
                self._next_hold, self._step = 1, min(2 * self._step, self.limit)
            self._try(now, rate, latency, queues, in_service)

    def _start(
        self, now: float, rate: float, latency: float, before: tuple[int, float] | None, in_service: int
    ) -> None:
        if before is None or rate >= _DOUBLES * before[1]:
            self._before, self._starting = (self.limit, rate), self.limit < self.most
            self._move(now, 2 * self.limit, latency)
        else:
            self._starting = False
            self._move(now, in_service, latency)

    def _keeps(self, rate: float, before: tuple[int, float], queues: bool) -> bool:
        limit, had = before
        if self.limit < limit:
            return rate >= _KEEPS * had
        self._refusals_bound = self._refusals_bound and not queues
        return self._refusals_bound or rate / had - 1 >= _FOLLOWS * (self.limit / limit - 1)

    def _try(self, now: float, rate: float, latency: float, queues: bool, in_service: int) -> None:
        rose, self._rose = self._rose, queues
        if queues and in_service < self.limit:
            if not rose:  # once may be chance
                self._watch(now)
                return
            self._before = (self.limit, rate)
            self._move(now, max(in_service, self.limit // 2), latency)
        elif self._hold > 0 or self._debt > 0 or self.limit == self.most:
            self._hold = max(0, self._hold - 1)
            self._watch(now)
        else:
            self._step = self._step or max(1, math.ceil(self.limit * _STEP))
            self._before = (self.limit, rate)
            self._move(now, self.limit + self._step, latency)
