"""The connection of a service to its Dask cluster, which is renewed after it is lost."""

from __future__ import annotations

import logging
import time
from typing import Any

from geotile.core.dask_info import is_open
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ClusterError

_log = logging.getLogger(__name__)
_RECONNECT_INTERVAL_S = 5.0


class ClusterConnection:
    """Connection to a Dask cluster: threads of this process, a scheduler, or a cluster of a dask-gateway.

    Parameters
    ----------
    scheduler : str, optional
        Address of a Dask scheduler.
    gateway : str, optional
        URL of a dask-gateway. A cluster is started there and shut down together with the service.
    workers : tuple of int, default (1, 16)
        Minimum and maximum number of workers of the gateway's cluster.

    Raises
    ------
    ArgumentError
        If both `scheduler` and `gateway` are given.
    """

    def __init__(
        self, scheduler: str | None = None, gateway: str | None = None, workers: tuple[int, int] = (1, 16)
    ) -> None:
        if scheduler is not None and gateway is not None:
            raise ArgumentError("scheduler and gateway cannot be combined; got both. Use one of them.")
        self._scheduler, self._gateway_url, self._workers = scheduler, gateway, workers
        self._client: Any = None
        self._cluster: Any = None
        self._next_attempt, self._last_connected, self._last_error = 0.0, time.monotonic(), "no answer"

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up, as far as the client knows. Threads of this process are always connected."""
        client = self._client  # another thread may reconnect
        uses_threads = self._scheduler is None and self._gateway_url is None
        return uses_threads or (client is not None and is_open(client))

    def ensure_workers(self) -> bool:
        """Reconnect if the connection was lost; return whether the cluster has workers."""
        if self.is_connected:
            return self._client is None or bool(self._client.scheduler_info()["workers"])
        if time.monotonic() < self._next_attempt:
            return False
        self._next_attempt = time.monotonic() + _RECONNECT_INTERVAL_S
        try:
            self._connect()
        except Exception as error:  # whatever the cause: the next attempt follows, and readiness reports it
            self._last_error = f"{type(error).__name__}: {redact(str(error))}"
            _log.error("no cluster: %s", self._last_error)
            return False
        return bool(self._client.scheduler_info()["workers"])

    def raise_if_lost(self, timeout_s: float) -> None:
        """Raise an error if there has been no connection for some time.

        Raises
        ------
        ClusterError
            If the connection was not up within the last `timeout_s` seconds, in which this was called.
        """
        if self.is_connected:
            self._last_connected = time.monotonic()
        elif time.monotonic() - self._last_connected >= timeout_s:
            place = f"scheduler={self._scheduler}" if self._gateway_url is None else f"gateway={self._gateway_url}"
            raise ClusterError(
                f"no Dask cluster answered at {place} for {timeout_s:g} s ({self._last_error}). Check the address, or "
                "start the cluster"
            )

    def close(self) -> None:
        """Close the connection; shut the cluster down if this object started it."""
        for each in (self._client, self._cluster):
            try:
                if each is not None:
                    each.close()
            except Exception as error:  # the cluster or its gateway is lost; a gateway ends clusters that are idle
                _log.warning("the cluster could not be closed: %s: %s", type(error).__name__, redact(str(error)))
        self._client = self._cluster = None

    def _connect(self) -> None:
        from distributed import Client

        if self._client is not None:
            _log.warning("the connection to the cluster was lost; reconnecting")
        self.close()
        if self._gateway_url is None:
            self._client = Client(self._scheduler, timeout=_RECONNECT_INTERVAL_S)
            return
        from dask_gateway import GatewayCluster

        self._cluster = GatewayCluster(self._gateway_url)
        self._cluster.adapt(*self._workers)
        self._client = self._cluster.get_client()
