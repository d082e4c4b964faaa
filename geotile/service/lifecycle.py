"""What becomes of a job: begun, finished, tried again, given up; in its record, its queue, and for all to hear."""

from __future__ import annotations

import logging
import os
import socket
import time

from geotile.core.redact import redact
from geotile.errors import ClusterError, GeotileError, OutputError, ServiceError
from geotile.service.admission import never_succeeds
from geotile.service.backlog import Job
from geotile.service.metrics import Meters
from geotile.service.notifications import Announcer
from geotile.service.queue import Delivery, Queue
from geotile.service.records import FINISHED, Attempt, JobRecord, Records, Status, image_id, new_record

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 900.0


class Desk:
    """Writes down what becomes of jobs.

    A status is announced before it is kept, and kept before its request leaves the queue: a process that dies in
    between leaves a request that comes again, and nothing that is not announced.

    Parameters
    ----------
    queue : Queue
    records : Records
    announcer : Announcer
    meters : Meters
    deliveries : int
        How often a job is tried.
    retry_s : float
        Pause before the second time; it doubles with each.
    """

    def __init__(
        self, queue: Queue, records: Records, announcer: Announcer, meters: Meters, deliveries: int, retry_s: float
    ) -> None:
        self.queue, self.records, self.announcer, self.meters = queue, records, announcer, meters
        self.deliveries, self.retry_s = deliveries, retry_s

    def begin(self, job: Job) -> JobRecord | None:
        """Return a job's record with one more attempt; None if there is nothing to do."""
        request, known = job.request, self.records.load(job.request.job_id)
        record = known or new_record(request, job.delivery)
        if self.settled(job, record):
            return None
        if record.status == "FAILED" or record.digest != request.digest:  # somebody sends it again, perhaps put right
            if record.digest != request.digest:
                self.records.clear(request.job_id)
            before = record if record.digest == request.digest else None
            record = new_record(request, job.delivery, before)
        for attempt in record.attempts:
            attempt.error = attempt.error or f"process {attempt.process} on {attempt.host} ended"
        if len(record.attempts) >= self.deliveries:
            self.give_up(job.delivery, record, "it was tried often enough")
            return None
        first = record.began is None
        record.began, record.status, record.delivery = record.began or time.time(), "IN_PROGRESS", job.delivery.name
        record.attempts.append(_attempt())
        self.records.save(record)
        if first:
            for image in record.images:
                self.announcer.say("STARTED", record.job_id, "it is begun", image_id=image_id(record, image))
        return record

    def settled(self, job: Job, record: JobRecord) -> bool:
        """Take a request out of the queue whose job has ended; tell whether it has."""
        again = record.delivery == job.delivery.name and not job.delivery.anew
        if record.status in FINISHED and record.digest != job.request.digest:
            why = f"jobId {record.job_id!r} is that of another request, which is {record.status}; give a new one"
            self.give_up(job.delivery, new_record(job.request, job.delivery), why, keep=False)
        elif record.status in FINISHED or (
            record.status == "FAILED" and again
        ):  # failed ones are with the dead letters
            self.out(job.delivery, record)
        else:
            return False
        return True

    def finish(self, job: Job, record: JobRecord, status: Status) -> None:
        """Note that a job is done."""
        record.status, record.ended = status, time.time()
        took = record.ended - (record.began or record.ended)
        self.announcer.say(status, record.job_id, f"{len(record.images)} images are done", seconds=took)
        self.records.save(record)
        self.records.clear(record.job_id)
        self.meters.ended(record)
        self.out(job.delivery, record)

    def stopped(self, job: Job, record: JobRecord) -> None:
        """Hand a job back that was stopped: it was not its fault."""
        record.attempts.pop()
        self.records.save(record)
        self.back(job.delivery, 0.0)

    def failed(self, job: Job, record: JobRecord, error: Exception) -> None:
        """Note that an attempt failed; have the job tried again, or give it up."""
        said = redact(str(error)) or type(error).__name__
        record.attempts[-1].error = said
        if len(record.attempts) >= self.deliveries:
            self.give_up(job.delivery, record, said)
            return
        self.records.save(record)
        self.back(job.delivery, min(_LONGEST_PAUSE_S, self.retry_s * 2 ** (len(record.attempts) - 1)))

    def failed_to_start(self, job: Job, error: GeotileError) -> None:
        """Give up what can never succeed; have the rest tried again."""
        if isinstance(error, ClusterError):  # not the job's fault: it has not begun
            _log.warning("%s", error, extra={"job_id": job.request.job_id})
            self.later(job.delivery)
            return
        try:
            record = self.records.load(job.request.job_id)
            if record is None or record.status == "FAILED":
                record = new_record(job.request, job.delivery)
            if never_succeeds(error):
                self.give_up(job.delivery, record, redact(str(error)))
            else:
                record.attempts.append(_attempt())
                self.failed(job, record, error)
        except OutputError as trouble:
            _log.error("%s", trouble)
            self.later(job.delivery)

    def give_up(self, delivery: Delivery, record: JobRecord, why: str, *, keep: bool = True) -> None:
        """Send a request to the dead letters, with what went wrong each time."""
        record.reasons = [each.error for each in record.attempts if each.error] or [why]
        record.status, record.ended, record.delivery = "FAILED", time.time(), delivery.name
        took = record.ended - (record.began or record.ended)
        for image in record.images:
            if image.status not in FINISHED:
                image.status = "FAILED"
                self.announcer.say(
                    "FAILED", record.job_id, record.reasons[-1], image_id=image_id(record, image), seconds=took,
                    failed_tiles=image.failed_tiles,
                )  # fmt: skip
        self.announcer.say("FAILED", record.job_id, record.reasons[-1], seconds=took)
        if keep:
            self.records.save(record)
        self.meters.ended(record)
        try:
            self.queue.dead(delivery, record.model_dump(mode="json"))
        except ServiceError as error:  # it comes back, and is known to have failed
            _log.error("%s", error)

    def out(self, delivery: Delivery, record: JobRecord) -> None:
        """Take a request out of the queue."""
        try:
            self.queue.done(delivery, record.model_dump(mode="json"))
        except ServiceError as error:  # it comes back, and is known to be done
            _log.error("%s", error)

    def later(self, delivery: Delivery) -> None:
        """Hand a request back that cannot be worked on now; the pause grows with each delivery."""
        self.back(delivery, min(_LONGEST_PAUSE_S, self.retry_s * 2 ** min(delivery.receives - 1, 20)))

    def back(self, delivery: Delivery, delay_s: float) -> None:
        """Hand a request back."""
        try:
            self.queue.back(delivery, delay_s)
        except ServiceError as error:  # it comes back when it is no longer said to be in work
            _log.error("%s", error)


def _attempt() -> Attempt:
    return Attempt(began=time.time(), host=socket.gethostname(), process=os.getpid())
