"""Greedy suppression: which detections are kept, dropped or still open, in one pass over the pairs that match.

The flat result and a node of the merging tree come from the same pass: the flat result is a node in which nothing is
exposed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geotile.merging.candidates import candidates

KEPT, DROPPED, OPEN = 0, 1, 2
_SLOW_ROUND = 0.9  # share of the pairs that a round may leave over before the rest is visited one by one
Rows = NDArray[np.int64]
State = NDArray[np.uint8]


def resolve(
    boxes: NDArray[np.float64],
    groups: NDArray[np.int64],
    exposed: NDArray[np.bool_],
    suppresses: Callable[[Rows, Rows], NDArray[np.bool_]],
    reach: float = 0.0,
    *,
    costly: bool = False,
) -> State:
    """Decide which detections are kept, dropped or still open.

    A detection that is suppressed by a kept one of higher rank is dropped. Otherwise it is open if it is exposed, or if
    an open one of higher rank would suppress it. Otherwise it is kept.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy, the envelopes of the detections, highest rank first.
    groups : numpy.ndarray
        (n,) int64. Detections of different groups do not suppress each other.
    exposed : numpy.ndarray
        (n,) bool, whether a detection of another node could match this one.
    suppresses : callable
        ``suppresses(higher, lower)`` returns for pairs of ranks, each (k,) int64, whether the first would suppress the
        second, (k,) bool. It is asked about pairs whose boxes lie at most `reach` apart.
    reach : float
        Distance in pixels.
    costly : bool
        Whether `suppresses` takes long, as it does for shapes.

    Returns
    -------
    numpy.ndarray
        (n,) uint8: ``KEPT``, ``DROPPED`` or ``OPEN``.
    """
    state = np.where(exposed, OPEN, KEPT).astype(np.uint8)
    dropped = np.zeros(len(boxes), bool)
    start, portions = 0, []
    for done, higher, lower in candidates(boxes, groups, dropped, reach, costly=costly):
        if len(higher):
            matching = suppresses(higher, lower)
            portions.append((higher[matching], lower[matching]))
        if done > start and portions:
            higher, lower = (np.concatenate(column) for column in zip(*portions, strict=True))
            inside = lower < done
            _decide(state, higher[inside], lower[inside], start, done)
            _apply(state, higher[~inside], lower[~inside])
            np.equal(state, DROPPED, out=dropped)
        if done > start:
            start, portions = done, []
    return state


def _decide(state: State, higher: Rows, lower: Rows, start: int, stop: int) -> None:
    """Apply the pairs within one slice of the ranks.

    In each round the rows that no undecided row is above are decided together. A long chain would need a round for each
    of its rows, so it is visited row by row.
    """
    while len(higher):
        below = np.zeros(stop - start, bool)
        below[lower - start] = True
        waits = below[higher - start]
        _apply(state, higher[~waits], lower[~waits])
        left = waits & (state[lower] != DROPPED) & (state[higher] != DROPPED)
        if left.sum() > _SLOW_ROUND * len(left):
            _visit(state, higher[left], lower[left])
            return
        higher, lower = higher[left], lower[left]


def _apply(state: State, higher: Rows, lower: Rows) -> None:
    """Let rows whose state is final act on those below them."""
    kept = state[higher] == KEPT
    state[lower[kept]] = DROPPED
    opened = lower[(state[higher] == OPEN) & (state[lower] == KEPT)]
    state[opened] = OPEN


def _visit(state: State, higher: Rows, lower: Rows) -> None:
    """Let rows act on those below them, one after the other."""
    now = bytearray(state.tobytes())
    order = np.argsort(higher, kind="stable")
    for one, other in zip(higher[order].tolist(), lower[order].tolist(), strict=True):
        if now[one] == KEPT:
            now[other] = DROPPED
        elif now[one] == OPEN and now[other] == KEPT:
            now[other] = OPEN
    state[:] = np.frombuffer(bytes(now), np.uint8)
