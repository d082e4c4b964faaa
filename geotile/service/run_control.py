"""The runs of a service process, which any of its threads can stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from geotile.errors import GeotileError, ServiceError
from geotile.traffic import stop_run_everywhere


class ServiceStopped(GeotileError):
    """The service is stopping; the job returns to the queue."""


class JobCancelled(GeotileError):
    """Somebody has cancelled the job."""


class OutdatedRegions(ServiceError):
    """The finished regions of an image cannot be used, since the image or the model has changed."""


@dataclass
class RunControl:
    """The runs of this process, which any thread can stop."""

    stopping: threading.Event = field(default_factory=threading.Event)
    _runs: dict[str, str] = field(default_factory=dict)  # the job of each run
    _cancelled: set[str] = field(default_factory=set)

    def stop(self) -> None:
        """Stop all runs, and each run that starts later."""
        self.stopping.set()
        for run in list(self._runs):
            stop_run_everywhere(run, "the service is stopping")

    def cancel(self, job_id: str) -> None:
        """Stop the runs of a job, and each that starts before `forget`."""
        self._cancelled.add(job_id)
        for run, job in list(self._runs.items()):
            if job == job_id:
                stop_run_everywhere(run, "the job was cancelled")

    def forget(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._cancelled.discard(job_id)

    def raise_if_stopped(self, job_id: str) -> None:
        """Raise `ServiceStopped` if the service is stopping, and `JobCancelled` if the job was cancelled."""
        if job_id in self._cancelled:
            raise JobCancelled("the job was cancelled")
        if self.stopping.is_set():
            raise ServiceStopped("the service is stopping")

    @contextmanager
    def tracked(self, run: str, job_id: str) -> Iterator[None]:
        """Make the run of a job stoppable inside the block; raise an error at its end if it was stopped."""
        self._runs[run] = job_id
        try:
            self.raise_if_stopped(job_id)
            try:
                yield
            finally:  # also where its end was an error
                self.raise_if_stopped(job_id)
        finally:
            self._runs.pop(run, None)
