"""Connected components of a graph whose edges arrive in portions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def components(n: int, portions: Iterable[Pairs]) -> NDArray[np.int64]:
    """Return the lowest index in the component of each node.

    Parameters
    ----------
    n : int
        Number of nodes.
    portions : iterable of (numpy.ndarray, numpy.ndarray)
        Both ends of some of the edges, each (k,) int64. A portion is forgotten once it has been seen, so the memory
        that is needed is that of the nodes and of one portion.

    Returns
    -------
    numpy.ndarray
        (n,) int64.

    References
    ----------
    Zhang, Azad and Hu, "FastSV: A Distributed-Memory Connected Component Algorithm with Fast Convergence", 2020: trees
    of parents, hooked together at their roots and flattened until nothing changes.

    Examples
    --------
    >>> components(5, [(np.array([3]), np.array([1])), (np.array([4]), np.array([3]))]).tolist()
    [0, 1, 2, 1, 1]
    """
    parent = np.arange(n)
    for one, other in portions:
        while True:
            low, high = np.minimum(parent[one], parent[other]), np.maximum(parent[one], parent[other])
            apart = low < high
            if not apart.any():
                break
            one, other = one[apart], other[apart]
            np.minimum.at(parent, high[apart], low[apart])
            while True:
                flat = parent[parent]
                if (flat == parent).all():
                    break
                parent = flat
    return parent
