"""Non-maximum suppression on arrays: exact, sparse, in one pass over the overlapping pairs.

The flat answer and a node of the merging tree are the same pass (`resolve`): the flat one is a
node to which nothing is exposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from geotile.core.checks import check_unit
from geotile.errors import ArgumentError
from geotile.options import OverlapMetric
from geotile.public import public

KEPT, DROPPED, OPEN = 0, 1, 2
_PAIRS_AT_ONCE = 4_000_000  # about 200 MB of temporaries
_FIRST_SLICE = 16


@public
def nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    iou_threshold: float = 0.5,
    metric: OverlapMetric = "iou",
    class_agnostic: bool = False,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Boxes are visited from the highest score down; a box is dropped when its overlap with a kept
    one is greater than `iou_threshold`. Equal scores are ordered by content (label, then x0, y0,
    x1, y1), then by position, so the answer does not depend on the order of different boxes.

    Parameters
    ----------
    boxes : array_like
        (n, 4) float64, xyxy, in any one unit.
    scores : array_like
        (n,) float64.
    labels : array_like, optional
        (n,) labels; boxes of different labels do not suppress each other.
    iou_threshold : float
        Largest overlap that two kept boxes may have, 0 to 1.
    metric : {"iou", "ios"}
        Intersection over union, or over the smaller of the two areas. Two equal boxes overlap by
        1 even when they have no area.
    class_agnostic : bool
        Let boxes of different labels suppress each other.

    Returns
    -------
    numpy.ndarray
        (k,) int64, indices of the kept boxes, by falling score.

    Raises
    ------
    ArgumentError
        If shapes do not fit, a number is not finite, a box has x1 < x0, or an option is unknown.

    References
    ----------
    Greedy NMS as in Felzenszwalb et al., "Object Detection with Discriminatively Trained
    Part-Based Models", TPAMI 2010, section 7.2.

    Examples
    --------
    >>> boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10]]
    >>> nms(boxes, [0.8, 0.9, 0.5]).tolist()
    [1, 2]
    >>> nms(boxes, [0.8, 0.9, 0.5], ["car", "truck", "car"]).tolist()
    [1, 0, 2]
    """
    check_unit(iou_threshold, "iou_threshold")
    check_metric(metric)
    xyxy, points = _checked(boxes, scores)
    codes = np.zeros(len(xyxy), np.int64)
    if labels is not None:
        if np.shape(labels) != (len(xyxy),):
            raise ArgumentError(f"labels have shape {np.shape(labels)}; give ({len(xyxy)},)")
        codes = label_codes(labels)
    order = ranking(points, codes, xyxy)
    state = resolve(
        xyxy[order],
        np.zeros_like(codes) if class_agnostic else codes[order],
        np.zeros(len(xyxy), bool),
        iou_threshold=iou_threshold,
        metric=metric,
    )
    kept: NDArray[np.int64] = order[state == KEPT]
    return kept


def ranking(
    scores: NDArray[np.float64], codes: NDArray[np.int64], boxes: NDArray[np.float64], *more: NDArray[Any]
) -> NDArray[np.int64]:
    """Order of detections: falling score, then label, x0, y0, x1, y1, then `more` keys.

    Parameters
    ----------
    scores : numpy.ndarray
        (n,) float64.
    codes : numpy.ndarray
        (n,) int64 that sort as the labels do.
    boxes : numpy.ndarray
        (n, 4) float64, xyxy.
    *more : numpy.ndarray
        (n,) further keys, the most significant first.

    Returns
    -------
    numpy.ndarray
        (n,) int64 indices.
    """
    keys = (-scores, codes, *boxes.T, *more)
    order: NDArray[np.int64] = np.lexsort(keys[::-1])
    return order


def label_codes(labels: ArrayLike) -> NDArray[np.int64]:
    """Return labels as integers that sort as the labels do, (n,) int64."""
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)


def overlap(a: NDArray[np.float64], b: NDArray[np.float64], metric: OverlapMetric = "iou") -> NDArray[np.float64]:
    """Overlap of box pairs.

    Parameters
    ----------
    a, b : numpy.ndarray
        (n, 4) float64, xyxy.
    metric : {"iou", "ios"}
        Over the union (Jaccard index) or over the smaller area.

    Returns
    -------
    numpy.ndarray
        (n,) float64 in 0..1.

    Examples
    --------
    >>> overlap(np.array([[0., 0, 4, 4]]), np.array([[0., 0, 2, 4]]), "ios")
    array([1.])
    """
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    whole = area_a + area_b - shared if metric == "iou" else np.minimum(area_a, area_b)
    equal = (a == b).all(axis=1)
    measure: NDArray[np.float64] = np.divide(shared, whole, out=equal.astype(np.float64), where=(whole > 0) & ~equal)
    return measure


def resolve(
    boxes: NDArray[np.float64],
    codes: NDArray[np.int64],
    exposed: NDArray[np.bool_],
    *,
    iou_threshold: float,
    metric: OverlapMetric,
) -> NDArray[np.uint8]:
    """Decide what cannot change any more.

    A box that a kept higher one suppresses is dropped. Else it is open if it is exposed or an
    open higher box would suppress it. Else it is kept.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy, highest rank first.
    codes : numpy.ndarray
        (n,) int64; boxes of different codes do not suppress each other.
    exposed : numpy.ndarray
        (n,) bool; whether a box not seen yet could overlap this one.
    iou_threshold : float
        A higher box suppresses a lower one if they overlap by more.
    metric : {"iou", "ios"}
        Measure of the overlap.

    Returns
    -------
    numpy.ndarray
        (n,) uint8: ``KEPT``, ``DROPPED`` or ``OPEN``.
    """
    state = bytearray(np.where(exposed, OPEN, KEPT).astype(np.uint8).tobytes())
    for higher, lower in _suppressions(boxes, codes, state, iou_threshold, metric):
        # ^ by rank of the higher box, so its own fate is sealed when its turn comes
        for i, j in zip(higher.tolist(), lower.tolist(), strict=True):
            if state[i] == KEPT:
                state[j] = DROPPED
            elif state[i] == OPEN and state[j] == KEPT:
                state[j] = OPEN
    return np.frombuffer(bytes(state), np.uint8)


def _suppressions(
    boxes: NDArray[np.float64],
    codes: NDArray[np.int64],
    state: bytearray,
    iou_threshold: float,
    metric: OverlapMetric,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs (higher, lower) of which the higher would suppress the lower, by rank.

    Slices of ranks are looked up one after the other, so that what the caller has dropped in
    between is not looked up again, and the slice follows the density, so that crowded boxes
    do not fill the memory with pairs.
    """
    n = len(boxes)
    diagonals: Any = shapely.linestrings(boxes.reshape(-1, 2, 2))  # their envelopes are the boxes
    tree = shapely.STRtree(diagonals)
    start, size = 0, min(n, _FIRST_SLICE)
    while start < n:
        stop = min(n, start + size)
        alive = start + np.flatnonzero(np.frombuffer(state, np.uint8)[start:stop] != DROPPED)
        found, lower = tree.query(diagonals[alive])
        higher = alive[found]
        size = max(1, min(4 * size, _PAIRS_AT_ONCE * (stop - start) // max(len(higher), 1)))
        start = stop
        ahead = (lower > higher) & (codes[lower] == codes[higher])
        higher, lower = higher[ahead], lower[ahead]
        close = overlap(boxes[higher], boxes[lower], metric) > iou_threshold
        yield higher[close], lower[close]


def check_metric(value: object) -> None:
    """Refuse an unknown overlap metric."""
    if value not in get_args(OverlapMetric):
        raise ArgumentError(f"overlap metric {value!r} is unknown; choose 'iou' or 'ios'")


def _checked(boxes: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    xyxy = np.asarray(boxes, np.float64)
    points = np.asarray(scores, np.float64)
    if xyxy.size == 0:
        xyxy = xyxy.reshape(0, 4)
    if xyxy.ndim != 2 or xyxy.shape[1] != 4:
        raise ArgumentError(f"boxes have shape {xyxy.shape}; give (n, 4), xyxy")
    if points.shape != (len(xyxy),):
        raise ArgumentError(f"scores have shape {points.shape}; give ({len(xyxy)},)")
    if not (np.isfinite(xyxy).all() and np.isfinite(points).all()):
        raise ArgumentError("boxes and scores must be finite; drop NaN and infinite rows first")
    if (xyxy[:, 2:] < xyxy[:, :2]).any():
        row = int(np.flatnonzero((xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))[0])
        raise ArgumentError(f"box {row} is {xyxy[row].tolist()}: give x0 <= x1 and y0 <= y1")
    return xyxy, points
