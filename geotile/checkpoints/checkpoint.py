"""The finished regions of a run: one small Parquet file for each, in a folder named by all that its content depends on.

::

    checkpoint/
      job.json                    what the answers depend on, and the grid
      lease                       lease of the run that is writing here
      call.json                   arguments of the command line, if it was used
      status.json                 progress of the run, every few seconds
      5d0c51a7e3b09f12/           digest of the identity in job.json
        00003-00017.parquet       region in row 3, column 17: detections before merging, failures
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.checkpoints.differences import differences
from geotile.checkpoints.job_file import check_job
from geotile.checkpoints.region_answer import RegionAnswer
from geotile.core.checks import Pair
from geotile.core.digest import json_digest
from geotile.errors import ArgumentError
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
FORMAT = 1
JOB, STATUS, CALL, LEASE = "job.json", "status.json", "call.json", "lease"
_PART = re.compile(r"(\d+)-(\d+)\.(?:parquet|npz)")  # of detections, or of vectors
Identity = Mapping[str, Any]


class OtherJobError(ArgumentError):
    """A checkpoint is that of another job."""

    found: str = ""
    """What distinguishes the two jobs."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The place where the finished regions of a run are stored. Pickles: the workers write to it."""

    folder: Folder
    """Folder of the checkpoint."""
    digest: str
    """Digest of the run's identity."""
    retry_failed: bool = False
    """Whether tiles that failed are sent again."""

    @property
    def parts(self) -> Folder:
        """The folder of the regions."""
        return self.folder.sub(self.digest)

    def load(self, row: int, column: int) -> RegionAnswer | None:
        """Return what is stored of a region, or None if there is nothing or it is damaged.

        Raises
        ------
        OutputError
            If it cannot be read.
        """
        name = _name(row, column)
        data = self.parts.read(name)
        if data is None:
            return None
        try:
            return RegionAnswer.from_parquet(data)
        except ValueError as error:
            _log.warning("%s/%s is damaged, so its region is run again: %s", self.parts.display_name, name, error)
            return None

    def save(self, row: int, column: int, answer: RegionAnswer) -> None:
        """Store a region.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        self.parts.write(_name(row, column), answer.to_parquet())

    def finished(self, regions_yx: Pair) -> NDArray[np.bool_]:
        """Return which regions are stored.

        Parameters
        ----------
        regions_yx : tuple of int
            Number of rows and columns of regions.

        Returns
        -------
        numpy.ndarray of shape regions_yx, bool

        Raises
        ------
        OutputError
            If the checkpoint cannot be listed.
        """
        stored = np.zeros(regions_yx, bool)
        for name in self.parts.names():
            if match := _PART.fullmatch(name):
                row, column = int(match[1]), int(match[2])
                if row < regions_yx[0] and column < regions_yx[1]:
                    stored[row, column] = True
        return stored


def stored_job(folder: Folder, remedy: str = "Choose a new folder") -> dict[str, Any] | None:
    """Return the content of a checkpoint's `job.json`, or None if the folder is empty or does not exist.

    Parameters
    ----------
    folder : Folder
    remedy : str
        What the user can do if the folder contains something else, for the error.

    Raises
    ------
    ArgumentError
        If the folder contains something else, or is a file.
    OutputError
        If it cannot be read.
    """
    if folder.is_local and os.path.isfile(folder.files()[1]):
        raise ArgumentError(f"checkpoint must be a folder; {folder.display_name} is a file. Choose a new folder.")
    data = folder.read(JOB)
    if data is None:
        others = sorted(name for name in folder.names() if not name.startswith((LEASE, CALL, STATUS, ".")))
        if others:
            raise ArgumentError(
                f"{folder.display_name} is not a checkpoint: it holds {others[0]} but no {JOB}. {remedy}."
            )
        return None
    try:
        job = json.loads(data)
        if not isinstance(job["identity"], dict) or not isinstance(job["format"], int):
            raise TypeError("identity and format")
        if job["format"] == FORMAT:
            check_job(job)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(folder, error, remedy) from None
    if job["format"] != FORMAT:
        raise ArgumentError(
            f"{folder.display_name} is a checkpoint of format {job['format']}, but this version of geotile writes "
            f"format {FORMAT}. {remedy}."
        )
    return dict(job)


def check_same_job(folder: Folder, job: Mapping[str, Any], identity: Identity, answer: str) -> None:
    """Refuse a checkpoint of another job by what is known before the model answers.

    Parameters
    ----------
    folder : Folder
        Folder of the checkpoint.
    job : mapping
        Its `stored_job`.
    identity : mapping
        What is known of the identity; JSON. Fields of ``grid`` and ``tiles`` that are not here are not compared.
    answer : str
        Name under which `job.json` keeps what the first answer told.

    Raises
    ------
    ArgumentError
        If the checkpoint is that of another job; the message lists the differences.
    """
    known = json.loads(json.dumps(identity))
    stored = {name: job["identity"].get(name) for name in known}
    stored |= {name: _known_fields(stored[name], known[name]) for name in ("grid", "tiles")}
    if stored != known:
        raise _other_job(folder, stored, known)
    if answer not in job:
        raise ArgumentError(
            f"{folder.display_name} is the checkpoint of another call: its {JOB} has no {answer!r}. Pass the same "
            "arguments to the same function again, or choose a new folder."
        )


def open_checkpoint(folder: Folder, identity: Identity, retry_failed: bool, **notes: Any) -> Checkpoint:
    """Create or continue a checkpoint. Call it while holding its lease.

    Parameters
    ----------
    folder : Folder
        Folder of the checkpoint.
    identity : mapping
        All that a region's answer depends on; JSON.
    retry_failed : bool
        Whether tiles that failed are sent again.
    **notes
        Further facts about the job that `job.json` records; JSON.

    Raises
    ------
    ArgumentError
        If the checkpoint is that of another job; the message lists the differences.
    OutputError
        If it cannot be read or written.
    """
    current = json.loads(json.dumps(identity))  # as it will be read back
    job = stored_job(folder)
    checkpoint = Checkpoint(folder=folder, digest=json_digest(current), retry_failed=retry_failed)
    if job is None:
        content = {"format": FORMAT, "identity": current, **notes}
        folder.write(JOB, json.dumps(content, indent=1).encode())
    elif job["identity"] != current:
        raise _other_job(folder, job["identity"], current)
    for each in (folder, checkpoint.parts):
        each.remove_drafts()
    return checkpoint


def _known_fields(part: Any, known: Mapping[str, Any]) -> Any:
    """Return the fields of a part of a stored identity whose current values are known."""
    return {name: part[name] for name in known if name in part} if isinstance(part, dict) else part


def _other_job(folder: Folder, stored: Identity, current: Identity) -> OtherJobError:
    try:
        found = differences(stored, current)[:5]
    except (AttributeError, TypeError):  # a part is not a mapping
        found = ["its identity has changed"]
    error = OtherJobError(
        f"{folder.display_name} is the checkpoint of another job: {'; '.join(found)}. Pass the same "
        "arguments again, or choose a new folder."
    )
    error.found = "; ".join(found)
    return error


def _foreign(folder: Folder, error: Exception, remedy: str) -> ArgumentError:
    return ArgumentError(f"{folder.display_name}/{JOB} is not that of a geotile checkpoint ({error}). {remedy}.")


def _name(row: int, column: int) -> str:
    return f"{row:05d}-{column:05d}.parquet"
