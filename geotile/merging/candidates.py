"""Pairs of boxes that touch, in portions that fit into the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

_PAIRS_AT_ONCE = 4_000_000  # about 200 MB of temporaries
_FIRST_SLICE = 16


class Portion(NamedTuple):
    """Pairs of boxes whose higher one is of one slice of the ranks."""

    start: int
    """First rank of the slice."""
    stop: int
    """One past the last rank of the slice."""
    higher: NDArray[np.int64]
    """(k,) int64, rank of the higher box of each pair, in ascending order."""
    lower: NDArray[np.int64]
    """(k,) int64, rank of the lower box of each pair."""


def candidates(
    boxes: NDArray[np.float64], groups: NDArray[np.int64], dropped: NDArray[np.bool_], reach: float = 0.0
) -> Iterator[Portion]:
    """Yield the pairs of boxes of the same group that lie at most `reach` apart, each pair once.

    The slices of the ranks follow each other without a gap. Boxes that the caller has dropped in between are not
    looked up again, and the size of a slice follows the density of the boxes, so that crowded boxes do not fill the
    memory with pairs.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy, highest rank first.
    groups : numpy.ndarray
        (n,) int64.
    dropped : numpy.ndarray
        (n,) bool, boxes that need not be looked up. The caller may set more of them between two portions.
    reach : float
        Distance along each axis, in the unit of the boxes.
    """
    n = len(boxes)
    placed = _apart(boxes, groups, reach)
    diagonals: Any = shapely.linestrings(placed.reshape(-1, 2, 2))  # their envelopes are the boxes
    tree = shapely.STRtree(diagonals)
    start, size = 0, min(n, _FIRST_SLICE)
    while start < n:
        stop = min(n, start + size)
        alive = start + np.flatnonzero(~dropped[start:stop])
        wanted = _grown(placed[alive], reach) if reach else diagonals[alive]
        position, lower = tree.query(wanted)
        higher = alive[position]
        size = max(1, min(4 * size, _PAIRS_AT_ONCE * (stop - start) // max(len(higher), 1)))
        ahead = (lower > higher) & (groups[lower] == groups[higher])
        yield Portion(start, stop, higher[ahead], lower[ahead])
        start = stop


def _grown(boxes: NDArray[np.float64], reach: float) -> Any:
    return shapely.linestrings((boxes + np.array([-reach, -reach, reach, reach])).reshape(-1, 2, 2))


def _apart(boxes: NDArray[np.float64], groups: NDArray[np.int64], reach: float) -> NDArray[np.float64]:
    """Return boxes of which those of different groups lie apart, so that a tree does not find them as neighbours.

    Rounding keeps order, so boxes of one group that overlap still do.
    """
    if not len(boxes) or (groups == groups[0]).all():
        return boxes
    ordinal = np.unique(groups, return_inverse=True)[1]
    shift = ordinal * (1 + 2 * reach + boxes[:, 2].max() - boxes[:, 0].min())
    moved = boxes + np.stack([shift, np.zeros(len(boxes))] * 2, axis=1)
    return moved if np.isfinite(moved).all() else boxes
