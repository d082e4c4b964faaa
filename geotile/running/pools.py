"""The tile threads of models in this process: region tasks share them, and they end with the last of these."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from geotile.core.daemon_pool import DaemonPool


class _Pools:
    """Pools by their number of threads, each with the number of its users."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pools: dict[int, DaemonPool] = {}
        self.users: dict[int, int] = {}


_pools = _Pools()
os.register_at_fork(after_in_child=_pools.__init__)  # type: ignore[misc]  # a forked child has no threads but its own


@contextmanager
def tile_threads(threads: int) -> Iterator[DaemonPool]:
    """Yield a pool of so many threads, which this process has once.

    Examples
    --------
    >>> with tile_threads(2) as one, tile_threads(2) as other:
    ...     one is other, one.submit(max, 1, 2).result()
    (True, 2)
    """
    with _pools.lock:
        if threads not in _pools.pools:
            _pools.pools[threads] = DaemonPool(threads, "geotile-tile")
        pool = _pools.pools[threads]
        _pools.users[threads] = _pools.users.get(threads, 0) + 1
    try:
        yield pool
    finally:
        with _pools.lock:
            _pools.users[threads] -= 1
            if not _pools.users[threads]:
                _pools.pools.pop(threads).shutdown(wait=False)  # what is queued still runs: it sees that it is too late
