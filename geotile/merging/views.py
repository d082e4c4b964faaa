"""What two tiles saw of one object: questions about pairs of detections at seams."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.merging.overlaps import box_areas
from geotile.merging.pool import Pool, Rows

_SIDE_SHARE = 0.25  # of the larger side, by which edges that both tiles saw may differ
GAP_SHARE = 0.25  # of `seam_px`: larger gaps are those between neighbours, such as parked cars
Mask = NDArray[np.bool_]


def across(pool: Pool, higher: Rows, lower: Rows) -> Mask:
    """Return which pairs are of different tiles and have a cut one. The lower one is cut if any is."""
    tiles = pool.detections.tiles
    return np.asarray((tiles[higher] != tiles[lower]) & pool.cut[lower])


def edges_agree(pool: Pool, higher: Rows, lower: Rows) -> Mask:
    """Return whether the edges that both tiles saw lie near each other, (n,) bool."""
    return np.asarray(_near_or_hidden(pool, higher, lower).all(axis=1))


def edges_near(pool: Pool, higher: Rows, lower: Rows) -> Mask:
    """Return which edges of two boxes lie near each other, (n, 4) bool: left, top, right, bottom."""
    one, other = pool.boxes[higher], pool.boxes[lower]
    sides = np.maximum(one[:, 2:] - one[:, :2], other[:, 2:] - other[:, :2])
    return np.asarray(np.abs(one - other) <= pool.seam_px + _SIDE_SHARE * np.tile(sides, 2))


def _near_or_hidden(pool: Pool, higher: Rows, lower: Rows) -> Mask:
    return np.asarray(edges_near(pool, higher, lower) | pool.hidden[higher] | pool.hidden[lower])


def goes_on(pool: Pool, higher: Rows, lower: Rows) -> Mask:
    """Return which pairs have a lower one that is cut where the higher one goes on, seen by the tile of the latter.

    That tile saw beyond each hidden edge of the lower one. The larger one reaches to each of them, and beyond one, and
    another edge of both, which both tiles saw, is the same: a small object on a large one shares none. This is
    for boxes alone: of a slanting object, a part has other edges than the whole. Shapes are compared where both saw.
    """
    part, box, window = pool.boxes[lower], pool.boxes[higher], pool.windows[higher]
    outwards = np.array([-1.0, -1.0, 1.0, 1.0])
    seen = (window - part) * outwards >= pool.seam_px
    reaches, beyond = (box - part) * outwards >= -pool.seam_px, (box - part) * outwards > 0
    larger = box_areas(box) >= box_areas(part)
    hidden = pool.hidden[lower]
    shared = ((np.abs(box - part) <= pool.seam_px) & ~hidden & ~pool.hidden[higher]).any(axis=1)
    possible = larger & shared & ~pool.shaped(higher, lower)
    return np.asarray(possible & (~hidden | (seen & reaches)).all(axis=1) & (hidden & beyond).any(axis=1))


def continues(pool: Pool, higher: Rows, lower: Rows, threshold: NDArray[np.float64] | float) -> Mask:
    """Return which pairs end at both sides of a seam, opposite each other.

    Tiles that share (almost) no pixels did not see the same part of an object, so its parts do not overlap.
    """
    matching = np.zeros(len(higher), bool)
    agree = _near_or_hidden(pool, higher, lower)
    for axis in (0, 1):
        rows, before, after = _facing(pool, higher, lower, axis, GAP_SHARE * pool.seam_px)
        wanted = agree[rows][:, [1 - axis, 3 - axis]].all(axis=1) | pool.shaped(before, after)
        rows, before, after = rows[wanted], before[wanted], after[wanted]
        limit = threshold[rows] if isinstance(threshold, np.ndarray) else threshold
        matching[rows] |= _overlap_along(pool, before, after, axis) > limit
    return matching


def touches(pool: Pool, higher: Rows, lower: Rows, gap_px: float) -> Mask:
    """Return which pairs end at both sides of a seam, somewhere opposite each other and at most a gap apart."""
    matching = np.zeros(len(higher), bool)
    for axis in (0, 1):
        rows, before, after = _facing(pool, higher, lower, axis, gap_px)
        matching[rows] |= _overlap_along(pool, before, after, axis) > 0
    return matching


def _facing(pool: Pool, higher: Rows, lower: Rows, axis: int, gap_px: float) -> tuple[Rows, Rows, Rows]:
    """Return the pairs that end at both sides of a seam that cuts an axis (0: x, 1: y), at most a gap apart.

    Returns
    -------
    rows, before, after : numpy.ndarray
        (k,) int64: positions of the pairs, and the ranks of their members on the lower and on the upper side.
    """
    shared = np.minimum(pool.windows[higher, 2:], pool.windows[lower, 2:]) - np.maximum(
        pool.windows[higher, :2], pool.windows[lower, :2]
    )
    thin = shared < 2 * pool.seam_px
    next_to = np.abs(_index(pool, higher, axis) - _index(pool, lower, axis)) == 1  # no tile between shows the seam
    first = pool.windows[higher, axis] < pool.windows[lower, axis]
    before, after = np.where(first, higher, lower), np.where(first, lower, higher)
    gap = np.maximum(pool.boxes[after, axis], pool.boxes[before, axis]) - np.minimum(
        pool.boxes[after, axis + 2], pool.boxes[before, axis + 2]
    )
    facing = pool.hidden[before, axis + 2] & pool.hidden[after, axis] & (gap <= gap_px)
    rows = np.flatnonzero(thin[:, axis] & ~thin[:, 1 - axis] & next_to & facing)
    shaped = pool.shaped(before[rows], after[rows])
    near = np.ones(len(rows), bool)
    near[shaped] = shapely.dwithin(pool.shapes[before[rows[shaped]]], pool.shapes[after[rows[shaped]]], gap_px)
    return rows[near], before[rows[near]], after[rows[near]]


def _index(pool: Pool, rows: Rows, axis: int) -> Rows:
    """Return the column (axis 0) or row (axis 1) of the tile of detections."""
    row, column = np.divmod(pool.detections.tiles[rows], pool.grid.tiles_yx[1])
    return np.asarray(row if axis else column)


def _overlap_along(pool: Pool, before: Rows, after: Rows, axis: int) -> NDArray[np.float64]:
    """Return the intersection over the union of pairs along a seam that cuts an axis, of what both tiles saw there."""
    along = 1 - axis
    low = np.maximum(pool.windows[before, along], pool.windows[after, along])
    high = np.minimum(pool.windows[before, along + 2], pool.windows[after, along + 2])
    spans = []
    for rows, border in ((before, pool.windows[before, axis + 2]), (after, pool.windows[after, axis])):
        span = _span_at(pool, rows, border, axis)
        spans.append(np.clip(span, low[:, None], high[:, None]))
    one, other = spans
    shared = np.minimum(one[:, 1], other[:, 1]) - np.maximum(one[:, 0], other[:, 0])
    union = np.maximum(one[:, 1], other[:, 1]) - np.minimum(one[:, 0], other[:, 0])
    return np.asarray(np.divide(np.maximum(shared, 0), union, out=np.zeros(len(before)), where=union > 0))


def _span_at(pool: Pool, rows: Rows, border: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return from where to where detections reach along a border of their tile, (n, 2) float64."""
    along = 1 - axis
    span = pool.boxes[rows][:, [along, along + 2]]
    shaped = pool.has_shape[rows]
    if shaped.any():
        band = np.stack([border - 2 * pool.seam_px, border + 2 * pool.seam_px], axis=1)[shaped]
        boxes = pool.boxes[rows[shaped]].copy()
        boxes[:, [axis, axis + 2]] = band
        window: Any = shapely.box(*boxes.T)
        bounds = shapely.bounds(shapely.intersection(pool.shapes[rows[shaped]], window)).reshape(-1, 4)
        span[shaped] = np.nan_to_num(bounds[:, [along, along + 2]])
    return span
