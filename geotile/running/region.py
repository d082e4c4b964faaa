"""One task per region, in one function: kept? → read → ask → keep → settle."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from geotile.checkpoints.checkpoint import Checkpoint
from geotile.checkpoints.region_answer import RegionAnswer
from geotile.core.cancellation import is_abandoned
from geotile.core.checks import Pair
from geotile.core.memory import Measured
from geotile.core.metrics import count
from geotile.core.timing import Timing, sum_timings, take_timings, timed
from geotile.errors import OutputError
from geotile.grid.tile_grid import Tile, TileGrid
from geotile.imagery.region_pixels import NoPixels, Region
from geotile.merging.detections import Detections, concat
from geotile.merging.merge import Merge
from geotile.merging.seams import count_at_seams, count_without_area
from geotile.results.dataset import Part, PartWriter
from geotile.results.failures import NO_FLAWS, Flaws, TileFailure
from geotile.running.progress import Counts, progress_reporter
from geotile.running.tile_job import TileJob, TileResult
from geotile.running.tiles import ask_model

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RegionJob:
    """Everything that a region's task needs besides the region. Pickles."""

    run: str
    """Name of the run."""
    grid: TileGrid
    selected: NDArray[np.bool_] | None
    """(tiles down, tiles across) bool, the tiles to read; None for all."""
    tiles: TileJob
    """How tiles are sent and their answers read."""
    merge: Merge
    checkpoint: Checkpoint | None
    """Where finished regions are kept."""
    writer: PartWriter | None
    """Writer of settled detections; None to carry them to the root of the tree."""

    def wanted_tiles(self, row: int, column: int) -> list[Tile]:
        """Return a region's tiles that are to be read."""
        tiles = self.grid.region_tiles(row, column)
        return tiles if self.selected is None else [tile for tile in tiles if self.selected.flat[tile.number]]

    def missing_tiles(self, row: int, column: int, kept: RegionAnswer | None) -> list[Tile]:
        """Return a region's tiles that are to be read and have no kept answer."""
        wanted = self.wanted_tiles(row, column)
        if kept is None or self.checkpoint is None:
            return wanted
        failed = {failure.tile for failure in kept.failures} if self.checkpoint.retry_failed else set()
        return [tile for tile in wanted if tile.number in failed]

    def wanted_regions(self) -> NDArray[np.bool_]:
        """Return which regions have a tile to be read, (regions down, regions across) bool."""
        if self.selected is None:
            return np.ones(self.grid.regions_yx, bool)
        y, x = (axis.first_tile[:-1] for axis in self.grid.axes)
        return np.logical_or.reduceat(np.logical_or.reduceat(self.selected, y, axis=0), x, axis=1)


@dataclass(frozen=True, kw_only=True)
class Node(Measured):
    """A node of the merging tree: the result of one region, or of a rectangle of regions."""

    rows: Pair
    """First and one past the last row of regions."""
    columns: Pair
    """First and one past the last column of regions."""
    settled: tuple[Detections, ...] = ()
    """Settled detections that are not written yet."""
    parts: tuple[Part, ...] = ()
    """Parts of the dataset that were written."""
    open: Detections
    """Detections whose fate can still change."""
    failures: tuple[TileFailure, ...] = ()
    requests: int = 0
    retries: int = 0
    before: int = 0
    """Number of detections before merging."""
    without_data: int = 0
    """Number of tiles that were not sent because they hold too little data."""
    resumed: int = 0
    """Number of tiles whose answer was kept from an earlier run."""
    rejected: Flaws = NO_FLAWS
    """Boxes that are not valid."""
    repaired: Flaws = NO_FLAWS
    """Shapes that were not valid and were made so."""
    at_seams: int = 0
    """Number of settled detections that end at the border of their tile."""
    without_area: int = 0
    """Number of points and lines before merging, if the merge compares areas and tiles overlap."""
    timing: Timing
    """CPU time of the processes by stage, in seconds."""

    def written(self, writer: PartWriter | None, *, last: bool = False) -> Node:
        """Return the node with its settled detections written, if there are enough of them or it is the last node."""
        rows = sum(map(len, self.settled))
        if writer is None or (rows < writer.min_rows and not last):
            return self
        with timed("write"):
            part = writer.write(concat(self.settled), self.rows, self.columns, even_empty=last and not self.parts)
        timing = sum_timings(self.timing, take_timings())
        return replace(self, settled=(), parts=(*self.parts, part) if part else self.parts, timing=timing)


def map_regions(regions: da.Array, job: RegionJob, *, from_file: bool) -> da.Array:
    """Run the model over every tile, one task per region.

    Parameters
    ----------
    regions : dask.array.Array
        (1, regions down, regions across) of `Region`, one per chunk.
    job : RegionJob
    from_file : bool
        Whether the regions are windows of a file, which their own task reads.

    Returns
    -------
    dask.array.Array
        (1, regions down, regions across) of `Node`, one per chunk.
    """
    shared = delayed(job, name=f"job-{job.run}", traverse=False)  # one key, so that tasks stay small: 13 kB without
    nodes = regions.map_blocks(
        run_region,
        job=shared,
        dtype=object,
        meta=np.empty((0, 0, 0), object),
        name=f"ask-model-{job.run.rpartition('-')[2]}",
    )
    return _without_needless(nodes, shared, job, from_file)


def run_region(region: Region, job: RegionJob, block_id: tuple[int, int, int]) -> Node:
    """Return the node of a region: kept? → read → ask → keep → settle."""
    _, row, column = block_id
    started = time.perf_counter()
    kept = None if job.checkpoint is None else job.checkpoint.load(row, column)
    tiles = job.missing_tiles(row, column, kept)
    if kept is not None and job.checkpoint:
        _report_kept(job, kept, tiles, len(job.wanted_tiles(row, column)) - len(tiles))
    pixels = region.read(tiles, job.tiles.need_valid)
    results = [result for _, result in ask_model(pixels, job.tiles, tiles)]
    answer = _combined(kept, results, tiles)
    if job.checkpoint and tiles and not any(result.cancelled for result in results):
        job.checkpoint.save(row, column, answer)
    with timed("merge"):
        interior = job.grid.interior((row, row + 1), (column, column + 1))
        settled, still_open = job.merge.settle(answer.detections, interior, job.grid)
    node = Node(
        rows=(row, row + 1), columns=(column, column + 1), settled=(settled,), open=still_open,
        failures=answer.failures,
        requests=sum(result.attempts for result in results),
        retries=sum(result.retries for result in results),
        before=len(answer.detections),
        without_data=answer.without_data,
        rejected=answer.rejected, repaired=answer.repaired,
        at_seams=count_at_seams(settled, job.grid),
        without_area=count_without_area(answer.detections, job.grid) if job.merge.by_area else 0,
        resumed=len(job.wanted_tiles(row, column)) - len(tiles),
        timing=sum_timings({"decode": pixels.read_s}, take_timings(), *(result.timing for result in results)),
    )  # fmt: skip
    if not is_abandoned(job.run):  # else the tiles that have no answer did not fail
        _report(node, job, len(tiles), time.perf_counter() - started)
    return node.written(job.writer)


def _combined(kept: RegionAnswer | None, results: list[TileResult], asked: Sequence[Tile]) -> RegionAnswer:
    """Return the kept answer of a region together with the answers to its other tiles."""
    before = kept or RegionAnswer(detections=concat([]))
    numbers = {tile.number for tile in asked}
    failed = [failure for failure in before.failures if failure.tile not in numbers]
    contents = [result.content for result in results if result.content]
    return RegionAnswer(
        detections=concat([before.detections, *(each.found for each in contents)]),
        failures=(*failed, *(result.failure for result in results if result.failure)),
        without_data=before.without_data + sum(result.without_data for result in results),
        rejected=Flaws.joined([before.rejected, *(each.rejected for each in contents)]),
        repaired=Flaws.joined([before.repaired, *(each.repaired for each in contents)]),
    )


def _report_kept(job: RegionJob, kept: RegionAnswer, asked: Sequence[Tile], tiles: int) -> None:
    """Report what a kept region holds, which is known only when it has been loaded.

    Its tiles have been counted before, unless those that failed are asked again.
    """
    again = {tile.number for tile in asked}
    uncounted = tiles if job.checkpoint is not None and job.checkpoint.retry_failed else 0
    reporter = progress_reporter(job.run)
    reporter(
        Counts(
            tiles=uncounted, kept=uncounted, detections=len(kept.detections),
            failures=sum(failure.tile not in again for failure in kept.failures),
        )
    )  # fmt: skip
    reporter.flush()


def _report(node: Node, job: RegionJob, tiles: int, seconds: float) -> None:
    """Count and log the results of a region's tiles."""
    count(
        node.timing, regions=1, tiles=tiles, tile_failures=len(node.failures), requests=node.requests,
        retries=node.retries, detections=node.before,
    )  # fmt: skip
    region = node.rows[0], node.columns[0]
    _log.info(
        "region %s: %d tiles in %.2f s, %d requests, %d detections, %d failed",
        region, tiles, seconds, node.requests, node.before, len(node.failures),
        extra={"run": job.run, "region": region, "tiles": tiles, "seconds": seconds},
    )  # fmt: skip


def _without_needless(nodes: da.Array, shared: Delayed, job: RegionJob, from_file: bool) -> da.Array:
    """Replace the nodes of regions without tiles, and of kept regions, so that their pixels are not computed."""
    wanted, kept = job.wanted_regions(), _kept_regions(job, from_file)
    if wanted.all() and not kept.any():
        return nodes
    name = f"select-region-{job.run.rpartition('-')[2]}"
    layer: dict[tuple[str, int, int, int], Any] = {
        (name, 0, row, column): (nodes.name, 0, row, column)
        if wanted[row, column] and not kept[row, column]
        else (_load_region, shared.key, row, column)
        if wanted[row, column]
        else Node(rows=(row, row + 1), columns=(column, column + 1), open=concat([]), timing={})
        for row, column in np.ndindex(wanted.shape)
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[nodes, shared])
    return da.Array(graph, name, nodes.chunks, dtype=object, meta=np.empty((0, 0, 0), object))


def _kept_regions(job: RegionJob, from_file: bool) -> NDArray[np.bool_]:
    """Return which regions need not be computed because a checkpoint holds them.

    The task of a file's region looks for itself before it reads, so this is for arrays, which would be computed first.
    """
    if job.checkpoint is None or job.checkpoint.retry_failed or from_file:
        return np.zeros(job.grid.regions_yx, bool)
    return job.checkpoint.finished(job.grid.regions_yx)


def _load_region(job: RegionJob, row: int, column: int) -> Node:
    """Return the node of a region that a checkpoint holds, without its pixels."""
    checkpoint = job.checkpoint
    if checkpoint is not None and checkpoint.load(row, column) is None:
        raise OutputError(
            f"region {row}, {column} in {checkpoint.parts.display_name} is damaged or missing. Remove its file and "
            "run again"
        )
    return run_region(NoPixels(), job, (0, row, column))
