"""The jobs of a process: the next one to start is the oldest job of the endpoint with the fewest running jobs.

The next one to inspect is that of the endpoint with the fewest inspected jobs. If an endpoint has enough of them, its
other inspections may wait, so that the running jobs get the processor.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from geotile.service.queue import Delivery
from geotile.service.request import JobRequest

_ENOUGH = 3  # times the jobs that may run at an endpoint


@dataclass(eq=False)
class Job:
    """A request that this process has received."""

    request: JobRequest
    delivery: Delivery
    tiles: int = 0
    """Number of tiles to send; 0 until the headers of the images have been read."""
    duplicates: list[Delivery] = field(default_factory=list)
    """Further deliveries of the same job, which wait until it finishes."""
    inspection_began: bool = False
    endpoint_key: str = field(init=False)
    """Key of the endpoint, see `JobRequest.endpoint_key`."""

    def __post_init__(self) -> None:
        self.endpoint_key = self.request.endpoint_key

    def deliveries(self) -> list[Delivery]:
        """Return all deliveries of the job."""
        return [self.delivery, *self.duplicates]


@dataclass
class Backlog:
    """Jobs that are being inspected, that wait and that run.

    The methods do not lock. If several threads use a backlog, they hold `changed` meanwhile.

    Parameters
    ----------
    max_jobs : int
        Maximum number of jobs that run at once.
    max_jobs_per_endpoint : int
        Maximum number of jobs that run at once against one endpoint, so that a slow endpoint does not use up
        `max_jobs`. The last of them must be smaller than all jobs that run there, so that large jobs do not delay
        small ones.
    """

    max_jobs: int
    max_jobs_per_endpoint: int
    inspecting: dict[str, Job] = field(default_factory=dict)
    """Jobs whose image headers are being read, or will be, by job id."""
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    """Condition that is notified when a job starts to wait and when one finishes."""

    def add(self, job: Job) -> None:
        """Add a job to those that wait."""
        self.waiting.append(job)

    def next_to_inspect(self, *, all_can_begin: bool) -> Job | None:
        """Return the job whose inspection is to begin now; return None if none is.

        Parameters
        ----------
        all_can_begin : bool
            Whether one of an endpoint that has enough jobs may be inspected too.
        """
        known = Counter(job.endpoint_key for job in [*self.running, *self.waiting])
        job = min(
            (job for job in self.inspecting.values() if not job.inspection_began),
            key=lambda job: (known[job.endpoint_key], job.delivery.sent, job.delivery.name),
            default=None,
        )
        if job is None:
            return None
        if known[job.endpoint_key] >= _ENOUGH * self.max_jobs_per_endpoint and not all_can_begin:
            return None
        job.inspection_began = True
        return job

    def end_inspection(self, job: Job) -> bool:
        """Take a job out of those that are inspected; return whether it was one of them, and not another of its id."""
        if self.inspecting.get(job.request.job_id) is not job:
            return False
        del self.inspecting[job.request.job_id]
        return True

    def start_next(self) -> Job | None:
        """Move the next job from `waiting` to `running` and return it; return None if no job may start."""
        if len(self.running) >= self.max_jobs:
            return None
        load = Counter(job.endpoint_key for job in self.running)
        smallest = {job.endpoint_key: job.tiles for job in sorted(self.running, key=lambda job: -job.tiles)}

        def may_start(job: Job) -> bool:
            running = load[job.endpoint_key]
            return running < max(1, self.max_jobs_per_endpoint - 1) or (
                running < self.max_jobs_per_endpoint and job.tiles < smallest[job.endpoint_key]
            )

        job = min(
            filter(may_start, self.waiting),
            key=lambda job: (load[job.endpoint_key], job.delivery.sent, job.delivery.name),
            default=None,
        )
        if job is not None:
            self.waiting.remove(job)
            self.running.append(job)
        return job

    def remove(self, job: Job) -> None:
        """Remove a job that has finished running."""
        self.running.remove(job)

    def clear_pending(self) -> list[Job]:
        """Remove and return the jobs that have not started."""
        pending = [*self.waiting, *self.inspecting.values()]
        self.waiting.clear()
        self.inspecting.clear()
        return pending

    def remove_pending(self, job: Job) -> bool:
        """Remove a job that has not started; return whether it had not."""
        if job in self.waiting:
            self.waiting.remove(job)
            return True
        return self.end_inspection(job)

    def find(self, job_id: str) -> Job | None:
        """Return the job with an id, None if there is none."""
        return next((job for job in self._jobs() if job.request.job_id == job_id), None)

    def deliveries(self) -> list[Delivery]:
        """Return the deliveries of all jobs."""
        return [each for job in self._jobs() for each in job.deliveries()]

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting) + len(self.inspecting)

    def _jobs(self) -> list[Job]:
        return [*self.running, *self.waiting, *self.inspecting.values()]
