"""What a run has finished, kept: a small Parquet file a region, named by all that its answer depends on.

::

    checkpoint/
      job.json                    what the answers depend on, and the grid
      lease                       of the run that is writing here
      call.json                   how the command line was called, if it was
      status.json                 how far it is, every few seconds
      5d0c51a7e3b09f12/           digest of job.json's identity
        00003-00017.parquet       region in row 3, column 17: detections before merging, failures
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.checkpoints.region_answer import RegionAnswer
from geotile.core.checks import Pair
from geotile.errors import ArgumentError
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
FORMAT = 1
JOB, STATUS, CALL, LEASE = "job.json", "status.json", "call.json", "lease"
_PART = re.compile(r"(\d+)-(\d+)\.parquet")
Identity = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run's regions are kept. Pickles: the workers write it."""

    folder: Folder
    digest: str
    retry_failed: bool = False
    """Whether tiles that failed are to be asked again."""

    @property
    def parts(self) -> Folder:
        """Where the regions lie."""
        return self.folder.sub(self.digest)

    def load(self, row: int, column: int) -> RegionAnswer | None:
        """Return what is kept of a region; None if nothing is, or what is there is damaged.

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
            _log.warning("%s/%s is damaged, its region is run again: %s", self.parts.shown, name, error)
            return None

    def save(self, row: int, column: int, answer: RegionAnswer) -> None:
        """Keep a region.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        self.parts.write(_name(row, column), answer.to_parquet())

    def finished(self, regions_yx: Pair) -> NDArray[np.bool_]:
        """Tell which regions are kept, (regions down, regions across)."""
        kept = np.zeros(regions_yx, bool)
        for name in self.parts.names():
            if match := _PART.fullmatch(name):
                place = int(match[1]), int(match[2])
                if place[0] < regions_yx[0] and place[1] < regions_yx[1]:
                    kept[place] = True
        return kept


def stored_job(folder: Folder) -> dict[str, Any] | None:
    """Return what a checkpoint says of its job; None where there is no checkpoint yet.

    Raises
    ------
    ArgumentError
        If something else lies there.
    """
    data = folder.read(JOB)
    if data is None:
        others = sorted(name for name in folder.names() if not name.startswith((LEASE, CALL, STATUS, ".")))
        if others:
            raise ArgumentError(
                f"{folder.shown} holds {others[0]} and no {JOB}: it is no checkpoint; give a new folder"
            )
        return None
    try:
        job = json.loads(data)
        if not isinstance(job["identity"], dict) or not isinstance(job["format"], int):
            raise TypeError("identity and format")
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"{folder.shown}/{JOB} is no geotile checkpoint ({error}); give a new folder") from None
    if job["format"] != FORMAT:
        raise ArgumentError(
            f"{folder.shown} is a checkpoint of format {job['format']}, this geotile writes {FORMAT}; give a new folder"
        )
    return dict(job)


def open_checkpoint(folder: Folder, identity: Identity, retry_failed: bool, **notes: Any) -> Checkpoint:
    """Begin or continue a checkpoint.

    Parameters
    ----------
    folder : Folder
    identity : mapping
        All that a region's answer depends on; JSON.
    retry_failed : bool
        Ask again about tiles that failed.
    **notes
        What else is to be known of the job; JSON.

    Raises
    ------
    ArgumentError
        If it is another job's; says what differs.
    OutputError
        If it cannot be read or written.
    """
    wanted = json.loads(json.dumps(identity))  # as it will be read
    job = stored_job(folder)
    if job is None:
        said = {"format": FORMAT, "identity": wanted, **notes}
        folder.write(JOB, json.dumps(said, indent=1).encode())
    elif differences := list(_differences(job["identity"], wanted)):
        raise ArgumentError(
            f"{folder.shown} is the checkpoint of another job: {'; '.join(differences[:5])}. Give the same arguments "
            "again, or a new folder"
        )
    return Checkpoint(folder=folder, digest=digest_of(wanted), retry_failed=retry_failed)


def digest_of(identity: Identity) -> str:
    """Return a short name of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _name(row: int, column: int) -> str:
    return f"{row:05d}-{column:05d}.parquet"


def _differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted({*there, *here}):
            yield from _differences(there.get(name), here.get(name), f"{path}.{name}" if path else name)
    elif there != here:
        yield f"{path} was {_short(there)} and is now {_short(here)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
