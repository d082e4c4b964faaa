"""A run that is ready to go: computed here, or handed over lazily; ended everywhere when it ends early."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
from dask.blockwise import optimize_blockwise
from dask.core import flatten
from dask.delayed import Delayed

from geotile.checkpoints.checkpoint import LEASE, Checkpoint
from geotile.core.dask_info import extra_threads_options, loaded_distributed
from geotile.errors import ArgumentError, ClusterError, GeotileError
from geotile.imagery.block_cache import forget
from geotile.merging.detections import concat
from geotile.results.frame import Placing
from geotile.results.report import Report, make_report
from geotile.running.cluster import on_all_workers
from geotile.running.progress import ProgressCallback, listening, shown
from geotile.running.region import Node
from geotile.running.status import status_of
from geotile.running.tiles import TileJob
from geotile.storage.folder import Folder
from geotile.storage.lease import lease
from geotile.traffic import begin_run, end_traffic, stop_run_everywhere


@dataclass(frozen=True, kw_only=True)
class About:
    """What a report says of a run besides what came of it."""

    image: str
    endpoint: str
    tiles: int
    regions: int
    outside_roi: int
    empty: int
    """Tiles that are known to be without data before they are read."""

    @property
    def requests(self) -> int:
        """Tiles that are to be read."""
        return self.tiles - self.outside_roi - self.empty


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run, its model there, its graph built."""

    about: About
    job: TileJob
    tree: da.Array
    placing: Placing
    priority: Callable[[Any], int] | None = None
    """Of tasks on a cluster, by key; None leaves it to Dask."""
    began: float = field(default_factory=time.perf_counter)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Where its regions are kept."""
        return self.job.reading.checkpoint

    def compute(self, progress: bool | ProgressCallback | None) -> Node:
        """Compute it; return the root of the tree.

        Raises
        ------
        ClusterError
            If the cluster is lost.
        """
        run, remote = self.job.run, self.job.rules is not None
        with self._seen(progress), _ending(run):
            begin_run(run)
            options: dict[str, Any] = extra_threads_options() if remote else {}
            notes: dict[str, Any] = {"geotile": {"run": run, "image": self.about.image}}
            if self.priority is not None:
                notes["priority"] = self.priority
            while True:
                finished = self._finished()
                try:
                    with dask.annotate(**notes):
                        root: Node = self.tree.compute(**options)
                    return root
                except Exception as error:
                    if not _killed(error) or self.checkpoint is None or self._finished() == finished:
                        raise
                    # A region is given up by Dask when workers die around it four times; but others were finished
                    # since, so it is the workers that die, and what is finished need not be done again.

    def lazy(self) -> Any:
        """Return a `dask.delayed.Delayed` of the answer."""
        (key,) = flatten(self.tree.__dask_keys__())
        node = Delayed(key, optimize_blockwise(self.tree.dask, keys=[key]), layer=self.tree.name)
        return dask.delayed(_finished, pure=False)(
            node, self.about, self.placing, self.job.run, self.job.rules is not None
        )

    def finish(self, root: Node, after: int | None = None) -> Report:
        """Return the report; warn of failures."""
        return _report(root, self.about, self.job.run, self.job.rules is not None, after, self.began)

    @contextmanager
    def _seen(self, progress: bool | ProgressCallback | None) -> Iterator[None]:
        """Hold the checkpoint and tell of progress."""
        tiles, checkpoint = self.about.requests, self.checkpoint
        with ExitStack() as stack:
            shows = list(stack.enter_context(shown(progress)))
            kept = 0
            if checkpoint is not None:
                kept = self._kept_tiles(checkpoint)
                shows.append(stack.enter_context(status_of(checkpoint.folder, tiles, kept)))
            stack.enter_context(listening(self.job.run, shows, tiles, kept))
            yield

    def _kept_tiles(self, checkpoint: Checkpoint) -> int:
        reading = self.job.reading
        kept = np.argwhere(checkpoint.finished(reading.grid.regions_yx))
        return sum(len(reading.tiles(int(row), int(column))) for row, column in kept)

    def _finished(self) -> int:
        return 0 if self.checkpoint is None else int(self.checkpoint.finished(self.job.grid.regions_yx).sum())


def claimed(checkpoint: Folder | None) -> AbstractContextManager[None]:
    """Return a block that holds a checkpoint."""
    if checkpoint is None:
        return nullcontext()
    return lease(checkpoint, LEASE, f"the checkpoint {checkpoint.display_name}")


@contextmanager
def _ending(run: str) -> Iterator[None]:
    """End a run everywhere if it ends early."""
    try:
        yield
        on_all_workers(forget, run)
    except BaseException:
        stop_run_everywhere(run, "the run was stopped")
        raise
    finally:
        forget(run)


@contextmanager
def saying_how_to_go_on(checkpoint: Folder | None) -> Iterator[None]:
    """Say of a run that ends early what is kept of it.

    Raises
    ------
    ClusterError
        In the place of whatever Dask raises when a cluster is lost.
    """
    try:
        yield
    except BaseException as error:
        said = _how_to_go_on(checkpoint)
        if isinstance(error, GeotileError) and not isinstance(error, ArgumentError):
            error.add_note(said)
        elif _lost(error):
            raise ClusterError(f"the Dask cluster was lost ({type(error).__name__}: {error}). {said}") from None
        elif not isinstance(error, Exception):
            error.add_note(said)
        raise


def _how_to_go_on(checkpoint: Folder | None) -> str:
    if checkpoint is None:
        return "Nothing is kept; give checkpoint= to keep what is finished"
    return f"What is finished is kept in {checkpoint.display_name}; the same call goes on from there"


def _killed(error: BaseException) -> bool:
    return type(error).__name__ == "KilledWorker"


def _lost(error: BaseException) -> bool:
    """Tell whether an error means that scheduler or workers are gone."""
    if loaded_distributed() is None or not isinstance(error, Exception):
        return False
    names = {each.__name__ for each in type(error).__mro__}
    return bool(
        names & {"KilledWorker", "CommClosedError", "CancelledError", "FutureCancelledError", "NoValidWorkerError"}
    )


def _finished(root: Node, about: About, placing: Placing, run: str, remote: bool) -> gpd.GeoDataFrame:
    """Turn a root into the answer: the last task of a lazy run."""
    forget(run)
    table = placing.table(concat(root.settled))
    table.attrs["report"] = _report(root, about, run, remote, len(table), None)
    return table


def _report(root: Node, about: About, run: str, remote: bool, after: int | None, began: float | None) -> Report:
    traffic = end_traffic(run) if remote else None
    report = make_report(
        image=about.image, endpoint=about.endpoint, tiles=about.tiles, regions=about.regions,
        requests=root.requests, retries=root.retries, before=root.before,
        after=sum(part.rows for part in root.parts) if after is None else after,
        seconds=0.0 if began is None else time.perf_counter() - began, failures=root.failures,
        outside_roi=about.outside_roi, without_data=root.without_data + about.empty, resumed=root.resumed,
        traffic=traffic, timing=root.timing,
    )  # fmt: skip
    if report.failures:
        first = report.failures[0]
        warnings.warn(
            f"{len(report.failures)} of {report.tiles} tiles failed (status {report.status}); the first, "
            f"tile {first.tile}: {first.reason}. All are in attrs['report'].failures",
            stacklevel=4,
        )
    return report
