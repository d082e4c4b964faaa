"""One task a region: its pixels, its tiles through the model, what it settles."""

from __future__ import annotations

from dataclasses import dataclass

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from geotile.checks import Pair
from geotile.detections import Detections, concat
from geotile.reading import Reading, RegionPixels, overlapped
from geotile.report import TileFailure
from geotile.steps import Seconds, added, step, taken
from geotile.tiles import TileJob, ask_model


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node of the merging tree knows: of one region, or of a rectangle of them."""

    rows: Pair
    columns: Pair
    settled: tuple[Detections, ...]
    open: Detections
    failures: tuple[TileFailure, ...]
    requests: int
    retries: int
    before: int
    without_data: int
    """Tiles that were not sent, since they hold too little data."""
    steps: Seconds
    """The processes' own time, by step."""


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
    nodes = overlapped(image, job.reading).map_blocks(
        _run_region,
        job=job,
        chunks=((1,), (1,) * down, (1,) * across),
        dtype=object,
        meta=np.empty((0, 0, 0), object),
        name=f"detect-region-{job.run}",
    )
    return _only(nodes, job.reading)


def _only(nodes: da.Array, reading: Reading) -> da.Array:
    """Put empty nodes in the place of regions without tiles: nothing they need is computed."""
    wanted = reading.regions()
    if wanted.all():
        return nodes
    name = f"selected-region-{reading.run}"
    layer = {
        (name, 0, row, column): (nodes.name, 0, row, column) if wanted[row, column] else _empty_node(row, column)
        for row, column in np.ndindex(wanted.shape)
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[nodes])
    return da.Array(graph, name, nodes.chunks, dtype=object, meta=np.empty((0, 0, 0), object))


def _run_region(region: RegionPixels, job: TileJob, block_id: tuple[int, int, int]) -> Node:
    _, row, column = block_id
    results = list(ask_model(region, job, job.reading.tiles(row, column)))
    with step("merge"):
        found = concat(result.found for result in results)
        interior = job.grid.interior((row, row + 1), (column, column + 1))
        settled, still_open = job.merge.settle(found, interior)
    return Node(
        rows=(row, row + 1), columns=(column, column + 1),
        settled=(settled,), open=still_open,
        failures=tuple(result.failure for result in results if result.failure),
        requests=sum(result.attempts for result in results),
        retries=sum(result.retries for result in results),
        before=len(found),
        without_data=sum(result.without_data for result in results),
        steps=added({"decode": region.read_s}, taken(), *(result.steps for result in results)),
    )  # fmt: skip


def _empty_node(row: int, column: int) -> Node:
    """Return the node of a region without tiles."""
    return Node(
        rows=(row, row + 1), columns=(column, column + 1), settled=(), open=concat([]),
        failures=(), requests=0, retries=0, before=0, without_data=0, steps={},
    )  # fmt: skip
