"""Inspections of images, written down before they begin, so that an image that ends the process is known by it.

::

    state/inspections/<job>.json     the inspections of a job that have begun and not ended
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from geotile.errors import ImageOpenError
from geotile.service.backlog import Job
from geotile.service.records import file_name, new_attempt
from geotile.storage.folder import Folder

INSPECTION_THREADS = 4


@dataclass
class Inspections:
    """Inspections of the images of jobs.

    A job that was being inspected when its process ended is inspected alone the next time: others are not suspected for
    what it does.

    Parameters
    ----------
    folder : Folder
        Folder of the notes.
    max_deaths : int
        Number of processes that an image may end before its job is given up.
    """

    folder: Folder
    max_deaths: int
    patience_s: float = 60.0
    """Seconds that an inspection which must be alone waits for a pause of the others, before it stops new ones."""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _inside: int = 0
    _stopped_by: object = None

    @contextmanager
    def noted(self, job: Job) -> Iterator[None]:
        """Note that the images of a job are being inspected while the block runs.

        Raises
        ------
        ImageOpenError
            If that has ended the process `max_deaths` times.
        OutputError
            If it cannot be noted.
        """
        name = f"{file_name(job.request.job_id)}.json"
        deaths = self._deaths(name, job.request.digest)
        if len(deaths) >= self.max_deaths:
            self.folder.remove(name)  # if it is submitted again, it is tried again
            raise ImageOpenError(
                f"each of {len(deaths)} processes ended while it read the headers of this job's images: "
                f"{', '.join(deaths)}. Check the images, and the memory of the service"
            )
        with self._place(alone=bool(deaths)):
            attempt = new_attempt()
            begun = [*deaths, f"process {attempt.process} on {attempt.host}"]
            self.folder.write(name, json.dumps({"digest": job.request.digest, "begun": begun}).encode())
            try:
                yield
            finally:
                self.folder.remove(name)

    def _deaths(self, name: str, digest: str) -> list[str]:
        """Return the processes that have begun to inspect a job and have not ended."""
        data = self.folder.read(name)
        try:
            content: dict[str, Any] = json.loads(data or b"{}")
            return [str(each) for each in content["begun"]] if content["digest"] == digest else []
        except (ValueError, KeyError, TypeError):  # there is none, or it was damaged
            return []

    @contextmanager
    def _place(self, alone: bool) -> Iterator[None]:
        places, me = INSPECTION_THREADS if alone else 1, object()

        def may_enter() -> bool:
            return self._stopped_by in (None, me) and self._inside + places <= INSPECTION_THREADS

        with self._changed:
            if not self._changed.wait_for(may_enter, self.patience_s if alone else None):
                self._changed.wait_for(lambda: self._stopped_by is None)
                self._stopped_by = me
                self._changed.wait_for(may_enter)
            self._stopped_by, self._inside = None if self._stopped_by is me else self._stopped_by, self._inside + places
        try:
            yield
        finally:
            with self._changed:
                self._inside -= places
                self._changed.notify_all()
