"""Connections with a deadline for the whole response, even if the server sends it byte by byte.

A socket's time-out starts again with every byte it receives, so a server that sends one byte per second never
exceeds it. While a connection waits for the head of a response, a watcher thread therefore holds the socket and
shuts it down at the deadline.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_IDLE_S = 1.0  # the watcher's thread ends when it has had nothing to watch for so long
_current = threading.local()


class _DeadlineWatcher:
    """A thread that shuts down sockets at their deadlines."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: list[tuple[float, int]] = []  # a heap; the numbers are keys of _sockets
        self._sockets: dict[int, socket.socket] = {}
        self._numbers = itertools.count()
        self._started = False

    @contextmanager
    def watch(self, sock: socket.socket, deadline: float) -> Iterator[None]:
        """Shut down a socket at a time of the monotonic clock, unless the block ends before."""
        with self._changed:
            number = next(self._numbers)
            self._sockets[number] = sock
            heapq.heappush(self._deadlines, (deadline, number))
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="geotile-deadlines", daemon=True).start()
            if self._deadlines[0][1] == number:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._sockets.pop(number, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._shut_down_expired()
                wait_s = max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else _IDLE_S
                notified = self._changed.wait(min(wait_s, _IDLE_S))
                if not (notified or self._deadlines or self._sockets):
                    self._started = False
                    return

    def _shut_down_expired(self) -> None:
        while self._deadlines:
            deadline, number = self._deadlines[0]
            if number in self._sockets and deadline > time.monotonic():
                return
            heapq.heappop(self._deadlines)
            if (sock := self._sockets.pop(number, None)) is not None:
                _shut_down(sock)


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # the socket is already closed
        # Below the TLS layer, because another thread is reading through that layer.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


_watcher = _DeadlineWatcher()
os.register_at_fork(after_in_child=_watcher.__init__)  # type: ignore[misc]  # the child has no such thread


@contextmanager
def response_deadline(seconds: float) -> Iterator[float]:
    """Set a deadline for the requests of this thread; yields the deadline as a time of the monotonic clock."""
    _current.deadline = time.monotonic() + seconds
    try:
        yield _current.deadline
    finally:
        _current.deadline = None


class _DeadlineMixin:
    """Mixin for urllib3's connections that applies the thread's deadline."""

    sock: Any

    def getresponse(self) -> Any:
        deadline = getattr(_current, "deadline", None)
        if deadline is None:
            return super().getresponse()  # type: ignore[misc]  # defined by the connection class
        with _watcher.watch(self.sock, deadline):
            return super().getresponse()  # type: ignore[misc]


class _Connection(_DeadlineMixin, HTTPConnection):
    pass


class _TlsConnection(_DeadlineMixin, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOL_CLASSES = {"http": _Pool, "https": _TlsPool}


class DeadlineAdapter(HTTPAdapter):
    """Adapter of `requests` whose connections apply the deadline of `response_deadline`, also through proxies."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Create the pool manager of direct connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pool manager of a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOL_CLASSES
        return manager
