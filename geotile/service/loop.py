"""The service: requests out of a queue, many jobs at once, none lost."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from geotile.core.redact import redact
from geotile.errors import GeotileError, OutputError, ServiceError
from geotile.service.admission import count_tiles
from geotile.service.backlog import Backlog, Job
from geotile.service.cluster_connection import Cluster
from geotile.service.job_runner import Control, Stopped, Worker
from geotile.service.lifecycle import Desk
from geotile.service.logs import RunNames
from geotile.service.metrics import Meters
from geotile.service.notifications import Announcer
from geotile.service.queue import Delivery, Queue
from geotile.service.records import JobRecord, Records
from geotile.service.request import JobRequest
from geotile.storage.folder import Folder
from geotile.storage.lease import lease

_log = logging.getLogger(__name__)
_KEEP_S = 15.0  # requests in work are said to be so as often; SQS's are invisible for four times as long
_WAIT_S = 5.0  # of long polling: a service that stops waits for its end
_TROUBLE_S = 5.0
_INSPECTORS = 4


@dataclass(kw_only=True)
class ServiceOptions:
    """How a service works.

    Parameters
    ----------
    jobs, jobs_per_endpoint : int
        Jobs at once, in all and against one endpoint.
    backlog : int
        Requests taken out of the queue ahead of that, so that jobs of a fast endpoint pass those of a slow one.
    deliveries : int
        How often a job is tried before it is given up.
    retry_s : float
        Pause before the second time; it doubles with each.
    grace_s : float
        What running jobs get when the service is told to stop.
    concurrency : int or "auto"
        Requests in flight at each endpoint, over all its jobs.
    limits : dict
        The same for single endpoints, by the name or url that requests give.
    region_size : "auto" or int
        As for `geotile.detect`.
    endpoint_options : dict
        Of every endpoint: `geotile.RetryPolicy`'s, such as ``retries``.
    once : bool
        Stop when nothing is left in the queue.
    """

    jobs: int = 32
    jobs_per_endpoint: int = 4
    backlog: int = 1000
    deliveries: int = 5
    retry_s: float = 30.0
    grace_s: float = 30.0
    concurrency: int | Literal["auto"] = "auto"
    limits: dict[str, int] = field(default_factory=dict)
    region_size: int | Literal["auto"] = "auto"
    endpoint_options: dict[str, Any] = field(default_factory=dict)
    once: bool = False


class Service:
    """Does jobs out of a queue until it is told to stop.

    Parameters
    ----------
    queue : Queue
    state : Folder
        Where records and checkpoints are: all processes that serve a queue share it.
    announcer : Announcer
    options : ServiceOptions
    meters : Meters
    names : RunNames
        Notes whose job each run is, for the logs.
    cluster : Cluster, optional
        By default threads of this process.
    """

    def __init__(
        self, queue: Queue, state: Folder, announcer: Announcer, options: ServiceOptions, meters: Meters,
        names: RunNames, cluster: Cluster | None = None,
    ) -> None:  # fmt: skip
        self.queue, self.options = queue, options
        self.records, self.control, self.cluster = Records(state), Control(), cluster or Cluster()
        self.backlog = Backlog(options.jobs, options.jobs_per_endpoint)
        self.worker = Worker(
            records=self.records, announcer=announcer, control=self.control, concurrency=options.concurrency,
            limits=options.limits, endpoint_options=options.endpoint_options,
            region_size=options.region_size, meters=meters, names=names,
        )  # fmt: skip
        self.desk = Desk(queue, self.records, announcer, meters, options.deliveries, options.retry_s)
        self.stopping, self._over, self.ready = threading.Event(), threading.Event(), False
        self._changed = threading.Condition()
        self.alive = time.monotonic()
        self._empty = False  # the queue, if that ends the service
        self._inspecting: dict[str, Job] = {}
        self._inspectors = ThreadPoolExecutor(_INSPECTORS, "geotile-inspect")

    def run(self) -> None:
        """Serve until `stop` is called, or with ``once`` until nothing is left to do."""
        threads = [
            threading.Thread(target=target, name=f"geotile-{name}", daemon=True)
            for name, target in (("receive", self._receive), ("keep", self._keep))
        ]
        for thread in threads:
            thread.start()
        while not self.stopping.is_set():
            with self._changed:
                job = self.backlog.next() if self.ready and self.cluster.stands else None
                if job is None:
                    if self._empty and not len(self.backlog) and not self._inspecting:
                        break
                    self.alive = time.monotonic()
                    self._changed.wait(0.2)
                    continue
            threading.Thread(target=self._job, args=(job,), name="geotile-job", daemon=True).start()
        self._end(threads[0])

    def stop(self) -> None:
        """Begin no job any more; `run` returns when those that run have ended, or their grace has."""
        self.stopping.set()

    def _end(self, receiver: threading.Thread) -> None:
        self.ready = False
        self.stopping.set()
        self._inspectors.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            waiting, self.backlog.waiting = [*self.backlog.waiting, *self._inspecting.values()], []
            self._inspecting.clear()
        for job in waiting:
            for each in (job.delivery, *job.also):
                self.desk.back(each, 0.0)
        self._wait_for_jobs(self.options.grace_s)
        self.control.stop()
        self._wait_for_jobs(10.0)
        for each in self.backlog.held():  # of jobs that are deaf: their claims say so until this process ends
            self.desk.back(each, 0.0)
        receiver.join(_WAIT_S + 1)
        self._over.set()

    def _wait_for_jobs(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while self.backlog.running and time.monotonic() < until:
                self._changed.wait(0.1)

    # --- in

    def _receive(self) -> None:
        while not self.stopping.is_set():
            self.ready = self.cluster.connected() and not self.stopping.is_set()
            room = self.options.backlog + self.options.jobs - len(self.backlog) - len(self._inspecting)
            if not self.ready or room <= 0:
                time.sleep(0.2)
                continue
            try:
                found = self.queue.receive(min(room, 10), 1.0 if self.options.once else _WAIT_S)
            except ServiceError as error:
                _log.error("%s", error)
                self.ready = False
                self.stopping.wait(_TROUBLE_S)
                continue
            self._empty = self.options.once and not found and self._nothing_left()
            for delivery in found:
                if self.stopping.is_set():
                    self.desk.back(delivery, 0.0)
                    continue
                try:
                    self._admit(delivery)
                except Exception:  # whatever it is, it must not end the receiving of others
                    _log.exception("request %s", delivery.name)
                    self.desk.later(delivery)

    def _nothing_left(self) -> bool:
        try:
            return self.queue.left() == 0
        except ServiceError as error:
            _log.error("%s", error)
            return False

    def _admit(self, delivery: Delivery) -> None:
        """Take a request in; refuse what is none."""
        try:
            request = JobRequest.parse(delivery.body)
        except GeotileError as error:
            record = JobRecord(job_id=f"refused-{delivery.name}", delivery=delivery.name, queued=delivery.sent)
            self.desk.give_up(delivery, record, redact(str(error)))
            return
        for name in request.unknown():
            _log.warning("unknown field %s: it has no effect", name, extra={"job_id": request.job_id})
        with self._changed:
            held = self.backlog.find(request.job_id) or self._inspecting.get(request.job_id)
            if held is None:
                job = Job(request=request, delivery=delivery)
                self._inspecting[request.job_id] = job
            else:
                same = next((each for each in (held.delivery, *held.also) if each.name == delivery.name), None)
                if same is not None:  # it has become visible again, although we have it
                    same.receipt = delivery.receipt
                else:
                    held.also.append(delivery)
        if held is None:
            self._inspectors.submit(self._inspect, job)

    def _inspect(self, job: Job) -> None:
        """Read the headers of a job's images, and have it wait for its turn."""
        error: GeotileError | None = None
        settled = False
        try:
            known = self.records.load(job.request.job_id)
            settled = known is not None and self.desk.settled(job, known)
            if not settled:
                job.tiles = count_tiles(job.request, self.options.endpoint_options)
        except GeotileError as failed:
            error = failed
        except Exception as failed:  # whatever a header makes a library do, it is not lost
            _log.exception("job %s", job.request.job_id)
            error = ServiceError(f"{type(failed).__name__}: {failed}")
        with self._changed:
            if self._inspecting.pop(job.request.job_id, None) is None:
                return  # it was handed back
            if error is None and not settled:
                self.backlog.add(job)
                self._changed.notify_all()
                return
        if error is not None:
            self.desk.failed_to_start(job, error)
        for each in job.also:
            self.desk.later(each)

    def _keep(self) -> None:
        while not self._over.wait(_KEEP_S):
            with self._changed:
                inspected = [each for job in self._inspecting.values() for each in (job.delivery, *job.also)]
                held = [*self.backlog.held(), *inspected]
            try:
                self.queue.keep(held)
            except ServiceError as error:
                _log.error("%s", error)

    # --- work

    def _job(self, job: Job) -> None:
        """Work on a job in a thread of its own."""
        try:
            with lease(self.records.work(job.request.job_id), "lease", f"the job {job.request.job_id}"):
                self._work(job)
        except OutputError as error:  # another process has it; or the state cannot be written
            _log.warning("%s", error, extra={"job_id": job.request.job_id})
            self.desk.later(job.delivery)
        except Exception:  # a bug must not take the message with it
            _log.exception("job %s", job.request.job_id, extra={"job_id": job.request.job_id})
            self.desk.later(job.delivery)
        finally:
            with self._changed:
                self.backlog.ended(job)
                self._changed.notify_all()
            for each in job.also:  # they come again, and are known to be done if it is
                self.desk.later(each)

    def _work(self, job: Job) -> None:
        record = self.desk.begin(job)
        if record is None:
            return
        try:
            status = self.worker.do(job, record)
        except Stopped:
            self.desk.stopped(job, record)
        except Exception as error:  # of whatever kind: the record says which, and the job is tried again
            if not isinstance(error, GeotileError):
                _log.exception("job %s", record.job_id, extra={"job_id": record.job_id})
            self.desk.failed(job, record, error)
        else:
            self.desk.finish(job, record, status)
