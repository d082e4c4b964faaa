"""SAHI's default merge: each kept detection takes in those that it suppresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.keywords import known_keywords
from geotile.merging.detections import Detections, box_geometries
from geotile.merging.joined import join_groups
from geotile.merging.joining import HINTS, Nmm
from geotile.merging.overlaps import are_boxes, overlap, shape_overlap
from geotile.merging.pool import Pool, Rows
from geotile.merging.ranking import by_label
from geotile.merging.suppression import KEPT, resolve
from geotile.public import public


@public
@known_keywords(HINTS)
@dataclass(frozen=True)
class GreedyNmm(Nmm):
    """Greedy non-maximum merging, the default of SAHI: each kept detection takes in those that it suppresses.

    Detections are kept as in `Nms`, but an overlap equal to the threshold suppresses too. A suppressed detection
    belongs to the first kept one that suppresses it. A kept detection takes in its own in order of decreasing score,
    each one if it overlaps what the kept one has become by more than the threshold. It becomes the union of their
    shapes (for boxes, the box around them) and keeps its label, score and properties.

    Parameters
    ----------
    threshold, metric, class_agnostic, geometry
        As for `Nmm`.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.

    References
    ----------
    SAHI 0.11, ``sahi/postprocess/combine.py``: ``greedy_nmm`` and ``GreedyNMMPostprocess``.

    Examples
    --------
    >>> GreedyNmm().threshold
    0.5
    """

    def connects(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether the first would suppress the second."""
        threshold = by_label(self.threshold, pool.detections.labels[higher])
        measure = pool.overlap(higher, lower, self.metric)
        return np.asarray((measure >= threshold) & (measure > 0))

    def outcome(self, pool: Pool, rows: Rows, groups: NDArray[np.int64]) -> Detections:
        """Return the kept detections with what they have taken in."""
        found = Pool(detections=pool.detections.select(rows), codes=pool.codes[rows], grid=pool.grid,
                     as_boxes=pool.as_boxes)  # fmt: skip
        n, pairs = len(rows), []

        def suppresses(higher: Rows, lower: Rows) -> NDArray[np.bool_]:
            matching = self.connects(found, higher, lower)
            pairs.append((higher[matching], lower[matching]))
            return matching

        state = resolve(found.boxes, self.comparable(found), np.zeros(n, bool), suppresses)
        owner = np.full(n, n)
        for higher, lower in pairs:
            kept = state[higher] == KEPT
            np.minimum.at(owner, lower[kept], higher[kept])
        owner[state == KEPT] = np.flatnonzero(state == KEPT)
        return self._taken_in(found, owner)

    def _taken_in(self, pool: Pool, owner: NDArray[np.int64]) -> Detections:
        """Return the kept detections, each as the union with those of its own that still match it.

        All kept detections take in their next one together: the second of each, then the third, and so on.
        """
        order = np.argsort(owner, kind="stable")
        starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
        sizes = np.diff(starts, append=len(order))
        shaped = pool.has_shape.any()
        grown, shapes = pool.boxes.copy(), pool.shapes.copy() if shaped else None
        taken = np.arange(len(owner)) == owner
        threshold = by_label(self.threshold, pool.detections.labels)
        for number in range(1, int(sizes.max(initial=0))):
            row = order[starts[sizes > number] + number]
            keeper = owner[row]
            measure = overlap(grown[keeper], pool.boxes[row], self.metric)
            if shapes is not None:
                measure = shape_overlap(shapes[keeper], pool.shapes[row], self.metric)
            limit = threshold[keeper] if isinstance(threshold, np.ndarray) else threshold
            row, keeper = row[measure > limit], keeper[measure > limit]
            taken[row] = True
            grown[keeper, :2] = np.minimum(grown[keeper, :2], pool.boxes[row, :2])
            grown[keeper, 2:] = np.maximum(grown[keeper, 2:], pool.boxes[row, 2:])
            if shapes is not None:
                shapes[keeper] = self._joined_shapes(pool, grown, shapes, keeper, row)
        return join_groups(pool.detections.select(taken), owner[taken])

    def _joined_shapes(self, pool: Pool, grown: NDArray[np.float64], shapes: Any, keeper: Rows, row: Rows) -> Any:
        """Return the unions of pairs of shapes; of boxes, the boxes around them."""
        together = np.asarray(shapely.union(shapes[keeper], pool.shapes[row]), object)
        plain = are_boxes(shapes[keeper]) & are_boxes(pool.shapes[row])
        together[plain] = box_geometries(grown[keeper[plain]])
        return together
