"""The cluster that a service works on: kept in reach, or asked for anew."""

from __future__ import annotations

import logging
import time
from typing import Any

from geotile.errors import ArgumentError

_log = logging.getLogger(__name__)
_PAUSE_S = 5.0


class Cluster:
    """A Dask cluster: threads of this process, a scheduler's, or one of a gateway.

    Parameters
    ----------
    scheduler : str, optional
        Address of a scheduler.
    gateway : str, optional
        Url of a dask-gateway; a cluster is started there, and ended with the service.
    workers : tuple of int
        Least and most workers of a gateway's cluster.
    """

    def __init__(
        self, scheduler: str | None = None, gateway: str | None = None, workers: tuple[int, int] = (1, 16)
    ) -> None:
        if scheduler is not None and gateway is not None:
            raise ArgumentError("give a scheduler or a gateway, not both")
        self._scheduler, self._gateway_url, self._workers = scheduler, gateway, workers
        self._client: Any = None
        self._cluster: Any = None
        self._next = 0.0

    @property
    def stands(self) -> bool:
        """Whether the connection stands, as far as is known."""
        client = self._client  # another thread may connect again
        threads = self._scheduler is None and self._gateway_url is None
        return threads or (client is not None and client.status == "running")

    def connected(self) -> bool:
        """Tell whether there are workers; connect again if they were lost."""
        if self.stands:
            return self._client is None or bool(self._client.scheduler_info()["workers"])
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _PAUSE_S
        try:
            self._connect()
        except Exception as error:  # whatever keeps a cluster away: it is tried again, and readiness says so
            _log.error("no cluster: %s: %s", type(error).__name__, error)
            return False
        return bool(self._client.scheduler_info()["workers"])

    def close(self) -> None:
        """Leave the cluster; end it if it is ours."""
        for each in (self._client, self._cluster):
            try:
                if each is not None:
                    each.close()
            except Exception as error:  # it is lost, or its gateway is, which ends it when it is idle
                _log.warning("a cluster could not be closed: %s: %s", type(error).__name__, error)
        self._client = self._cluster = None

    def _connect(self) -> None:
        from distributed import Client

        if self._client is not None:
            _log.warning("the cluster was lost; connecting again")
        self.close()
        if self._gateway_url is None:
            self._client = Client(self._scheduler, timeout=_PAUSE_S)
            return
        from dask_gateway import GatewayCluster

        self._cluster = GatewayCluster(self._gateway_url)
        self._cluster.adapt(*self._workers)
        self._client = self._cluster.get_client()
