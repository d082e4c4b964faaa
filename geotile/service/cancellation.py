"""Jobs that are to be cancelled: marked in the state folder by any process, and cancelled by the service that has them.

::

    state/cancelled/<job>.json    the mark; it goes when the job has ended
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pydantic import BaseModel

from geotile.service.records import ENDED, DamagedRecord, Records, Time, file_name
from geotile.storage.folder import Folder


class _Mark(BaseModel):
    job_id: str
    asked: Time


@dataclass(frozen=True)
class Cancellations:
    """The marks in a state folder."""

    state: Folder

    def ask(self, job_id: str) -> None:
        """Mark a job as one that is to be cancelled."""
        mark = _Mark(job_id=job_id, asked=time.time())
        self._folder.write(f"{file_name(job_id)}.json", mark.model_dump_json().encode())

    def withdraw(self, job_id: str) -> None:
        """Remove the mark of a job."""
        self._folder.remove(f"{file_name(job_id)}.json")

    def asked(self) -> list[str]:
        """Return the ids of the jobs that are to be cancelled and have not ended."""
        found = (self._asked(name) for name in self._folder.names() if name.endswith(".json"))
        return [job_id for job_id in found if job_id is not None]

    def is_asked(self, job_id: str) -> bool:
        """Return whether a job is to be cancelled."""
        return self._asked(f"{file_name(job_id)}.json") is not None

    def _asked(self, name: str) -> str | None:
        """Return the id of the job that a mark stands for; None without one. The mark of a job that has ended goes."""
        data = self._folder.read(name)
        if data is None:
            return None
        try:
            mark = _Mark.model_validate_json(data)
        except ValueError:  # it was written by somebody else
            return None
        try:
            record = Records(self.state).load(mark.job_id)
        except DamagedRecord:  # it does not tell that the job has ended; the list of jobs reports it
            return mark.job_id
        if record is not None and record.status in ENDED and (record.finished or 0.0) >= mark.asked:
            self._folder.remove(name)
            return None
        return mark.job_id

    @property
    def _folder(self) -> Folder:
        return self.state.sub("cancelled")
