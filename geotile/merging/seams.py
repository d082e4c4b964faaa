"""Detections that a merge may have left in parts or twice: those at a border of their tile, and points and lines."""

from __future__ import annotations

import numpy as np
import shapely

from geotile.grid.tile_grid import TileGrid
from geotile.merging.detections import Detections

_NEAR_PX = 1.0  # models often leave out the last pixel of a cut object


def count_at_seams(detections: Detections, grid: TileGrid) -> int:
    """Return the number of detections whose box ends at a border of its tile inside the image.

    The box of joined parts reaches beyond the tile of each of them.

    Parameters
    ----------
    detections : Detections
        Detections in image pixels.
    grid : TileGrid

    Examples
    --------
    >>> from geotile.merging.detections import detections
    >>> grid = TileGrid((100, 100), 60, 20)
    >>> found = detections(np.array([[50., 5, 60, 9], [0, 5, 20, 9]]), np.ones(2))
    >>> count_at_seams(found, grid)  # both are of the first tile, which ends at 60
    1
    """
    if not len(detections):
        return 0
    rows, columns = np.divmod(detections.tiles, grid.tiles_yx[1])
    at_seam = np.zeros(len(detections), bool)
    for axis, numbers, (first, last) in zip(grid.axes, (rows, columns), ((1, 3), (0, 2)), strict=True):
        start = axis.starts[numbers]
        stop = np.minimum(start + axis.tile, axis.length)
        at_seam |= (np.abs(detections.boxes[:, first] - start) <= _NEAR_PX) & (start > 0)
        at_seam |= (np.abs(detections.boxes[:, last] - stop) <= _NEAR_PX) & (stop < axis.length)
    return int(at_seam.sum())


def count_without_area(detections: Detections, grid: TileGrid) -> int:
    """Return the number of points and lines, which several tiles can show and no area tells to be one.

    Examples
    --------
    >>> from geotile.merging.detections import detections
    >>> found = detections(np.array([[5., 5, 5, 5], [0, 5, 20, 9]]), np.ones(2))
    >>> count_without_area(found, TileGrid((100, 100), 60, 20)), count_without_area(found, TileGrid((60, 60), 60, 0))
    (1, 0)
    """
    if grid.n_tiles == 1:
        return 0
    flat = (detections.boxes[:, 2:] == detections.boxes[:, :2]).any(axis=1)
    shaped = np.flatnonzero(detections.geometries != None)  # noqa: E711 - element by element
    flat[shaped] = shapely.get_dimensions(detections.geometries[shaped]) < 2
    return int(flat.sum())
