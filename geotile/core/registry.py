"""A small cache of one process: the models, clients and sessions that are opened once and used by many threads."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Registry(Generic[K, V]):
    """A thread-safe cache that evicts the least recently used value.

    Values are built outside the lock of the registry, so a slow factory delays only the threads that wait for the same
    key.

    Parameters
    ----------
    limit : int
        Maximum number of values.
    close : callable, optional
        ``close(value)`` is called for each value that is evicted, replaced or cleared.

    Examples
    --------
    >>> squares = Registry[int, int](2)
    >>> [squares.get(n, lambda: n * n) for n in (2, 3, 2, 4)]
    [4, 9, 4, 16]
    >>> [squares.peek(n) for n in (2, 3, 4)]
    [4, None, 16]
    """

    def __init__(self, limit: int, *, close: Callable[[V], None] | None = None) -> None:
        self._limit, self._close = limit, close
        _registries.add(self)
        self._forget()

    def _forget(self) -> None:
        self._values: OrderedDict[K, V] = OrderedDict()
        self._building: dict[K, Lock] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K, factory: Callable[[], V]) -> V:
        """Return the value of a key; build it first if there is none.

        Concurrent calls with one key build its value once. If the factory raises, the exception reaches its caller,
        nothing is stored, and the next call tries again.
        """
        while True:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key]
                building = self._building.setdefault(key, Lock())
            with building:
                if self._building.get(key) is not building:
                    continue  # another thread has built the value, or failed to
                try:
                    value = factory()
                    self.put(key, value)
                finally:
                    del self._building[key]
                return value

    def peek(self, key: K) -> V | None:
        """Return the value of a key, or None if there is none. Builds nothing."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Store a value, in place of the one that the key has."""
        with self._lock:
            evicted = [self._values.pop(key)] if key in self._values else []
            self._values[key] = value
            while len(self._values) > self._limit:
                evicted.append(self._values.popitem(last=False)[1])
        self._close_all(evicted)

    def discard(self, key: K, value: V) -> None:
        """Remove a value if it is still the one of the key, so that a newer one stays."""
        with self._lock:
            evicted = [self._values.pop(key)] if self._values.get(key) is value else []
        self._close_all(evicted)

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            evicted = list(self._values.values())
            self._values.clear()
        self._close_all(evicted)

    def _close_all(self, values: list[V]) -> None:
        if self._close is not None:
            for value in values:
                self._close(value)


_registries: weakref.WeakSet[Registry[Any, Any]] = weakref.WeakSet()


def _forget_all() -> None:
    """Forget what was opened before a fork: the child would share sockets and positions in files with its parent.

    The values are never destroyed, since that of a model waits for threads that the child does not have.
    """
    for each in list(_registries):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each._values))
        each._forget()


os.register_at_fork(after_in_child=_forget_all)
