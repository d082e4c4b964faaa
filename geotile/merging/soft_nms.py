"""Soft non-maximum suppression: scores decay along chains of overlapping detections.

A detection that decays another one can itself be decayed, so a chain is decided only when all of it is present: the
groups are the components of the overlap graph.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_bool, check_unit, is_number
from geotile.core.keywords import known_keywords
from geotile.errors import ArgumentError
from geotile.merging.candidates import candidates
from geotile.merging.detections import Detections
from geotile.merging.merge import Merge
from geotile.merging.overlaps import Geometry, check_geometry, overlap
from geotile.merging.pool import Pool, Rows
from geotile.public import public

_CROWD = 64  # pairs for each detection of a group, above which they are computed when they are needed


class _Overlaps(NamedTuple):
    """Pairs that overlap, and by how much."""

    higher: Rows
    lower: Rows
    measure: NDArray[np.float64]


@public
@known_keywords()
@dataclass(frozen=True)
class SoftNms(Merge):
    """Soft non-maximum suppression with Gaussian decay. The result does not depend on how the image is split.

    Boxes are visited in order of decreasing score. Each box that overlaps the visited one with an intersection over
    union ``u`` has its score multiplied by ``exp(-u ** 2 / sigma)``. The classes of a detection keep the model's own
    score as ``rawScore``.

    Parameters
    ----------
    sigma : float
        Width of the decay, greater than 0.
    score_threshold : float
        Score at or below which decayed detections are dropped, in [0, 1].
    class_agnostic : bool
        Whether detections of different labels decay each other.
    geometry : {"auto", "box"}
        What is compared: the shapes, or their envelopes.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.

    References
    ----------
    Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", ICCV 2017, equation 3.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> merge = SoftNms(sigma=0.1)
    >>> detections = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32, merge=merge)
    >>> sorted(detections["classes"].iloc[0][0])
    ['iri', 'rawScore', 'score']
    """

    groups = True

    sigma: float = 0.1
    score_threshold: float = 0.0001
    class_agnostic: bool = False
    geometry: Geometry = "auto"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_unit(self.score_threshold, "score_threshold")
        check_bool(self.class_agnostic, "class_agnostic")
        check_geometry(self.geometry)
        if not is_number(self.sigma) or not 0 < self.sigma < math.inf:
            raise ArgumentError(f"sigma must be a finite number greater than 0, such as 0.1; got {self.sigma!r}")

    def connects(self, pool: Pool, higher: Rows, lower: Rows) -> NDArray[np.bool_]:
        """Return for pairs of ranks whether one decays the other."""
        return np.asarray(pool.overlap(higher, lower, "iou") > 0)

    def outcome(self, pool: Pool, rows: Rows, groups: NDArray[np.int64]) -> Detections:
        """Return the settled detections with their decayed scores."""
        settled = replace(pool, detections=pool.detections.select(rows), codes=pool.codes[rows])
        scores = self._decayed(settled, np.unique(groups, return_inverse=True)[1])
        kept = scores > self.score_threshold
        return _with_scores(settled.detections.select(kept), scores[kept])

    def _decayed(self, pool: Pool, group: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores after all detections were visited by decreasing score; of equal ones, the first first."""
        scores = pool.detections.scores.astype(np.float64)
        crowded = self._crowded(pool, group)
        order = np.argsort(group, kind="stable")
        order = order[crowded[order]]
        for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            if len(members):
                scores[members] = self._decayed_crowd(pool, members)
        found = _joined(self._overlapping(pool, crowded))
        return _decayed_pairs(scores, found.higher, found.lower, self._factors(found.measure))

    def _crowded(self, pool: Pool, group: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which detections are of a group with so many pairs that they would fill the memory."""
        n = len(group)
        sizes = np.bincount(group, minlength=n)
        large = np.flatnonzero(sizes[group] > _CROWD)
        n_pairs = np.zeros(n, np.int64)
        for portion in candidates(pool.boxes[large], self.comparable(pool)[large], np.zeros(len(large), bool)):
            n_pairs += np.bincount(group[large[portion.higher]], minlength=n)
        return np.asarray((n_pairs > _CROWD * sizes)[group])

    def _overlapping(self, pool: Pool, without: NDArray[np.bool_]) -> Iterator[_Overlaps]:
        """Yield the pairs that overlap, except those of some detections."""
        rows = np.flatnonzero(~without)
        comparable, dropped = self.comparable(pool)[rows], np.zeros(len(rows), bool)
        for _, higher, lower in candidates(pool.boxes[rows], comparable, dropped):
            one, other = rows[higher], rows[lower]
            measure = pool.overlap(one, other, "iou")
            yield _Overlaps(one[measure > 0], other[measure > 0], measure[measure > 0])

    def _factors(self, measure: NDArray[np.float64]) -> NDArray[np.float64]:
        factors: NDArray[np.float64] = np.exp(-(measure**2) / self.sigma)
        return factors

    def _decayed_crowd(self, pool: Pool, members: Rows) -> NDArray[np.float64]:
        """Return the decayed scores of one group, most pairs of which overlap."""
        plain = not pool.has_shape[members].any()
        scores, left, decayed = pool.detections.scores[members].astype(np.float64), members, np.zeros(len(members))
        boxes, places = pool.boxes[members], np.arange(len(members))
        while len(left):
            top = int(np.argmax(scores))  # the first of equal ones
            decayed[places[top]], visited, box = scores[top], left[top], boxes[top]
            left, places = np.delete(left, top), np.delete(places, top)
            scores, boxes = np.delete(scores, top), np.delete(boxes, top, axis=0)
            if plain:
                measure = overlap(np.broadcast_to(box, boxes.shape), boxes)
            else:
                one = np.full(len(left), visited)
                measure = pool.overlap(np.minimum(one, left), np.maximum(one, left), "iou")
            scores *= self._factors(measure)
        return decayed


def _joined(portions: Iterator[_Overlaps]) -> _Overlaps:
    columns = list(zip(*portions, strict=True))
    if not columns:
        return _Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return _Overlaps(*(np.concatenate(column) for column in columns))


def _decayed_pairs(
    scores: NDArray[np.float64], one: Rows, other: Rows, factors: NDArray[np.float64]
) -> NDArray[np.float64]:  # fmt: skip
    """Return scores after all detections were visited, of pairs that are known."""
    ends, neighbours = np.concatenate([one, other]), np.concatenate([other, one])
    order = np.argsort(ends, kind="stable")
    starts = np.searchsorted(ends[order], np.arange(len(scores) + 1)).tolist()
    neighbours, both = neighbours[order].tolist(), np.concatenate([factors, factors])[order].tolist()
    current = scores.tolist()
    visited = [False] * len(current)
    queue = [(-score, i) for i, score in enumerate(current) if starts[i] < starts[i + 1]]
    heapq.heapify(queue)
    while queue:
        score, i = heapq.heappop(queue)
        if -score != current[i]:  # it has decayed since, so it comes later
            heapq.heappush(queue, (-current[i], i))
            continue
        visited[i] = True
        for k in range(starts[i], starts[i + 1]):
            if not visited[neighbours[k]]:
                current[neighbours[k]] *= both[k]
    return np.array(current, np.float64)


def _with_scores(detections: Detections, scores: NDArray[np.float64]) -> Detections:
    """Return detections with decayed scores; the class of the label keeps its own score as ``rawScore``."""
    column = np.empty(len(detections), object)
    for i, score in enumerate(scores.tolist()):
        label, raw = detections.labels[i], float(detections.scores[i])
        classes = detections.classes[i] or [{"iri": label, "score": raw}]
        best = next((k for k, each in enumerate(classes) if each["iri"] == label), 0)
        column[i] = [
            {**each, "score": score, "rawScore": each["score"]} if k == best else each for k, each in enumerate(classes)
        ]
    return replace(detections, scores=scores, classes=column)
