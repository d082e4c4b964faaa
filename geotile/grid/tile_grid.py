"""The tile grid: positions of tiles and regions. It uses integers only, no pixels and no Dask.

`geotile.grid.axis` draws the plan of one axis. A tile belongs to the region that contains its upper-left pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair, as_int, as_pair
from geotile.core.html_table import html_card, html_table
from geotile.errors import ArgumentError
from geotile.grid.axis import Axis, join_thin_regions
from geotile.grid.drawing import grid_legend, grid_svg
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
        """Slices of the window in an array whose last two axes are y and x."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def shifted(self, y: int, x: int) -> Window:
        """Return this window moved down by `y` and right by `x` pixels."""
        return Window(self.y0 + y, self.y1 + y, self.x0 + x, self.x1 + x)

    def intersection(self, other: Window) -> Window:
        """Return the pixels that this window shares with `other`, which must intersect it."""
        return Window(
            max(self.y0, other.y0), min(self.y1, other.y1), max(self.x0, other.x0), min(self.x1, other.x1)
        )  # fmt: skip

    def within(self, outer: Window) -> Window:
        """Return this window relative to the upper-left pixel of `outer`."""
        return Window(self.y0 - outer.y0, self.y1 - outer.y0, self.x0 - outer.x0, self.x1 - outer.x0)


class Tile(NamedTuple):
    """A tile: its number (row-major over the grid) and its pixels."""

    number: int
    window: Window


class Interior(NamedTuple):
    """Open rectangle, in image pixels, that only the tiles of one node of the merging tree reach."""

    x0: float
    y0: float
    x1: float
    y1: float


@public
@dataclass(frozen=True)
class TileGrid:
    """The tiles and regions of an image.

    Every tile has full size if the image is at least as large as a tile; an axis shorter than the tile has one short
    tile. Tiles are spread evenly, so neighbours share at least `overlap` pixels.

    Parameters
    ----------
    shape_yx : tuple of int
        Height and width of the image in pixels.
    tile_size : int or tuple of int
        Side of a tile in pixels, or (y, x).
    overlap : int or tuple of int
        Minimum width of the strip that neighbouring tiles share, in pixels, or (y, x). It must be smaller than the
        tile.
    chunks : tuple of tuple of int, optional
        Heights and widths of the regions in pixels, as Dask's ``chunks`` of the two axes. By default the whole image
        is one region. A region that owns no tile, or is too thin to provide the halo of its neighbour, is joined to
        the region before it.
    align : int
        Number of which the first pixels of tiles and regions are multiples, for models whose output is coarser than
        their input. It divides the tile. The last tile of an axis can then reach beyond the image.

    Raises
    ------
    ArgumentError
        If a size is not a whole number, an overlap is not smaller than the tile, or the chunks do not add up to the
        size of the image.

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
    align: int = 1

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        if not isinstance(self.shape_yx, Sequence) or len(self.shape_yx) != 2:
            raise ArgumentError(f"shape_yx must be (height, width) of the image in pixels; got {self.shape_yx!r}")
        shape = as_pair(self.shape_yx, "shape_yx", 1)
        tile = as_pair(self.tile_size, "tile_size", 1)
        overlap = as_pair(self.overlap, "overlap", 0)
        for name, t, o in zip("yx", tile, overlap, strict=True):
            if o >= t:
                raise ArgumentError(
                    f"overlap must be smaller than tile_size; got overlap={o} and tile_size={t} on axis {name}. "
                    f"Use, for example, overlap={t // 4}"
                )
        checked = tuple(tuple(as_int(c, "chunks", 1) for c in axis) for axis in self.chunks)
        chunks = tuple(axis or (n,) for axis, n in zip(checked, shape, strict=True))
        for axis, n in zip(chunks, shape, strict=True):
            if sum(axis) != n:
                raise ArgumentError(
                    f"chunks must add up to {n} pixels, the size of the image; got {axis}, which add up to {sum(axis)}"
                )
        self._check_alignment(tile, overlap, chunks)
        axes = (Axis(*args, self.align) for args in zip(shape, tile, overlap, chunks, strict=True))
        joined = tuple(map(join_thin_regions, axes))
        for field, value in (("shape_yx", shape), ("tile_size", tile), ("overlap", overlap), ("chunks", joined)):
            object.__setattr__(self, field, value)

    def _check_alignment(self, tile: Pair, overlap: Pair, chunks: tuple[tuple[int, ...], ...]) -> None:
        align = as_int(self.align, "align", 1)
        for t, o, axis in zip(tile, overlap, chunks, strict=True):
            if t % align or -(-o // align) * align >= t:
                raise ArgumentError(
                    f"the model returns one pixel for {align} x {align}, so tile_size must be a multiple of {align} "
                    f"that is larger than the overlap; got tile_size={t}, overlap={o}"
                )
            if any(n % align for n in axis[:-1]):
                raise ArgumentError(f"chunks must be multiples of align={align}; got {axis}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the fields; the values computed from them are computed once per process."""
        return _grid, (self.shape_yx, self.tile_size, self.overlap, self.chunks, self.align)

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """Axes y and x."""
        assert isinstance(self.tile_size, tuple)  # __post_init__ has made pairs of both
        assert isinstance(self.overlap, tuple)
        return (
            Axis(self.shape_yx[0], self.tile_size[0], self.overlap[0], self.chunks[0], self.align),
            Axis(self.shape_yx[1], self.tile_size[1], self.overlap[1], self.chunks[1], self.align),
        )

    @property
    def tiles_yx(self) -> Pair:
        """Numbers of tiles down and across."""
        return len(self.axes[0].starts), len(self.axes[1].starts)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.tiles_yx[0] * self.tiles_yx[1]

    @property
    def regions_yx(self) -> Pair:
        """Numbers of regions down and across."""
        return len(self.chunks[0]), len(self.chunks[1])

    @property
    def n_regions(self) -> int:
        """Number of regions."""
        return self.regions_yx[0] * self.regions_yx[1]

    @property
    def depth_yx(self) -> Pair:
        """Maximum depth of a trailing halo in pixels, down and across."""
        return self.axes[0].depth, self.axes[1].depth

    def tile_window(self, row: int, column: int) -> Window:
        """Return the pixels of the tile in `row` and `column` of the grid."""
        y, x = self.axes
        return Window(int(y.starts[row]), y.stop(row), int(x.starts[column]), x.stop(column))

    def tile_boxes(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return tiles as boxes xyxy in pixels, (n, 4) float64, of their numbers, (n,) int64."""
        y, x = self.axes
        rows, columns = np.divmod(numbers, self.tiles_yx[1])
        y0, x0 = y.starts[rows], x.starts[columns]
        stops = np.minimum(x0 + x.tile, x.length), np.minimum(y0 + y.tile, y.length)
        return np.stack([x0, y0, *stops], axis=1).astype(np.float64)

    def tiles(self) -> Iterator[Tile]:
        """Yield all tiles, row by row."""
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
        """Return the part of a rectangle of regions that no tile outside it touches.

        Parameters
        ----------
        rows, columns : tuple of int
            First and one past the last region.

        Returns
        -------
        Interior
            Open rectangle in image pixels; infinite at the edges of the image. Its minimum exceeds its maximum if
            tiles from outside touch all of it.
        """
        y0, y1 = self.axes[0].interior(*rows)
        x0, x1 = self.axes[1].interior(*columns)
        return Interior(x0, y0, x1, y1)

    def _repr_html_(self) -> str:
        return html_card("geotile.TileGrid", html_table(self._rows()), grid_svg(self) + grid_legend(self))

    def _rows(self) -> list[tuple[str, str]]:
        def pixels(yx: Pair) -> str:
            return f"{yx[1]:,} x {yx[0]:,} px"

        y, x = self.axes
        return [
            ("image", pixels(self.shape_yx)),
            ("tiles", f"{self.n_tiles:,} ({self.tiles_yx[1]:,} x {self.tiles_yx[0]:,}) of {pixels((y.tile, x.tile))}"),
            ("overlap", f"at least {pixels((y.overlap, x.overlap))}"),
            ("regions", f"{self.n_regions:,} ({self.regions_yx[1]:,} x {self.regions_yx[0]:,})"),
            ("halo", f"up to {pixels(self.depth_yx)}"),
        ]


@lru_cache(maxsize=16)
def _grid(*fields: Any) -> TileGrid:
    return TileGrid(*fields)
