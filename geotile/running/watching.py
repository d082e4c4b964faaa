"""The progress of a run, shown to its user and stored where other processes read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from geotile.running.progress import ProgressCallback, progress_listener
from geotile.running.progress_display import progress_display
from geotile.running.status import status_writer
from geotile.storage.folder import Folder


@contextmanager
def watched(
    run: str, progress: bool | ProgressCallback | None, tiles: int, kept: int, status: Folder | None
) -> Iterator[None]:
    """Show and store the progress of a run while the block runs.

    Parameters
    ----------
    run : str
        Name of the run, as `run_name` returns it.
    progress : bool, callable or None
        The option of the call.
    tiles : int
        Number of tiles of the run.
    kept : int
        Number of tiles that are done already, in an earlier run.
    status : Folder or None
        Folder that the status is stored in.
    """
    with ExitStack() as stack:
        callbacks = list(stack.enter_context(progress_display(progress)))
        if status is not None:
            callbacks.append(stack.enter_context(status_writer(status, run, tiles, kept)))
        stack.enter_context(progress_listener(run, callbacks, tiles, kept))
        yield
