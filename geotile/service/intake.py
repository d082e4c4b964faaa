"""Intake of requests: from the queue into the backlog.

::

    Queue ─ receive ─▶ parse ─▶ inspect: read image headers, count tiles ─▶ Backlog.waiting
                         │ not a request      │ fails
                         ▼                    ▼
                       reject      release, or reject if the error is permanent
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, field

from geotile.core.daemon_pool import DaemonPool
from geotile.core.redact import redact
from geotile.errors import ArgumentError, GeotileError, ServiceError
from geotile.options import ServiceOptions
from geotile.service.admission import admit
from geotile.service.backlog import Backlog, Job
from geotile.service.cancellation import Cancellations
from geotile.service.cluster_connection import ClusterConnection
from geotile.service.health import Health
from geotile.service.inspection_pace import InspectionPace
from geotile.service.inspections import INSPECTION_THREADS, Inspections
from geotile.service.lifecycle import JobLifecycle
from geotile.service.permissions import Permissions
from geotile.service.queue import Delivery, Queue
from geotile.service.records import JobRecord, Records
from geotile.service.request import JobRequest

_log = logging.getLogger(__name__)
RECEIVE_WAIT_S = 5.0  # long polling; a service that is stopping waits for its end
_EMPTY_PAUSE_S = 0.5
_DEPTH_INTERVAL_S = 5.0
_LOOK_S = 0.1  # between two looks whether a job may be inspected
_MAX_AGE_S = 120.0  # of the loop: a gateway may take a minute to start a cluster
_MAX_INSPECTION_S = 600.0  # without the end of an inspection, while there are some


def _inspection_pool() -> DaemonPool:
    return DaemonPool(INSPECTION_THREADS, "geotile-inspect")


@dataclass(kw_only=True)
class Intake:
    """Threads that receive requests, inspect their images and add their jobs to the backlog.

    Parameters
    ----------
    queue : Queue
        The queue of the requests.
    records : Records
        The saved records.
    inspections : Inspections
        Notes of the inspections.
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
    health : Health
        The loops of the service.
    """

    queue: Queue
    records: Records
    inspections: Inspections
    lifecycle: JobLifecycle
    backlog: Backlog
    cluster: ClusterConnection
    options: ServiceOptions
    stopping: threading.Event
    health: Health
    permissions: Permissions = field(default_factory=Permissions)
    """What requests may name."""
    ready: bool = False
    """Whether the queue and the cluster can be used."""
    queue_is_empty: bool = False
    """Whether the queue was empty after the last receive. Always False unless ``options.once``."""
    queue_depth: float = math.nan
    """Number of requests that wait in the queue, a few seconds ago."""
    _depth_at: float = -math.inf
    _inspected_at: float = 0.0
    _pace: InspectionPace = field(default_factory=InspectionPace)
    _inspectors: DaemonPool = field(default_factory=_inspection_pool)

    def run(self) -> None:
        """Receive and admit requests until the service stops; an error of the queue is shown and tried again."""
        self.health.watch("inspections", self._inspection_age_s, _MAX_INSPECTION_S)
        self.health.keep_turning("intake", self._turn, self.stopping, _MAX_AGE_S)

    def _turn(self) -> None:
        self.ready = self.cluster.ensure_workers() and not self.stopping.is_set()
        room = self.options.max_backlog + self.options.max_jobs - len(self.backlog)
        if not self.ready or room <= 0:
            time.sleep(0.2)
            return
        try:
            deliveries = self._receive(min(room, 10))
        except BaseException:
            self.ready = False
            raise
        for delivery in deliveries:
            if self.stopping.is_set():
                self.lifecycle.release(delivery, 0.0)
            else:
                self._admit_or_release(delivery)
        if self.queue_is_empty:  # `Service.run` may end now, and would have to wait for the end of another receive
            with self.backlog.changed:
                self.backlog.changed.notify_all()
            self.stopping.wait(_EMPTY_PAUSE_S)

    def stop(self) -> None:
        """Stop inspecting, and release the requests whose jobs have not started."""
        self.ready = False
        self._inspectors.shutdown(wait=False)  # an image that hangs does not hold the end of the process
        with self.backlog.changed:
            pending = self.backlog.clear_pending()
            self.backlog.changed.notify_all()
        for job in pending:
            for delivery in job.deliveries():
                self.lifecycle.release(delivery, 0.0)

    def _receive(self, max_count: int) -> list[Delivery]:
        deliveries = self.queue.receive(max_count, self.queue.once_wait_s if self.options.once else RECEIVE_WAIT_S)
        try:
            if time.monotonic() - self._depth_at > _DEPTH_INTERVAL_S:
                self._depth_at = time.monotonic()
                self.queue_depth = float(self.queue.waiting_count())
            self.queue_is_empty = self.options.once and not deliveries and self.queue.remaining_count() == 0
        except ServiceError:
            if not deliveries:  # what was delivered must not be lost
                raise
        return deliveries

    def _inspection_age_s(self) -> float:
        """Return the seconds since an inspection began or ended, 0 if there is none now."""
        with self.backlog.changed:
            is_inspecting = any(job.inspection_began for job in self.backlog.inspecting.values())
        return time.monotonic() - self._inspected_at if is_inspecting else 0.0

    def _admit_or_release(self, delivery: Delivery) -> None:
        try:
            self._admit(delivery)
        except Exception:  # whatever the error is, the intake of other requests must continue
            _log.exception("request %s", delivery.name)
            self.lifecycle.release_with_backoff(delivery)

    def _admit(self, delivery: Delivery) -> None:
        """Parse a request and start the inspection of its images; reject it if it is invalid."""
        try:
            if delivery.error is not None:
                raise ArgumentError(delivery.error)
            request = JobRequest.parse(delivery.body)
        except GeotileError as error:
            record = JobRecord(job_id=f"rejected-{delivery.name}", delivery=delivery.name, queued=delivery.sent)
            self.lifecycle.reject(delivery, record, redact(str(error)))
            return
        for name in request.unknown_fields():
            _log.warning("unknown field %s: it has no effect", name, extra={"job_id": request.job_id})
        self.lifecycle.delivered(request.job_id)
        with self.backlog.changed:
            known_job = self.backlog.find(request.job_id)
            if known_job is not None:
                _add_delivery(known_job, delivery)
                return
            job = Job(request=request, delivery=delivery)
            self.backlog.inspecting[request.job_id] = job
        try:
            self._inspectors.submit(self._inspect_next)
        except BaseException:  # there is no thread
            with self.backlog.changed:
                self.backlog.end_inspection(job)
            raise

    def _inspect_next(self) -> None:
        """Inspect the job that is the next one, as soon as one may be inspected."""
        with self.backlog.changed:
            while (job := self.backlog.next_to_inspect(all_can_begin=self._pace.allows_more())) is None:
                if all(each.inspection_began for each in self.backlog.inspecting.values()):
                    return  # the job was cancelled, or the service stops
                self.backlog.changed.wait(_LOOK_S)
            self._inspected_at = time.monotonic()
        with self._pace.counted():
            self._inspect_or_release(job)
        with self.backlog.changed:
            self.backlog.changed.notify_all()

    def _inspect_or_release(self, job: Job) -> None:
        try:
            self._inspect(job)
        except Exception:  # after a bug, or where the state cannot be written, the request must return to the queue
            _log.exception("job %s", job.request.job_id)
            with self.backlog.changed:
                self.backlog.end_inspection(job)
            for delivery in job.deliveries():
                self.lifecycle.release_with_backoff(delivery)
        self._inspected_at = time.monotonic()

    def _inspect(self, job: Job) -> None:
        """Inspect a job in a thread of the pool, and add it to the backlog if it can run."""
        is_finished, error = self._inspection_result(job)
        with self.backlog.changed:
            if not self.backlog.end_inspection(job):
                return  # the service is stopping and has released the job, or it was cancelled
            if error is None and not is_finished:
                self.backlog.add(job)
                self.backlog.changed.notify_all()
                return
        if error is not None and not self.lifecycle.drop_if_gone(job):
            self.lifecycle.record_admission_failure(job, error)
        for delivery in job.duplicates:
            self.lifecycle.release_with_backoff(delivery)

    def _inspection_result(self, job: Job) -> tuple[bool, GeotileError | None]:
        """Check a job; return whether it had ended before, and the error if one occurred."""
        try:
            if self.lifecycle.drop_if_gone(job):
                return True, None
            record = self.records.load(job.request.job_id)
            if record is not None and self.lifecycle.resolve_if_finished(job, record):
                return True, None
            if Cancellations(self.records.folder).is_asked(job.request.job_id):
                return False, None  # it is cancelled before it starts, and must not fail for another reason
            with self.inspections.noted(job):
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
