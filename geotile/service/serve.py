"""`geotile.serve`: everything that a service needs, put together."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from geotile.core.redact import redact
from geotile.service.cluster_connection import Cluster
from geotile.service.folder_queue import as_queue
from geotile.service.logs import RunNames, logging_as_json
from geotile.service.loop import Service, ServiceOptions
from geotile.service.metrics import Gauges, Meters
from geotile.service.notifications import Announcer
from geotile.service.submit import state_folder
from geotile.service.web import answering
from geotile.traffic import traffic_now

_log = logging.getLogger(__name__)
_DEAF_S = 60.0


def serve(
    queue: str | os.PathLike[str], *, status: str | None = None, state: str | os.PathLike[str] | None = None,
    dead_letters: str | None = None, scheduler: str | None = None, gateway: str | None = None,
    workers: tuple[int, int] = (1, 16), address: str | None = None, **options: Any,
) -> None:  # fmt: skip
    """Do the jobs of a queue: what OversightML's model runner does.

    Each request's images are run as by `geotile.detect_to`, its statuses announced, its outputs written, and only
    then is it taken out of the queue. A process that dies leaves its requests in the queue and its finished regions
    in the state: the next one goes on from there. It ends on SIGTERM and SIGINT, in the main thread.

    Parameters
    ----------
    queue : str or path
        A folder that requests are dropped into as JSON files; or ``sqs://`` and an SQS queue's url or name.
    status : str, optional
        ``sns://`` and the ARN of a topic for statuses. They are lines of JSON on standard output too.
    state : str or path, optional
        Folder or fsspec uri of records and checkpoints; needed with SQS, ``state/`` in the queue's folder otherwise.
    dead_letters : str, optional
        ``sqs://`` queue for requests that fail for good; by default that of the queue's redrive policy.
    scheduler : str, optional
        Address of a Dask scheduler. By default jobs run on threads of this process.
    gateway : str, optional
        Url of a dask-gateway, where a cluster is started.
    workers : tuple of int
        Least and most workers of that.
    address : str, optional
        ``host:port`` for ``/healthz``, ``/readyz`` and ``/metrics``.
    **options
        Fields of `ServiceOptions`.

    Raises
    ------
    ArgumentError
        If something cannot be used as it is given.
    ServiceError
        If the queue cannot be reached.

    Examples
    --------
    >>> import geotile, tempfile
    >>> from geotile.testing import ModelServer, bright_objects, write_example
    >>> folder = tempfile.mkdtemp()
    >>> with ModelServer(bright_objects) as model:
    ...     _ = geotile.submit({
    ...         "jobId": "first", "imageUrls": [write_example()], "imageProcessorTileSize": 128,
    ...         "imageProcessor": {"name": model.url, "type": "HTTP_ENDPOINT"},
    ...         "outputs": [{"type": "File", "path": folder}]}, folder)
    ...     geotile.serve(folder, once=True)  # doctest: +ELLIPSIS
    {"time": ..., "status": "STARTED", "job_id": "first", ...}
    ...
    {"time": ..., "status": "SUCCESS", "job_id": "first", ...}
    """
    wanted, uri = ServiceOptions(**options), str(os.fspath(queue))
    folder = state_folder(uri, state)
    names, meters, cluster = RunNames(), Meters(), Cluster(scheduler, gateway, workers)
    service = Service(as_queue(uri, dead_letters), folder, Announcer(status), wanted, meters, names, cluster)
    meters.look = lambda: _gauges(service)
    with ExitStack() as stack:
        stack.enter_context(logging_as_json(names))
        stack.callback(cluster.close)
        stack.enter_context(_stopping(service))
        if address is not None:
            alive = lambda: time.monotonic() - service.alive < _DEAF_S  # noqa: E731
            url = stack.enter_context(answering(address, alive, lambda: service.ready, meters.registry))
            _log.info("health and metrics at %s", url)
        _log.info("serving %s, state in %s", redact(uri), folder.display_name)
        service.run()


@contextmanager
def _stopping(service: Service) -> Iterator[None]:
    """Stop a service at SIGTERM and SIGINT; a second one ends the process as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.getsignal(each) for each in signals}

    def stop(number: int, frame: Any) -> None:
        for each in signals:
            signal.signal(each, before[each])
        service.stop()

    for each in signals:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in signals:
            signal.signal(each, before[each])


def _gauges(service: Service) -> Gauges:
    backlog = service.backlog
    shown = {job.target: redact(job.request.image_processor.endpoint) for job in [*backlog.waiting, *backlog.running]}
    now = traffic_now()
    return {
        "queue_depth": ("Requests that wait in the queue", {"": service.queue.depth()}),
        "jobs_waiting": ("Jobs taken in that wait for their turn", _by_endpoint(backlog.waiting, shown)),
        "jobs_running": ("Jobs that are worked on", _by_endpoint(backlog.running, shown)),
        "in_flight": ("Requests in flight", {shown[key]: n for key, (n, _) in now.items() if key in shown}),
        "concurrency": ("Requests allowed in flight", {shown[key]: n for key, (_, n) in now.items() if key in shown}),
    }


def _by_endpoint(jobs: list[Any], shown: dict[str, str]) -> dict[str, float]:
    return {shown[key]: float(count) for key, count in Counter(job.target for job in jobs).items()}
