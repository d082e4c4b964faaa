"""Non-maximum suppression on arrays: exact, sparse, in one pass over the overlapping pairs.

The flat result and a node of the merging tree come from the same pass (`resolve`): the flat result is a node in which
no box is exposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pandas as pd
import shapely
from numpy.typing import ArrayLike, NDArray

from geotile.core.checks import check_bool, check_unit
from geotile.core.choices import OverlapMetric
from geotile.errors import ArgumentError
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
    """Suppress boxes that overlap a higher-scoring box (greedy non-maximum suppression).

    Boxes are visited in order of decreasing score. A box is dropped if its overlap with a box that has already been
    kept is greater than `iou_threshold`. Equal scores are ordered by content (label, then x0, y0, x1, y1), then by
    position, so the result does not depend on the order of different boxes.

    Parameters
    ----------
    boxes : array_like
        (n, 4) float64, xyxy, in any unit.
    scores : array_like
        (n,) float64.
    labels : array_like, optional
        (n,) labels. Boxes of different labels do not suppress each other.
    iou_threshold : float
        Overlap above which the lower-ranked box is dropped, in [0, 1].
    metric : {"iou", "ios"}
        Measure of the overlap: intersection over the union, or over the smaller of the two areas. Two equal boxes
        overlap by 1, even if they have no area.
    class_agnostic : bool
        Whether boxes of different labels suppress each other.

    Returns
    -------
    numpy.ndarray
        (k,) int64, indices of the kept boxes, in order of decreasing score.

    Raises
    ------
    ArgumentError
        If the shapes do not match, a value is not finite, a box has ``x1 < x0`` or ``y1 < y0``, or an option is wrong.

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
    check_bool(class_agnostic, "class_agnostic")
    xyxy, values = _checked(boxes, scores)
    codes = np.zeros(len(xyxy), np.int64)
    if labels is not None:
        if np.shape(labels) != (len(xyxy),):
            raise ArgumentError(
                f"labels must have shape ({len(xyxy)},); got {np.shape(labels)}. Give one label per box"
            )
        codes = label_codes(labels)
    order = ranking(values, codes, xyxy)
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
    """Return the order of detections: decreasing score, then label, x0, y0, x1, y1, then the keys in `more`.

    Parameters
    ----------
    scores : numpy.ndarray
        (n,) float64.
    codes : numpy.ndarray
        (n,) int64, integers that sort as the labels do.
    boxes : numpy.ndarray
        (n, 4) float64, xyxy.
    *more : numpy.ndarray
        Further keys of shape (n,), the most significant first.

    Returns
    -------
    numpy.ndarray
        (n,) int64, indices of the detections by rank.
    """
    keys = (-scores, codes, *boxes.T, *more)
    order: NDArray[np.int64] = np.lexsort(keys[::-1])
    return order


def label_codes(labels: ArrayLike) -> NDArray[np.int64]:
    """Return integers that sort as the labels do, (n,) int64."""
    values = np.asarray(labels)
    if values.dtype == object:  # fixed-width text would take memory by the longest label
        return np.asarray(pd.factorize(values, sort=True)[0], np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def overlap(a: NDArray[np.float64], b: NDArray[np.float64], metric: OverlapMetric = "iou") -> NDArray[np.float64]:
    """Return the overlap of pairs of boxes.

    Parameters
    ----------
    a, b : numpy.ndarray
        (n, 4) float64, xyxy.
    metric : {"iou", "ios"}
        Intersection over the union (Jaccard index), or over the smaller area.

    Returns
    -------
    numpy.ndarray
        (n,) float64, in [0, 1].

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
    """Decide which boxes are kept, dropped or still open.

    A box that is suppressed by a kept box of higher rank is dropped. Otherwise it is open if it is exposed, or if an
    open box of higher rank would suppress it. Otherwise it is kept.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy, highest rank first.
    codes : numpy.ndarray
        (n,) int64. Boxes of different codes do not suppress each other.
    exposed : numpy.ndarray
        (n,) bool, whether a box of another node could overlap this one.
    iou_threshold : float
        Overlap above which the lower-ranked box is suppressed, in [0, 1].
    metric : {"iou", "ios"}
        Measure of the overlap.

    Returns
    -------
    numpy.ndarray
        (n,) uint8: ``KEPT``, ``DROPPED`` or ``OPEN``.
    """
    state = bytearray(np.where(exposed, OPEN, KEPT).astype(np.uint8).tobytes())
    for higher, lower in _suppressions(boxes, codes, state, iou_threshold, metric):
        # pairs come by the rank of the higher box, so its own state is final when it is used
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
    """Yield pairs (higher, lower), by rank, in which the higher box would suppress the lower one.

    Ranks are looked up slice by slice. Boxes that the caller has dropped in between are not looked up again, and the
    size of a slice follows the density of the boxes, so that crowded boxes do not fill the memory with pairs.
    """
    n = len(boxes)
    diagonals: Any = shapely.linestrings(_apart(boxes, codes).reshape(-1, 2, 2))  # their envelopes are the boxes
    tree = shapely.STRtree(diagonals)
    start, size = 0, min(n, _FIRST_SLICE)
    while start < n:
        stop = min(n, start + size)
        alive = start + np.flatnonzero(np.frombuffer(state, np.uint8)[start:stop] != DROPPED)
        position, lower = tree.query(diagonals[alive])
        higher = alive[position]
        size = max(1, min(4 * size, _PAIRS_AT_ONCE * (stop - start) // max(len(higher), 1)))
        start = stop
        ahead = (lower > higher) & (codes[lower] == codes[higher])
        higher, lower = higher[ahead], lower[ahead]
        close = overlap(boxes[higher], boxes[lower], metric) > iou_threshold
        yield higher[close], lower[close]


def _apart(boxes: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return boxes of which those of different codes lie apart, so that a tree does not find them as neighbours.

    Rounding keeps order, so boxes of one code that overlap still do.
    """
    if not len(boxes) or (codes == codes[0]).all():
        return boxes
    ordinal = np.unique(codes, return_inverse=True)[1]
    shift = ordinal * (1 + boxes[:, 2].max() - boxes[:, 0].min())
    moved = boxes + np.stack([shift, np.zeros(len(boxes))] * 2, axis=1)
    return moved if np.isfinite(moved).all() else boxes


def check_metric(value: object) -> None:
    """Raise an error if an overlap metric is unknown."""
    if not isinstance(value, str) or value not in get_args(OverlapMetric):
        raise ArgumentError(f"metric must be 'iou' or 'ios'; got {value!r}")


def _checked(boxes: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return boxes, (n, 4) float64, and scores, (n,) float64, or raise an ArgumentError."""
    xyxy, values = _floats(boxes, "boxes"), _floats(scores, "scores")
    if xyxy.size == 0:
        xyxy = xyxy.reshape(0, 4)
    if xyxy.ndim != 2 or xyxy.shape[1] != 4:
        raise ArgumentError(f"boxes must have shape (n, 4), xyxy; got {xyxy.shape}")
    if values.shape != (len(xyxy),):
        raise ArgumentError(f"scores must have shape ({len(xyxy)},); got {values.shape}. Give one score per box")
    if not (np.isfinite(xyxy).all() and np.isfinite(values).all()):
        raise ArgumentError("boxes and scores must be finite; got NaN or infinite values. Drop these rows first")
    if (xyxy[:, 2:] < xyxy[:, :2]).any():
        row = int(np.flatnonzero((xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))[0])
        raise ArgumentError(f"boxes must have x0 <= x1 and y0 <= y1; got box {row} {xyxy[row].tolist()}")
    return xyxy, values


def _floats(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must be an array of numbers; got {type(values).__name__} ({error})") from None
