"""Non-maximum suppression of shapes within one answer, for networks that leave it to geotile."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.merging.overlaps import shape_overlap
from geotile.merging.ranking import ranking
from geotile.merging.suppression import KEPT, Rows, resolve


def shape_nms(
    shapes: NDArray[np.object_], scores: NDArray[np.float64], codes: NDArray[np.int64], *, iou_threshold: float
) -> NDArray[np.int64]:
    """Suppress shapes that overlap a higher-scoring shape of the same class (greedy non-maximum suppression).

    The overlap is the area of the intersection over the area of the union. Ultralytics compares oriented boxes by
    ProbIoU instead, the overlap of two Gaussian distributions, which is larger for boxes that are crossed.

    Parameters
    ----------
    shapes : numpy.ndarray
        (n,) valid shapely geometries.
    scores : numpy.ndarray
        (n,) float64.
    codes : numpy.ndarray
        (n,) int64, numbers of the classes.
    iou_threshold : float
        Overlap above which the lower-ranked shape is dropped, in [0, 1].

    Returns
    -------
    numpy.ndarray
        (k,) int64, indices of the kept shapes, in order of decreasing score.

    Examples
    --------
    >>> shapes = np.array([shapely.box(0, 0, 10, 10), shapely.box(1, 0, 11, 10), shapely.box(30, 0, 40, 10)])
    >>> shape_nms(shapes, np.array([0.8, 0.9, 0.5]), np.zeros(3, np.int64), iou_threshold=0.5).tolist()
    [1, 2]
    """
    boxes = shapely.bounds(shapes).reshape(-1, 4)
    order = ranking(scores, codes, boxes)
    ranked = shapes[order]

    def suppresses(higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        return np.asarray(shape_overlap(ranked[higher], ranked[lower]) > iou_threshold)

    state = resolve(boxes[order], codes[order], np.zeros(len(order), bool), suppresses, costly=True)
    kept: NDArray[np.int64] = order[state == KEPT]
    return kept
