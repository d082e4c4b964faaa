"""Maximum number of requests in flight to one endpoint: a number that only refusals lower, or an adaptive limit.

`AutoLimit` searches for the smallest concurrency that gives almost the maximum throughput:

- It doubles the limit while that increases throughput (slow start: Jacobson, "Congestion avoidance and
  control", 1988). Then it sets the limit to the number of requests that are really in service, rate ×
  minimum latency (Little's law), plus ten percent.
- From time to time it raises the limit by one step. It keeps the step if throughput follows; otherwise it
  steps back and waits twice as long before the next step (hill climbing as in the .NET thread pool:
  Hellerstein, Morrison, Eilebrecht, "Optimizing concurrency levels in the .NET thread pool", 2008).
- A latency well above the minimum shows that requests queue at the server (Brakmo, O'Malley, Peterson,
  "TCP Vegas", 1994). It then lowers the limit to what is in service, and reverts if throughput falls.
- A throttled request (HTTP 429 or 503, or a time-out) lowers the limit at once, and growth is additive
  after that (Chiu, Jain, 1989). Each throttled request adds a debt that must be paid with successful
  requests before the next step up, which bounds the share of throttled requests.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

_INITIAL_LIMIT, _MAX_LIMIT = 4, 256
_MIN_WINDOW_RESPONSES = 10
_STEP = 0.25  # size of a step up, as a share of the limit
_MIN_GAIN = 0.4  # a step up is kept if throughput grows by at least this share of the step
_SLOW_START_GAIN = 1.3  # doubling goes on while throughput grows by at least this factor
_MIN_KEPT = 0.95  # a step down is kept if at least this share of throughput remains
_CUT = 0.8  # factor applied to the limit when a request is throttled
_QUEUEING = 1.4  # latency over minimum latency above which requests are taken to queue
_MAX_HOLD = 16  # windows between two steps up
_THROTTLED_SHARE, _MAX_EXCESS = 0.05, 2  # a given number stays while no more than this is throttled
_DEBT_PER_THROTTLED, _MAX_DEBT, _MAX_DEBT_IN_SLOW_START = 250, 600, 100


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Outcomes of requests over a period. Tallies can be added."""

    answered: int = 0
    """Number of requests that received a final response."""
    latency_s: float = 0.0
    """Sum of the latencies of the answered requests."""
    latency_s2: float = 0.0
    """Sum of the squares of these latencies."""
    throttled: int = 0
    """Number of requests that failed with HTTP 429 or 503, or timed out."""
    starved: int = 0
    """Number of the throttled requests whose tile had been refused before."""
    failed: int = 0
    """Number of other retryable failures."""
    reports: int = 1
    """Number of reports that this tally covers."""
    busy: int = 1
    """Number of these reports whose process had more requests to send than it was allowed."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            answered=self.answered + other.answered, latency_s=self.latency_s + other.latency_s,
            latency_s2=self.latency_s2 + other.latency_s2, throttled=self.throttled + other.throttled,
            failed=self.failed + other.failed, starved=self.starved + other.starved,
            reports=self.reports + other.reports, busy=self.busy + other.busy,
        )  # fmt: skip


@dataclass
class AutoLimit:
    """The adaptive limit described above. `observe` is called about ten times per second."""

    limit: int = _INITIAL_LIMIT
    max_limit: int = _MAX_LIMIT
    _slow_start: bool = True
    _bound_by_throttling: bool = False  # growth was stopped by throttling, not by throughput
    _window: Tally = field(default_factory=lambda: Tally(reports=0, busy=0))
    _window_start: float | None = None
    _settled_at: float = 0.0  # until then, responses belong to requests sent under the previous limit
    _previous: tuple[int, float] | None = None  # limit and rate before the step that is being tried
    _step: int = 0
    _hold: int = 0
    _next_hold: int = 1
    _debt: float = 0.0
    _ignore_throttling_until: float = 0.0
    _was_queueing: bool = False
    _latency_variation: float = 0.3  # variance of latency over its mean squared
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=48))

    def observe(self, now: float, tally: Tally) -> None:
        """Record the outcomes since the last call; `limit` may change.

        Parameters
        ----------
        now : float
            Time in seconds of any monotonic clock.
        tally : Tally
        """
        self._debt = max(0.0, self._debt - tally.answered)
        if tally.throttled:
            self._cut(now, tally.throttled)
        elif now >= self._settled_at:
            if self._window_start is None:
                self._window_start = now
                return
            self._window += tally
            if self._window.answered >= self._responses_needed():
                self._evaluate(now, self._window_start)

    def restart_window(self) -> None:
        """Discard the current measurement, because no requests are sent for a while."""
        self._window, self._window_start, self._previous = Tally(reports=0, busy=0), None, None

    def _responses_needed(self) -> float:
        """Return how many responses are needed to tell this limit's throughput from the previous limit's."""
        minimum = max(_MIN_WINDOW_RESPONSES, 2 * self.limit)
        if self._slow_start or self._bound_by_throttling:
            return minimum
        step = abs(self.limit / self._previous[0] - 1) if self._previous else _STEP
        return min(max(minimum, 18 * self._latency_variation / step**2), 50 + 20 * self.limit)

    def _keep_limit(self, now: float) -> None:
        self._window, self._window_start = Tally(reports=0, busy=0), now

    def _set_limit(self, now: float, limit: int, latency: float) -> None:
        self.limit = max(1, min(self.max_limit, limit))
        self._window, self._window_start, self._settled_at = Tally(reports=0, busy=0), None, now + 1.5 * latency

    def _cut(self, now: float, throttled: int) -> None:
        max_debt = _MAX_DEBT_IN_SLOW_START if self._slow_start else _MAX_DEBT
        self._debt = min(self._debt + throttled * _DEBT_PER_THROTTLED, max_debt)
        if now < self._ignore_throttling_until:
            return  # these requests were sent before the last cut
        latency = min(self._latencies, default=0.1)
        stepped_up = self._previous is not None and self._previous[0] < self.limit and not self._slow_start
        limit = self._previous[0] if stepped_up and self._previous else math.floor(self.limit * _CUT)
        self._slow_start, self._bound_by_throttling, self._previous, self._step = False, True, None, 1
        self._ignore_throttling_until = now + 2 * latency
        self._set_limit(now, limit, latency)

    def _evaluate(self, now: float, start: float) -> None:
        """Decide the next limit from a full window."""
        window = self._window
        rate, latency = window.answered / (now - start), window.latency_s / window.answered
        self._latencies.append(latency)
        variation = max(0.0, window.latency_s2 / window.answered / latency**2 - 1)
        self._latency_variation += 0.3 * (variation - self._latency_variation)
        minimum = min(self._latencies)
        queueing = latency > minimum * (_QUEUEING + 2.5 * math.sqrt(self._latency_variation / window.answered))
        in_service = math.ceil(1.1 * rate * minimum) + 1
        previous, self._previous = self._previous, None
        if window.busy < window.reports / 2:
            self._keep_limit(now)  # with too few tiles to send, the window says nothing about the server
        elif self._slow_start:
            self._continue_slow_start(now, rate, latency, previous, in_service)
        elif previous is not None and not self._is_step_kept(rate, previous, queueing):
            self._step_back(now, latency, previous[0])
        else:
            if previous is not None and self.limit > previous[0]:
                self._next_hold, self._step = 1, min(2 * self._step, self.limit)
            self._try_step(now, rate, latency, queueing, in_service)

    def _continue_slow_start(
        self, now: float, rate: float, latency: float, previous: tuple[int, float] | None, in_service: int
    ) -> None:
        if previous is None or rate >= _SLOW_START_GAIN * previous[1]:
            self._slow_start = self.limit < self.max_limit
            self._previous = (self.limit, rate) if self._slow_start else None  # the last doubling needs no decision
            self._set_limit(now, 2 * self.limit, latency)
        else:
            self._slow_start = False
            self._set_limit(now, in_service, latency)

    def _is_step_kept(self, rate: float, previous: tuple[int, float], queueing: bool) -> bool:
        previous_limit, previous_rate = previous
        if self.limit < previous_limit:
            return rate >= _MIN_KEPT * previous_rate
        self._bound_by_throttling = self._bound_by_throttling and not queueing
        gain, step = rate / previous_rate - 1, self.limit / previous_limit - 1
        return self._bound_by_throttling or gain >= _MIN_GAIN * step

    def _step_back(self, now: float, latency: float, previous_limit: int) -> None:
        self._hold, self._next_hold = self._next_hold, min(2 * self._next_hold, _MAX_HOLD)
        self._step = 0
        if previous_limit > self.limit:  # latency rose because the server became slower, not because requests queued
            self._latencies.clear()
            self._latencies.append(latency)
        self._set_limit(now, previous_limit, latency)

    def _try_step(self, now: float, rate: float, latency: float, queueing: bool, in_service: int) -> None:
        was_queueing, self._was_queueing = self._was_queueing, queueing
        if queueing and in_service < self.limit:
            if not was_queueing:  # a single window may be chance
                self._keep_limit(now)
                return
            self._previous = (self.limit, rate)
            self._set_limit(now, max(in_service, self.limit // 2), latency)
        elif self._hold > 0 or self._debt > 0 or self.limit == self.max_limit:
            self._hold = max(0, self._hold - 1)
            self._keep_limit(now)
        else:
            self._step = self._step or max(1, math.ceil(self.limit * _STEP))
            self._previous = (self.limit, rate)
            self._set_limit(now, self.limit + self._step, latency)


@dataclass
class GivenLimit:
    """A number that the user gave. Only throttled requests lower it, and it grows up to that number again.

    The number is halved (Jacobson, 1988) if more requests than one in twenty are throttled, or a tile again and again.
    With a number above what the server takes, those that are served take each place that becomes free, and the same
    tiles are refused each time. Between the largest number that went well and the smallest that did not, the number is
    found by bisection. The smallest that did not is tried again, after pauses that double each time it fails. A number
    on trial goes well if at most one in twenty is throttled until twice as many have been answered as there can be.
    """

    max_limit: int
    limit: int = field(init=False)
    _good: int = field(init=False)  # the largest number that went well, 0 if none is known
    _too_many: int = field(init=False)  # the smallest number that did not
    _hold: int = 0  # windows until that one is tried again
    _next_hold: int = 1
    _excess: float = 0.0  # throttled requests beyond those that chance explains, one for twenty answers
    _answered: int = 0  # since the limit changed
    _throttled: int = 0  # likewise
    _latency_s: float = 0.1
    _ignore_throttling_until: float = -math.inf

    def __post_init__(self) -> None:
        self.limit, self._good, self._too_many = self.max_limit, self.max_limit, self.max_limit + 1

    def observe(self, now: float, tally: Tally) -> None:
        """Record the outcomes since the last call, as `AutoLimit` does; `limit` may change."""
        self._answered, self._throttled = self._answered + tally.answered, self._throttled + tally.throttled
        if tally.answered:
            self._latency_s = tally.latency_s / tally.answered
        window = max(_MIN_WINDOW_RESPONSES, 2 * self.limit)
        self._excess = max(0.0, self._excess - _THROTTLED_SHARE * tally.answered) + tally.throttled
        failed = self.limit > self._good and self._throttled > _THROTTLED_SHARE * window
        if (failed or self._excess > _MAX_EXCESS or tally.starved) and now >= self._ignore_throttling_until:
            self._lower()
            self._ignore_throttling_until = now + 2 * self._latency_s  # those were sent before
        elif self._answered >= window:
            self._raise()

    def restart_window(self) -> None:
        """Do nothing: a pause changes nothing of what the server takes."""

    def _lower(self) -> None:
        if self.limit > self._good:
            self._next_hold = min(2 * self._next_hold, _MAX_HOLD) if self.limit == self._too_many else 1
            self._too_many, limit = max(2, self.limit), max(self._good, self.limit // 2)
        else:  # what went well does so no more
            self._too_many, self._next_hold, limit = max(2, self.limit), 1, self.limit // 2
            self._good = 0
        self._hold = self._next_hold
        self._change(max(1, limit))

    def _raise(self) -> None:
        """Try a larger number, after a window in which this one went well."""
        self._good = self.limit
        if self.limit >= self._too_many:  # it takes more than before
            self._too_many, self._next_hold = self.max_limit + 1, 1
        if self._too_many > self.max_limit:
            limit = self.limit + max(1, self.limit // 2)
        elif self._too_many - self.limit > 1:
            limit = (self.limit + self._too_many) // 2
        else:
            self._hold -= 1
            limit = self._too_many if self._hold < 0 else self.limit
        self._change(min(self.max_limit, limit))

    def _change(self, limit: int) -> None:
        self.limit, self._answered, self._throttled, self._excess = limit, 0, 0, 0.0
