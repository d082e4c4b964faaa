"""Jobs that are to be cancelled: marked in the state folder by any process, and cancelled by the service that has them.

::

    state/cancelled/<job>.json    the mark; it goes when the job has ended
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from geotile.service.records import ENDED, Records, file_name, read_json
from geotile.storage.folder import Folder


@dataclass(frozen=True)
class Cancellations:
    """The marks in a state folder."""

    state: Folder

    def ask(self, job_id: str) -> None:
        """Mark a job as one that is to be cancelled."""
        mark = json.dumps({"job_id": job_id, "asked": time.time()})
        self._folder.write(f"{file_name(job_id)}.json", mark.encode())

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
        try:
            mark = read_json(self._folder, name) or {}
            job_id, asked = str(mark["job_id"]), float(mark["asked"])
        except (ValueError, KeyError, TypeError):  # there is none, or it was written by somebody else
            return None
        record = Records(self.state).load(job_id)
        if record is not None and record.status in ENDED and (record.finished or 0.0) >= asked:
            self._folder.remove(name)
            return None
        return job_id

    @property
    def _folder(self) -> Folder:
        return self.state.sub("cancelled")
