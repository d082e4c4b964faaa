"""The status of a run, written to its checkpoint so that other processes and machines can read it."""

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
from geotile.core.cancellation import is_abandoned
from geotile.core.checks import check_path
from geotile.core.digest import json_digest
from geotile.errors import ArgumentError, OutputError
from geotile.results.raster_store import RasterStore
from geotile.running.progress import Progress, ProgressCallback, clock
from geotile.storage.folder import Folder
from geotile.storage.lease import is_leased

_log = logging.getLogger(__name__)
_INTERVAL_S = 2.0
_OF_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@contextmanager
def status_writer(folder: Folder, run: str, tiles: int, kept: int) -> Iterator[ProgressCallback]:
    """Write the status of a run to a checkpoint every two seconds and at its end; return the callback for progress.

    Parameters
    ----------
    folder : Folder
        Folder of the checkpoint.
    run : str
        Name of the run.
    tiles : int
        Number of tiles of the run.
    kept : int
        Number of tiles that are done already, in an earlier run.
    """
    writer = _Writer(folder, Progress(tiles=tiles, done=kept, kept=kept))
    thread = threading.Thread(target=writer.run, name="geotile-status", daemon=True)
    thread.start()
    final = "failed"
    try:
        yield writer.update
        final = "stopped" if is_abandoned(run) else "finished"
    except KeyboardInterrupt:
        final = "stopped"
        raise
    finally:
        writer.finished.set()
        thread.join()
        writer.write(final)


class _Writer:
    """Latest progress of a run, and the loop that writes it."""

    def __init__(self, folder: Folder, progress: Progress) -> None:
        self.folder, self.progress, self.finished = folder, progress, threading.Event()

    def update(self, progress: Progress) -> None:
        """Replace the latest progress."""
        self.progress = progress

    def run(self) -> None:
        """Write the status every two seconds until the run has finished."""
        while True:
            self.write("running")
            if self.finished.wait(_INTERVAL_S):
                return

    def write(self, state: str) -> None:
        """Write the status; an error in writing is logged and does not stop the run."""
        status = {"state": state, "at": time.time(), "host": socket.gethostname(), "process": os.getpid()}
        status |= dataclasses.asdict(self.progress)
        try:
            self.folder.write(STATUS, json.dumps(status).encode(), at_once=False)  # one that is lost is read as none
        except OutputError as error:
            _log.warning("%s", error)


def checkpoint_rows(checkpoint: str | os.PathLike[str]) -> dict[str, str]:
    """Return the progress of the run of a checkpoint, as names and values for people.

    Raises
    ------
    ArgumentError
        If the folder is not a checkpoint.
    """
    folder = Folder.at(check_path(checkpoint, "checkpoint"))
    job, status = stored_job(folder, "Check the path"), read_status(folder)
    if job is None:
        raise ArgumentError(f"{folder.display_name} is not a checkpoint: it holds no {JOB}. Check the path")
    try:
        rows = _job_rows(folder, job) | _status_rows(folder, status)
        finds_nothing = {"raster", "length"} & set(job["identity"]["tiles"])
        return {name: text for name, text in rows.items() if name != "detections" or not finds_nothing}
    except _OF_DAMAGE as error:  # files of another program
        raise ArgumentError(
            f"{folder.display_name} does not hold the files of a geotile checkpoint ({type(error).__name__}: {error}). "
            "Check the path"
        ) from None


def _status_rows(folder: Folder, status: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the rows of a status; one that is damaged hides nothing of the checkpoint."""
    if status is None:
        return {} if folder.read(STATUS) is None else {"state": f"unknown: {STATUS} is damaged"}
    try:
        return status_rows(status)
    except _OF_DAMAGE as error:
        return {"state": f"unknown: {STATUS} is damaged ({type(error).__name__}: {error})"}


def _job_rows(folder: Folder, job: Mapping[str, Any]) -> dict[str, str]:
    """Return the image, the model and the finished regions of a checkpoint."""
    identity = job["identity"]
    checkpoint, regions = Checkpoint(folder=folder, digest=json_digest(identity)), tuple(job["regions"])
    if "raster" in identity["tiles"]:
        kept = RasterStore(folder=checkpoint.parts, array=b"").done(regions)
    else:
        kept = checkpoint.finished(regions)
    return {
        "image": str(identity["image"].get("uri", "an array")),
        "model": str(identity["model"]["model"]),
        "regions kept": f"{int(kept.sum()):,} of {kept.size:,}",
    }


def status_rows(status: Mapping[str, Any]) -> dict[str, str]:
    """Return a status, as `read_status` returns it, as names and values for people."""
    names = {field.name for field in dataclasses.fields(Progress)}
    progress = Progress(**{name: value for name, value in status.items() if name in names})
    age_s = max(0.0, time.time() - float(status["at"]))
    seen = "last seen " if status["state"] == "died" else ""
    rows = {
        "state": f"{status['state']} (process {status['process']} on {status['host']}, {seen}{age_s:,.0f} s ago)",
        "tiles": f"{progress.done:,} of {progress.tiles:,}, {progress.failures:,} failed",
        "requests": f"{progress.requests:,} in this run, {progress.requests_per_s:,.1f}/s",
        "detections": f"{progress.detections:,} before merging",
        "running for": clock(progress.seconds),
    }
    if status["state"] == "running" and progress.waiting_for:
        rows["waiting for"] = progress.waiting_for
    if status["state"] == "running" and progress.eta_s is not None:
        rows["to go"] = clock(progress.eta_s)
    return rows


def read_status(folder: Folder) -> dict[str, Any] | None:
    """Return the last status of a run; its state is "died" if the status is "running" but no process holds the lease.

    Returns
    -------
    dict or None
        ``state`` ("running", "finished", "stopped", "failed" or "died"), ``at`` (seconds since 1970), ``host``,
        ``process``, and the fields of `Progress`; None if there is no readable status.
    """
    data = folder.read(STATUS)
    try:
        status = json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    if isinstance(status, dict) and status.get("state") == "running" and not is_leased(folder, LEASE):
        status["state"] = "died"
    return status if isinstance(status, dict) else None
