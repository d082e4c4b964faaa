"""A prepared run: it is computed here or returned lazily, and cancelled in all processes if it ends early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import pyarrow as pa
from dask.blockwise import optimize_blockwise
from dask.core import flatten
from dask.delayed import Delayed

from geotile.checkpoints.checkpoint import JOB, LEASE, Checkpoint
from geotile.core.dask_info import compute_options, loaded_distributed
from geotile.core.timing import sum_timings, take_timings, timed
from geotile.errors import ArgumentError, ClusterError, GeoreferenceError, GeotileError, ImageOpenError
from geotile.imagery.block_cache import discard_run
from geotile.imagery.source import Source
from geotile.imagery.strips import halo_first
from geotile.merging.detections import Detections, concat
from geotile.planning.plan import Plan
from geotile.results.frame import FrameBuilder
from geotile.results.report import Report
from geotile.results.run_report import detection_counts, make_report, warn_of_failures
from geotile.results.written_table import with_report, written_table
from geotile.running.cluster import call_on_workers, checking_late_workers
from geotile.running.progress import ProgressCallback
from geotile.running.region import Node, RegionJob
from geotile.running.watching import watched
from geotile.storage.folder import Folder
from geotile.storage.lease import lease
from geotile.traffic import begin_run, end_traffic, stop_run_everywhere


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The part of the report that is known before the run starts."""

    image: str
    endpoint: str
    tiles: int
    """Number of tiles of the grid."""
    regions: int
    outside_roi: int
    """Number of tiles outside the region of interest."""
    empty: int
    """Number of tiles that are known to be without data before they are read."""
    notes: tuple[str, ...] = ()
    """What the run does that the image or the options do not show."""

    @property
    def wanted_tiles(self) -> int:
        """Number of tiles that are to be read."""
        return self.tiles - self.outside_roi - self.empty


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run whose model is ready and whose graph is built."""

    summary: RunSummary
    job: RegionJob
    tree: da.Array
    """0-d, the root `Node` of the merging tree."""
    builder: FrameBuilder
    """Builder of the result's rows."""
    plan: Plan
    started: float = field(default_factory=time.perf_counter)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Checkpoint in which finished regions are kept."""
        return self.job.checkpoint

    @property
    def remote(self) -> bool:
        """Whether the model is behind a remote endpoint, not in the processes of the run."""
        return self.job.tiles.traffic is not None

    def compute(self, progress: bool | ProgressCallback | None) -> Node:
        """Compute the run and return the root of the tree.

        Raises
        ------
        ClusterError
            If the cluster is lost.
        """
        run = self.job.run
        annotations: dict[str, Any] = {"geotile": {"run": run, "image": self.summary.image}}
        if (priority := task_priority(self.plan.source)) is not None:
            annotations["priority"] = priority
        checkpoint = self.checkpoint
        kept, status = (0, None) if checkpoint is None else (self._count_kept_tiles(checkpoint), checkpoint.folder)
        late = checking_late_workers(run, self.job.tiles.endpoint, self.plan.source)
        with watched(run, progress, self.summary.wanted_tiles, kept, status), cancelling(run), late:
            begin_run(run)
            while True:
                finished = self._count_finished()
                try:
                    with dask.annotate(**annotations):
                        return self._compute_tree()
                except Exception as error:
                    if not _is_killed(error) or self.checkpoint is None or self._count_finished() == finished:
                        raise
                    # Dask gives a task up when four workers have died while they ran it. Other regions were finished in
                    # the meantime, so the cause is the workers, not the region: compute again what is missing.

    def _compute_tree(self) -> Node:
        single = self.plan.source is not None and self.summary.regions == 1  # computed arrays have tasks of their own
        options = compute_options(ahead=self.remote, single=single)
        try:
            root: Node = self.tree.compute(**options)
            return root
        finally:
            if (pool := options.get("pool")) is not None:
                pool.shutdown(wait=False)

    def lazy(self) -> Any:
        """Return a `dask.delayed.Delayed` of the result."""
        (key,) = flatten(self.tree.__dask_keys__())
        node = Delayed(key, optimize_blockwise(self.tree.dask, keys=[key]), layer=self.tree.name)
        return dask.delayed(_lazy_frame, pure=False)(node, self.summary, self.builder, self.job.run, self.remote)

    def frame(self, root: Node) -> gpd.GeoDataFrame:
        """Return the rows of the result, with the report."""
        rows, root = _rows(root, self.builder.build)
        rows.attrs["report"] = self.finish(root, len(rows))
        return rows

    def table(self, root: Node) -> tuple[pa.Table, Report]:
        """Return the rows of the result as files hold them, and the report."""
        rows, root = _rows(root, partial(written_table, self.builder))
        report = self.finish(root, len(rows))
        return with_report(rows, report), report

    def finish(self, root: Node, after: int | None = None) -> Report:
        """Return the report, and warn if tiles failed."""
        return _report(root, self.summary, self.job.run, self.remote, after, self.started)

    def _count_kept_tiles(self, checkpoint: Checkpoint) -> int:
        if checkpoint.retry_failed:
            return 0  # the tasks of the regions tell, since they know which tiles failed
        kept = np.argwhere(checkpoint.finished(self.job.grid.regions_yx))
        return sum(len(self.job.wanted_tiles(int(row), int(column))) for row, column in kept)

    def _count_finished(self) -> int:
        return 0 if self.checkpoint is None else int(self.checkpoint.finished(self.job.grid.regions_yx).sum())


def task_priority(source: Source | None) -> Callable[[Any], int] | None:
    """Return the priority of tasks on a cluster: halos first for computed arrays, Dask's own order for files."""
    return halo_first if source is None else None


def leased(checkpoint: Folder | None) -> AbstractContextManager[None]:
    """Return a context that holds the lease of a checkpoint."""
    if checkpoint is None:
        return nullcontext()
    return lease(checkpoint, LEASE, f"the checkpoint {checkpoint.display_name}")


@contextmanager
def cancelling(run: str) -> Iterator[None]:
    """Cancel a run in all processes if it ends early."""
    try:
        yield
        call_on_workers(discard_run, run)
    except BaseException:
        stop_run_everywhere(run, "the run was stopped")
        raise
    finally:
        discard_run(run)


@contextmanager
def naming_how_to_resume(
    checkpoint: Folder | None, kind: type[GeotileError] = GeotileError
) -> Iterator[None]:  # fmt: skip
    """Add to the error of a run that ends early which results are kept and how to resume.

    Parameters
    ----------
    checkpoint : Folder or None
    kind : type
        Which of geotile's own errors are added to.

    Raises
    ------
    ClusterError
        In place of any error that Dask raises when a cluster is lost.
    """
    try:
        yield
    except BaseException as error:
        note = _how_to_resume(checkpoint)
        before = isinstance(error, ArgumentError | ImageOpenError | GeoreferenceError)  # the run has not begun
        if isinstance(error, kind) and not before:
            error.add_note(note)
        elif _is_lost(error):
            raise ClusterError(f"the Dask cluster was lost ({type(error).__name__}: {error}). {note}") from None
        elif not isinstance(error, Exception):
            error.add_note(note)
        raise


def _how_to_resume(checkpoint: Folder | None) -> str:
    if checkpoint is None:
        return "No result is kept; give checkpoint= to keep the regions that are finished"
    if checkpoint.is_local and checkpoint.read(JOB) is None:
        return "No region was finished; the same call begins the run again"
    return f"The finished regions are kept in {checkpoint.display_name}; the same call resumes from there"


def _is_killed(error: BaseException) -> bool:
    return type(error).__name__ == "KilledWorker"


_LOST = {
    "KilledWorker", "CommClosedError", "CancelledError", "FutureCancelledError", "NoValidWorkerError",
    "ClosedClientError",
}  # fmt: skip


def _is_lost(error: BaseException) -> bool:
    """Return whether an error means that the scheduler or the workers were lost."""
    if loaded_distributed() is None or not isinstance(error, Exception):
        return False
    return any(each.__name__ in _LOST for each in type(error).__mro__)


def _lazy_frame(root: Node, summary: RunSummary, builder: FrameBuilder, run: str, remote: bool) -> gpd.GeoDataFrame:
    """Return the result of a root: the last task of a lazy run."""
    discard_run(run)
    rows, root = _rows(root, builder.build)
    rows.attrs["report"] = _report(root, summary, run, remote, len(rows), None)
    return rows


def _rows(root: Node, build: Callable[[Detections], Any]) -> tuple[Any, Node]:
    """Return the rows of the result of a root, and the root with the time of making them."""
    take_timings()  # what this thread did before
    with timed("rows"):
        rows = build(concat(root.settled))
    return rows, replace(root, timing=sum_timings(root.timing, take_timings()))


def _notes(root: Node) -> Iterator[str]:
    if root.without_area:
        yield (
            f"{root.without_area:,} of the detections before merging are points or lines. This merge compares areas: "
            "it keeps both where two tiles place one differently. merge='point-nms:distance=...' merges points"
        )


def _report(
    root: Node, summary: RunSummary, run: str, remote: bool, after: int | None, started: float | None
) -> Report:  # fmt: skip
    traffic = end_traffic(run) if remote else None
    report = make_report(
        image=summary.image, endpoint=summary.endpoint, tiles=summary.tiles, regions=summary.regions,
        outside_roi=summary.outside_roi, without_data=root.without_data + summary.empty, resumed=root.resumed,
        requests=root.requests, retries=root.retries, failures=root.failures,
        counts=detection_counts(
            rejected=root.rejected, repaired=root.repaired, before=root.before,
            after=sum(part.rows for part in root.parts) if after is None else after, at_seams=root.at_seams,
        ),
        seconds=0.0 if started is None else time.perf_counter() - started, traffic=traffic, timing=root.timing,
        notes=[*summary.notes, *_notes(root)],
    )  # fmt: skip
    warn_of_failures(report, "geotile.report(detections).failures lists all of them")
    return report
