"""Merges that join detections: SAHI's, transitive groups, and unions of polygons across seams."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_bool, check_finite, check_positive
from geotile.core.choices import OverlapMetric
from geotile.core.keywords import known_keywords
from geotile.core.thresholds import Threshold, check_threshold
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import TileGrid
from geotile.merging.detections import Detections
from geotile.merging.joined import join_groups
from geotile.merging.merge import Merge
from geotile.merging.overlaps import Geometry, check_geometry, check_metric
from geotile.merging.pool import Pool, Rows
from geotile.merging.ranking import by_label
from geotile.merging.views import touches
from geotile.public import public

HINTS = {
    "iou_threshold": "option 'iou_threshold' of detect is 'threshold' in Nmm and GreedyNmm; give threshold=",
    "overlap_metric": "option 'overlap_metric' of detect is 'metric' in Nmm and GreedyNmm; give metric=",
}
_SHARE = 1 / 3  # of two parts that lies in both if they are of one object: models are unsure at the borders of tiles


@public
@known_keywords(HINTS)
@dataclass(frozen=True)
class Nmm(Merge):
    """Non-maximum merging: detections that overlap, directly or through others, become one.

    The one detection has the union of their shapes, and the label, the score and the properties of the highest.

    Parameters
    ----------
    threshold : float or mapping of str to float
        Overlap above which two detections belong together, in [0, 1]; by label, with the value for all other labels
        under ``"*"``. Where labels differ, that of the higher-ranked detection counts.
    metric : {"iou", "ios"}
        Measure of the overlap: intersection over the union, or over the smaller area.
    class_agnostic : bool
        Whether detections of different labels belong together.
    geometry : {"auto", "box"}
        What is compared: the shapes, or their envelopes.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.

    Examples
    --------
    >>> Nmm(0.3)
    Nmm(threshold=0.3, metric='ios', class_agnostic=False, geometry='auto')
    """

    groups = True

    threshold: Threshold = 0.5
    metric: OverlapMetric = "ios"
    class_agnostic: bool = False
    geometry: Geometry = "auto"

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "threshold", check_threshold(self.threshold, "threshold"))
        check_metric(self.metric)
        check_bool(self.class_agnostic, "class_agnostic")
        check_geometry(self.geometry)

    def connects(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether both belong to one group."""
        threshold = by_label(self.threshold, pool.detections.labels[higher])
        return np.asarray(pool.overlap(higher, lower, self.metric) > threshold)

    def outcome(self, pool: Pool, rows: Rows, groups: NDArray[np.int64]) -> Detections:
        """Return one detection for each group."""
        return join_groups(pool.detections.select(rows), groups)


@public
@known_keywords()
@dataclass(frozen=True)
class Union(Merge):
    """Polygons of one label that touch or overlap across seams become one: fields, roads, buildings larger than a tile.

    Two detections of different tiles belong together if they have the same label and

    - of what both tiles saw of them, the intersection is more than a third of the union; or
    - their tiles are neighbours that share less than twice `seam_px`, and both end at that seam, opposite each other,
      at most `gap_px` apart.

    So the parts of a large field become one, and fields that only touch stay apart, unless a seam without overlap cuts
    both where they touch.

    A detection is cut if its box ends within `seam_px`, or within `gap_px` if that is more, of a border of its tile
    inside the image. The one detection has the union of their shapes, and the score and the properties of the highest.

    Parameters
    ----------
    gap_px : float
        Maximum distance of two parts of one object, in pixels, 0 or more.
    seam_px : float
        Distance from a border of the tile within which a detection counts as cut, in pixels, greater than 0.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.

    Examples
    --------
    >>> Union(gap_px=2)
    Union(gap_px=2, seam_px=8.0)
    """

    groups = True

    gap_px: float = 0.0
    seam_px: float = 8.0

    def __post_init__(self) -> None:
        """Check the fields."""
        if check_finite(self.gap_px, "gap_px", "pixels") < 0:
            raise ArgumentError(f"gap_px must be a number of pixels, 0 or more; got {self.gap_px!r}")
        check_positive(self.seam_px, "seam_px", "pixels")

    @property
    def reach_px(self) -> float:  # type: ignore[override]  # of the value, not of the class
        """Maximum distance of the boxes of two detections that belong together, in pixels."""
        return float(self.gap_px)

    def pool(self, detections: Detections, grid: TileGrid) -> Pool:
        """Return the detections by rank, with the distance from a border within which they count as cut."""
        return replace(super().pool(detections, grid), seam_px=float(max(self.seam_px, self.gap_px)))

    def connects(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether both belong to one group."""
        connected = np.asarray(pool.detections.tiles[higher] != pool.detections.tiles[lower])
        higher, lower = higher[connected], lower[connected]
        one = pool.overlap_where_both_saw(higher, lower) > _SHARE
        connected[connected] = one | touches(pool, higher, lower, float(self.gap_px))
        return connected

    def outcome(self, pool: Pool, rows: Rows, groups: NDArray[np.int64]) -> Detections:
        """Return one detection for each group."""
        return join_groups(pool.detections.select(rows), groups, boxes_as_box=False)
