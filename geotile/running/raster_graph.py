"""The graph of a run whose model answers rasters: parts of regions, strips for neighbours, blocks of the output."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.running.raster import ALL, OUTER, Block, RasterJob, ask_tiles, asked_again, blend_block, crop_part


def raster_blocks(regions: da.Array, job: RasterJob, wanted: NDArray[np.bool_] | None = None) -> da.Array:
    """Return the blocks of the output.

    The tiles of a region are asked in one task where its block is known to be wanted, and otherwise in groups, so that
    a block needs only the tiles that see it.

    Parameters
    ----------
    regions : dask.array.Array
        (1, regions down, regions across) of `Region`, one per chunk.
    job : RasterJob
    wanted : numpy.ndarray, optional
        (regions down, regions across) bool, the blocks that will be computed; by default nobody knows.

    Returns
    -------
    dask.array.Array
        (regions down, regions across) of `Block`, one per chunk.
    """
    name = job.run.rpartition("-")[2]
    shared = delayed(job, name=f"job-{job.run}", traverse=False)
    parts, strips, blocks = _parts_name(job), f"predict-strip-{name}", f"predict-block-{name}"
    whole = np.zeros(job.grid.regions_yx, bool) if wanted is None else wanted
    graph = _Graph(job, whole, regions.name, shared.key, strips)
    layer: dict[Any, Any] = {}
    for row, column in np.ndindex(job.grid.regions_yx):
        region = None if whole[row, column] else (regions.name, 0, row, column)
        layer[blocks, row, column] = (blend_block, region, shared.key, row, column, *graph.needed(row, column))
    layers = {
        parts: (graph.parts, [regions, shared]), strips: (graph.strips, [parts, shared]),
        blocks: (layer, [regions, parts, strips, shared]),
    }  # fmt: skip
    before = HighLevelGraph.merge(regions.dask, shared.dask)
    tasks, depends = dict(before.layers), dict(before.dependencies)
    for key, (content, needs) in layers.items():
        tasks[key] = content
        depends[key] = {each if isinstance(each, str) else _layer_name(each) for each in needs}
    chunks = tuple((1,) * n for n in job.grid.regions_yx)
    return da.Array(HighLevelGraph(tasks, depends), blocks, chunks, dtype=object, meta=np.empty((0, 0), object))


def asked_tiles(job: RasterJob, wanted: NDArray[np.bool_]) -> int:
    """Return the number of tiles that the model is asked for by some blocks, (regions down, regions across) bool."""
    own = sum(len(job.group(row, column, ALL)) for row, column in np.argwhere(wanted).tolist())
    return own + sum(len(job.group(row, column, reach)) for reach, row, column in _borrowed(job, wanted))


def _borrowed(job: RasterJob, wanted: NDArray[np.bool_]) -> dict[tuple[Pair, int, int], None]:
    """Return the groups of regions whose blocks are not wanted, with tiles that wanted blocks see."""
    found: dict[tuple[Pair, int, int], None] = {}
    for (row, column), (up, left), reach in product(np.argwhere(wanted).tolist(), OUTER, OUTER):
        y, x = row - up, column - left
        if min(y, x) >= 0 and not wanted[y, x] and reach[0] >= up and reach[1] >= left and job.group(y, x, reach):
            found[reach, y, x] = None
    return found


def block_values(blocks: da.Array, job: RasterJob) -> da.Array:
    """Return the output as an array, (y, x) or (band, y, x), chunked like the regions."""
    name, bands = f"predict-{job.run.rpartition('-')[2]}", job.form.bands
    lead: tuple[int, ...] = () if bands is None else (0,)
    layer = {
        (name, *lead, row, column): (_values, (blocks.name, row, column))
        for row, column in np.ndindex(job.grid.regions_yx)
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[blocks])
    chunks = job.out.chunks if bands is None else ((bands,), *job.out.chunks)
    return da.Array(graph, name, chunks, dtype=job.form.dtype)


@dataclass
class _Graph:
    """Tasks of parts and strips, added when a block needs them."""

    job: RasterJob
    whole: NDArray[np.bool_]
    """(regions down, regions across) bool, the regions whose tiles are asked in one task."""
    regions: str
    shared: Any
    strips_name: str
    parts: dict[Any, Any] = field(default_factory=dict)
    strips: dict[Any, Any] = field(default_factory=dict)

    def needed(self, row: int, column: int) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the keys of the parts of a region, of the strips that others give it, and of those that it gives."""
        own = [key for reach in (ALL, *OUTER) if (key := self._part(row, column, reach)) is not None]
        taken = [key for side in OUTER for key in self._strips(row - side[0], column - side[1], side)]
        given = dict.fromkeys(key for side in OUTER for key in self._strips(row, column, side))
        return own, taken, list(given)

    def _part(self, row: int, column: int, reach: Pair | None) -> Any | None:
        """Return the key of the `RasterPart` of a group of tiles; None if the group is empty or not asked by itself."""
        if row < 0 or column < 0 or (reach is ALL) != self.whole[row, column]:
            return None
        key = _part_key(self.job, reach, row, column)
        if key not in self.parts:
            if not self.job.group(row, column, reach):
                return None
            self.parts[key] = (ask_tiles, (self.regions, 0, row, column), self.shared, row, column, reach)
        return key

    def _strips(self, row: int, column: int, side: Pair) -> list[Any]:
        """Return the keys of the strips that a region gives to its neighbour on a side."""
        down, across = row + side[0], column + side[1]
        if down >= self.whole.shape[0] or across >= self.whole.shape[1]:
            return []
        keys = []
        for reach in (ALL, *(each for each in OUTER if each[0] >= side[0] and each[1] >= side[1])):
            if (part := self._part(row, column, reach)) is not None:
                keys.append((self.strips_name, *part[1:]))
                self.strips[keys[-1]] = (crop_part, part, self.shared, row, column)
        return keys


def _part_key(job: RasterJob, reach: Pair | None, row: int, column: int) -> tuple[Any, ...]:
    """Return the key of the `RasterPart` of a group of tiles.

    It does not have four elements: `halo_first` gives keys of four elements, which are those of chunks, a low priority.
    """
    return (_parts_name(job), *(reach or ()), row, column)


def _parts_name(job: RasterJob) -> str:
    return f"predict-tiles-{job.run.rpartition('-')[2]}"


def _layer_name(collection: Any) -> str:
    return str(collection.__dask_layers__()[0])


def listed_blocks(blocks: da.Array, job: RasterJob, wanted: NDArray[np.bool_]) -> Delayed:
    """Return a list of some blocks, which Dask computes row by row.

    At its end are blocks that exist already, with the requests for those of their tiles that are asked again.

    Dask's order follows chains: each task adds a block to those of its row, and a row ends after the row before it. So
    the parts and strips of one row are in memory at most, where those along the border of what is done would be if the
    blocks were collected in a tree. The second row begins after the first one, or Dask would begin with it; that all
    rows do so would not scale, since Dask keeps a set of all that comes before it for each task.

    Parameters
    ----------
    blocks : dask.array.Array
        (regions down, regions across) of `Block`.
    job : RasterJob
    wanted : numpy.ndarray
        (regions down, regions across) bool.
    """
    name = f"predict-list-{blocks.name.rpartition('-')[2]}"
    layer: dict[Any, Any] = {}
    rows: list[Any] = []
    ended = None
    for row in np.flatnonzero(wanted.any(axis=1)).tolist():
        found = rows[0] if len(rows) == 1 else None
        for number, column in enumerate(np.flatnonzero(wanted[row]).tolist()):
            layer[name, row, column] = (_with, found, number > 0, (blocks.name, row, column))
            found = (name, row, column)
        layer[name, row] = (_after, ended, found)
        ended = (name, row)
        rows.append(found)
    again = []
    for reach, row, column in _borrowed(job, wanted):
        block = Block(row=row, column=column, window=job.out.region_window(row, column), values=None)
        layer[name, row, column, *reach] = (asked_again, block, _part_key(job, reach, row, column))
        again.append((name, row, column, *reach))
    layer[name] = (_joined, ended, len(rows), *rows, *again)
    return Delayed(name, HighLevelGraph.from_collections(name, layer, dependencies=[blocks]))


def _with(previous: list[Block] | None, goes_on: bool, block: Block) -> list[Block]:
    """Return the blocks of a row; what is given without going on is another row, which only has to be there."""
    return [*(previous or []), block] if goes_on else [block]


def _after(before: None, row: list[Block]) -> None:
    """Return nothing: that the row before and this one are there is all."""


def _joined(ended: None, n_rows: int, *found: Any) -> list[Block]:
    return [*(block for row in found[:n_rows] for block in row), *found[n_rows:]]


def _values(block: Block) -> NDArray[Any]:
    assert block.values is not None
    return block.values
