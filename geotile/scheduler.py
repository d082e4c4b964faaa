"""The few questions geotile asks Dask about where it runs."""

from __future__ import annotations

import os
import sys
from typing import Any

import dask


def active_client() -> Any | None:
    """Return the active ``distributed.Client``, or None."""
    if dask.config.get("scheduler", None) not in (None, "dask.distributed", "distributed"):
        return None
    distributed = loaded_distributed()
    try:
        return distributed.get_client() if distributed else None
    except ValueError:
        return None


def loaded_distributed() -> Any | None:
    """Return the package `distributed` if anybody has imported it: without that, there is no client.

    Importing it takes half a second or more, which a run on threads need not pay.
    """
    return sys.modules.get("distributed")


def this_worker() -> Any | None:
    """Return the Dask worker whose task calls, or None. It is known in the task's own thread alone."""
    distributed = loaded_distributed()
    try:
        return distributed.get_worker() if distributed else None
    except ValueError:
        return None


def threads() -> int:
    """Return how many threads Dask would compute with, over all workers."""
    client = active_client()
    if client is not None:
        return sum(client.nthreads().values()) or 1
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return int(dask.config.get("num_workers", None) or os.cpu_count() or 1)


def processes() -> int:
    """Return how many processes would share the work."""
    client = active_client()
    if client is not None:
        return len(client.nthreads()) or 1
    if dask.config.get("scheduler", None) in ("processes", "multiprocessing"):
        return threads()
    return 1
