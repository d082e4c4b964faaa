"""Merging as a value: what a node of the tree settles, and what stays open.

The tree that equals the flat answer. Greedy NMS is not associative, so a node decides only what
cannot change later::

    tiles of a region ─ chunk ─▶ settled │ open ─ combine ─▶ settled │ open ─ aggregate ─▶ settled
                                  leaves the tree       only these are looked at again

A detection is exposed while a tile of another node could hold something that overlaps it. At the
root nothing is, so nothing stays open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_unit
from geotile.grid.tile_grid import Interior
from geotile.merging.detections import Detections
from geotile.merging.nms import KEPT, OPEN, check_metric, label_codes, resolve
from geotile.options import OverlapMetric
from geotile.public import public


@public
class Merge(Protocol):
    """How the detections of overlapping tiles become one set."""

    def settle(self, found: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Split detections into settled and open ones; what is in neither is dropped.

        Parameters
        ----------
        found : Detections
            In image pixels, all that the node has not settled.
        interior : Interior
            What no tile outside the node touches.
        """


@public
@dataclass(frozen=True)
class Nms:
    """Greedy non-maximum suppression, exact over any tree.

    Parameters
    ----------
    iou_threshold : float
        A detection is dropped when it overlaps a better one by more, 0 to 1.
    metric : {"iou", "ios"}
        Overlap over the union or over the smaller area.
    class_agnostic : bool
        Let detections of different labels suppress each other.
    """

    iou_threshold: float = 0.5
    metric: OverlapMetric = "iou"
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check_unit(self.iou_threshold, "iou_threshold")
        check_metric(self.metric)

    def settle(self, found: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Split detections into settled and open ones."""
        ranked = found.in_order()
        codes = np.zeros(len(ranked), np.int64) if self.class_agnostic else label_codes(ranked.labels.astype(str))
        state = resolve(
            ranked.boxes,
            codes,
            exposed(ranked.boxes, interior),
            iou_threshold=self.iou_threshold,
            metric=self.metric,
        )
        return ranked.take(state == KEPT), ranked.take(state == OPEN)


@public
@dataclass(frozen=True)
class KeepAll:
    """No merging: every detection of every tile."""

    def settle(self, found: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Settle everything."""
        return found, found.take(np.zeros(0, np.int64))


def exposed(boxes: NDArray[np.float64], interior: Interior) -> NDArray[np.bool_]:
    """Tell which boxes something from another node could touch.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy in image pixels, each within its own tile.
    interior : Interior
        Open rectangle: a box that ends on its border is exposed, since boxes may have no area.

    Returns
    -------
    numpy.ndarray
        (n,) bool.
    """
    low = np.array([interior.x0, interior.y0])
    high = np.array([interior.x1, interior.y1])
    inside = (boxes[:, :2] > low).all(axis=1) & (boxes[:, 2:] < high).all(axis=1)
    return np.asarray(~inside)
