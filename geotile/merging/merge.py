"""Merging as a value, defined flat: a rank, which pairs match, how far apart they may lie, and what becomes of them.

Two things can become of a match. The lower-ranked detection can be *dropped* (non-maximum suppression and its kin), or
both can be *grouped*, and each group becomes something else: decayed scores, or one joined detection. The tree gives
the flat result, because a node decides only what cannot change later::

    tiles of a region ─ chunk ─▶ settled │ open ─ combine ─▶ settled │ open ─ aggregate ─▶ settled
                                leave the tree       only these are processed again

A detection is exposed if a detection of another node could match it. It settles when it is not exposed, no open
detection of higher rank would drop it, and no member of its group is open. At the root no detection is exposed, so
none stays open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotile.core.keywords import known_keywords
from geotile.geometry.georeference import Georeference
from geotile.grid.tile_grid import Interior, TileGrid
from geotile.merging.candidates import candidates
from geotile.merging.components import Pairs, components
from geotile.merging.detections import Detections
from geotile.merging.overlaps import Geometry
from geotile.merging.pool import Pool, Rows
from geotile.merging.ranking import label_codes
from geotile.merging.suppression import DROPPED, KEPT, OPEN, State, resolve
from geotile.public import public


@public
class Merge:
    """Rule that combines the detections of overlapping tiles into one set.

    A subclass says which pairs of detections match. The result of `settle` over a tree of nodes is that of one call
    with all detections, whatever the tree.
    """

    reach_px: float = 0.0
    """Maximum distance of the boxes of two detections that match, along each axis, in pixels."""
    drops: bool = False
    """Whether detections of lower rank are dropped where `suppresses` says so."""
    groups: bool = False
    """Whether detections are grouped where `connects` says so."""

    by_area: bool = True
    """Whether detections are compared by areas, so that points and lines match nothing."""

    class_agnostic: bool = False
    """Whether detections of different labels are compared."""
    geometry: Geometry = "auto"
    """What is compared: the shapes, or their envelopes."""

    def for_image(self, georeference: Georeference, shape_yx: tuple[int, int]) -> Merge:
        """Return the merge for an image, where its distances are those on the ground."""
        return self

    def pool(self, detections: Detections, grid: TileGrid) -> Pool:
        """Return the detections by rank: score, then content, then tile and position in the answer."""
        ranked = detections.sorted_by_rank()
        codes = label_codes(ranked.labels)
        return Pool(detections=ranked, codes=codes, grid=grid, as_boxes=self.geometry == "box")

    def comparable(self, pool: Pool) -> NDArray[np.int64]:
        """Return a number for each detection; only detections with equal numbers are compared."""
        return np.zeros_like(pool.codes) if self.class_agnostic else pool.codes

    def suppresses(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether the first, if it is kept, drops the second."""
        raise NotImplementedError

    def connects(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether both belong to one group."""
        raise NotImplementedError

    def outcome(self, pool: Pool, rows: Rows, groups: NDArray[np.int64]) -> Detections:
        """Return what becomes of settled detections.

        Parameters
        ----------
        pool : Pool
        rows : numpy.ndarray
            (k,) int64, ranks of the settled detections. Groups are whole.
        groups : numpy.ndarray
            (k,) int64, number of each one's group: the highest rank in it.
        """
        return pool.detections.select(rows)

    def settle(self, detections: Detections, interior: Interior, grid: TileGrid) -> tuple[Detections, Detections]:
        """Split detections into settled and open ones, and drop the others.

        Parameters
        ----------
        detections : Detections
            All detections that the node has not settled yet, in image pixels.
        interior : Interior
            Open rectangle that no tile outside the node touches, in image pixels.
        grid : TileGrid
            Tiles of the image.
        """
        pool = self.pool(detections, grid)
        is_exposed = exposed(pool.boxes, interior, self.reach_px)
        comparable = self.comparable(pool)
        state: State = np.where(is_exposed, OPEN, KEPT).astype(np.uint8)
        if self.drops:
            state = resolve(
                pool.boxes,
                comparable,
                is_exposed,
                lambda *pairs: self.suppresses(pool, *pairs),
                self.reach_px,
                costly=bool(pool.has_shape.any()),
            )
        group = np.arange(len(state))
        if self.groups:
            group = components(len(state), self._connections(pool, comparable, state == DROPPED))
            waits = np.zeros(len(state), bool)
            waits[group[state == OPEN]] = True
            state[waits[group] & (state == KEPT)] = OPEN
        settled = np.flatnonzero(state == KEPT)
        return self.outcome(pool, settled, group[settled]), pool.detections.select(state == OPEN)

    def _connections(self, pool: Pool, comparable: NDArray[np.int64], dropped: NDArray[np.bool_]) -> Iterator[Pairs]:
        for _, higher, lower in candidates(pool.boxes, comparable, dropped, self.reach_px):
            connected = self.connects(pool, higher, lower)
            yield higher[connected], lower[connected]


@public
@known_keywords()
@dataclass(frozen=True)
class KeepAll(Merge):
    """Merge that keeps every detection of every tile."""

    by_area = False

    def settle(self, detections: Detections, interior: Interior, grid: TileGrid) -> tuple[Detections, Detections]:
        """Settle all detections."""
        return detections, detections.select(np.zeros(0, np.int64))


def exposed(boxes: NDArray[np.float64], interior: Interior, reach_px: float = 0.0) -> NDArray[np.bool_]:
    """Return which boxes could match something in another node.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy in image pixels, each within its own tile.
    interior : Interior
        Open rectangle in image pixels. A box that ends on its border is exposed, because boxes may have no area.
    reach_px : float
        Maximum distance of two boxes that match, in pixels.

    Returns
    -------
    numpy.ndarray
        (n,) bool.
    """
    low = np.array([interior.x0, interior.y0])
    high = np.array([interior.x1, interior.y1])
    inside = (boxes[:, :2] - reach_px > low).all(axis=1) & (boxes[:, 2:] + reach_px < high).all(axis=1)
    return np.asarray(~inside)
