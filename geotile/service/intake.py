"""Intake of requests: from the queue into the backlog.

::

    Queue ─ receive ─▶ parse ─▶ inspect: read image headers, count tiles ─▶ Backlog.waiting
                         │ not a request      │ fails
                         ▼                    ▼
                       reject      release, or reject if the error is permanent
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from geotile.core.redact import redact
from geotile.errors import GeotileError, ServiceError
from geotile.options import ServiceOptions
from geotile.service.admission import admit
from geotile.service.backlog import Backlog, Job
from geotile.service.cluster_connection import ClusterConnection
from geotile.service.lifecycle import JobLifecycle
from geotile.service.permissions import Permissions
from geotile.service.queue import Delivery, Queue
from geotile.service.records import JobRecord, Records
from geotile.service.request import JobRequest

_log = logging.getLogger(__name__)
RECEIVE_WAIT_S = 5.0  # long polling; a service that is stopping waits for its end
_ERROR_DELAY_S = 5.0
_INSPECTION_THREADS = 4


def _inspection_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_INSPECTION_THREADS, "geotile-inspect")


@dataclass(kw_only=True)
class Intake:
    """Threads that receive requests, inspect their images and add their jobs to the backlog.

    Parameters
    ----------
    queue : Queue
        The queue of the requests.
    records : Records
        The saved records.
    lifecycle : JobLifecycle
        State changes of jobs.
    backlog : Backlog
        Receiver of the jobs.
    cluster : ClusterConnection
        The cluster. Without workers no requests are received.
    options : ServiceOptions
        Settings of the service.
    stopping : threading.Event
        Event that is set when the service stops.
    """

    queue: Queue
    records: Records
    lifecycle: JobLifecycle
    backlog: Backlog
    cluster: ClusterConnection
    options: ServiceOptions
    stopping: threading.Event
    permissions: Permissions = field(default_factory=Permissions)
    """What requests may name."""
    ready: bool = False
    """Whether the queue and the cluster can be used."""
    queue_is_empty: bool = False
    """Whether the queue was empty after the last receive. Always False unless ``options.once``."""
    _inspectors: ThreadPoolExecutor = field(default_factory=_inspection_pool)

    def run(self) -> None:
        """Receive and admit requests until the service stops."""
        while not self.stopping.is_set():
            self.ready = self.cluster.ensure_workers() and not self.stopping.is_set()
            room = self.options.max_backlog + self.options.max_jobs - len(self.backlog)
            if not self.ready or room <= 0:
                time.sleep(0.2)
                continue
            for delivery in self._receive(min(room, 10)):
                if self.stopping.is_set():
                    self.lifecycle.release(delivery, 0.0)
                else:
                    self._admit_or_release(delivery)

    def stop(self) -> None:
        """Stop inspecting, and release the requests whose jobs have not started."""
        self.ready = False
        self._inspectors.shutdown(wait=False, cancel_futures=True)
        with self.backlog.changed:
            pending = self.backlog.clear_pending()
        for job in pending:
            for delivery in job.deliveries():
                self.lifecycle.release(delivery, 0.0)

    def _receive(self, max_count: int) -> list[Delivery]:
        try:
            deliveries = self.queue.receive(max_count, 1.0 if self.options.once else RECEIVE_WAIT_S)
        except ServiceError as error:
            _log.error("%s", error)
            self.ready = False
            self.stopping.wait(_ERROR_DELAY_S)
            return []
        self.queue_is_empty = self.options.once and not deliveries and self._nothing_remains()
        return deliveries

    def _nothing_remains(self) -> bool:
        try:
            return self.queue.remaining_count() == 0
        except ServiceError as error:
            _log.error("%s", error)
            return False

    def _admit_or_release(self, delivery: Delivery) -> None:
        try:
            self._admit(delivery)
        except Exception:  # whatever the error is, the intake of other requests must continue
            _log.exception("request %s", delivery.name)
            self.lifecycle.release_with_backoff(delivery)

    def _admit(self, delivery: Delivery) -> None:
        """Parse a request and start the inspection of its images; reject it if it is invalid."""
        try:
            request = JobRequest.parse(delivery.body)
        except GeotileError as error:
            record = JobRecord(job_id=f"rejected-{delivery.name}", delivery=delivery.name, queued=delivery.sent)
            self.lifecycle.reject(delivery, record, redact(str(error)))
            return
        for name in request.unknown_fields():
            _log.warning("unknown field %s: it has no effect", name, extra={"job_id": request.job_id})
        with self.backlog.changed:
            known_job = self.backlog.find(request.job_id)
            if known_job is not None:
                _add_delivery(known_job, delivery)
                return
            job = Job(request=request, delivery=delivery)
            self.backlog.inspecting[request.job_id] = job
        self._inspectors.submit(self._inspect, job)

    def _inspect(self, job: Job) -> None:
        """Inspect a job in a thread of the pool, and add it to the backlog if it can run."""
        is_finished, error = self._inspection_result(job)
        with self.backlog.changed:
            if self.backlog.inspecting.pop(job.request.job_id, None) is None:
                return  # the service is stopping and has released the job
            if error is None and not is_finished:
                self.backlog.add(job)
                self.backlog.changed.notify_all()
                return
        if error is not None:
            self.lifecycle.record_admission_failure(job, error)
        for delivery in job.duplicates:
            self.lifecycle.release_with_backoff(delivery)

    def _inspection_result(self, job: Job) -> tuple[bool, GeotileError | None]:
        """Check a job; return whether it had finished before, and the error if one occurred."""
        try:
            record = self.records.load(job.request.job_id)
            if record is not None and self.lifecycle.resolve_if_finished(job, record):
                return True, None
            job.tiles = admit(job.request, self.options.endpoint_options or {}, self.permissions)
        except GeotileError as error:
            return False, error
        except Exception as error:  # a header can raise anything in a library; the job must not be lost
            _log.exception("job %s", job.request.job_id)
            return False, ServiceError(f"{type(error).__name__}: {error}")
        return False, None


def _add_delivery(job: Job, delivery: Delivery) -> None:
    """Add a further delivery of a job that this process has."""
    same = next((each for each in job.deliveries() if each.name == delivery.name), None)
    if same is None:
        job.duplicates.append(delivery)
    else:  # the request became visible again although it is in progress here
        same.receipt = delivery.receipt
