"""What is settled about requests before the first one."""

from __future__ import annotations

import logging
import time
from typing import Literal

from geotile.core.checks import as_int
from geotile.core.dask_info import active_client, max_threads_per_host, processes, threads
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError
from geotile.traffic.coordinator import Rules
from geotile.traffic.limit import AutoLimit
from geotile.traffic.link import open_traffic

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0


def as_concurrency(concurrency: int | str) -> int | Literal["auto"]:
    """Return what a user gave as concurrency.

    Raises
    ------
    ArgumentError
        If it is neither "auto" nor a number of requests.
    """
    if concurrency == "auto":
        return "auto"
    if isinstance(concurrency, str):
        raise ArgumentError(f"concurrency={concurrency!r} is no number of requests; give one, or 'auto'")
    return as_int(concurrency, "concurrency", 1, unit="requests")


def rules_for(model: Endpoint, concurrency: int | Literal["auto"], group: str | None = None) -> Rules | None:
    """Return the rules of a run's requests; None where the model runs in the process.

    Raises
    ------
    ArgumentError
        If the processes cannot keep to the number.
    """
    if not model.remote:
        return None
    open_traffic()
    most = concurrency
    if active_client() is None and (share := processes()) > 1 and most != "auto":
        if most < share:
            raise ArgumentError(
                f"concurrency={most} is less than the {share} processes of Dask's process scheduler, which cannot "
                "share it; give more, set num_workers, or use a LocalCluster"
            )
        most //= share  # these processes know nothing of each other
    return Rules(
        concurrency=most, ready_timeout_s=model.retry_policy.ready_timeout_s,
        outage_timeout_s=model.retry_policy.outage_timeout_s, group=group,
    )  # fmt: skip


def threads_for(model: Endpoint, concurrency: int | Literal["auto"]) -> int:
    """Return how many threads tiles have in a process.

    Those of a model elsewhere only wait: for an answer, or to try again.
    """
    if model.remote:
        return (AutoLimit().most if concurrency == "auto" else 2 * concurrency) + 8
    here = max(1, threads() // processes())
    return here if concurrency == "auto" else max(1, min(concurrency // processes(), here))


def wait_until_ready(model: Endpoint) -> Endpoint:
    """Wait for a model that is starting, and return it as the run is to ask it.

    Raises
    ------
    EndpointError
        If it is not there after ``retry_policy.ready_timeout_s`` seconds, or never will be.
    """
    if not model.remote:
        model.ready()
        return model.for_run(max_threads_per_host())
    limit, began, pause = model.retry_policy.ready_timeout_s, time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            model.ready()
            return model.for_run(max_threads_per_host())
        except EndpointError as error:
            if not error.retryable or time.monotonic() - began >= limit:
                raise
            if pause == _FIRST_PAUSE_S:
                _log.warning("waiting up to ready_timeout_s=%g s for the model: %s", limit, error)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
