"""The lifecycle of a job: each change of its state is recorded, announced and passed on to the queue.

::

                    ┌─▶ finish ───────────────▶ Queue.complete
    start: attempt ─┼─▶ release_interrupted ──▶ Queue.release      stopped, or a full disk: the attempt is not counted
       ▲            └─▶ record_failure ───┬───▶ Queue.release      until max_attempts is reached
       └──────────────────────────────────┘└──▶ reject: Queue.reject
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from geotile.core.redact import redact
from geotile.errors import ArgumentError, ClusterError, GeotileError, OutputError, ServiceError
from geotile.service.admission import is_disk_full, is_permanent
from geotile.service.backlog import Job
from geotile.service.health import Health
from geotile.service.job_progress import add_progress
from geotile.service.metrics import ServiceMetrics
from geotile.service.notifications import Notifier
from geotile.service.queue import Delivery, Queue
from geotile.service.records import FINISHED, GIVEN_UP, JobRecord, Records, Status, image_id, new_attempt, new_record
from geotile.service.run_control import OutdatedRegions

_log = logging.getLogger(__name__)
_MAX_RETRY_DELAY_S = 900.0
CANCELLED = "the job was cancelled"


class JobLifecycle:
    """State changes of jobs.

    A status is announced first, then saved, and only then the request leaves the queue. If the process dies in between,
    the queue delivers the request again, so a status can be announced twice but is never lost.

    Parameters
    ----------
    queue : Queue
        The queue of the requests.
    records : Records
        The saved records.
    notifier : Notifier
        Receiver of status changes.
    metrics : ServiceMetrics
        Counters of finished jobs.
    health : Health
        Receiver of the queue's errors.
    max_attempts : int
        Number of attempts after which a failing job is rejected.
    retry_delay_s : float
        Delay before the second attempt, in seconds. It doubles with each attempt, up to 900 s.
    """

    def __init__(
        self, queue: Queue, records: Records, notifier: Notifier, metrics: ServiceMetrics, health: Health,
        max_attempts: int, retry_delay_s: float,
    ) -> None:  # fmt: skip
        self.queue, self.records, self.notifier, self.metrics, self.health = queue, records, notifier, metrics, health
        self.max_attempts, self.retry_delay_s = max_attempts, retry_delay_s
        self._waiting: dict[str, Delivery] = {}  # requests that wait in the queue for the next attempt at their job
        self._not_counted: set[tuple[str, float]] = set()  # attempts that are in the record, since the disk is full

    def drop_if_gone(self, job: Job) -> bool:
        """Drop a job whose request has left the queue, since another process has ended it; return whether it had.

        Before a job starts, call it while holding the lease of the job: a process that ends a job holds it until the
        request has left the queue.
        """
        if self.queue.is_in_queue(job.delivery):
            return False
        self.release(job.delivery, 0.0)  # if another request has taken its place, that one is delivered
        return True

    def start(self, job: Job) -> JobRecord | None:
        """Start an attempt and return the job's record; return None if the job must not run."""
        record = self.records.load(job.request.job_id) or new_record(job.request, job.delivery)
        if self.resolve_if_finished(job, record):
            return None
        record = self._renewed(job, record)
        record.attempts = [each for each in record.attempts if (record.job_id, each.started) not in self._not_counted]
        for attempt in record.attempts:
            attempt.error = attempt.error or f"process {attempt.process} on {attempt.host} ended before the job did"
        if len(record.attempts) >= self.max_attempts:
            self.reject(job.delivery, record, f"all {self.max_attempts} attempts failed")
            return None
        is_first = record.started is None
        record.started, record.status = record.started or time.time(), "IN_PROGRESS"
        record.delivery, record.waiting_for = job.delivery.name, ""
        record.attempts.append(new_attempt())
        self.records.save(record)
        if is_first:
            for image in record.images:
                self.notifier.notify("STARTED", record.job_id, "job started", image_id=image_id(record, image))
        return record

    def _renewed(self, job: Job, record: JobRecord) -> JobRecord:
        """Return a new record if the request was submitted again after a failure, possibly corrected."""
        is_same_request = record.digest == job.request.digest
        if record.status not in GIVEN_UP and is_same_request:
            return record
        if not is_same_request:
            self.records.clear(job.request.job_id)
        return new_record(job.request, job.delivery, record)

    def resolve_if_finished(self, job: Job, record: JobRecord) -> bool:
        """Remove the request from the queue if its job has finished; return whether it had."""
        is_redelivery = record.delivery == job.delivery.name and not job.delivery.is_new_submission
        if record.status in FINISHED and record.digest != job.request.digest:
            reason = (
                f"jobId {record.job_id!r} belongs to another request, whose status is {record.status}. "
                "Submit this request with a new jobId."
            )
            self.reject(job.delivery, new_record(job.request, job.delivery), reason, save=False)
        elif record.status in FINISHED or (record.status in GIVEN_UP and is_redelivery):
            self._complete(job.delivery, record)  # a failed request is among the dead letters already
        else:
            return False
        return True

    def finish(self, job: Job, record: JobRecord, status: Status) -> None:
        """Set the final status of a job that succeeded, and remove its request from the queue."""
        done = record.model_copy(update={"status": status, "finished": time.time()})
        self.notifier.notify(
            status, done.job_id, f"{len(done.images)} images processed", duration_s=done.duration_s(), publish=False,
        )  # fmt: skip
        self.records.save(done)
        self.records.clear(done.job_id)
        self.metrics.count_job(done)
        self.health.succeeded("disk")
        self._complete(job.delivery, done)

    def release_interrupted(self, job: Job, record: JobRecord, delay_s: float = 0.0) -> None:
        """Return a job that did not fail by itself to the queue; do not count the attempt."""
        attempt, record.status = record.attempts.pop(), "QUEUED"
        try:
            self.records.save(record)
        except OutputError:
            self._not_counted.add((record.job_id, attempt.started))
        self._release_job(job, delay_s)

    def record_failure(self, job: Job, record: JobRecord, error: Exception) -> None:
        """Record a failed attempt; release the job for the next one, or reject it after `max_attempts`.

        An argument that cannot be used, such as names of classes that the model does not have, is rejected at once.
        """
        if is_disk_full(error):
            self.release_interrupted(job, record, self._disk_delay(error))
            return
        reason = redact(str(error)) or type(error).__name__
        record.attempts[-1].error = reason
        hopeless = isinstance(error, OutdatedRegions) or (isinstance(error, ArgumentError) and is_permanent(error))
        if len(record.attempts) >= self.max_attempts or hopeless:
            self.reject(job.delivery, record, reason)
            return
        self.records.save(record)
        self._release_job(job, self._retry_delay(len(record.attempts)))

    def record_admission_failure(self, job: Job, error: GeotileError) -> None:
        """Reject a job whose images or endpoint can never be used; release it if the error is temporary."""
        if isinstance(error, ClusterError):  # not the job's fault, so it does not count as an attempt
            _log.warning("%s", error, extra={"job_id": job.request.job_id})
            self.release_with_backoff(job.delivery)
            return
        try:
            record = self.records.load(job.request.job_id)
            if record is None or record.status in GIVEN_UP:
                record = new_record(job.request, job.delivery, record)
            if is_permanent(error):
                self.reject(job.delivery, record, redact(str(error)))
            else:
                record.attempts.append(new_attempt())
                self.record_failure(job, record, error)
        except OutputError as state_error:
            _log.error("%s", state_error)
            self.release_with_backoff(job.delivery)

    def cancel(self, job: Job, record: JobRecord | None = None) -> None:
        """Set the status CANCELLED and move all requests of the job to the dead letters; what it has done is kept."""
        record = record or self.records.load(job.request.job_id) or new_record(job.request, job.delivery)
        if record.attempts:
            record.attempts[-1].error = record.attempts[-1].error or CANCELLED
        self.reject(job.delivery, record, CANCELLED, status="CANCELLED")
        while job.duplicates:
            self._reject(job.duplicates.pop(), record)

    def reject(
        self, delivery: Delivery, record: JobRecord, reason: str, *, save: bool = True, status: Status = "FAILED"
    ) -> None:
        """Set the status FAILED and move the request to the dead letters, with the error of each attempt."""
        record.reasons = [each.error for each in record.attempts if each.error] or [reason]
        add_progress(self.records, record)  # the record of a job that has ended has its last figures
        record.status, record.finished, record.delivery, record.waiting_for = status, time.time(), delivery.name, ""
        for image in record.images:
            if image.status not in FINISHED:
                image.status = status
                self.notifier.notify(
                    "FAILED", record.job_id, record.reasons[-1], image_id=image_id(record, image),
                    duration_s=record.duration_s(), failed_tiles=image.failed_tiles,
                )  # fmt: skip
        self.notifier.notify(
            "FAILED", record.job_id, record.reasons[-1], duration_s=record.duration_s(), publish=not record.images
        )
        if save:
            self.records.save(record)
        self.metrics.count_job(record)
        self._reject(delivery, record)

    def wake(self, job_id: str) -> None:
        """Have the queue deliver a request now that waits for the next attempt at its job."""
        if (delivery := self._waiting.pop(job_id, None)) is not None:
            self.release(delivery, 0.0)

    def delivered(self, job_id: str) -> None:
        """Note that the request of a job no longer waits in the queue."""
        self._waiting.pop(job_id, None)

    def _release_job(self, job: Job, delay_s: float) -> None:
        self._waiting[job.request.job_id] = job.delivery
        self.release(job.delivery, delay_s)

    def release_with_backoff(self, delivery: Delivery) -> None:
        """Return a request to the queue that cannot be processed now; the delay grows with each delivery."""
        self.release(delivery, self._retry_delay(delivery.receive_count))

    def release(self, delivery: Delivery, delay_s: float) -> None:
        """Return a request to the queue, which delivers it again after `delay_s` seconds."""
        self._tell_queue(lambda: self.queue.release(delivery, delay_s))

    def _reject(self, delivery: Delivery, record: JobRecord) -> None:
        self._tell_queue(lambda: self.queue.reject(delivery, record.model_dump(mode="json")))

    def _complete(self, delivery: Delivery, record: JobRecord) -> None:
        self._tell_queue(lambda: self.queue.complete(delivery, record.model_dump(mode="json")))

    def _tell_queue(self, tell: Callable[[], None]) -> None:
        """Tell the queue what became of a request.

        If that fails, a folder tries it again, and SQS delivers the request again: its record says how it ended.
        """
        try:
            tell()
        except ServiceError as error:
            self.health.failed("queue", error)
        else:
            self.health.succeeded("queue")

    def release_unstarted(self, job: Job, error: Exception) -> None:
        """Return a job that could not be started to the queue."""
        if is_disk_full(error):
            self._release_job(job, self._disk_delay(error))
        else:
            self.release_with_backoff(job.delivery)

    def _disk_delay(self, error: Exception) -> float:
        self.health.failed("disk", error)
        return self._retry_delay(self.health.errors["disk"].in_a_row)

    def _retry_delay(self, attempts: int) -> float:
        return float(min(_MAX_RETRY_DELAY_S, self.retry_delay_s * 2 ** min(attempts - 1, 20)))
