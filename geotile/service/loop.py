"""The main loop of the service: start jobs from the backlog, keep their requests hidden, and stop in order.

::

    Intake ─▶ Backlog ─ start_next ─▶ one thread per job: lease, JobLifecycle.start, JobRunner.run, JobLifecycle.finish
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import AbstractContextManager

from geotile.core.daemon_pool import DaemonPool
from geotile.errors import GeotileError, OutputError
from geotile.options import ServiceOptions
from geotile.service.backlog import Backlog, Job
from geotile.service.cancellation import Cancellations
from geotile.service.cluster_connection import ClusterConnection
from geotile.service.health import MAX_AGE_S, Health
from geotile.service.inspections import Inspections
from geotile.service.intake import RECEIVE_WAIT_S, Intake
from geotile.service.job_progress import JobProgress
from geotile.service.job_runner import JobRunner
from geotile.service.lifecycle import JobLifecycle
from geotile.service.logs import JobContext
from geotile.service.metrics import ServiceMetrics
from geotile.service.notifications import Notifier
from geotile.service.permissions import Permissions
from geotile.service.queue import Queue
from geotile.service.records import JOB_LEASE, Records
from geotile.service.run_control import JobCancelled, RunControl, ServiceStopped
from geotile.service.sqs import SqsQueue
from geotile.storage.folder import Folder
from geotile.storage.lease import is_leased, lease
from geotile.storage.lease_holder import renewal_age_s

_log = logging.getLogger(__name__)
_EXTEND_INTERVAL_S = 15.0  # SQS hides a request for four times as long
_CANCEL_INTERVAL_S, _REMOTE_CANCEL_INTERVAL_S = 1.0, 10.0
_INTERRUPT_TIMEOUT_S = 10.0
_MAX_THREADS = 2**16  # the backlog limits the jobs
_LOST_TIMEOUT_S = 60.0  # of the cluster and the queue, with ``once``


class Service:
    """Loop that runs the jobs of a queue until it is stopped.

    Parameters
    ----------
    queue : Queue
        The queue of the requests.
    state : Folder
        Folder of records and checkpoints. All processes that serve one queue share it.
    notifier : Notifier
        Receiver of status changes.
    options : ServiceOptions
        Settings of the service.
    metrics : ServiceMetrics
        Counters of the service.
    job_context : JobContext
        Filter that adds the job of each run to log records.
    cluster : ClusterConnection, optional
        The cluster. By default, jobs use threads of this process.
    """

    def __init__(
        self, queue: Queue, state: Folder, notifier: Notifier, options: ServiceOptions, metrics: ServiceMetrics,
        job_context: JobContext, cluster: ClusterConnection | None = None,
    ) -> None:  # fmt: skip
        self.queue, self.options = queue, options
        self.records, self.control, self.cluster = Records(state), RunControl(), cluster or ClusterConnection()
        self.cancellations = Cancellations(state)
        self.backlog = Backlog(options.max_jobs, options.max_jobs_per_endpoint)
        self.job_runner = JobRunner(
            records=self.records, notifier=notifier, control=self.control, concurrency=options.concurrency,
            limits=options.limits or {}, endpoint_options=options.endpoint_options or {},
            region_size=options.region_size, metrics=metrics, job_context=job_context, progress=JobProgress(notifier),
        )  # fmt: skip
        self.health = Health()
        self.health.watch("leases", renewal_age_s, MAX_AGE_S)
        self.lifecycle = JobLifecycle(
            queue, self.records, notifier, metrics, self.health, options.max_attempts, options.retry_delay_s
        )
        self.stopping, self._hurry, self._stopped = (threading.Event() for _ in range(3))
        self._returned = 0  # jobs that were interrupted
        self._threads = DaemonPool(_MAX_THREADS, "geotile-job")  # kept, since PROJ takes 7 ms to begin in a new one
        self.intake = Intake(
            queue=queue, records=self.records, inspections=Inspections(state.sub("inspections"), options.deliveries),
            lifecycle=self.lifecycle, backlog=self.backlog, cluster=self.cluster, options=options,
            stopping=self.stopping, health=self.health,
            permissions=Permissions.of(options, isinstance(queue, SqsQueue)),
        )  # fmt: skip

    @property
    def ready(self) -> bool:
        """Whether the service accepts requests."""
        return self.intake.ready

    def run(self) -> None:
        """Run jobs until `stop` is called, or with ``once`` until the queue is empty and all jobs have finished.

        Raises
        ------
        ClusterError
            If there is no connection to the cluster for a minute; with ``once`` only.
        ServiceError
            If the queue cannot be used for a minute; with ``once`` only.
        """
        receiver = threading.Thread(target=self.intake.run, name="geotile-receive", daemon=True)
        receiver.start()
        threading.Thread(target=self._keep_extending, name="geotile-extend", daemon=True).start()
        threading.Thread(target=self._keep_cancelling, name="geotile-cancel", daemon=True).start()
        self.health.watch_loop("jobs")
        try:
            while not self.stopping.is_set() and not self._all_done():
                if self.options.once:
                    self.cluster.raise_if_lost(_LOST_TIMEOUT_S)
                    self.health.raise_if_failing(_LOST_TIMEOUT_S)
                self.health.turn("jobs", self._start_next_job, self.stopping)
        finally:
            self._shut_down(receiver)
            self._threads.shutdown(wait=False)

    def stop(self) -> None:
        """Start no more jobs; `run` returns when the running jobs have finished or `grace_s` has passed.

        A second call ends that time.
        """
        if self.stopping.is_set():
            self._hurry.set()
        self.stopping.set()

    def _all_done(self) -> bool:
        with self.backlog.changed:
            return self.intake.queue_is_empty and len(self.backlog) == 0

    def _start_next_job(self) -> None:
        job = self._wait_for_job()
        if job is None:
            return
        try:
            self._threads.submit(self._run_job, job)
        except BaseException:  # there is no thread
            self._end_job(job)
            self.lifecycle.release_with_backoff(job.delivery)
            raise

    def _wait_for_job(self) -> Job | None:
        """Return the next job; return None if none may start within 0.2 s."""
        with self.backlog.changed:
            job = self.backlog.start_next() if self.ready and self.cluster.is_connected else None
            if job is None:
                self.backlog.changed.wait(0.2)
            return job

    def _shut_down(self, receiver: threading.Thread) -> None:
        was_stopped = self.stopping.is_set()
        self.stopping.set()
        self.intake.stop()
        if running := len(self.backlog.running):
            _log.info(
                "stopping; %s %s %g s; signal again to end now",
                _number(running, "job"), "has" if running == 1 else "have", self.options.grace_s,
            )  # fmt: skip
        self._wait_for_running_jobs(self.options.grace_s, self._hurry)
        self.control.stop()
        self._wait_for_running_jobs(_INTERRUPT_TIMEOUT_S)
        # Jobs that do not react to the interruption keep their leases until this process ends.
        with self.backlog.changed:
            deliveries = self.backlog.deliveries()
        for delivery in deliveries:
            self.lifecycle.release(delivery, 0.0)
        receiver.join(RECEIVE_WAIT_S + 1)
        self._stopped.set()
        returned = self._returned + len(deliveries)
        if was_stopped:
            _log.info("stopped; %s returned to the queue", _number(returned, "request"))

    def _wait_for_running_jobs(self, timeout_s: float, hurry: threading.Event | None = None) -> None:
        deadline = time.monotonic() + timeout_s
        with self.backlog.changed:
            while self.backlog.running and time.monotonic() < deadline and not (hurry and hurry.is_set()):
                self.backlog.changed.wait(0.1)

    def _keep_extending(self) -> None:
        """Keep the requests of all jobs hidden in the queue until the service has stopped."""
        self.health.keep_turning("deliveries", self._extend_deliveries, self._stopped)

    def _extend_deliveries(self) -> None:
        self._stopped.wait(_EXTEND_INTERVAL_S)
        with self.backlog.changed:
            deliveries = self.backlog.deliveries()
        self.queue.extend(deliveries)

    def _keep_cancelling(self) -> None:
        """Cancel the jobs of this process that somebody has marked, until the service has stopped."""
        self.health.keep_turning("cancellations", self._cancel_jobs, self._stopped)

    def _cancel_jobs(self) -> None:
        self._stopped.wait(_CANCEL_INTERVAL_S if self.records.folder.is_local else _REMOTE_CANCEL_INTERVAL_S)
        errors: list[Exception] = []
        for job_id in self.cancellations.asked():
            try:
                self._cancel_job(job_id)
            except Exception as error:  # the other jobs are cancelled all the same
                errors.append(error)
        if errors:
            raise errors[0]

    def _cancel_job(self, job_id: str) -> None:
        with self.backlog.changed:
            job = self.backlog.find(job_id)
            has_not_started = job is not None and self.backlog.remove_pending(job)
        if job is not None and has_not_started:
            self._cancel_or_release(job)
        elif job is not None:
            self.control.cancel(job_id)
        else:
            self.lifecycle.wake(job_id)

    def _cancel_or_release(self, job: Job) -> None:
        """Cancel a job that has not started here, unless another process runs it, which cancels it then."""
        try:
            is_elsewhere = is_leased(self.records.work_folder(job.request.job_id), JOB_LEASE)
            if not is_elsewhere:
                with self._lease_of(job):
                    if not self.lifecycle.drop_if_gone(job):
                        self.lifecycle.cancel(job)
        except Exception:  # the state cannot be written; the mark stays, so it is cancelled at its next delivery
            for delivery in job.deliveries():
                self.lifecycle.release_with_backoff(delivery)
            raise
        for delivery in job.deliveries() if is_elsewhere else job.duplicates:
            self.lifecycle.release_with_backoff(delivery)

    def _lease_of(self, job: Job) -> AbstractContextManager[None]:
        job_id = job.request.job_id
        return lease(self.records.work_folder(job_id), JOB_LEASE, f"the job {job_id}")

    def _run_job(self, job: Job) -> None:
        """Run a job under the lease of its folder."""
        job_id = job.request.job_id
        try:
            with self._lease_of(job):
                self._attempt(job)
        except OutputError as error:  # another process holds the lease, or the state cannot be written
            _log.warning("%s", error, extra={"job_id": job_id})
            self.lifecycle.release_unstarted(job, error)
        except Exception:  # after a bug the request must return to the queue
            _log.exception("job %s", job_id, extra={"job_id": job_id})
            self.lifecycle.release_with_backoff(job.delivery)
        finally:
            self._end_job(job)

    def _end_job(self, job: Job) -> None:
        with self.backlog.changed:
            self.backlog.remove(job)
            self.control.forget(job.request.job_id)
            self.backlog.changed.notify_all()
        for delivery in job.duplicates:  # when they are delivered again, the record says what became of the job
            self.lifecycle.release_with_backoff(delivery)

    def _attempt(self, job: Job) -> None:
        if self.lifecycle.drop_if_gone(job):
            return
        if self.cancellations.is_asked(job.request.job_id):
            self.lifecycle.cancel(job)
            return
        record = self.lifecycle.start(job)
        if record is None:
            return
        try:
            self.lifecycle.finish(job, record, self.job_runner.run(job, record))
        except JobCancelled:
            self.lifecycle.cancel(job, record)
        except ServiceStopped:
            self._returned += 1
            self.lifecycle.release_interrupted(job, record)
        except Exception as error:  # of any kind: the record names it, and the job is tried again
            if not isinstance(error, GeotileError):
                _log.exception("job %s", record.job_id, extra={"job_id": record.job_id})
            self.lifecycle.record_failure(job, record, error)


def _number(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"
