"""A drawing of a grid as SVG, with a number of elements that does not grow with the grid.

Tiles and regions are a product of two axes, so strips and lines from edge to edge show all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geotile.grid.axis import Axis
    from geotile.grid.tile_grid import TileGrid

_SIDE, _THIN = 240, 24  # units of the drawing: its longer side, and its shorter one at least
_RIGHT, _BELOW = 72, 18  # units for the texts
_SPACE = 6  # units between lines or strips at least; where there are more, some are drawn
_TILES, _REGIONS, _ROI = "#3d8fd1", "#d98e04", "#d6408b"  # stand out on white and on black


def grid_svg(grid: TileGrid, outlines: Iterable[NDArray[np.float64]] = ()) -> str:
    """Return a drawing of the image, its regions, the strips that tiles share, and one tile.

    Parameters
    ----------
    grid : TileGrid
    outlines : iterable of numpy.ndarray
        Further lines, each (n, 2), xy in image pixels.
    """
    height, width = grid.shape_yx
    high, wide = _size(grid)
    sy, sx = high / height, wide / width
    y, x = grid.axes
    strips = "".join(f"M0 {a * sy:.1f}h{wide}V{b * sy:.1f}h-{wide}z" for a, b in _shared(y, high)) + "".join(
        f"M{a * sx:.1f} 0v{high}H{b * sx:.1f}v-{high}z" for a, b in _shared(x, wide)
    )
    lines = "".join(f"M0 {edge * sy:.1f}h{wide}" for edge in _some(y.edges[1:-1].tolist(), high)) + "".join(
        f"M{edge * sx:.1f} 0v{high}" for edge in _some(x.edges[1:-1].tolist(), wide)
    )
    tile = grid.tile_window(0, 0).shape_yx
    area = "".join(
        "M" + "L".join(f"{px * sx:.1f} {py * sy:.1f}" for px, py in line.tolist()) for line in outlines if len(line)
    )
    said = f"{grid.n_tiles:,} tiles in {grid.n_regions:,} regions"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' aria-label='{said}' width='{wide + _RIGHT}' "
        f"height='{high + _BELOW}' viewBox='-2 -2 {wide + _RIGHT} {high + _BELOW}'>"
        f"<rect width='{wide}' height='{high}' fill='{_TILES}' fill-opacity='0.12' stroke='currentColor'/>"
        f"<path d='{strips}' fill='{_TILES}' fill-opacity='0.35'/>"
        f"<path d='{lines}' fill='none' stroke='{_REGIONS}' stroke-width='1.5'/>"
        f"<rect width='{tile[1] * sx:.1f}' height='{tile[0] * sy:.1f}' fill='none' stroke='{_TILES}' stroke-width='2'/>"
        f"<path d='{area}' fill='none' stroke='{_ROI}' stroke-width='2'/>"
        f"<g fill='currentColor' font-size='11' font-family='sans-serif'>"
        f"<text x='{wide / 2:.0f}' y='{high + 13}' text-anchor='middle'>{width:,} px</text>"
        f"<text x='{wide + 5}' y='{high / 2 + 4:.0f}'>{height:,} px</text></g></svg>"
    )


def grid_legend(grid: TileGrid, roi: bool = False) -> str:
    """Return what the colours of the drawing mean, and what is left out, as HTML."""
    parts = [(_TILES, "a tile" if grid.n_tiles == 1 else "a tile, and strips that tiles share")]
    if grid.n_regions > 1:
        parts.append((_REGIONS, "borders of regions"))
    if roi:
        parts.append((_ROI, "region of interest"))
    shown = "<br>".join(f"<span style='color:{colour}'>■</span> {text}" for colour, text in parts)
    lines = (max(len(axis.starts), len(axis.edges) - 1) - 1 for axis in grid.axes)
    some = any(n > side // _SPACE for n, side in zip(lines, _size(grid), strict=True))
    return f"<div style='font-size:85%'>{shown}{'<br>Some of many are drawn.' if some else ''}</div>"


def _size(grid: TileGrid) -> tuple[int, int]:
    """Return height and width of the drawing of the image in units."""
    height, width = (max(_THIN, round(_SIDE * n / max(grid.shape_yx))) for n in grid.shape_yx)
    return height, width


def _shared(axis: Axis, side: int) -> list[tuple[int, int]]:
    """Return first and last pixels that neighbouring tiles share on an axis, which is drawn `side` units long."""
    pairs = [(int(axis.starts[i + 1]), axis.stop(i)) for i in _some(range(len(axis.starts) - 1), side)]
    return [(start, stop) for start, stop in pairs if stop > start]


def _some(values: Sequence[int], side: int) -> Sequence[int]:
    """Return values that are spread over a side, not more than can be told apart."""
    return values[:: -(-len(values) // (side // _SPACE))] if values else values
