"""The coordinators of the active cluster, or of this process: installed, asked and stopped."""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any

from geotile.core.dask_info import active_client, is_open
from geotile.errors import ArgumentError
from geotile.results.report import NO_TRAFFIC, Traffic
from geotile.traffic.gates import close_gates, local_registry, stop_run

_STOP_TIMEOUT_S = 5.0


def open_traffic() -> None:
    """Install the coordinators on the Dask cluster's scheduler, if there is a cluster.

    Raises
    ------
    ArgumentError
        If they cannot be installed there.
    """
    client = active_client()
    if client is None:
        return
    from geotile.traffic.plugin import TrafficPlugin

    try:
        client.register_plugin(TrafficPlugin(), name=TrafficPlugin.name)
    except OSError:
        raise  # the connection is lost, whatever is installed there
    except Exception as error:  # unpickling fails in many ways if geotile is missing or has another version
        raise ArgumentError(
            f"the Dask scheduler at {client.scheduler.address} cannot coordinate the requests "
            f"({type(error).__name__}: {error}); install the same version of geotile there as here"
        ) from None


def begin_run(run: str) -> None:
    """Register a run with the cluster's scheduler, which stops the run when this client disconnects.

    Raises
    ------
    ArgumentError
        If the scheduler cannot coordinate the requests.
    """
    open_traffic()
    if (client := active_client()) is not None:
        client.sync(client.scheduler.geotile_begin, run=run, client=client.id)


def stop_run_everywhere(run: str, reason: str) -> None:
    """Stop a run in all processes that can be reached."""
    stop_run(run, reason)
    client = active_client()
    if client is None or not is_open(client):
        local_registry.finish(run)
        return
    with suppress(OSError, TimeoutError):  # the scheduler is gone, and its workers are gone or stop soon
        client.sync(client.scheduler.geotile_stop, run=run, reason=reason, callback_timeout=_STOP_TIMEOUT_S)


def end_traffic(run: str) -> Traffic:
    """Remove a run; return the summary of its requests."""
    close_gates(run)
    client, traffic = active_client(), None
    if client is None:
        traffic = local_registry.finish(run)
    elif is_open(client):
        with suppress(OSError):  # the scheduler and its summary are gone; the run's own error reports that
            traffic = pickle.loads(client.sync(client.scheduler.geotile_traffic_end, run=run))
    return traffic or NO_TRAFFIC


def waiting_for(run: str, client: Any | None) -> str:
    """Return why a run sends no requests; an empty text if it does, or if that is not known.

    `client` is the active one of the thread that started the run: other threads may have none.
    """
    if client is None:
        return local_registry.waiting_for(run)
    if not is_open(client):
        return ""
    with suppress(OSError, TimeoutError):  # the scheduler is gone; the run's own error reports that
        reason: str = client.sync(client.scheduler.geotile_waiting_for, run=run, callback_timeout=_STOP_TIMEOUT_S)
        return reason
    return ""


def traffic_now() -> dict[str, tuple[int, int]]:
    """Return the number of requests in flight and the limit, for each group and each run without a group."""
    client = active_client()
    if client is None or not hasattr(client.scheduler, "geotile_traffic_now"):
        return local_registry.in_flight_and_limits()
    with suppress(OSError):  # the scheduler is gone
        numbers: dict[str, tuple[int, int]] = pickle.loads(client.sync(client.scheduler.geotile_traffic_now))
        return numbers
    return {}
