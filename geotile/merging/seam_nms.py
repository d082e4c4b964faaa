"""The default merge: suppression that knows where tiles end, and joins the parts of what they cut."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_bool, check_positive
from geotile.core.keywords import known_keywords
from geotile.core.thresholds import Threshold, check_threshold
from geotile.grid.tile_grid import TileGrid
from geotile.merging.candidates import candidates
from geotile.merging.components import Pairs
from geotile.merging.detections import Detections
from geotile.merging.joined import join_groups
from geotile.merging.merge import Merge
from geotile.merging.one_per_tile import has_two_of_one_tile, one_per_tile
from geotile.merging.overlaps import Geometry, Measure, box_areas, check_geometry
from geotile.merging.pool import Pool, Rows
from geotile.merging.ranking import by_label
from geotile.merging.views import GAP_SHARE, across, continues, edges_agree, edges_near, goes_on
from geotile.public import public

_LEFT_OUT = -1
_AT_ONCE = 10_000  # detections whose groups are divided together


@public
@known_keywords()
@dataclass(frozen=True)
class SeamNms(Merge):
    """Non-maximum suppression that knows where tiles end. It is what `detect` does by default.

    A tile shows only a part of an object that its border cuts, so two tiles can give two parts of one object, or a part
    and the whole. A detection is *cut* if its box ends within `seam_px` of a border of its tile inside the image.
    Detections that are not cut go before those that are.

    - Two detections of one tile are compared as in `Nms`. So are two of different tiles that are not cut. If all edges
      of the latter agree, and only their intersection over the smaller one is larger than the threshold, one of the
      tiles saw too little of the object: they are joined.
    - Two of different tiles, at least one of them cut, can *show one object*, whatever their labels. They do if the
      edges that both tiles saw agree, and their intersection is larger than the threshold of the smaller one, or of
      the union within the window that both tiles saw. Of shapes other than boxes, the latter is enough. If the tiles
      share less than twice `seam_px`, they show one object if both end at that seam, at most a quarter of `seam_px`
      apart, and agree along it.
    - What shows the same object as one that is not cut is dropped. So is what lies by more than the threshold inside a
      higher one of the same label, or inside one that continues where it is cut, in view of that one's tile. Parts that
      show one object are joined, directly or through others, but never two of one tile that overlap by no more than the
      threshold: the highest part of a group takes in those that it is connected with, highest first; then the highest
      that is left does. One that stays alone is dropped if it lies by more than the threshold inside one that it is
      connected with. Several are dropped if each does, and reaches at most `seam_px` beyond it, or beyond another of
      them that does: the wings of a building, which one tile shows apart and another as one.

    What is joined becomes one detection with the union of the shapes, the label for which the sum of box area times
    score is largest, and the score and the properties of the highest one of that label.

    Edges agree if they differ by at most `seam_px` and a quarter of the larger side.

    Parameters
    ----------
    iou_threshold : float or mapping of str to float
        Overlap above which two detections are the same object, in [0, 1]; by label, with the value for all other labels
        under ``"*"``. Where labels differ, that of the higher-ranked detection counts.
    seam_px : float
        Distance from a border of the tile within which a detection counts as cut, in pixels, greater than 0.
    class_agnostic : bool
        Whether detections of different labels count as of one label.
    geometry : {"auto", "box"}
        What is compared: "auto" compares oriented boxes, polygons and masks by their shapes, "box" by their envelopes.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> merge = SeamNms(iou_threshold=0.4)
    >>> len(geotile.detect(write_example(), bright_objects, tile_size=128, overlap=16, merge=merge))
    3
    """

    drops = True
    groups = True

    iou_threshold: Threshold = 0.5
    seam_px: float = 8.0
    class_agnostic: bool = False
    geometry: Geometry = "auto"

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "iou_threshold", check_threshold(self.iou_threshold, "iou_threshold"))
        check_positive(self.seam_px, "seam_px", "pixels")
        check_bool(self.class_agnostic, "class_agnostic")
        check_geometry(self.geometry)

    @property
    def reach_px(self) -> float:  # type: ignore[override]  # of the value, not of the class
        """Maximum distance of two boxes that match: parts that end at both sides of a seam need not touch."""
        return GAP_SHARE * self.seam_px

    def pool(self, detections: Detections, grid: TileGrid) -> Pool:
        """Return the detections by rank: those that are not cut first, then by score and content."""
        pool = replace(super().pool(detections, grid), seam_px=self.seam_px)
        order = np.argsort(pool.cut, kind="stable")
        return replace(pool, detections=pool.detections.select(order), codes=pool.codes[order])

    def comparable(self, pool: Pool) -> NDArray[np.int64]:
        """Return 0 for each detection: parts of one object can have different labels."""
        return np.zeros_like(pool.codes)

    def suppresses(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether the first, if it is kept, drops the second."""
        of_parts = across(pool, higher, lower)
        matching = np.zeros(len(higher), bool)
        matching[~of_parts] = self._same_label(pool, higher[~of_parts], lower[~of_parts])
        matching[matching] = self._exceeds(pool, higher[matching], lower[matching], "iou")
        higher, lower = higher[of_parts], lower[of_parts]
        one_object = self._as_parts(pool, higher, lower)
        inside = self._same_label(pool, higher, lower) | goes_on(pool, higher, lower)
        inside[inside] = self._exceeds(pool, higher[inside], lower[inside], "inside")
        matching[of_parts] = np.where(pool.cut[higher], inside & ~one_object, inside | one_object)
        return matching

    def connects(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether both are parts of one object, or views of all of it, one too small."""
        both_cut = across(pool, higher, lower) & pool.cut[higher]
        connected = np.zeros(len(higher), bool)
        connected[both_cut] = self._as_parts(pool, higher[both_cut], lower[both_cut])
        connected[~pool.cut[lower]] = self._as_unequal_views(pool, higher[~pool.cut[lower]], lower[~pool.cut[lower]])
        return connected

    def outcome(self, pool: Pool, rows: Rows, groups: NDArray[np.int64]) -> Detections:
        """Return the settled detections, with the parts of one object joined."""
        groups = self._divided(pool, rows, groups)
        rows, groups = rows[groups != _LEFT_OUT], groups[groups != _LEFT_OUT]
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        parts = np.flatnonzero(sizes[group] > 1)
        votes = box_areas(pool.boxes[rows[parts]]) * pool.detections.scores[rows[parts]]
        elected = np.ones(len(rows))
        elected[parts] = pool.codes[rows[parts]] == _elected(groups[parts], pool.codes[rows[parts]], votes)
        visible = pool.shapes[rows] if pool.detections.oriented.any() else None
        return join_groups(pool.detections.select(rows), groups, weights=elected, visible=visible)

    def _divided(self, pool: Pool, rows: Rows, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return groups of which none has two objects of one tile, `_LEFT_OUT` for parts that no group takes in."""
        crowded = np.flatnonzero(has_two_of_one_tile(groups, pool.detections.tiles[rows]))
        crowded = crowded[np.argsort(groups[crowded], kind="stable")]
        starts = np.flatnonzero(np.diff(groups[crowded], prepend=-1))
        divided = groups.copy()
        for portion in np.split(crowded, starts[np.flatnonzero(np.diff(starts // _AT_ONCE, prepend=0))]):
            portion = np.sort(portion)  # by rank
            first = self._one_per_tile(pool, rows[portion], groups[portion])
            divided[portion] = np.where(first == _LEFT_OUT, _LEFT_OUT, rows[portion[first]])
        return divided

    def _one_per_tile(self, pool: Pool, members: Rows, groups: NDArray[np.int64]) -> Rows:
        """Return for each member of some groups the position of the first one of its new group."""
        tiles, none = pool.detections.tiles[members], (np.zeros(0, np.int64),) * 2
        connected, alike, dropped = [none], [none], np.zeros(len(members), bool)
        for _, one, other in candidates(pool.boxes[members], groups, dropped, self.reach_px):
            same, joined = tiles[one] == tiles[other], self.connects(pool, members[one], members[other])
            same[same] = self._exceeds(pool, members[one[same]], members[other[same]], "iou")
            connected.append((one[joined], other[joined]))
            alike.append((one[same], other[same]))
        pairs = _joined(connected)
        first = one_per_tile(tiles, pairs, _joined(alike))
        first[self._repeated(pool, members, pairs, first)] = _LEFT_OUT
        return first

    def _repeated(self, pool: Pool, members: Rows, pairs: Pairs, first: Rows) -> NDArray[np.bool_]:
        """Return which members are of a group that shows again what an earlier one shows."""
        part, other = np.concatenate(pairs), np.concatenate(pairs[::-1])
        limit = by_label(self.iou_threshold, pool.detections.labels[members[np.tile(pairs[0], 2)]])
        inside = pool.overlap(members[other], members[part], "inside") > limit
        alone = np.bincount(first, minlength=len(first))[first] == 1
        inside &= alone[part] | (_beyond(pool.boxes[members[part]], pool.boxes[members[other]]) <= self.seam_px)
        part, other = part[inside], other[inside]
        covered, own = np.zeros(len(first), bool), first[part] == first[other]
        covered[part[first[other] < first[part]]] = True
        covered[part[own & covered[other]]] = True
        return np.asarray(np.bincount(first, ~covered, len(first))[first] == 0)

    def _as_unequal_views(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return which pairs that are not cut are views of one object by different tiles, one of them too small."""
        tiles = pool.detections.tiles
        matching = (tiles[higher] != tiles[lower]) & self._same_label(pool, higher, lower)
        matching[matching] = edges_near(pool, higher[matching], lower[matching]).all(axis=1)
        matching[matching] = self._exceeds(pool, higher[matching], lower[matching], "ios")
        matching[matching] = ~self._exceeds(pool, higher[matching], lower[matching], "iou")
        return np.asarray(matching)

    def _as_parts(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return which pairs of different tiles, at least one of them cut, show one object: what both saw agrees."""
        agree, limit = edges_agree(pool, higher, lower), by_label(self.iou_threshold, pool.detections.labels[higher])
        possible = agree | pool.shaped(higher, lower)
        visible = np.zeros(len(higher))
        visible[possible] = pool.overlap_where_both_saw(higher[possible], lower[possible])
        alike = agree & self._same_label(pool, higher, lower)
        visible[alike] = np.maximum(visible[alike], pool.overlap(higher[alike], lower[alike], "ios"))
        return np.asarray((visible > limit) | continues(pool, higher, lower, limit))

    def _same_label(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        if self.class_agnostic:
            return np.ones(len(higher), bool)
        return np.asarray(pool.codes[higher] == pool.codes[lower])

    def _exceeds(self, pool: Pool, higher: Rows, lower: Rows, metric: Measure) -> NDArray[np.bool_]:
        limit = by_label(self.iou_threshold, pool.detections.labels[higher])
        return np.asarray(pool.overlap(higher, lower, metric) > limit)


def _beyond(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each box reaches beyond another one, in pixels, (n,) float64; negative if it lies inside."""
    ends = np.hstack([others[:, :2] - boxes[:, :2], boxes[:, 2:] - others[:, 2:]])
    return np.asarray(ends.max(axis=1, initial=-np.inf))


def _joined(portions: list[Pairs]) -> Pairs:
    one, other = zip(*portions, strict=True)
    return np.concatenate(one), np.concatenate(other)


def _elected(groups: Rows, labels: Rows, votes: NDArray[np.float64]) -> Rows:
    """Return for each member the label with the most votes in its group; of equal ones, the lower code, (n,) int64."""
    keys, ballot = np.unique(np.stack([groups, labels]), axis=1, return_inverse=True)
    sums = np.bincount(ballot.reshape(-1), votes, keys.shape[1])
    order = np.lexsort([keys[1], -sums, keys[0]])
    first = order[np.flatnonzero(np.diff(keys[0][order], prepend=-1))]
    return np.asarray(keys[1][first][np.searchsorted(keys[0][first], groups)])
