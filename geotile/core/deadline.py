"""Connections with one deadline for the whole exchange, however slowly the server takes and sends bytes.

A socket's time-out starts again with every byte, so a server that sends one byte per second never exceeds it: in the
handshake of TLS, the head, the sizes of chunks, trailers, or a compressed body that never becomes a byte. So a watcher
thread shuts the sockets of an exchange down at its deadline, and whatever waits for them ends.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from geotile.core.cancellation import cancel_reason, current_run, when_cancelled

_MIN_S = 1e-3
_IDLE_S = 1.0  # the watcher's thread ends when it has had nothing to watch for so long
_current = threading.local()


class _Exchange:
    """The sockets of one request and its response."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.run = deadline, current_run()
        self._lock, self._sockets, self._expired = threading.Lock(), list[socket.socket](), False

    def hold(self, sock: socket.socket) -> None:
        """Shut a socket down at the deadline."""
        with self._lock:
            if sock not in self._sockets:
                self._sockets.append(sock)
            expired = self._expired
        if expired:
            _shut_down(sock)

    def let_go(self, sock: socket.socket) -> None:
        """Leave a socket as it is."""
        with self._lock:
            self._sockets.remove(sock)

    def end(self) -> None:
        """Leave all sockets as they are: the exchange is over."""
        with self._lock:
            self._sockets.clear()

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed or the sockets were shut down before."""
        return self._expired or time.monotonic() >= self.deadline

    def expire(self) -> None:
        """Shut all sockets down."""
        with self._lock:
            self._expired = True
            for sock in self._sockets:
                _shut_down(sock)


class _Watcher:
    """A thread that lets exchanges expire."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: list[tuple[float, int]] = []  # a heap; the numbers are keys of _exchanges
        self._exchanges: dict[int, _Exchange] = {}
        self._numbers = itertools.count()
        self._started = False

    @contextmanager
    def watch(self, exchange: _Exchange) -> Iterator[None]:
        """Let an exchange expire at its deadline, unless the block ends before."""
        with self._changed:
            number = next(self._numbers)
            self._exchanges[number] = exchange
            heapq.heappush(self._deadlines, (exchange.deadline, number))
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="geotile-deadlines", daemon=True).start()
            if self._deadlines[0][1] == number:
                self._changed.notify()
        try:
            yield
        finally:
            exchange.end()
            with self._changed:
                self._exchanges.pop(number, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._expire_due()
                wait_s = max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else _IDLE_S
                notified = self._changed.wait(min(wait_s, _IDLE_S))
                if not (notified or self._deadlines or self._exchanges):
                    self._started = False
                    return

    def _expire_due(self) -> None:
        while self._deadlines:
            deadline, number = self._deadlines[0]
            if number in self._exchanges and deadline > time.monotonic():
                return
            heapq.heappop(self._deadlines)
            if (exchange := self._exchanges.pop(number, None)) is not None:
                exchange.expire()


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # the socket is already closed
        # Below the TLS layer, because another thread is reading through that layer.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


_watcher = _Watcher()
os.register_at_fork(after_in_child=_watcher.__init__)  # type: ignore[misc]  # the child has no such thread


@contextmanager
def exchange_deadline(seconds: float) -> Iterator[float]:
    """Set a deadline for the requests of this thread, from connecting to the last byte of the responses.

    If the run that this thread works for is cancelled, the deadline is at once. The block must read the responses to
    their end, and ask `exchange_expired` at the end: a body without a length looks complete when its connection is
    shut down.

    Parameters
    ----------
    seconds : float
        Seconds until the deadline. Looking up a host name cannot be interrupted, and counts.

    Yields
    ------
    float
        The deadline as a time of the monotonic clock.
    """
    exchange = _Exchange(time.monotonic() + seconds)
    _current.exchange = exchange
    try:
        run = exchange.run
        with _watcher.watch(exchange), nullcontext() if run is None else when_cancelled(run, exchange.expire):
            yield exchange.deadline
    finally:
        _current.exchange = None


def exchange_expired() -> bool:
    """Return whether the deadline of this thread's exchange has passed."""
    exchange = getattr(_current, "exchange", None)
    return exchange is not None and exchange.expired


def exchange_cancelled() -> str | None:
    """Return why the run of this thread's exchange was cancelled, or None if it was not."""
    exchange = getattr(_current, "exchange", None)
    return None if exchange is None or exchange.run is None else cancel_reason(exchange.run)


class _DeadlineMixin:
    """Mixin for urllib3's connections that applies the deadline of the thread's exchange."""

    sock: Any
    _twin: socket.socket | None = None

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]  # defined by the connection class, like all below
        if (exchange := getattr(_current, "exchange", None)) is not None:
            self._twin = sock.dup()  # during the handshake nothing else holds the socket that TLS makes of this one
            exchange.hold(self._twin)
        return sock

    def connect(self) -> None:
        try:
            super().connect()  # type: ignore[misc]
            self._hold()
            self._give_time()
        finally:
            twin, self._twin = self._twin, None
            if twin is not None:
                _current.exchange.let_go(twin)
                twin.close()

    def request(self, *args: Any, **options: Any) -> Any:
        self._hold()
        self._give_time()
        return super().request(*args, **options)  # type: ignore[misc]

    def getresponse(self, *args: Any, **options: Any) -> Any:
        self._hold()
        return super().getresponse(*args, **options)  # type: ignore[misc]

    def _give_time(self) -> None:
        """Let the request be sent until the deadline; urllib3 allows it the time for a connection."""
        exchange = getattr(_current, "exchange", None)
        if exchange is not None and self.sock is not None:
            self.sock.settimeout(max(_MIN_S, exchange.deadline - time.monotonic()))

    def _hold(self) -> None:
        exchange = getattr(_current, "exchange", None)
        if exchange is not None and self.sock is not None:
            exchange.hold(self.sock)


def deadline_pools(pools: Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    """Return pool classes of urllib3, by scheme, whose connections apply the deadline of `exchange_deadline`."""
    return {scheme: _deadline_pool(pool) for scheme, pool in pools.items()}


def _deadline_pool(pool: type[Any]) -> type[Any]:
    connection = pool.ConnectionCls
    kind = type(connection.__name__, (_DeadlineMixin, connection), {"__module__": __name__})
    return type(pool.__name__, (pool,), {"ConnectionCls": kind, "__module__": __name__})


_POOLS = deadline_pools({"http": HTTPConnectionPool, "https": HTTPSConnectionPool})


def deadline_session(**pool_options: Any) -> requests.Session:
    """Return a session of `requests` that applies the deadline of `exchange_deadline`.

    Parameters
    ----------
    **pool_options
        Arguments of `requests.adapters.HTTPAdapter`.
    """
    session, adapter = requests.Session(), DeadlineAdapter(**pool_options)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class DeadlineAdapter(HTTPAdapter):
    """Adapter of `requests` whose connections apply the deadline of `exchange_deadline`, also through proxies."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Create the pool manager of direct connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pool manager of a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager
