"""Connections that end when an answer takes too long, however slowly it drips.

A socket's time-out starts anew with every byte; a server that sends one a second is never late for
it. So while an answer's head is awaited, a watchman knows the socket and when to shut it.
"""

from __future__ import annotations

import heapq
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_deadline = threading.local()


class _Watchman:
    """One thread that shuts sockets at their time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int]] = []
        self._sockets: dict[int, socket.socket] = {}
        self._numbers = itertools.count()
        self._started = False

    @contextmanager
    def watching(self, sock: socket.socket, deadline: float) -> Iterator[None]:
        """Shut a socket at a moment of the monotonic clock, unless the block ends before."""
        with self._changed:
            number = next(self._numbers)
            self._sockets[number] = sock
            heapq.heappush(self._due, (deadline, number))
            if not self._started:
                self._started = True
                threading.Thread(target=self._watch, name="geotile-watchman", daemon=True).start()
            if self._due[0][1] == number:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._sockets.pop(number, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                while self._due and (self._due[0][1] not in self._sockets or self._due[0][0] <= time.monotonic()):
                    sock = self._sockets.pop(heapq.heappop(self._due)[1], None)
                    if sock is not None:
                        _shut(sock)
                self._changed.wait(max(0.0, self._due[0][0] - time.monotonic()) if self._due else None)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS: the thread that reads is in the middle of it


_watchman = _Watchman()


@contextmanager
def answer_within(seconds: float) -> Iterator[float]:
    """Bound the requests of this thread; yields the moment at which they must be answered."""
    _deadline.at = time.monotonic() + seconds
    try:
        yield _deadline.at
    finally:
        _deadline.at = None


class _Timely:
    """Mixed into urllib3's connections."""

    sock: Any

    def getresponse(self) -> Any:
        deadline = getattr(_deadline, "at", None)
        if deadline is None:
            return super().getresponse()  # type: ignore[misc]  # of the connection it is mixed into
        with _watchman.watching(self.sock, deadline):
            return super().getresponse()  # type: ignore[misc]


class _Connection(_Timely, HTTPConnection):
    pass


class _TlsConnection(_Timely, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class TimelyAdapter(HTTPAdapter):
    """An adapter of `requests` that heeds `answer_within`, through proxies too."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make pools of connections that heed it."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make pools of connections that heed it."""
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager
