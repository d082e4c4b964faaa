"""Pairs of boxes that may touch, found in a grid of cells, in portions that fit into the memory.

A box lies in at most 2 x 2 cells of its level, since the side of a cell is that of the level's largest box::

    +-------+-------+      level 0: boxes of 30 to 120 px, cells of 120 px
    |   +---|--+    |      level 1: boxes of 7 to 30 px, cells of 30 px ...
    |   |   |  |    |
    +---|---+--|----+      Boxes of one level meet in its cells; a smaller box meets a larger one in the cells of the
    |   +---|--+    |      larger one's level.
    +-------+-------+
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 400_000  # pairs in a portion: few enough for the processor's cache
_ONE_SLICE = 8_000_000  # pairs that are looked at whether or not boxes are dropped in between
_FIRST_SLICE = 16
_COSTLIER = 200
_SHRINK = 4.0  # sides of the boxes of one level: at least a quarter of the largest
_KEY_BITS = 62
Rows = NDArray[np.int64]


class Portion(NamedTuple):
    """Pairs of boxes, each pair once."""

    done: int
    """All pairs whose higher box has a rank below this have been seen with this portion."""
    higher: Rows
    """(k,) int64, rank of the higher box of each pair."""
    lower: Rows
    """(k,) int64, rank of the lower box of each pair."""


class _Entries(NamedTuple):
    """Boxes in cells. An integer holds cell, rank and which of the box's cells it is, so that sorting it sorts all."""

    packed: Rows
    """(m,) int64, sorted."""
    rank_bits: int

    @property
    def ranks(self) -> Rows:
        return (self.packed >> 2) & ((1 << self.rank_bits) - 1)

    @property
    def ends(self) -> Rows:
        """First integer that is beyond each one's cell."""
        shift = self.rank_bits + 2
        return ((self.packed >> shift) + 1) << shift


def candidates(
    boxes: NDArray[np.float64], groups: Rows, dropped: NDArray[np.bool_], reach: float = 0.0, *, costly: bool = False
) -> Iterator[Portion]:
    """Yield the pairs of boxes of the same group that may lie at most `reach` apart, each pair once.

    The ranks of the higher boxes are looked at in slices that follow each other. Boxes that the caller has dropped
    after a slice are not looked at again, and the size of a slice follows the density of the boxes, so that crowds take
    no more memory than others.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy, highest rank first.
    groups : numpy.ndarray
        (n,) int64.
    dropped : numpy.ndarray
        (n,) bool, boxes that need not be looked at. The caller may set more of them between two portions.
    reach : float
        Distance along each axis, in the unit of the boxes.
    costly : bool
        Whether looking at a pair costs much, so that fewer are looked at before boxes are dropped.
    """
    at_once = _ONE_SLICE // _COSTLIER if costly else _ONE_SLICE
    n = len(boxes)
    if not n:
        return
    grown = boxes + np.array([-0.5, -0.5, 0.5, 0.5]) * reach
    joins = [join for level in _levels(grown) for join in _joins(grown, groups, *level)]
    start = 0
    size = n if sum(int((last - first).sum()) for first, last in map(_ranges, joins)) <= at_once else _FIRST_SLICE
    while start < n:
        stop, seen = min(n, start + size), 0
        joins = [_alive(join, dropped) for join in joins] if dropped.any() else joins
        for higher, lower in _pairs(joins, start, stop):
            seen += len(higher)
            yield Portion(start, higher, lower)
        yield Portion(stop, np.zeros(0, np.int64), np.zeros(0, np.int64))
        size = max(1, min(4 * size, at_once // 2 * (stop - start) // max(seen, 1)))
        start = stop


def _levels(boxes: NDArray[np.float64]) -> Iterator[tuple[float, Rows, Rows]]:
    """Yield the side of the cells, the boxes and the smaller boxes of each level."""
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    extent = max(float(np.ptp(boxes[:, [0, 2]])), float(np.ptp(boxes[:, [1, 3]])))
    smallest = extent / 2**24
    while len(left):
        side = max(float(sides[left].max()), smallest)
        member = sides[left] >= side / _SHRINK if side > smallest else np.ones(len(left), bool)
        yield (side * (1 + 1e-6) or 1.0), left[member], left[~member]
        left = left[~member]


def _joins(
    boxes: NDArray[np.float64], groups: Rows, side: float, members: Rows, smaller: Rows
) -> Iterator[tuple[_Entries, _Entries]]:  # fmt: skip
    """Yield entries whose boxes are to be paired with boxes of lower rank in the same cell."""
    own = _entries(boxes, groups, side, members)
    yield own, own
    if len(smaller):
        others = _entries(boxes, groups, side, smaller)
        reached = np.isin(others.packed >> (others.rank_bits + 2), own.packed >> (own.rank_bits + 2))
        others = others._replace(packed=others.packed[reached])
        yield own, others
        yield others, own


def _entries(boxes: NDArray[np.float64], groups: Rows, side: float, rows: Rows) -> _Entries:
    """Return some boxes in the cells of a level."""
    origin = boxes[:, :2].min(axis=0)
    rank_bits = max(len(boxes) - 1, 1).bit_length()
    ordinal = groups - groups.min()
    while True:
        columns, lines = (int(np.ptp(boxes[:, [k, k + 2]]) / side) + 2 for k in (0, 1))
        if (columns * lines * (int(ordinal.max()) + 1)).bit_length() + rank_bits + 2 <= _KEY_BITS:
            break
        side *= 2  # larger cells are as right
    x, y = (((boxes[rows, k] - origin[k]) / side).astype(np.int64) for k in (0, 1))
    wide = ((boxes[rows, 2] - origin[0]) / side).astype(np.int64) > x
    high = ((boxes[rows, 3] - origin[1]) / side).astype(np.int64) > y
    shift = rank_bits + 2
    first = (((ordinal[rows] * lines + y) * columns + x) << shift) | (rows << 2)
    second = first[wide] + ((1 << shift) | 1)
    below = first[high] + ((columns << shift) | 2)
    both = first[wide & high] + (((columns + 1) << shift) | 3)
    packed = np.concatenate([first, second, below, both])
    packed.sort()
    return _Entries(packed, rank_bits)


def _ranges(join: tuple[_Entries, _Entries]) -> tuple[Rows, Rows]:
    """Return for each entry the range of those of the others that lie behind it in its cell."""
    ours, others = join
    if ours is others:
        key = ours.packed >> (ours.rank_bits + 2)
        last = np.flatnonzero(np.append(key[1:] != key[:-1], True)) if len(key) else key
        return np.arange(1, len(key) + 1), np.repeat(last + 1, np.diff(last, prepend=-1))
    return np.searchsorted(others.packed, ours.packed, side="right"), np.searchsorted(others.packed, ours.ends)


def _alive(join: tuple[_Entries, _Entries], dropped: NDArray[np.bool_]) -> tuple[_Entries, _Entries]:
    ours, others = join
    left = ours._replace(packed=ours.packed[~dropped[ours.ranks]])
    return (left, left) if ours is others else (left, others._replace(packed=others.packed[~dropped[others.ranks]]))


def _pairs(joins: Sequence[tuple[_Entries, _Entries]], start: int, stop: int) -> Iterator[tuple[Rows, Rows]]:
    """Yield the pairs whose higher box has a rank from `start` to `stop`."""
    for ours, others in joins:
        first, last = _ranges((ours, others))
        ranks = ours.ranks
        chosen = np.flatnonzero((ranks >= start) & (ranks < stop) & (last > first))
        counts = (last - first)[chosen]
        ends = np.cumsum(counts)
        begin = 0
        while begin < len(chosen):
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
            part = slice(begin, end)
            length = counts[part]
            one = np.repeat(ours.packed[chosen[part]], length)
            offset = first[chosen[part]] - (ends[part] - length - before)
            other = others.packed[np.arange(len(one)) + np.repeat(offset, length)]
            once = (one & other & 3) == 0  # of the cells that both lie in, the first
            mask = (1 << ours.rank_bits) - 1
            yield (one[once] >> 2) & mask, (other[once] >> 2) & mask
            begin = end
