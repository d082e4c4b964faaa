"""Whether requests are sent at all: closed while the model answers, open while it is away.

Closed → open when nothing but failures came back for a while. Open: the model is asked whether it is
there (`Endpoint.ready`), after growing pauses. If so → trial: one request; an answer closes the
circuit, a failure opens it again. (Nygard, "Release It!", 2007, calls the trial half-open.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_FAILURES = 5  # that open it, if no answer came for
_AT_LEAST_S = 0.5  # or three times what an answer takes
_LEAST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE = 0.25, 30.0, 0.25  # a quarter of the time that it has been away
_PROBE_S = 60.0  # a probe that is not heard of for so long is lost with its process


@dataclass
class Circuit:
    """The state of one model, as all processes of a run see it."""

    ready_timeout_s: float
    outage_timeout_s: float
    state: Literal["closed", "open", "trial"] = "closed"
    ended: str | None = None
    """Why the run gave up."""
    outages: int = 0
    """How often the model was found to be away."""
    seconds_open: float = 0.0
    reason: str = ""
    """The last failure."""
    _ever: bool = False
    _failures: int = 0  # since the last answer
    _since: float = 0.0  # the first of them
    _latency: float = 0.0
    _opened: float = 0.0
    _confirmed: bool = False
    _next_probe: float = 0.0

    def answered(self, now: float, latency_s: float) -> None:
        """Take in that an answer came, whenever it was asked for."""
        self._ever, self._failures, self._latency = True, 0, latency_s
        if self.state != "closed":
            self.state = "closed"
            self.seconds_open += now - self._opened

    def failed(self, now: float, failures: int, throttled: bool, reason: str) -> None:
        """Take in that nothing but failures came back since the last call."""
        if self._failures == 0:
            self._since = now
        self._failures += failures
        self.reason = reason or self.reason
        if self.state == "trial":
            self._confirm(throttled)
            self._again(now)
        elif self._failures >= _FAILURES and now - self._since >= max(_AT_LEAST_S, 3 * self._latency):
            self.suspect(now)

    def suspect(self, now: float) -> None:
        """Open it now: a tile is about to be given up and nobody is answered."""
        if self.state == "closed":
            self._since = self._since if self._failures else now
            self._open(now)

    def probe(self, now: float) -> bool:
        """Tell whether the caller is to ask the model now, and note that it does."""
        self._give_up(now)
        if self.state != "open" or self.ended or now < self._next_probe:
            return False
        self._next_probe = now + _PROBE_S
        return True

    def probed(self, now: float, wrong: str | None) -> None:
        """Take in what a probe found: None if the model is there."""
        if self.state == "open":
            if wrong is None:
                self.state = "trial"
            else:
                self.reason = wrong
                self._confirm(True)
                self._again(now)

    def _open(self, now: float) -> None:
        self.state, self._opened, self._next_probe, self._confirmed = "open", now, now, False

    def _confirm(self, away: bool) -> None:
        if away and not self._confirmed:
            self.outages, self._confirmed = self.outages + 1, True

    def _again(self, now: float) -> None:
        pause = min(max(_LEAST_PAUSE_S, _PAUSE * (now - self._since)), _LONGEST_PAUSE_S)
        self.state, self._next_probe = "open", now + pause
        self._give_up(now)

    def _give_up(self, now: float) -> None:
        if self.state == "closed":
            return
        name = "outage_timeout_s" if self._ever else "ready_timeout_s"
        limit = self.outage_timeout_s if self._ever else self.ready_timeout_s
        if now - self._since > limit and not self.ended:
            self.seconds_open += now - self._opened
            self.ended = f"the model did not answer for {name}={limit:g} s; the last failure: {self.reason}"
