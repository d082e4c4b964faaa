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
    _places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(INSPECTION_THREADS))
    _entry: threading.Lock = field(default_factory=threading.Lock)

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
        places = INSPECTION_THREADS if alone else 1
        with self._entry:  # of two that want to be alone, each could hold places that the other waits for
            for _ in range(places):
                self._places.acquire()
        try:
            yield
        finally:
            self._places.release(places)
