"""What a process's tile threads pass on their way to the model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

from geotile.core.cancellation import cancel_run
from geotile.errors import EndpointError, EndpointUnreachable
from geotile.traffic.coordinator import Allowance, GateReport
from geotile.traffic.limit import Tally

_log = logging.getLogger(__name__)
_AHEAD = 2  # requests prepared beyond those in flight, so that a free place is taken at once
Link = Callable[[GateReport], Allowance]


class Gate:
    """One run's gate in one process.

    Parameters
    ----------
    link : callable
        ``link(word) -> grant``: the coordinator.
    probe : callable
        Raises EndpointError if the model is not there.
    run : str
        Names the run.
    worker : str, optional
        Address of the Dask worker that this process is.
    """

    def __init__(self, link: Link, probe: Callable[[], None], run: str, worker: str | None = None) -> None:
        self._link, self._probe, self._run, self._worker = link, probe, run, worker
        self._name = uuid4().hex
        self._lock = threading.Lock()
        self._room, self._free, self._over = (threading.Condition(self._lock) for _ in range(3))
        self._nudge = threading.Event()
        self._grant = Allowance(cap=0)
        self._wanted = self._under_way = self._in_flight = 0
        self._tally, self._streak, self._all_throttled, self._reason = Tally(words=0, busy=0), 0, True, ""
        self._probed: tuple[str | None] | None = None
        self._suspects = self._talking = False
        self._last_answer = float("-inf")
        self._ended: str | None = None
        self._pool: ThreadPoolExecutor | None = None

    def threads(self, most: int) -> ThreadPoolExecutor:
        """Return the run's own tile threads.

        Were they shared with another run, all of them could wait here for room that the other one holds and has no
        thread to use: for ever, where both ask one endpoint; for the slow one's answers, where they ask two.
        """
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(most, thread_name_prefix="geotile-tile")
            return self._pool

    @property
    def trial(self) -> bool:
        """Whether the request in flight is the one that tries whether the model is back."""
        return self._grant.state == "trial"

    @property
    def alone(self) -> bool:
        """Whether no other request is wanted, anywhere."""
        return self._grant.alone

    @property
    def outages(self) -> int:
        """How often the model was found to be away, so far."""
        return self._grant.outages

    @property
    def ended(self) -> str | None:
        """Why no more requests are sent in this run."""
        return self._ended

    @property
    def idle(self) -> bool:
        """Whether nobody waits here."""
        return not self._talking

    def end(self, reason: str) -> None:
        """Let nobody pass from now on."""
        with self._lock:
            self._end(reason)

    @contextmanager
    def expecting(self, requests: int) -> Iterator[Callable[[], None]]:
        """Announce requests; call what it yields once for each that is done with."""
        left = requests

        def done() -> None:
            nonlocal left
            with self._lock:
                left -= 1
                self._wanted -= 1

        with self._lock:
            self._wanted += requests
            if not self._talking:
                self._talking = True
                threading.Thread(target=self._talk, name="geotile-gate", daemon=True).start()
        try:
            yield done
        finally:
            with self._lock:
                self._wanted -= left
            self._nudge.set()

    @contextmanager
    def room(self) -> Iterator[None]:
        """Wait for room to prepare a request: what is prepared takes memory.

        Raises
        ------
        EndpointUnreachable
            If none may be sent any more.
        """
        with self._lock:
            self._room.wait_for(lambda: self._ended or self._under_way < self._grant.cap + _AHEAD)
            if self._ended:
                raise EndpointUnreachable(self._ended)
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._room.notify()

    def enter(self) -> None:
        """Wait until a request may be sent.

        Raises
        ------
        EndpointUnreachable
            If none may be any more.
        """
        with self._lock:
            self._free.wait_for(lambda: self._ended or self._in_flight < self._grant.cap)
            if self._ended:
                raise EndpointUnreachable(self._ended)
            self._in_flight += 1

    def leave(self) -> None:
        """Give the place in flight to the next."""
        with self._lock:
            self._in_flight -= 1
            self._free.notify()

    def answered(self, latency_s: float) -> None:
        """Note an answer."""
        with self._lock:
            self._streak, self._all_throttled, self._last_answer = 0, True, time.monotonic()
            self._tally += Tally(answered=1, latency_s=latency_s, latency_s2=latency_s**2, words=0, busy=0)
        if self._grant.state != "closed":
            self._nudge.set()

    def failed(self, error: EndpointError) -> None:
        """Note a failure that may pass."""
        crowded = error.throttled or error.timed_out
        with self._lock:
            self._streak, self._reason = self._streak + 1, str(error)
            self._all_throttled = self._all_throttled and error.throttled
            self._tally += Tally(throttled=int(crowded), failed=int(not crowded), words=0, busy=0)
        self._nudge.set()

    def silent_since(self, moment: float) -> bool:
        """Tell whether no request of this process was answered since a moment of the monotonic clock."""
        return self._last_answer < moment

    def suspect(self) -> None:
        """Say that it is the model that fails, not a tile."""
        with self._lock:
            self._suspects = True
        self._nudge.set()

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the run."""
        with self._lock:
            self._over.wait_for(lambda: self._ended, seconds)

    def _talk(self) -> None:
        """Exchange words and grants while there is anything to say."""
        while True:
            self._nudge.clear()
            word = self._word()
            try:
                grant = self._link(word)
            except Exception as error:  # whatever breaks the line, tile threads must not wait for ever
                with self._lock:
                    if self._wanted == 0:  # the cluster closed just after the last tile
                        self._talking = False
                        return
                _log.exception("no word from the coordinator")
                self.end(f"this worker lost the run's coordinator: {type(error).__name__}: {error}")
                grant = Allowance(cap=0)
            held = self._take(grant)
            with self._lock:
                if word.wanted == word.in_flight == held == self._wanted == 0:
                    self._talking = False
                    return
            if word.wanted == word.in_flight == 0 < held:
                continue  # the next word gives its share back
            if grant.probe:
                self._probed = (self._ask(),)
            elif self._nudge.wait(grant.next_s):
                time.sleep(grant.next_s / 10)  # let the like come along

    def _word(self) -> GateReport:
        with self._lock:
            busy = int(self._wanted > self._in_flight >= self._grant.cap)
            word = GateReport(
                process=self._name, worker=self._worker, wanted=self._wanted, in_flight=self._in_flight,
                tally=self._tally + Tally(busy=busy), streak=self._streak, reason=self._reason,
                all_throttled=self._all_throttled, probed=self._probed, suspects=self._suspects,
            )  # fmt: skip
            self._tally, self._probed, self._suspects = Tally(words=0, busy=0), None, False
            return word

    def _take(self, grant: Allowance) -> int:
        """Obey a grant; return the cap before."""
        with self._lock:
            before, self._grant = self._grant.cap, grant
            if grant.ended:
                self._end(grant.ended)
            self._room.notify_all()
            self._free.notify_all()
            return before

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        cancel_run(self._run, reason)
        for each in (self._room, self._free, self._over):
            each.notify_all()

    def _ask(self) -> str | None:
        try:
            self._probe()
        except EndpointError as error:
            return str(error)
        except Exception as error:  # a probe of somebody else's endpoint; it counts as a model that is away
            return f"{type(error).__name__}: {error}"
        return None
