"""Merging as a value: which detections a node of the tree settles, and which stay open.

The tree gives the flat result. Greedy NMS is not associative, so a node decides only what cannot change later::

    tiles of a region ─ chunk ─▶ settled │ open ─ combine ─▶ settled │ open ─ aggregate ─▶ settled
                                leave the tree       only these are processed again

A detection is exposed if a tile of another node could hold something that overlaps it. At the root no detection is
exposed, so none stays open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_bool, check_unit
from geotile.core.choices import OverlapMetric
from geotile.core.keywords import known_keywords
from geotile.grid.tile_grid import Interior
from geotile.merging.detections import Detections
from geotile.merging.nms import KEPT, OPEN, check_metric, label_codes, resolve
from geotile.public import public


@public
class Merge(Protocol):
    """Rule that combines the detections of overlapping tiles into one set."""

    def settle(self, detections: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Split detections into settled and open ones, and drop the others.

        Parameters
        ----------
        detections : Detections
            All detections that the node has not settled yet, in image pixels.
        interior : Interior
            Open rectangle that no tile outside the node touches, in image pixels.
        """


@public
@known_keywords({"overlap_metric": "option 'overlap_metric' of detect is 'metric' in Nms; give metric="})
@dataclass(frozen=True)
class Nms:
    """Greedy non-maximum suppression. The result does not depend on how the image is split into regions.

    Parameters
    ----------
    iou_threshold : float
        Overlap above which the lower-ranked detection is suppressed, in [0, 1].
    metric : {"iou", "ios"}
        Measure of the overlap: intersection over the union, or over the smaller area.
    class_agnostic : bool
        Whether detections of different labels suppress each other.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.
    """

    iou_threshold: float = 0.5
    metric: OverlapMetric = "iou"
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check_unit(self.iou_threshold, "iou_threshold")
        check_metric(self.metric)
        check_bool(self.class_agnostic, "class_agnostic")

    def settle(self, detections: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Split detections into settled and open ones."""
        ranked = detections.sorted_by_rank()
        codes = np.zeros(len(ranked), np.int64) if self.class_agnostic else label_codes(ranked.labels)
        state = resolve(
            ranked.boxes,
            codes,
            exposed(ranked.boxes, interior),
            iou_threshold=self.iou_threshold,
            metric=self.metric,
        )
        return ranked.select(state == KEPT), ranked.select(state == OPEN)


@public
@known_keywords()
@dataclass(frozen=True)
class KeepAll:
    """Merge that keeps every detection of every tile."""

    def settle(self, detections: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Settle all detections."""
        return detections, detections.select(np.zeros(0, np.int64))


def exposed(boxes: NDArray[np.float64], interior: Interior) -> NDArray[np.bool_]:
    """Return which boxes something in another node could touch.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy in image pixels, each within its own tile.
    interior : Interior
        Open rectangle in image pixels. A box that ends on its border is exposed, because boxes may have no area.

    Returns
    -------
    numpy.ndarray
        (n,) bool.
    """
    low = np.array([interior.x0, interior.y0])
    high = np.array([interior.x1, interior.y1])
    inside = (boxes[:, :2] > low).all(axis=1) & (boxes[:, 2:] < high).all(axis=1)
    return np.asarray(~inside)
