"""Groups of parts in which no tile has two: what a tile shows as two objects is not one."""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

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


def one_per_tile(tiles: Numbers, one: Numbers, other: Numbers) -> Numbers:
    """Divide the members of groups so that no tile has two in a group.

    The first member takes in those that it is connected with, and those that they are connected with: always the first
    of these of whose tile it has none. Then the first member that is left does so.

    Parameters
    ----------
    tiles : numpy.ndarray
        (n,) int64, the tile of each member, highest rank first.
    one, other : numpy.ndarray
        (k,) int64, both ends of the connections, as positions in `tiles`.

    Returns
    -------
    numpy.ndarray
        (n,) int64, for each member the first one of its new group.

    Examples
    --------
    A chain 0 - 2 - 1, in which 0 and 1 are of one tile:

    >>> one_per_tile(np.array([5, 5, 6]), np.array([0, 1]), np.array([2, 2])).tolist()
    [0, 1, 0]
    """
    neighbours = defaultdict(list)
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        neighbours[a].append(b)
        neighbours[b].append(a)
    tile_of = tiles.tolist()
    first = [-1] * len(tile_of)
    for seed in range(len(tile_of)):
        if first[seed] >= 0:
            continue
        waiting, seen, taken = [seed], {seed}, set()
        while waiting:
            member = heapq.heappop(waiting)
            if tile_of[member] in taken:
                continue
            first[member] = seed
            taken.add(tile_of[member])
            for each in neighbours[member]:
                if first[each] < 0 and each not in seen:
                    seen.add(each)
                    heapq.heappush(waiting, each)
    return np.array(first, np.int64)
