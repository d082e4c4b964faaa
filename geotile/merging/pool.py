"""The detections of a node, by rank, with what merges ask about pairs of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.grid.tile_grid import TileGrid
from geotile.merging.detections import Detections
from geotile.merging.overlaps import Measure, are_boxes, box_areas, clipped, intersection, overlap, ratio, shape_overlap

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Detections by rank. All pairs are given as two arrays of ranks, each (k,) int64."""

    detections: Detections
    """Detections in image pixels, highest rank first."""
    codes: NDArray[np.int64]
    """(n,) int64, integers that are equal where the labels are."""
    grid: TileGrid
    as_boxes: bool = False
    """Whether the envelopes are compared instead of the shapes."""
    seam_px: float = 0.0
    """Distance from a border of its tile within which a box counts as cut by it, in pixels."""

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(n, 4) float64, envelopes in image pixels, each within its own tile."""
        return self.detections.boxes

    @cached_property
    def windows(self) -> NDArray[np.float64]:
        """(n, 4) float64, xyxy, the tile of each detection in image pixels."""
        return self.grid.tile_boxes(self.detections.tiles)

    @cached_property
    def has_shape(self) -> NDArray[np.bool_]:
        """(n,) bool, whether a detection is compared by a shape that is not its box."""
        shaped = np.zeros(len(self.detections), bool)
        if not self.as_boxes:
            given = np.flatnonzero(self.detections.geometries != None)  # noqa: E711 - element by element
            shaped[given] = ~are_boxes(self.detections.geometries[given])
        return shaped

    @cached_property
    def shapes(self) -> NDArray[np.object_]:
        """(n,) shapely geometries, each cut off at the borders of its own tile; boxes as polygons."""
        return clipped(self.detections.image_geometries, self.windows)

    def overlap(self, one: Rows, other: Rows, metric: Measure) -> NDArray[np.float64]:
        """Return how far pairs overlap: the shapes within their tiles, or the boxes where neither has another shape."""
        measure = overlap(self.boxes[one], self.boxes[other], metric)
        shaped = self.shaped(one, other) & (measure > 0)
        if shaped.any():
            measure[shaped] = shape_overlap(self.shapes[one[shaped]], self.shapes[other[shaped]], metric)
        return measure

    def overlap_where_both_saw(self, one: Rows, other: Rows) -> NDArray[np.float64]:
        """Return the intersection over the union of pairs, within what the tiles of both saw."""
        both = intersection(self.windows[one], self.windows[other])
        a, b = intersection(self.boxes[one], both), intersection(self.boxes[other], both)
        nothing_seen = np.zeros(len(one), bool)  # boxes of which both saw nothing are not equal
        measure = ratio(box_areas(intersection(a, b)), box_areas(a), box_areas(b), "iou", nothing_seen)
        shaped = self.shaped(one, other) & (measure > 0)
        if shaped.any():
            one, other = one[shaped], other[shaped]
            window: Any = shapely.box(*both[shaped].T)
            area_a = shapely.area(shapely.intersection(self.shapes[one], window))
            area_b = shapely.area(shapely.intersection(self.shapes[other], window))
            shared = shapely.area(shapely.intersection(self.shapes[one], self.shapes[other]))
            measure[shaped] = ratio(shared, area_a, area_b, "iou", np.zeros(len(one), bool))
        return measure

    def shaped(self, one: Rows, other: Rows) -> NDArray[np.bool_]:
        """Return which pairs have a member that is compared by its shape."""
        if not self.has_shape.any():
            return np.zeros(len(one), bool)
        return np.asarray(self.has_shape[one] | self.has_shape[other])

    @cached_property
    def hidden(self) -> NDArray[np.bool_]:
        """(n, 4) bool, which edges of each box may not be those of the object: left, top, right, bottom.

        Such an edge lies within `seam_px` of a border of its tile that is not a border of the image.
        """
        boxes, windows = self.boxes, self.windows
        height, width = self.grid.shape_yx
        low = (windows[:, :2] > 0) & (boxes[:, :2] <= windows[:, :2] + self.seam_px)
        high = (windows[:, 2:] < [width, height]) & (boxes[:, 2:] >= windows[:, 2:] - self.seam_px)
        return np.hstack([low, high])

    @cached_property
    def cut(self) -> NDArray[np.bool_]:
        """(n,) bool, whether the tile may have shown only a part of the object."""
        return np.asarray(self.hidden.any(axis=1))
