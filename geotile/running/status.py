"""How far a run is, written beside its checkpoint for whoever asks from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from geotile.checkpoints.checkpoint import JOB, LEASE, STATUS, Checkpoint, stored_job
from geotile.core.digest import json_digest
from geotile.errors import ArgumentError, OutputError
from geotile.running.progress import Progress, ProgressCallback, clock
from geotile.storage.folder import Folder
from geotile.storage.lease import is_leased

_log = logging.getLogger(__name__)
_EVERY_S = 2.0


@contextmanager
def status_of(folder: Folder, tiles: int, kept: int) -> Iterator[ProgressCallback]:
    """Write a run's status every two seconds, and how it ended."""
    keeper = _Keeper(folder, Progress(tiles=tiles, done=kept, kept=kept))
    thread = threading.Thread(target=keeper.keep, name="geotile-status", daemon=True)
    thread.start()
    ended = "failed"
    try:
        yield keeper.show
        ended = "finished"
    except KeyboardInterrupt:
        ended = "stopped"
        raise
    finally:
        keeper.over.set()
        thread.join()
        keeper.write(ended)


class _Keeper:
    def __init__(self, folder: Folder, state: Progress) -> None:
        self.folder, self.state, self.over = folder, state, threading.Event()

    def show(self, state: Progress) -> None:
        """Take note of progress."""
        self.state = state

    def keep(self) -> None:
        """Write it now and then."""
        while True:
            self.write("running")
            if self.over.wait(_EVERY_S):
                return

    def write(self, state: str) -> None:
        """Write it; a status that cannot be written does not stop the run."""
        said = {"state": state, "at": time.time(), "host": socket.gethostname(), "process": os.getpid()}
        said |= dataclasses.asdict(self.state)
        try:
            self.folder.write(STATUS, json.dumps(said).encode())
        except OutputError as error:
            _log.warning("%s", error)


def checkpoint_rows(checkpoint: str | os.PathLike[str]) -> dict[str, str]:
    """Return how far the run of a checkpoint is, as names and values for people.

    Raises
    ------
    ArgumentError
        If the folder is not a checkpoint.
    """
    folder = Folder.at(checkpoint)
    job, status = stored_job(folder), read_status(folder)
    if job is None:
        raise ArgumentError(f"{folder.display_name} is not a checkpoint: it holds no {JOB}. Check the path")
    identity = job["identity"]
    kept = Checkpoint(folder=folder, digest=json_digest(identity)).finished(tuple(job["regions"]))
    rows = {
        "image": str(identity["image"].get("uri", "an array")),
        "model": str(identity["model"]["model"]),
        "regions kept": f"{int(kept.sum()):,} of {kept.size:,}",
    }
    return rows | ({} if status is None else status_rows(status))


def status_rows(said: Mapping[str, Any]) -> dict[str, str]:
    """Return a status as lines for people."""
    state = Progress(**{field.name: said[field.name] for field in dataclasses.fields(Progress) if field.name in said})
    ago = max(0.0, time.time() - float(said["at"]))
    rows = {
        "state": f"{said['state']} (process {said['process']} on {said['host']}, {ago:,.0f} s ago)",
        "tiles": f"{state.done:,} of {state.tiles:,}, {state.failures:,} failed in this run",
        "requests": f"{state.requests:,} in this run, {state.requests_per_s:,.1f}/s",
        "detections": f"{state.detections:,} in this run, before merging",
        "running for": clock(state.seconds),
    }
    if said["state"] == "running" and state.eta_s is not None:
        rows["to go"] = clock(state.eta_s)
    return rows


def read_status(folder: Folder) -> dict[str, Any] | None:
    """Return what a run said last of itself; its state is "died" where it said that it was running and is not.

    Returns
    -------
    dict or None
        ``state`` ("running", "finished", "stopped", "failed" or "died"), ``at`` (seconds since 1970), ``host``,
        ``process``, and the fields of `Progress`; None where nothing was said.
    """
    data = folder.read(STATUS)
    try:
        said = json.loads(data) if data else None
    except ValueError:
        return None
    if isinstance(said, dict) and said.get("state") == "running" and not is_leased(folder, LEASE):
        said["state"] = "died"
    return said if isinstance(said, dict) else None
