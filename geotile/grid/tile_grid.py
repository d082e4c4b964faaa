"""The tile grid: where tiles and regions lie. Integers only, no pixels, no Dask.

Plan of one axis, tiles of 8, overlap 2, two regions of 12 and 10::

    pixels   0         10        20 22
    tile 0   [------)
    tile 1        [------)                 starts at round(i (L - tile) / (n - 1)):
    tile 2             [------)            evenly spread, the last ends at the last pixel
    tile 3                   [------)
    region   |----------- r0 -|-------- r1 ---|
    halo                      |....|       as deep as the tiles that r0 owns reach over

A tile belongs to the region that holds its upper-left pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair, as_int, as_pair
from geotile.errors import ArgumentError
from geotile.public import public


@public
class Window(NamedTuple):
    """A rectangle of whole pixels, half-open: rows ``y0:y1``, columns ``x0:x1``."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape_yx(self) -> Pair:
        """Height and width in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """The window as slices of an array whose last two axes are y and x."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def shifted(self, y: int, x: int) -> Window:
        """Return this window moved down by `y` and right by `x` pixels."""
        return Window(self.y0 + y, self.y1 + y, self.x0 + x, self.x1 + x)

    def within(self, outer: Window) -> Window:
        """Return this window counted from the upper-left pixel of `outer`."""
        return Window(self.y0 - outer.y0, self.y1 - outer.y0, self.x0 - outer.x0, self.x1 - outer.x0)


class Tile(NamedTuple):
    """One tile: its number (row-major over the grid) and the pixels it covers."""

    number: int
    window: Window


class Interior(NamedTuple):
    """The open rectangle that only the tiles of one node of the tree reach, in image pixels."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: tiles and regions of a line of pixels."""

    length: int
    tile: int
    overlap: int
    chunks: tuple[int, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First pixel of every tile, (n,) int64."""
        if self.length <= self.tile:
            return np.zeros(1, np.int64)
        step = self.tile - self.overlap
        n = -(-(self.length - self.overlap) // step)
        i = np.arange(n, dtype=np.int64)
        span = self.length - self.tile
        return (2 * i * span + (n - 1)) // (2 * (n - 1))  # round half up, in integers

    def stop(self, i: int) -> int:
        """One past the last pixel of tile `i`."""
        return min(int(self.starts[i]) + self.tile, self.length)

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """Edges of the regions, (regions + 1,) int64, from 0 to the length."""
        return np.concatenate([[0], np.cumsum(self.chunks, dtype=np.int64)])

    @cached_property
    def first_tile(self) -> NDArray[np.int64]:
        """Number of the first tile at or after each region edge, (regions + 1,) int64."""
        return np.searchsorted(self.starts, self.edges, side="left")

    def reach(self, edge: int) -> int:
        """How far the tiles that start before `edge` reach over it, in pixels."""
        if self.tile == 1:  # chunks planned without tiles: do not count every pixel of a side
            return 0
        before = int(np.searchsorted(self.starts, edge, side="left"))
        return max(0, self.stop(before - 1) - edge) if before else 0

    @cached_property
    def depth(self) -> int:
        """The deepest reach of any region's tiles over its trailing edge, in pixels."""
        return max((self.reach(int(edge)) for edge in self.edges[1:-1]), default=0)

    def interior(self, first: int, stop: int) -> tuple[float, float]:
        """Open interval that no tile outside the regions ``first:stop`` reaches."""
        i, j = int(self.first_tile[first]), int(self.first_tile[stop])
        low = -np.inf if i == 0 else float(self.stop(i - 1))
        high = np.inf if j == len(self.starts) else float(self.starts[j])
        return low, high


@public
@dataclass(frozen=True)
class TileGrid:
    """Where the tiles and regions of an image lie.

    Every tile is full size wherever the image is at least that large; an axis shorter than the
    tile has one short tile. Tiles are spread evenly, so neighbours share at least `overlap`.

    Parameters
    ----------
    shape_yx : tuple of int
        Height and width of the image in pixels.
    tile_size : int or tuple of int
        Side of a tile in pixels, or (y, x).
    overlap : int or tuple of int
        Least strip that neighbouring tiles share, in pixels, or (y, x). Smaller than the tile.
    chunks : tuple of tuple of int, optional
        Heights and widths of the regions in pixels, as Dask's ``chunks`` of the two axes. By
        default the whole image is one region. A region too thin to give its neighbour a halo,
        or that owns no tile, is joined to the one before it.

    Raises
    ------
    ArgumentError
        If a size is no whole number, an overlap is not smaller than its tile, or the chunks do
        not add up to the image.

    Examples
    --------
    >>> grid = TileGrid((1000, 1000), tile_size=512, overlap=64, chunks=((400, 600), (1000,)))
    >>> grid.tiles_yx, grid.regions_yx
    ((3, 3), (2, 1))
    >>> grid.tile_window(2, 1)
    Window(y0=488, y1=1000, x0=244, x1=756)
    """

    shape_yx: Pair
    tile_size: int | Pair
    overlap: int | Pair
    chunks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        if not isinstance(self.shape_yx, Sequence) or len(self.shape_yx) != 2:
            raise ArgumentError(f"shape_yx={self.shape_yx!r} must be the image's (height, width)")
        shape = as_pair(self.shape_yx, "shape_yx", 1)
        tile = as_pair(self.tile_size, "tile_size", 1)
        overlap = as_pair(self.overlap, "overlap", 0)
        for name, t, o in zip("yx", tile, overlap, strict=True):
            if o >= t:
                raise ArgumentError(f"overlap={o} must be smaller than tile_size={t} on axis {name}")
        given = tuple(tuple(as_int(c, "chunks", 1) for c in axis) for axis in self.chunks)
        chunks = tuple(axis or (n,) for axis, n in zip(given, shape, strict=True))
        for axis, n in zip(chunks, shape, strict=True):
            if sum(axis) != n:
                raise ArgumentError(f"chunks={axis} add up to {sum(axis)}, the image has {n} pixels there")
        joined = tuple(_join_thin(Axis(*args)) for args in zip(shape, tile, overlap, chunks, strict=True))
        for field, value in (("shape_yx", shape), ("tile_size", tile), ("overlap", overlap), ("chunks", joined)):
            object.__setattr__(self, field, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields alone; what is computed from them is computed once a process."""
        return _grid, (self.shape_yx, self.tile_size, self.overlap, self.chunks)

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The y and the x axis."""
        assert isinstance(self.tile_size, tuple)  # normalised, as the overlap is
        assert isinstance(self.overlap, tuple)
        return (
            Axis(self.shape_yx[0], self.tile_size[0], self.overlap[0], self.chunks[0]),
            Axis(self.shape_yx[1], self.tile_size[1], self.overlap[1], self.chunks[1]),
        )

    @property
    def tiles_yx(self) -> Pair:
        """Number of tiles down and across."""
        return len(self.axes[0].starts), len(self.axes[1].starts)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.tiles_yx[0] * self.tiles_yx[1]

    @property
    def regions_yx(self) -> Pair:
        """Number of regions down and across."""
        return len(self.chunks[0]), len(self.chunks[1])

    @property
    def n_regions(self) -> int:
        """Number of regions."""
        return self.regions_yx[0] * self.regions_yx[1]

    @property
    def depth_yx(self) -> Pair:
        """Depth of the deepest trailing halo in pixels, down and across."""
        return self.axes[0].depth, self.axes[1].depth

    def tile_window(self, row: int, column: int) -> Window:
        """Return the pixels of the tile in `row` and `column` of the grid."""
        y, x = self.axes
        return Window(int(y.starts[row]), y.stop(row), int(x.starts[column]), x.stop(column))

    def tiles(self) -> Iterator[Tile]:
        """Go through all tiles, row by row."""
        rows, columns = self.tiles_yx
        for row in range(rows):
            for column in range(columns):
                yield Tile(row * columns + column, self.tile_window(row, column))

    def region_of(self, row: int, column: int) -> Pair:
        """Return the (row, column) of the region that owns a tile."""
        y, x = self.axes
        return (
            int(np.searchsorted(y.edges, y.starts[row], side="right")) - 1,
            int(np.searchsorted(x.edges, x.starts[column], side="right")) - 1,
        )

    def region_window(self, row: int, column: int) -> Window:
        """Return the pixels of a region without its halo."""
        y, x = self.axes
        return Window(*(int(v) for v in (*y.edges[row : row + 2], *x.edges[column : column + 2])))

    def read_window(self, row: int, column: int) -> Window:
        """Return the pixels of a region with as much halo as its own tiles need."""
        y0, y1, x0, x1 = self.region_window(row, column)
        return Window(y0, y1 + self.axes[0].reach(y1), x0, x1 + self.axes[1].reach(x1))

    def region_tiles(self, row: int, column: int) -> list[Tile]:
        """Return the tiles that a region owns, row by row."""
        y, x = self.axes
        across = self.tiles_yx[1]
        return [
            Tile(i * across + j, self.tile_window(i, j))
            for i in range(int(y.first_tile[row]), int(y.first_tile[row + 1]))
            for j in range(int(x.first_tile[column]), int(x.first_tile[column + 1]))
        ]

    def interior(self, rows: Pair, columns: Pair) -> Interior:
        """Return what no tile outside a rectangle of regions can touch.

        Parameters
        ----------
        rows, columns : tuple of int
            First and one past the last region.

        Returns
        -------
        Interior
            Open rectangle in image pixels; infinite at the image's own edges. Inverted where
            nothing is safe.
        """
        y0, y1 = self.axes[0].interior(*rows)
        x0, x1 = self.axes[1].interior(*columns)
        return Interior(x0, y0, x1, y1)


@lru_cache(maxsize=16)
def _grid(*fields: Any) -> TileGrid:
    return TileGrid(*fields)


def _join_thin(axis: Axis) -> tuple[int, ...]:
    """Join regions that own no tile, or are thinner than the depth, to their neighbour.

    A halo comes from the next chunk alone, so no chunk may be thinner than it is deep. A region
    without tiles lies in its neighbour's halo already.
    """
    if axis.tile == 1:
        return axis.chunks
    owns = np.diff(axis.first_tile) > 0
    chunks = [int(n) for n in np.diff([*axis.edges[:-1][owns], axis.length])]
    while len(chunks) > 1:
        depth = Axis(axis.length, axis.tile, axis.overlap, tuple(chunks)).depth
        thin = [i for i, size in enumerate(chunks) if size < depth]
        if not thin:
            break
        joined = [chunks[0]]
        for size in chunks[1:]:
            if size < depth or joined[-1] < depth:
                joined[-1] += size
            else:
                joined.append(size)
        chunks = joined
    return tuple(chunks)
