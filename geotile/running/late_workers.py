"""A plugin of Dask's workers that keeps those away which join during a run and cannot do it.

It is sent by value and imports geotile only while it checks: a worker without geotile must be able to load it. A worker
that cannot load a plugin neither starts nor ends.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import dumps, loads

if TYPE_CHECKING:
    from geotile.imagery.source import Source

_log = logging.getLogger(__name__)


class LateWorkers(WorkerPlugin):  # type: ignore[misc]  # distributed is not typed
    """Check of a worker that joins: what `check_cluster` asks of those that are there when a run starts.

    Dask calls it before the worker gets a task. A worker that fails is closed with its nanny, so that its tasks go to
    others at once: left in the cluster, it would end the run.

    Parameters
    ----------
    run : str
        Name of the run.
    model : Endpoint
    source : Source or None
        File in a local file system that is read; None for others.
    checked : frozenset of str
        Addresses of the workers that were checked before.
    """

    def __init__(self, run: str, model: Any, source: Source | None, checked: frozenset[str]) -> None:
        self.name = f"geotile-late-workers-{run}"
        self.model, self.source, self.checked = dumps(model), dumps(source), checked
        self.python, self.version = platform.python_version_tuple()[:2], metadata.version("geotile")

    async def setup(self, worker: Any) -> None:
        """Check the worker, and close it if it cannot do the run."""
        if worker.address in self.checked:
            return
        reason = await asyncio.to_thread(self._reason)
        if reason is not None:
            _log.error("this worker cannot do the runs of the cluster and leaves it: %s", reason)
            # The worker keeps the task: asyncio itself would let it be collected.
            worker.geotile_closing = asyncio.create_task(worker.close(reason=f"geotile: {reason}"))

    def _reason(self) -> str | None:
        """Return why this process cannot do the run; None if it can."""
        here = platform.python_version_tuple()[:2]
        if here != self.python:
            return f"it runs Python {'.'.join(here)}, and the run needs {'.'.join(self.python)}"
        try:
            version = metadata.version("geotile")
        except metadata.PackageNotFoundError:
            return f"it has no geotile, and the run needs {self.version}"
        if version != self.version:
            return f"it has geotile {version}, and the run needs {self.version}"
        if (failure := load_failure(self.model)) is not None:
            return failure
        source = loads(self.source)
        return None if source is None else open_failure(source)


def load_failure(data: bytes) -> str | None:
    """Return why a pickled model cannot be loaded here, None if it can."""
    try:
        loads(data)
    except Exception as error:  # the module of a user's model may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def open_failure(source: Source) -> str | None:
    """Return why a file cannot be opened here, None if it can."""
    from geotile.core.rasterio_env import READ_ERRORS
    from geotile.core.redact import redact

    try:
        source.check()
    except READ_ERRORS as error:
        return redact(str(error))
    return None
