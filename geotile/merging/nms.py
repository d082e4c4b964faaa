"""Greedy non-maximum suppression: of arrays of boxes, and as a `Merge`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geotile.core.checks import check_bool, check_unit
from geotile.core.choices import OverlapMetric
from geotile.core.keywords import known_keywords
from geotile.core.thresholds import Threshold, check_threshold
from geotile.errors import ArgumentError
from geotile.merging.merge import Merge
from geotile.merging.overlaps import Geometry, check_geometry, check_metric, overlap
from geotile.merging.pool import Pool, Rows
from geotile.merging.ranking import by_label, label_codes, ranking
from geotile.merging.suppression import KEPT, resolve
from geotile.public import public

_LARGEST = 1e100  # of a coordinate


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
    ranked = xyxy[order]

    def suppresses(higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        return np.asarray(overlap(ranked[higher], ranked[lower], metric) > iou_threshold)

    groups = np.zeros_like(codes) if class_agnostic else codes[order]
    state = resolve(ranked, groups, np.zeros(len(xyxy), bool), suppresses)
    kept: NDArray[np.int64] = order[state == KEPT]
    return kept


@public
@known_keywords({"overlap_metric": "option 'overlap_metric' of detect is 'metric' in Nms; give metric="})
@dataclass(frozen=True)
class Nms(Merge):
    """Greedy non-maximum suppression: of detections that overlap, the one of the highest score stays.

    Parameters
    ----------
    iou_threshold : float or mapping of str to float
        Overlap above which the lower-ranked detection is suppressed, in [0, 1]; by label, with the value for all other
        labels under ``"*"``. Where labels differ, that of the higher-ranked detection counts.
    metric : {"iou", "ios"}
        Measure of the overlap: intersection over the union, or over the smaller area.
    class_agnostic : bool
        Whether detections of different labels suppress each other.
    geometry : {"auto", "box"}
        What is compared: "auto" compares oriented boxes, polygons and masks by the areas of their shapes, "box" by
        their envelopes, as OversightML does.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.

    Examples
    --------
    >>> Nms({"ship": 0.3, "*": 0.5}, metric="ios")
    Nms(iou_threshold={'ship': 0.3, '*': 0.5}, metric='ios', class_agnostic=False, geometry='auto')
    """

    drops = True

    iou_threshold: Threshold = 0.5
    metric: OverlapMetric = "iou"
    class_agnostic: bool = False
    geometry: Geometry = "auto"

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "iou_threshold", check_threshold(self.iou_threshold, "iou_threshold"))
        check_metric(self.metric)
        check_bool(self.class_agnostic, "class_agnostic")
        check_geometry(self.geometry)

    def suppresses(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether the first, if it is kept, drops the second."""
        threshold = by_label(self.iou_threshold, pool.detections.labels[higher])
        return np.asarray(pool.overlap(higher, lower, self.metric) > threshold)


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
    if (np.abs(xyxy) > _LARGEST).any():
        raise ArgumentError(f"boxes must lie within ±{_LARGEST:g}, so that they have areas; got {np.abs(xyxy).max():g}")
    if (xyxy[:, 2:] < xyxy[:, :2]).any():
        row = int(np.flatnonzero((xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))[0])
        raise ArgumentError(f"boxes must have x0 <= x1 and y0 <= y1; got box {row} {xyxy[row].tolist()}")
    return xyxy, values


def _floats(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must be an array of numbers; got {type(values).__name__} ({error})") from None
