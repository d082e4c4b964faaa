"""Checks before the first request: the cluster, the limits of requests, and the model."""

from __future__ import annotations

from collections.abc import Sequence

from geotile.core.thresholds import lowest
from geotile.endpoints import Endpoint
from geotile.imagery.source import Source
from geotile.options import JobOptions
from geotile.running.cluster import check_cluster
from geotile.running.hooks import RunHooks
from geotile.storage.folder import Folder
from geotile.traffic import TrafficSettings, as_concurrency, traffic_settings, wait_until_ready


def ready_endpoint(
    endpoint: Endpoint,
    options: JobOptions,
    source: Source | None,
    folders: Sequence[Folder | None],
    hooks: RunHooks,
) -> tuple[Endpoint, TrafficSettings | None]:
    """Check the cluster and wait for the model.

    Parameters
    ----------
    endpoint : Endpoint
    options : JobOptions
    source : Source or None
        File that the image is read from; None for a computed array.
    folders : sequence of Folder or None
        Folders in which workers write.
    hooks : RunHooks
        What a service adds.

    Returns
    -------
    tuple
        The endpoint as the run uses it, and the limits of its requests; None where the model runs in the process.

    Raises
    ------
    ArgumentError
        If a worker of the cluster cannot do the run.
    EndpointError
        If the model is not ready in time.
    """
    if options.score_threshold is not None:
        endpoint = endpoint.with_score_threshold(lowest(options.score_threshold))
    check_cluster(endpoint, source, [folder for folder in folders if folder is not None])
    traffic = traffic_settings(endpoint, as_concurrency(options.concurrency), hooks.group)
    return wait_until_ready(endpoint, hooks.waiting), traffic
