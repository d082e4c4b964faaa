"""A pool of threads that does not hold the end of the process.

Python joins the threads of a `ThreadPoolExecutor` when the process exits, so one call that waits for a server, a store
or a user's function would hold the exit for as long as it likes.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

_EXIT_S = 1.0  # that threads get at the end of the process, since one that is ended inside of C code may crash it
_pools: weakref.WeakSet[DaemonPool] = weakref.WeakSet()


class DaemonPool(Executor):
    """Executor of daemon threads, which start when they are needed and end after `shutdown` or with the pool.

    Parameters
    ----------
    max_workers : int
        Maximum number of threads, without as many that are `away`.
    thread_name_prefix : str
        Beginning of the names of the threads.

    Examples
    --------
    >>> with DaemonPool(2, "example") as pool:
    ...     pool.submit(max, 1, 2).result()
    2
    """

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        self._max_workers, self._prefix = max_workers, thread_name_prefix  # Dask reads the first of them
        self._work: SimpleQueue[Any] = SimpleQueue()
        self._idle, self._lock, self._away = threading.Semaphore(0), threading.Lock(), 0
        self._threads: list[threading.Thread] = []
        self._end = weakref.finalize(self, self._work.put, None)
        self._end.atexit = False  # _give_time does it
        _pools.add(self)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the future of a call, which a thread makes as soon as one is free.

        Raises
        ------
        RuntimeError
            If no thread can be started for it; then the call is not made.
        """
        future: Future[Any] = Future()
        self._work.put((future, fn, args, kwargs))
        with self._lock:
            if not self._idle.acquire(blocking=False) and self._has_room:
                try:
                    self._start_thread()
                except RuntimeError:
                    if future.cancel():  # else a thread has become free and makes the call
                        raise
        return future

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let another thread make calls while a call of this pool only waits, so that it holds up no other."""
        with self._lock:
            self._away += 1
            if self._has_room and not self._work.empty():
                with suppress(RuntimeError):  # no thread could be started: the calls wait for the next that is free
                    self._start_thread()
        try:
            yield
        finally:
            with self._lock:
                self._away -= 1

    @property
    def _has_room(self) -> bool:
        return len(self._threads) - min(self._away, self._max_workers) < self._max_workers

    def _start_thread(self) -> None:
        name = f"{self._prefix}_{len(self._threads)}"
        thread = threading.Thread(target=_work_on, args=(self._work, self._idle), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads when all calls have been made."""
        self._end()
        if wait:
            self.join(None)

    def join(self, deadline: float | None) -> None:
        """Wait for the threads, or until a time of the monotonic clock."""
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))


def _work_on(work: SimpleQueue[Any], idle: threading.Semaphore) -> None:
    """Make the calls of a queue until it holds None, which stays there for the other threads."""
    while (item := _next(work, idle)) is not None:
        _make(*item)
        del item  # it must not live until the next one comes
    work.put(None)


def _next(work: SimpleQueue[Any], idle: threading.Semaphore) -> Any:
    try:
        return work.get_nowait()
    except Empty:
        idle.release()
        return work.get()


def _make(future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # it belongs to whoever waits for the future
        future.set_exception(error)
    else:
        future.set_result(result)


os.register_at_fork(after_in_child=_pools.clear)  # the threads of the parent are not in the child


@atexit.register
def _give_time() -> None:
    deadline = time.monotonic() + _EXIT_S
    for pool in list(_pools):
        pool.shutdown(wait=False)
        pool.join(deadline)
