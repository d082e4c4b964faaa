"""What geotile asks Dask about the place where it runs, and how it lets Dask go on while it waits."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from numbers import Integral
from threading import Lock, current_thread, main_thread
from typing import Any
from urllib.parse import urlsplit

import dask
from dask.base import get_scheduler

from geotile.core.daemon_pool import DaemonPool
from geotile.errors import ClusterError

_process_of: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""Number of the process that asked for a client first."""
_SYNCHRONOUS = ("sync", "synchronous", "single-threaded")
_LOCAL = (
    dict.fromkeys(_SYNCHRONOUS, "dask.local:get_sync")
    | dict.fromkeys(("threads", "threading"), "dask.threaded:get")
    | dict.fromkeys(("processes", "multiprocessing"), "dask.multiprocessing:get")
)


def active_client() -> Any | None:
    """Return the active ``distributed.Client``, or None.

    Raises
    ------
    ClusterError
        If it is asynchronous: geotile waits for results, which such a client only promises; if it belongs to another
        process; if Dask is set to use a client, and there is none.
    """
    scheduler = _scheduler()
    if scheduler not in (None, "dask.distributed", "distributed") and not _is_client(scheduler):
        return None
    distributed = loaded_distributed()
    try:
        client = scheduler if _is_client(scheduler) else distributed.get_client() if distributed else None
    except ValueError:
        client = None
    if client is None and scheduler is not None:
        raise ClusterError(
            f"Dask's setting scheduler={scheduler!r} asks for a cluster, but no client is active: perhaps one failed "
            "to start. Make a client, for example distributed.Client(), or call dask.config.set(scheduler=None)"
        )
    if client is not None and client.asynchronous and this_worker() is None:
        raise ClusterError(
            "the active Dask client is asynchronous. Use Client() without asynchronous=True, and call geotile from a "
            "thread, for example with asyncio.to_thread"
        )
    if client is not None and _process_of.setdefault(client, os.getpid()) != os.getpid():
        raise ClusterError(
            "the active Dask client belongs to the process that this one was forked from. Start this process with "
            "multiprocessing.get_context('spawn'), or make a client of its own in it"
        )
    return client


def is_open(client: Any) -> bool:
    """Return whether a client still has its scheduler: a thread of the user can close it, or its cluster."""
    return client.status == "running" and client.scheduler is not None


def _scheduler() -> Any:
    """Return Dask's setting of the scheduler; names in lower case, as Dask reads them.

    Raises
    ------
    ClusterError
        If Dask does not know it.
    """
    scheduler = dask.config.get("scheduler", None)
    if isinstance(scheduler, str):
        scheduler = scheduler.lower()
    if scheduler is None or scheduler in ("dask.distributed", "distributed") or _is_client(scheduler):
        return scheduler
    try:
        get_scheduler(scheduler=scheduler)
    except Exception as error:  # of any kind, for values of any type
        raise ClusterError(
            f"Dask's setting scheduler={scheduler!r} cannot be used ({error}). Choose 'threads', 'processes' or "
            "'synchronous', or make a distributed.Client()"
        ) from None
    return scheduler


def _is_client(scheduler: Any) -> bool:
    distributed = loaded_distributed()
    return distributed is not None and isinstance(scheduler, distributed.Client)


def loaded_distributed() -> Any | None:
    """Return the package `distributed` if it has been imported, else None: without it, there is no client.

    Importing it takes half a second or more. A run on threads does not need it.
    """
    module = sys.modules.get("distributed")
    return module if hasattr(module, "get_client") else None  # another thread may be importing it


def this_worker() -> Any | None:
    """Return the Dask worker that runs the current task, or None.

    Dask knows it only in the thread of the task itself.
    """
    distributed = loaded_distributed()
    try:
        return distributed.get_worker() if distributed else None
    except ValueError:
        return None


def threads() -> int:
    """Return the number of threads that Dask computes with, over all workers."""
    client = active_client()
    if client is not None:
        return sum(_threads_by_worker(client).values()) or 1
    if _scheduler() in _SYNCHRONOUS:
        return 1
    given = dask.config.get("num_workers", None)
    if given is not None and (not isinstance(given, Integral) or given < 1):
        raise ClusterError(f"Dask's setting num_workers must be a whole number, 1 or more; got {given!r}")
    return int(given or os.cpu_count() or 1)


def processes() -> int:
    """Return the number of processes that Dask computes with."""
    client = active_client()
    if client is not None:
        return len(_threads_by_worker(client)) or 1
    if _scheduler() in ("processes", "multiprocessing"):
        return threads()
    return 1


def max_threads_per_host() -> int:
    """Return the number of Dask threads on the host that has the largest number of them."""
    client = active_client()
    if client is None:
        return threads()
    hosts: dict[str | None, int] = {}
    for address, worker_threads in _threads_by_worker(client).items():
        host = urlsplit(address).hostname
        hosts[host] = hosts.get(host, 0) + worker_threads
    return max(hosts.values(), default=1)


def memory_per_thread() -> float | None:
    """Return the memory that a worker has for each of its threads, in bytes, the least; None if it has no limit."""
    client = active_client()
    if client is None:
        return None
    with _saying_that_it_is_gone():
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    shares = [each["memory_limit"] / each["nthreads"] for each in workers if each["memory_limit"] and each["nthreads"]]
    return min(shares, default=None)


def _threads_by_worker(client: Any) -> dict[str, int]:
    with _saying_that_it_is_gone():
        return dict(client.nthreads())


@contextmanager
def _saying_that_it_is_gone() -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"the Dask cluster does not answer ({type(error).__name__}: {error}). Check that its scheduler is running."
        ) from None


_MAX_WAITING = 8  # regions that wait for their model while others are read; never more than the worker has threads
_waiting = 0
_lock = Lock()


@contextmanager
def waiting_elsewhere() -> Iterator[None]:
    """Let the Dask worker run another task while this one waits for responses, up to a limit."""
    global _waiting
    worker = this_worker()
    with _lock:
        leaves = worker is not None and _waiting < min(_MAX_WAITING, worker.state.nthreads)
        _waiting += leaves
    if leaves:
        distributed = loaded_distributed()
        distributed.secede()  # type: ignore[union-attr]  # there is a worker, so the package is loaded
    try:
        yield
    finally:
        with _lock:
            _waiting -= leaves


def compute_options(*, ahead: bool, single: bool = False) -> dict[str, Any]:
    """Return the options of a Dask ``compute``.

    Without an active client Dask's local scheduler is named explicitly: Dask would otherwise import `distributed` to
    look for a client, which takes 0.35 s.

    Parameters
    ----------
    ahead : bool
        Whether tasks wait for a remote model, so that more threads are worth having.
    single : bool
        Whether there is but one task to speak of. Then the calling thread computes it, unless it is the main one, which
        must see an interrupt at once. A new thread costs the first image or CRS in it 7 ms: PROJ opens its database.
    """
    name = _scheduler() or "threads"
    if active_client() is not None or name not in _LOCAL:
        return {}
    if single and name in ("threads", "threading") and current_thread() is not main_thread():
        name = "synchronous"
    module, _, function = _LOCAL[name].partition(":")
    options: dict[str, Any] = {"scheduler": getattr(import_module(module), function)}
    workers = threads() + (min(_MAX_WAITING, threads()) if ahead else 0)
    if processes() == 1 and name not in _SYNCHRONOUS and dask.config.get("pool", None) is None:
        options["pool"] = DaemonPool(workers, "geotile-dask")  # it does not hold the exit, and works after a fork
    return options


def _after_fork() -> None:
    """Forget the tasks of the parent: their threads are not in this process."""
    global _waiting, _lock
    _waiting, _lock = 0, Lock()


os.register_at_fork(after_in_child=_after_fork)
