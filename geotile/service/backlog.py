"""Which job is next: the oldest of the endpoint that has least to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from geotile.service.queue import Delivery
from geotile.service.request import JobRequest


@dataclass(eq=False)
class Job:
    """A request that was taken in."""

    request: JobRequest
    delivery: Delivery
    tiles: int = 0
    """Requests that it will make; known once its images' headers were read."""
    also: list[Delivery] = field(default_factory=list)
    """More deliveries of the same job: they wait for its end."""
    target: str = field(init=False)
    """Names its endpoint."""

    def __post_init__(self) -> None:
        self.target = self.request.target


@dataclass
class Backlog:
    """Jobs that wait and jobs that run. Not thread-safe.

    Parameters
    ----------
    jobs : int
        That run at once.
    per_endpoint : int
        That run at once against one endpoint: a slow one does not take all places. The last place is for a job that is
        smaller than all that run there, so that big ones do not hold it up.
    """

    jobs: int
    per_endpoint: int
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)

    def add(self, job: Job) -> None:
        """Have a job wait."""
        self.waiting.append(job)

    def next(self) -> Job | None:
        """Move the job that is next to those that run, and return it; None if there is none or no place."""
        if len(self.running) >= self.jobs:
            return None
        load = Counter(job.target for job in self.running)
        smallest = {job.target: job.tiles for job in sorted(self.running, key=lambda job: -job.tiles)}

        def has_place(job: Job) -> bool:
            there = load[job.target]
            return there < max(1, self.per_endpoint - 1) or (
                there < self.per_endpoint and job.tiles < smallest[job.target]
            )

        job = min(
            filter(has_place, self.waiting),
            key=lambda job: (load[job.target], job.delivery.sent, job.delivery.name),
            default=None,
        )
        if job is not None:
            self.waiting.remove(job)
            self.running.append(job)
        return job

    def ended(self, job: Job) -> None:
        """Forget a job."""
        self.running.remove(job)

    def find(self, job_id: str) -> Job | None:
        """Return the job of an id, if it waits or runs."""
        return next((each for each in [*self.running, *self.waiting] if each.request.job_id == job_id), None)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def held(self) -> list[Delivery]:
        """Return the deliveries of all jobs."""
        return [each for job in [*self.waiting, *self.running] for each in (job.delivery, *job.also)]
