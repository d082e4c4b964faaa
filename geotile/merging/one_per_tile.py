"""Groups of parts in which no tile has two objects: what a tile shows as two is not one."""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from geotile.merging.components import Pairs

Numbers = NDArray[np.int64]


def has_two_of_one_tile(groups: Numbers, tiles: Numbers) -> NDArray[np.bool_]:
    """Return which members are of a group that has two members of one tile.

    Parameters
    ----------
    groups, tiles : numpy.ndarray
        (n,) int64, the group and the tile of each member.

    Examples
    --------
    >>> has_two_of_one_tile(np.array([0, 0, 2, 2]), np.array([5, 6, 7, 7])).tolist()
    [False, False, True, True]
    """
    _, numbers = np.unique(groups, return_inverse=True)
    pairs, counts = np.unique(np.stack([numbers, tiles]), axis=1, return_counts=True)
    crowded = np.zeros(len(numbers), bool)
    crowded[pairs[0, counts > 1]] = True
    return np.asarray(crowded[numbers])


def one_per_tile(tiles: Numbers, connected: Pairs, alike: Pairs) -> Numbers:
    """Divide the members of groups so that no tile has two in a group, unless they are alike.

    The first member takes in those that it is connected with, and those that they are connected with: always the first
    of these that is alike to all members of its tile that are taken in. Then the first member that is left does so.

    Parameters
    ----------
    tiles : numpy.ndarray
        (n,) int64, the tile of each member, highest rank first.
    connected, alike : tuple of numpy.ndarray
        Pairs of positions in `tiles`, each (k,) int64: those of one group, and those of one tile that show one object.

    Returns
    -------
    numpy.ndarray
        (n,) int64, for each member the first one of its new group.

    Examples
    --------
    A chain 0 - 2 - 1, in which 0 and 1 are of one tile:

    >>> chain, none = (np.array([0, 1]), np.array([2, 2])), (np.zeros(0, np.int64),) * 2
    >>> one_per_tile(np.array([5, 5, 6]), chain, none).tolist()
    [0, 1, 0]
    """
    neighbours, same = _Others(len(tiles), connected), _Others(len(tiles), alike)
    tile_of = tiles.tolist()
    first = [-1] * len(tile_of)
    for seed in range(len(tile_of)):
        if first[seed] >= 0:
            continue
        waiting, seen = [seed], {seed}
        taken: defaultdict[int, list[int]] = defaultdict(list)
        while waiting:
            member = heapq.heappop(waiting)
            of_tile = taken[tile_of[member]]
            if of_tile and not set(same.of(member)).issuperset(of_tile):
                continue
            first[member] = seed
            of_tile.append(member)
            for each in neighbours.of(member):
                if first[each] < 0 and each not in seen:
                    seen.add(each)
                    heapq.heappush(waiting, each)
    return np.array(first, np.int64)


class _Others:
    """The other ends of the pairs of each member, in two arrays: Python's sets take ten times the memory."""

    def __init__(self, n: int, pairs: Pairs) -> None:
        ends, others = np.concatenate(pairs), np.concatenate(pairs[::-1])
        order = np.argsort(ends, kind="stable")
        self._others = others[order].astype(np.int32)
        self._starts = np.searchsorted(ends[order], np.arange(n + 1))

    def of(self, member: int) -> list[int]:
        others: list[int] = self._others[self._starts[member] : self._starts[member + 1]].tolist()
        return others
