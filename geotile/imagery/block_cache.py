"""Windows that overlap, read once: what several regions need is decoded by the first and kept for the rest.

Regions are read with their halo, which lies in their neighbours. Of the blocks in a region's window
those that no other region needs are read and forgotten; the shared ones are

    claimed ─ read ─▶ kept until the last region that needs them has come, or until the limit
    under way in another thread ─▶ waited for
    kept ─▶ copied

A process has one store. Where the limit throws a block out, or the next region runs in another
process, it is read again: the pixels are the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.cancellation import cancel_reason
from geotile.core.checks import Pair
from geotile.errors import ImageReadError
from geotile.grid.tile_grid import TileGrid, Window
from geotile.imagery.source import Pixels, Source

KEPT_BYTES = 128 * 2**20  # of a process; the halos of a row of regions of 32 MiB fit well
_LARGEST_BLOCK = KEPT_BYTES // 8  # larger blocks are whole regions anyway

Key = tuple[Any, ...]


@dataclass
class _Kept:
    pixels: Pixels
    waiting: int
    """Regions that will still come for it."""


class _Store:
    """Shared blocks of this process."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.kept: OrderedDict[Key, _Kept] = OrderedDict()
        self.coming: dict[Key, Future[Pixels]] = {}
        self.size = 0

    def take(self, key: Key) -> Pixels | Future[Pixels] | None:
        """Return a block, or the promise of one, or None: then the caller has claimed it."""
        with self.lock:
            if key in self.kept:
                return self._used(key)
            if key in self.coming:
                return self.coming[key]
            self.coming[key] = Future()
            return None

    def put(self, key: Key, pixels: Pixels, waiting: int) -> None:
        """Keep a claimed block for the regions that will come for it."""
        with self.lock:
            promise = self.coming.pop(key)
            if waiting > 0 and cancel_reason(key[0]) is None:  # nobody would forget it again
                self.kept[key] = _Kept(pixels, waiting)
                self.size += _size(pixels)
            while self.size > KEPT_BYTES:
                self._drop(next(iter(self.kept)))
        promise.set_result(pixels)

    def fail(self, key: Key, error: BaseException) -> None:
        """Give a claim up."""
        with self.lock:
            promise = self.coming.pop(key)
        promise.set_exception(error)

    def waited(self, key: Key) -> None:
        """Count one that has got the block by waiting."""
        with self.lock:
            if key in self.kept:
                self._used(key)

    def forget(self, run: str) -> None:
        """Drop what nobody will come for."""
        with self.lock:
            for key in [key for key in self.kept if key[0] == run]:
                self._drop(key)

    def _used(self, key: Key) -> Pixels:
        kept = self.kept[key]
        kept.waiting -= 1
        if kept.waiting <= 0:
            self._drop(key)
        return kept.pixels

    def _drop(self, key: Key) -> None:
        self.size -= _size(self.kept.pop(key).pixels)


_store = _Store()


def read_shared(source: Source, grid: TileGrid, window: Window, valid: bool, run: str) -> Pixels:
    """Read a region's window; blocks that other regions of the run need are read once.

    Parameters
    ----------
    source : Source
    grid : TileGrid
        Of the run: says which regions need a block.
    window : Window
        Of a region with its halo, or a part of it.
    valid : bool
        Tell too where there is data.
    run : str
        Names the run: blocks are shared within it.

    Raises
    ------
    ImageReadError
        If a block cannot be read.
    """
    height, width = source.block_yx
    if height * width * source.shape[0] * np.dtype(source.dtype).itemsize > _LARGEST_BLOCK:
        return source.read(window, valid)
    blocks = _Blocks(source, window)
    needed = _needed(grid, source.block_yx, source.origin_yx)
    y, x = np.ogrid[slice(*blocks.rows), slice(*blocks.columns)]
    counts = needed[0][y] * needed[1][x]
    key = (run, source.key, valid)
    found: dict[Pair, Pixels | Future[Pixels]] = {}
    for row, column in np.argwhere(counts > 1):
        block = int(row) + blocks.rows[0], int(column) + blocks.columns[0]
        if (held := _store.take((*key, *block))) is not None:
            found[block] = held
    return _assemble(source, blocks, counts, found, key, valid)


def forget(run: str) -> None:
    """Drop what a run that ended has kept in this process."""
    _store.forget(run)


class _Blocks:
    """The file's blocks that a window of an image touches, numbered as in the file."""

    def __init__(self, source: Source, window: Window) -> None:
        self.window, self.source = window, source
        (height, width), whole = source.block_yx, source.in_whole(window)
        self.rows = whole.y0 // height, -(-whole.y1 // height)
        self.columns = whole.x0 // width, -(-whole.x1 // width)

    def area(self, rows: Pair, columns: Pair) -> Window:
        """Return the pixels of the image in a rectangle of blocks."""
        (h, w), (_, height, width), (y, x) = self.source.block_yx, self.source.shape, self.source.origin_yx
        return Window(
            max(rows[0] * h - y, 0), min(rows[1] * h - y, height),
            max(columns[0] * w - x, 0), min(columns[1] * w - x, width),
        )  # fmt: skip


def _assemble(
    source: Source, blocks: _Blocks, counts: NDArray[np.int64], found: dict[Pair, Any], key: Key, valid: bool
) -> Pixels:
    missing = np.ones(counts.shape, bool)
    for row, column in found:
        missing[row - blocks.rows[0], column - blocks.columns[0]] = False
    claimed = {
        (int(row) + blocks.rows[0], int(column) + blocks.columns[0]): int(counts[row, column])
        for row, column in np.argwhere(missing & (counts > 1))
    }
    out = _Canvas(source, blocks.window)
    try:
        for rows, columns in _rectangles(missing):
            area = blocks.area(
                (rows[0] + blocks.rows[0], rows[1] + blocks.rows[0]),
                (columns[0] + blocks.columns[0], columns[1] + blocks.columns[0]),
            )
            part = source.read(area, valid)
            out.paste(part, area)
            for block in [b for b in claimed if _within(blocks.area(*_one(b)), area)]:
                at = blocks.area(*_one(block))
                _store.put((*key, *block), _cut(part, at.within(area)), claimed.pop(block) - 1)
    finally:
        for block in claimed:
            _store.fail((*key, *block), ImageReadError("the region that was reading this block failed"))
    for block, held in found.items():
        at = blocks.area(*_one(block))
        if isinstance(held, Future):
            try:
                held = held.result()
            except ImageReadError:  # the other region failed, perhaps on another block: see for ourselves
                held = source.read(at, valid)
            _store.waited((*key, *block))
        out.paste(held, at)
    return out.pixels()


class _Canvas:
    """A window that is put together of parts."""

    def __init__(self, source: Source, window: Window) -> None:
        self.source, self.window = source, window
        self.values: NDArray[Any] | None = None
        self.valid: NDArray[np.bool_] | None = None

    def paste(self, part: Pixels, area: Window) -> None:
        """Take over what of a part lies in the window."""
        if area == self.window:
            self.values, self.valid = part
            return
        if self.values is None:
            self.values = np.empty((self.source.shape[0], *self.window.shape_yx), part.values.dtype)
        own = self.window
        meet = Window(max(area.y0, own.y0), min(area.y1, own.y1), max(area.x0, own.x0), min(area.x1, own.x1))
        self.values[:, *meet.within(own).slices] = part.values[:, *meet.within(area).slices]
        if part.valid is not None:
            if self.valid is None:
                self.valid = np.ones(own.shape_yx, bool)
            self.valid[meet.within(own).slices] = part.valid[meet.within(area).slices]

    def pixels(self) -> Pixels:
        """Return the whole."""
        assert self.values is not None  # a window holds a block at least
        return Pixels(self.values, self.valid)


@lru_cache(maxsize=8)
def _needed(grid: TileGrid, block_yx: Pair, origin_yx: Pair) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many rows, and columns, of regions read each row, and column, of the file's blocks."""
    counts = []
    for axis, size, origin in zip(grid.axes, block_yx, origin_yx, strict=True):
        count = np.zeros(-(-(origin + axis.length) // size) + 1, np.int64)
        for start, stop in pairwise(axis.edges.tolist()):
            count[(origin + start) // size] += 1
            count[-(-(origin + stop + axis.reach(stop)) // size)] -= 1
        counts.append(np.cumsum(count)[:-1])
    return counts[0], counts[1]


def _rectangles(wanted: NDArray[np.bool_]) -> Iterator[tuple[Pair, Pair]]:
    """Cover the wanted blocks with rectangles: rows alike are read together."""
    row = 0
    while row < len(wanted):
        stop = row + 1
        while stop < len(wanted) and (wanted[stop] == wanted[row]).all():
            stop += 1
        edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted[row].astype(np.int8), [0]])))
        for first, last in edges.reshape(-1, 2):
            yield (row, stop), (int(first), int(last))
        row = stop


def _one(block: Pair) -> tuple[Pair, Pair]:
    return (block[0], block[0] + 1), (block[1], block[1] + 1)


def _within(inner: Window, outer: Window) -> bool:
    return inner.y0 >= outer.y0 and inner.y1 <= outer.y1 and inner.x0 >= outer.x0 and inner.x1 <= outer.x1


def _cut(part: Pixels, area: Window) -> Pixels:
    """Copy a part, so that keeping it does not keep the whole."""
    valid = None if part.valid is None else part.valid[area.slices].copy()
    return Pixels(part.values[:, *area.slices].copy(), valid)


def _size(pixels: Pixels) -> int:
    return pixels.values.nbytes + (0 if pixels.valid is None else pixels.valid.nbytes)
