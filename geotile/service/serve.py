"""`geotile.serve`: build a service from its arguments and run it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from geotile.core.checks import check_path
from geotile.core.option import with_options
from geotile.core.redact import redact
from geotile.options import ServiceOptions
from geotile.public import public
from geotile.service.cluster_connection import ClusterConnection
from geotile.service.endpoint_settings import bound
from geotile.service.logs import JobContext, logging_as_json
from geotile.service.loop import Service
from geotile.service.metrics import Gauge, Gauges, ServiceMetrics
from geotile.service.notifications import Notifier
from geotile.service.open_queue import open_queue
from geotile.service.page.access import Access
from geotile.service.page.app import Page
from geotile.service.submit import state_folder
from geotile.service.web import serve_http
from geotile.traffic import traffic_now

_log = logging.getLogger(__name__)


@public
@with_options(ServiceOptions)
def serve(queue: str | os.PathLike[str], options: ServiceOptions) -> None:
    """Run the jobs of a queue, like OversightML's model runner.

    For each request, the images are processed as by `geotile.detect_to`, status notifications are sent and the outputs
    are written. Only then is the request removed from the queue. If the process dies, its requests remain in the queue
    and its finished regions in the state folder, and the next process resumes from there. SIGTERM and SIGINT stop the
    service if it runs in the main thread.

    Parameters
    ----------
    queue : str or path
        A folder that receives requests as JSON files, or ``sqs://`` followed by the URL or name of an SQS queue.
    {options}

    Raises
    ------
    ArgumentError
        If an argument is invalid.
    ServiceError
        If the queue cannot be reached; or if `once` and it cannot be used for 60 s.
    ClusterError
        If `once` and there is no connection to the Dask cluster for 60 s.

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
    uri = check_path(queue, "queue")
    folder, options = state_folder(uri, options.state), bound(options)
    job_context, metrics = JobContext(), ServiceMetrics()
    cluster = ClusterConnection(options.scheduler, options.gateway, options.workers)
    requests, notifier = open_queue(uri, options.dead_letters), Notifier(options.status, options.region_status)
    service = Service(requests, folder, notifier, options, metrics, job_context, cluster)
    metrics.read_gauges = lambda: _gauges(service)
    with ExitStack() as stack:
        stack.enter_context(logging_as_json(job_context))
        stack.callback(cluster.close)
        stack.enter_context(_stopped_by_signals(service))
        if options.address is not None:
            access = _access(options.address, options)
            page = _page(uri, service, access)
            url = stack.enter_context(
                serve_http(
                    options.address, service.health, lambda: service.ready, metrics.registry, page, access.knows_host
                )
            )  # fmt: skip
            _log.info("page, health and metrics at %s", url)
        _log.info("serving %s, state in %s", redact(uri), folder.display_name)
        service.run()


def _access(address: str, options: ServiceOptions) -> Access:
    """Return who may read and use the page of a service."""
    hosts = options.page_hosts or ()
    return Access(options.page_token, address, [hosts] if isinstance(hosts, str) else hosts)


def _page(queue: str, service: Service, access: Access) -> Page:
    """Return the page of a service."""
    return Page(
        queue=queue, records=service.records, access=access, health=service.health,
        waiting=lambda: service.intake.queue_depth,
    )  # fmt: skip


@contextmanager
def _stopped_by_signals(service: Service) -> Iterator[None]:
    """Stop a service at SIGTERM and SIGINT while the block runs.

    A second signal ends the time that running jobs have, and a third one has its usual effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {each: signal.getsignal(each) for each in signals}

    def stop(number: int, frame: Any) -> None:
        if service.stopping.is_set():
            for each in signals:
                signal.signal(each, previous[each])
        service.stop()

    for each in signals:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in signals:
            signal.signal(each, previous[each])


def _gauges(service: Service) -> Gauges:
    waiting, running = [*service.backlog.waiting], [*service.backlog.running]  # other threads change them
    endpoints = {job.endpoint_key: redact(job.request.image_processor.endpoint) for job in [*waiting, *running]}
    traffic = {endpoints[key]: values for key, values in traffic_now().items() if key in endpoints}
    return {
        "queue_depth": Gauge("Requests that wait in the queue", "", {"": service.intake.queue_depth}),
        "jobs_waiting": Gauge("Jobs taken from the queue that have not started", *_by_endpoint(waiting, endpoints)),
        "jobs_running": Gauge("Jobs in progress", *_by_endpoint(running, endpoints)),
        "in_flight": Gauge("Requests in flight", "endpoint", {name: each[0] for name, each in traffic.items()}),
        "concurrency": Gauge(
            "Maximum number of requests in flight", "endpoint", {name: each[1] for name, each in traffic.items()}
        ),
        **service.job_runner.progress.gauges(),
        "loop_age_seconds": Gauge("Seconds since a loop last turned", "loop", service.health.ages_s()),
        "errors": Gauge(
            "Errors of the service's loops and of its queue since its start", "part",
            {name: float(each.total) for name, each in list(service.health.errors.items())},
        ),
    }  # fmt: skip


def _by_endpoint(jobs: list[Any], endpoints: dict[str, str]) -> tuple[str, dict[str, float]]:
    return "endpoint", {
        endpoints[key]: float(count) for key, count in Counter(job.endpoint_key for job in jobs).items()
    }
