"""One task a region: its pixels, its tiles through the model, what it settles."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from geotile.checkpoints.region_answer import RegionAnswer
from geotile.core.checks import Pair
from geotile.core.metrics import count
from geotile.core.timing import Timing, sum_timings, take_timings, timed
from geotile.errors import OutputError
from geotile.grid.tile_grid import Window
from geotile.imagery.open import source_of
from geotile.merging.detections import Detections, concat
from geotile.results.dataset import Part, PartWriter
from geotile.results.report import TileFailure
from geotile.running.region_pixels import Reading, RegionPixels, overlapped
from geotile.running.tiles import TileJob, TileResult, ask_model

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node of the merging tree knows: of one region, or of a rectangle of them."""

    rows: Pair
    columns: Pair
    settled: tuple[Detections, ...]
    """Of them, what is not written yet."""
    parts: tuple[Part, ...]
    """What was written."""
    open: Detections
    failures: tuple[TileFailure, ...]
    requests: int
    retries: int
    before: int
    without_data: int
    """Tiles that were not sent, since they hold too little data."""
    resumed: int
    """Tiles whose answer was kept from an earlier run."""
    timing: Timing
    """The processes' own time, by step."""

    def written(self, writer: PartWriter | None, *, last: bool = False) -> Node:
        """Return the node with its settled detections written, if they are to be, and enough or the last."""
        rows = sum(map(len, self.settled))
        if writer is None or (rows < writer.min_rows and not last):
            return self
        with timed("merge"):
            part = writer.write(concat(self.settled), self.rows, self.columns, even_empty=last and not self.parts)
        return replace(self, settled=(), parts=(*self.parts, part) if part else self.parts)


def map_tiles(image: xr.DataArray, job: TileJob) -> da.Array:
    """Run the model over every tile, one task a region.

    Parameters
    ----------
    image : xarray.DataArray
        Dims (band, y, x), lazy or in memory.
    job : TileJob

    Returns
    -------
    dask.array.Array
        (1, regions down, regions across) of `Node`, one a chunk.
    """
    down, across = job.grid.regions_yx
    once = delayed(job, name=f"job-{job.run}", traverse=False)  # a key, so that tasks stay small: 13 kB each without
    nodes = overlapped(image, job.reading).map_blocks(
        _run_region,
        job=once,
        chunks=((1,), (1,) * down, (1,) * across),
        dtype=object,
        meta=np.empty((0, 0, 0), object),
        name=f"ask-model-{job.run.rpartition('-')[2]}",
    )
    return _only(nodes, once, job, _kept_regions(image, job.reading))


def _kept_regions(image: xr.DataArray, reading: Reading) -> NDArray[np.bool_]:
    """Tell which regions are not to be computed, since a checkpoint holds them.

    The task that reads a plain file looks for itself, so this is for arrays that would be computed before it.
    """
    checkpoint = reading.checkpoint
    if checkpoint is None or checkpoint.retry_failed or source_of(image) is not None:
        return np.zeros(reading.grid.regions_yx, bool)
    return checkpoint.finished(reading.grid.regions_yx)


def _only(nodes: da.Array, once: Delayed, job: TileJob, kept: NDArray[np.bool_]) -> da.Array:
    """Put other nodes in the place of regions without tiles, or kept ones: nothing they need is computed."""
    wanted = job.reading.regions()
    if wanted.all() and not kept.any():
        return nodes
    name = f"select-region-{job.run.rpartition('-')[2]}"
    layer: dict[tuple[str, int, int, int], Any] = {
        (name, 0, row, column): (nodes.name, 0, row, column)
        if wanted[row, column] and not kept[row, column]
        else (_load_region, once.key, row, column)
        if wanted[row, column]
        else _empty_node(row, column)
        for row, column in np.ndindex(wanted.shape)
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[nodes, once])
    return da.Array(graph, name, nodes.chunks, dtype=object, meta=np.empty((0, 0, 0), object))


def _run_region(region: RegionPixels, job: TileJob, block_id: tuple[int, int, int]) -> Node:
    _, row, column = block_id
    began = time.perf_counter()
    tiles = job.reading.tiles(row, column, region.kept)
    results = list(ask_model(region, job, tiles))
    answer = _answer(region.kept, results, {tile.number for tile in tiles})
    if job.reading.checkpoint and tiles and not any(result.given_up for result in results):
        job.reading.checkpoint.save(row, column, answer)
    with timed("merge"):
        interior = job.grid.interior((row, row + 1), (column, column + 1))
        settled, still_open = job.merge.settle(answer.detections, interior)
    node = Node(
        rows=(row, row + 1), columns=(column, column + 1),
        settled=(settled,), parts=(), open=still_open,
        failures=answer.failures,
        requests=sum(result.attempts for result in results),
        retries=sum(result.retries for result in results),
        before=len(answer.detections),
        without_data=answer.without_data,
        resumed=len(job.reading.tiles(row, column)) - len(tiles),
        timing=sum_timings({"decode": region.read_s}, take_timings(), *(result.timing for result in results)),
    )  # fmt: skip
    _note(node, job, len(tiles), time.perf_counter() - began)
    return node.written(job.writer)


def _note(node: Node, job: TileJob, tiles: int, seconds: float) -> None:
    """Count and log what a region's tiles came to."""
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


def _answer(kept: RegionAnswer | None, results: list[TileResult], asked: set[int]) -> RegionAnswer:
    """Put together what was kept of a region and what its other tiles were answered."""
    before = kept or RegionAnswer(detections=concat([]))
    failed = [each for each in before.failures if each.tile not in asked]
    return RegionAnswer(
        detections=concat([before.detections, *(result.found for result in results)]),
        failures=(*failed, *(result.failure for result in results if result.failure)),
        without_data=before.without_data + sum(result.without_data for result in results),
    )


def _load_region(job: TileJob, row: int, column: int) -> Node:
    """Return the node of a region that a checkpoint holds, without its pixels."""
    kept = job.reading.kept(row, column)
    if kept is None:
        assert job.reading.checkpoint is not None  # else nothing is kept
        raise OutputError(
            f"region {row}, {column} in {job.reading.checkpoint.parts.display_name} is damaged or gone; remove it, "
            "run again"
        )
    return _run_region(RegionPixels(np.empty((0, 0, 0)), Window(0, 0, 0, 0), kept=kept), job, (0, row, column))


def _empty_node(row: int, column: int) -> Node:
    """Return the node of a region without tiles."""
    return Node(
        rows=(row, row + 1), columns=(column, column + 1), settled=(), parts=(), open=concat([]),
        failures=(), requests=0, retries=0, before=0, without_data=0, resumed=0, timing={},
    )  # fmt: skip
