"""What is decided about requests before the first one is sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from geotile.core.checks import as_int
from geotile.core.dask_info import active_client, max_threads_per_host, processes, threads
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError
from geotile.traffic.circuit import waiting_for_model
from geotile.traffic.coordinator import TrafficSettings
from geotile.traffic.limit import AutoLimit
from geotile.traffic.link import open_traffic

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.25, 10.0
_MAX_STEP_S = 1.0  # of a pause, after which is asked whether to wait on


def as_concurrency(concurrency: int | str) -> int | Literal["auto"]:
    """Return a user's `concurrency` argument, validated.

    Raises
    ------
    ArgumentError
        If it is neither "auto" nor a positive integer.
    """
    if concurrency == "auto":
        return "auto"
    if isinstance(concurrency, str):
        raise ArgumentError(f'concurrency must be a positive integer or "auto"; got {concurrency!r}')
    return as_int(concurrency, "concurrency", 1, unit="requests")


def traffic_settings(
    model: Endpoint, concurrency: int | Literal["auto"], group: str | None = None
) -> TrafficSettings | None:
    """Return the settings of a run's requests; None if the model runs in this process.

    Raises
    ------
    ArgumentError
        If `concurrency` cannot be divided among the processes.
    """
    if not model.remote:
        return None
    open_traffic()
    limit = concurrency
    if active_client() is None and (n_processes := processes()) > 1 and limit != "auto":
        if limit < n_processes:
            raise ArgumentError(
                f"concurrency must be at least {n_processes}, the number of processes of Dask's process scheduler; "
                f"got {limit}. Increase it, set num_workers, or use a LocalCluster"
            )
        limit //= n_processes  # these processes cannot share one coordinator
    return TrafficSettings(
        concurrency=limit, ready_timeout_s=model.retry_policy.ready_timeout_s,
        outage_timeout_s=model.retry_policy.outage_timeout_s, group=group,
    )  # fmt: skip


def threads_for(model: Endpoint, concurrency: int | Literal["auto"]) -> int:
    """Return the number of tile threads per process.

    The tile threads of a remote model only wait, for a response or for the next attempt, so there can be many.
    """
    if model.remote:
        return (AutoLimit().max_limit if concurrency == "auto" else 2 * concurrency) + 8
    threads_here = max(1, threads() // processes())
    return threads_here if concurrency == "auto" else max(1, min(concurrency // processes(), threads_here))


def wait_until_ready(model: Endpoint, waiting: Callable[[str], None] | None = None) -> Endpoint:
    """Wait for a model that is still starting; return the endpoint that the run uses.

    Parameters
    ----------
    model : Endpoint
    waiting : callable, optional
        Called every second with the reason of the wait; what it raises ends the wait.

    Raises
    ------
    EndpointError
        If the model is not ready after ``retry_policy.ready_timeout_s`` seconds, or never will be.
    """
    if not model.remote:
        model.ready()
        return model.for_run(max_threads_per_host())
    limit, started, pause = model.retry_policy.ready_timeout_s, time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            model.ready()
            return model.for_run(max_threads_per_host())
        except EndpointError as error:
            if not error.retryable or time.monotonic() - started >= limit:
                raise
            if pause == _FIRST_PAUSE_S:
                _log.warning("waiting up to %g s (ready_timeout_s) for the model: %s", limit, error)
            reason = waiting_for_model(str(error))
        _sleep(pause, reason, waiting)
        pause = min(2 * pause, _MAX_PAUSE_S)


def _sleep(seconds: float, reason: str, waiting: Callable[[str], None] | None) -> None:
    """Sleep, and call a function that may end the sleep with an error before each step."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if waiting is not None:
            waiting(reason)
        time.sleep(min(left, _MAX_STEP_S))
