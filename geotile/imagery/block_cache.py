"""Blocks that several regions need: the first region decodes them, the others take them from memory.

Regions are read with their halo, which belongs to their neighbours. Of the blocks in the window of a region, those that
no other region needs are read and dropped. For each shared block there are three cases::

    claimed ─ read ─▶ the part that others need is kept until all of them have taken it, or the size limit is reached
    being read by another thread ─▶ wait for it
    kept ─▶ copy it

Each process has one store. If a block is evicted because of the limit, or the next region runs in another process,
the block is read again. The pixels are the same in all cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.errors import ImageReadError
from geotile.grid.axis import Axis
from geotile.grid.tile_grid import TileGrid, Window
from geotile.imagery.block_store import KEPT_BYTES, BlockPart, Key, store
from geotile.imagery.blocks import Blocks, Canvas
from geotile.imagery.damaged import discard_failures
from geotile.imagery.pixels import Pixels
from geotile.imagery.source import Source

_MAX_MARGIN = 1.5  # times the pixels of a window, with the blocks that it cuts, are kept, to read straight into them
_MAX_BLOCK_BYTES = KEPT_BYTES // 8  # larger blocks are whole regions anyway


def read_shared(
    source: Source, grid: TileGrid, window: Window, valid: bool, run: str, in_groups: bool = False
) -> Pixels:  # fmt: skip
    """Return the pixels of a window of a region; blocks that other regions of the run need are read once.

    Parameters
    ----------
    source : Source
    grid : TileGrid
        Grid of the run, which determines the regions that need a block.
    window : Window
        Window of a region with its halo, or a part of it, in pixels of the source.
    valid : bool
        Whether the validity of the pixels is needed.
    run : str
        Name of the run. Blocks are shared within a run.
    in_groups : bool, default False
        Whether the tiles of a region that reach beyond it along an axis are read apart from the others.

    Raises
    ------
    ImageReadError
        If a block cannot be read.
    """
    height, width = source.block_yx
    if height * width * source.shape[0] * np.dtype(source.dtype).itemsize > _MAX_BLOCK_BYTES:
        return source.read(window, valid)
    blocks = Blocks(source, window)
    rows, columns = _read_counts(grid, source.block_yx, source.origin_yx, in_groups)
    y, x = np.ogrid[slice(*blocks.rows), slice(*blocks.columns)]
    counts = rows[y] * columns[x]
    key = (run, source.file_key, valid)
    shared: dict[Pair, BlockPart | Future[BlockPart]] = {}
    for row, column in np.argwhere(counts > 1):
        block = int(row) + blocks.rows[0], int(column) + blocks.columns[0]
        if (taken := store.take((*key, *block))) is not None:
            shared[block] = taken
    whole = blocks.area(blocks.rows, blocks.columns)
    is_near = np.prod(whole.shape_yx) < _MAX_MARGIN * np.prod(window.shape_yx)
    canvas = Canvas(source, whole if is_near else window)
    neighbours = _neighbours(grid, in_groups, window, whole)
    _read_missing(canvas, blocks, counts, shared, key, neighbours)
    _paste_shared(canvas, blocks, shared, key, window)
    return canvas.pixels(window)


def discard_run(run: str) -> None:
    """Drop the blocks that this process keeps for a run, and forget those that failed."""
    store.discard_run(run)
    discard_failures(run)


def _read_missing(
    canvas: Canvas, blocks: Blocks, counts: NDArray[np.int64], shared: Iterable[Pair], key: Key,
    neighbours: tuple[list[Pair], list[Pair]],
) -> None:  # fmt: skip
    """Read the blocks that were not in the store into the canvas, and store those that other regions need.

    Parameters
    ----------
    canvas : Canvas
    blocks : Blocks
    counts : numpy.ndarray
        (blocks down, blocks across) int64, how often each block is needed.
    shared : iterable of tuple of int
        Blocks, by row and column, that another region has read or is reading.
    key : tuple
        Run, file, and whether validity is needed.
    neighbours : tuple of list of tuple of int
        As `_neighbours` returns them.
    """
    source, (top, left) = canvas.source, (blocks.rows[0], blocks.columns[0])
    missing = np.ones(counts.shape, bool)
    for row, column in shared:
        missing[row - top, column - left] = False
    claimed = {
        (int(row) + top, int(column) + left): int(counts[row, column])
        for row, column in np.argwhere(missing & (counts > 1))
    }  # fmt: skip
    try:
        for rows, columns in _rectangles(missing):
            area = blocks.area((rows[0] + top, rows[1] + top), (columns[0] + left, columns[1] + left))
            part = source.read(area, key[2], canvas.room(area))
            canvas.paste(part, area)
            for block in [each for each in claimed if _contains(area, blocks.area_of(each))]:
                kept = _area_for(neighbours, blocks.area_of(block))
                store.put((*key, *block), BlockPart(_copy(part, kept.within(area)), kept), claimed.pop(block) - 1)
    finally:
        for block in claimed:
            store.fail((*key, *block), ImageReadError("the region that was reading this block failed"))


def _paste_shared(
    canvas: Canvas, blocks: Blocks, shared: Mapping[Pair, BlockPart | Future[BlockPart]], key: Key, window: Window
) -> None:  # fmt: skip
    """Copy what a window needs of shared blocks into the canvas; wait for those that other threads are reading."""
    for block, part in shared.items():
        area = blocks.area_of(block)
        if isinstance(part, Future):
            try:
                part = part.result()
            except ImageReadError:  # the other region failed, perhaps because of another block
                part = BlockPart(canvas.source.read(area, key[2]), area)
            store.count_use((*key, *block))
        if not _contains(part.area, area.intersection(window)):  # it was kept for others
            part = BlockPart(canvas.source.read(area, key[2]), area)
        canvas.paste(*part)


def _neighbours(
    grid: TileGrid, in_groups: bool, window: Window, whole: Window
) -> tuple[list[Pair], list[Pair]]:  # fmt: skip
    """Return what other rows and columns of regions read near a window, each as (first, one past the last) pixel."""
    sides = (window.y0, window.y1, whole.y0, whole.y1), (window.x0, window.x1, whole.x0, whole.x1)
    rows, columns = (
        [
            (start, stop)
            for start, stop in _spans(axis, in_groups)
            if start < last and stop > first and not (start <= own_start and own_stop <= stop)
        ]
        for axis, (own_start, own_stop, first, last) in zip(grid.axes, sides, strict=True)
    )
    return rows, columns


def _area_for(neighbours: tuple[list[Pair], list[Pair]], block: Window) -> Window:
    """Return the part of a block that the neighbours of a window need; all of it if it is shared along both axes."""
    rows = _covered(neighbours[0], (block.y0, block.y1))
    columns = _covered(neighbours[1], (block.x0, block.x1))
    if rows and not columns:
        return block._replace(y0=rows[0], y1=rows[1])
    if columns and not rows:
        return block._replace(x0=columns[0], x1=columns[1])
    return block


def _covered(spans: Iterable[Pair], block: Pair) -> Pair | None:
    """Return the part of a block along an axis from the first to the last pixel of spans in it; None without one."""
    parts = [
        (max(start, block[0]), min(stop, block[1])) for start, stop in spans if start < block[1] and stop > block[0]
    ]
    return (min(start for start, _ in parts), max(stop for _, stop in parts)) if parts else None


@lru_cache(maxsize=8)
def _read_counts(
    grid: TileGrid, block_yx: Pair, origin_yx: Pair, in_groups: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how often rows of regions read each row of blocks, and columns of regions each column.

    Returns
    -------
    tuple of numpy.ndarray
        (rows of blocks,) int64 and (columns of blocks,) int64.
    """
    counts = []
    for axis, size, origin in zip(grid.axes, block_yx, origin_yx, strict=True):
        count = np.zeros(-(-(origin + axis.length) // size) + 1, np.int64)
        for start, stop in _spans(axis, in_groups):
            count[(origin + start) // size] += 1
            count[-(-(origin + stop) // size)] -= 1
        counts.append(np.cumsum(count)[:-1])
    return counts[0], counts[1]


@lru_cache(maxsize=16)
def _spans(axis: Axis, in_groups: bool) -> tuple[Pair, ...]:
    """Return the pixels that each row or column of regions reads at once, as (first, one past the last)."""
    return tuple(_group_spans(axis) if in_groups else _region_spans(axis))


def _region_spans(axis: Axis) -> Iterator[Pair]:
    """Yield the pixels of each region with its halo along an axis: the first, and one past the last."""
    for start, stop in pairwise(axis.edges.tolist()):
        yield start, stop + axis.reach(stop)


def _group_spans(axis: Axis) -> Iterator[Pair]:
    """Yield the pixels of the tiles of each region that end in it, and of the others."""
    for (first, last), stop in zip(pairwise(axis.first_tile.tolist()), axis.edges[1:].tolist(), strict=True):
        ends = [axis.stop(tile) for tile in range(first, last)]
        inner = sum(end <= stop for end in ends)
        for group in (range(inner), range(inner, len(ends))):
            if group:
                yield int(axis.starts[first + group[0]]), ends[group[-1]]


def _rectangles(wanted: NDArray[np.bool_]) -> Iterator[tuple[Pair, Pair]]:
    """Yield rectangles (rows, columns) that cover the wanted blocks once; equal rows are combined."""
    row = 0
    while row < len(wanted):
        stop = row + 1
        while stop < len(wanted) and (wanted[stop] == wanted[row]).all():
            stop += 1
        edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted[row].astype(np.int8), [0]])))
        for first, last in edges.reshape(-1, 2):
            yield (row, stop), (int(first), int(last))
        row = stop


def _contains(outer: Window, inner: Window) -> bool:
    return inner.y0 >= outer.y0 and inner.y1 <= outer.y1 and inner.x0 >= outer.x0 and inner.x1 <= outer.x1


def _copy(part: Pixels, area: Window) -> Pixels:
    """Return a copy of a part, so that keeping it does not keep the whole array in memory."""
    values, valid = part.values[:, *area.slices].copy(), None if part.valid is None else part.valid[area.slices].copy()
    values.flags.writeable = False  # several regions get them
    return Pixels(values, valid)
