"""The detections of a tile: those of the decoded outputs that pass the score threshold and the suppression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.detectors.boxes import check_in_pixels
from geotile.detectors.mask_shapes import picture_shapes, prototype_shapes
from geotile.detectors.preprocessing import TilePosition
from geotile.detectors.raw import Family, RawDetections
from geotile.detectors.scores import as_scores
from geotile.geometry.oriented import corners_of
from geotile.merging.detections import Detections, detections
from geotile.merging.nms import nms
from geotile.merging.shape_nms import shape_nms

DetectionArrays = tuple[NDArray[np.float64], NDArray[np.float64], list[str]]  # boxes, scores, labels
Rows = NDArray[np.int64]


def select(
    raw: RawDetections, family: Family, position: TilePosition, *, min_score: float, iou_threshold: float,
    label: Callable[[int], str],
) -> DetectionArrays | Detections:  # fmt: skip
    """Return the detections that pass the score threshold and the suppression, in pixels of the tile.

    The order is that of the networks' authors: threshold, suppression, and clipping last. Boxes that are not valid come
    last, as they are, so that the run counts them.

    Parameters
    ----------
    raw : RawDetections
        Decoded outputs for the picture that contains the tile.
    family : Family
        Family of the network.
    position : TilePosition
        Position of the tile in the picture.
    min_score : float
        Minimum score.
    iou_threshold : float
        Overlap of two boxes, or of two oriented boxes by their areas, above which the lower-ranked one is suppressed.
    label : callable
        ``label(class number)``.

    Returns
    -------
    tuple or Detections
        Boxes (n, 4) float64 xyxy, scores (n,) float64 and labels; `Detections` if there are shapes or key points.
    """
    rows, classes, scores = _above_threshold(raw, family, min_score)
    check_in_pixels(raw.boxes, rows, position.input_yx)
    boxes = position.to_tile(raw.boxes[rows])
    valid = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    kept = np.flatnonzero(valid)
    if family.needs_nms and raw.oriented is not None:
        kept = kept[
            shape_nms(_oriented(raw, rows[kept], position), scores[kept], classes[kept], iou_threshold=iou_threshold)
        ]
    elif family.needs_nms:
        kept = kept[nms(boxes[kept], scores[kept], classes[kept], iou_threshold=iou_threshold)]
    clipped = position.clipped(boxes[kept])
    in_tile = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)  # the others lie in the grey border of the picture
    kept, clipped = kept[in_tile], clipped[in_tile]
    order = np.concatenate([kept, np.flatnonzero(~valid)])
    selected, labels = np.concatenate([clipped, boxes[~valid]]), [label(k) for k in classes[order].tolist()]
    if raw.boxes_only:
        return selected, scores[order], labels
    shapes = _shapes(raw, rows[kept], clipped, position)
    if raw.oriented is not None:
        selected[: len(kept)] = shapely.bounds(shapes).reshape(-1, 4)
    missing = [None] * (len(order) - len(kept))
    keypoints = [*_keypoints(raw, rows[kept], position), *missing]
    oriented = np.arange(len(order)) < (len(kept) if raw.oriented is not None else 0)
    return detections(selected, scores[order], labels, [*shapes, *missing], keypoints=keypoints, oriented=oriented)


def _above_threshold(raw: RawDetections, family: Family, min_score: float) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Return rows, class numbers and scores of the detections whose score reaches the threshold, (n,) each."""
    values = as_scores(raw.scores)
    if raw.labels is not None:
        rows = np.flatnonzero(values >= min_score)
        return rows, raw.labels[rows], values[rows].astype(np.float64)
    if family.single_label:
        best = values.argmax(axis=1)
        rows = np.flatnonzero(values[np.arange(len(best)), best] >= min_score)
        classes = best[rows]
    else:
        rows, classes = np.nonzero(values >= min_score)
    return rows, classes, values[rows, classes].astype(np.float64)


def _oriented(raw: RawDetections, rows: Rows, position: TilePosition) -> NDArray[np.object_]:
    """Return oriented boxes as polygons in pixels of the tile."""
    assert raw.oriented is not None
    boxes = np.asarray(raw.oriented[rows], np.float64)
    placed = np.hstack([position.points_to_tile(boxes[:, :2]), boxes[:, 2:4] / position.scale_xy, boxes[:, 4:]])
    return np.asarray(shapely.polygons(corners_of(placed)), object)


def _shapes(raw: RawDetections, rows: Rows, boxes: NDArray[np.float64], position: TilePosition) -> Any:
    """Return the shapes of some rows in pixels of the tile; None where there are only boxes."""
    if raw.oriented is not None:
        return _oriented(raw, rows, position)
    if raw.coefficients is not None and raw.prototypes is not None:
        return prototype_shapes(raw.coefficients[rows], raw.prototypes, boxes, position)
    return [None] * len(rows) if raw.masks is None else picture_shapes(raw.masks[rows], position)


def _keypoints(raw: RawDetections, rows: Rows, position: TilePosition) -> list[Any]:
    """Return the key points of some rows in pixels of the tile; None where there are none."""
    if raw.keypoints is None:
        return [None] * len(rows)
    points = np.asarray(raw.keypoints[rows], np.float64)
    placed: list[Any] = np.concatenate([position.points_to_tile(points[..., :2]), points[..., 2:]], axis=-1).tolist()
    return placed
