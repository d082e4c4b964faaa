"""Soft non-maximum suppression as a `Merge`: scores decay along chains of overlapping boxes.

A box that decays another one can itself be decayed, so a chain is decided only when all of it is present. A component
of the overlap graph that has an exposed box stays open as a whole; the other components settle.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.checks import check_bool, check_unit, is_number
from geotile.core.keywords import known_keywords
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Interior
from geotile.merging.detections import Detections
from geotile.merging.merge import exposed
from geotile.merging.nms import label_codes, overlap
from geotile.public import public

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


@public
@known_keywords()
@dataclass(frozen=True)
class SoftNms:
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

    sigma: float = 0.1
    score_threshold: float = 0.0001
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check_unit(self.score_threshold, "score_threshold")
        check_bool(self.class_agnostic, "class_agnostic")
        if not is_number(self.sigma) or not 0 < self.sigma < math.inf:
            raise ArgumentError(f"sigma must be a finite number greater than 0, such as 0.1; got {self.sigma!r}")

    def settle(self, detections: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Split detections into settled and open ones."""
        ranked = detections.sorted_by_rank()
        codes = np.zeros(len(ranked), np.int64) if self.class_agnostic else label_codes(ranked.labels)
        pairs = _overlapping(ranked.boxes, codes)
        component = _components(len(ranked), pairs)
        is_open = np.zeros(len(ranked), bool)
        is_open[component[exposed(ranked.boxes, interior)]] = True
        is_open = is_open[component]
        scores = _decayed(ranked.scores, pairs, self.sigma)  # the decayed scores of open detections are not used
        kept = ~is_open & (scores > self.score_threshold)
        return _with_scores(ranked.select(kept), scores[kept]), ranked.select(is_open)


def _overlapping(boxes: NDArray[np.float64], codes: NDArray[np.int64]) -> Pairs:
    """Return pairs of boxes that have the same code and overlap, each pair once, with their overlap."""
    diagonals: Any = shapely.linestrings(boxes.reshape(-1, 2, 2))  # their envelopes are the boxes
    one, other = shapely.STRtree(diagonals).query(diagonals)
    same_code = (one < other) & (codes[one] == codes[other])
    one, other = one[same_code], other[same_code]
    measure = overlap(boxes[one], boxes[other])
    return one[measure > 0], other[measure > 0], measure[measure > 0]


def _components(n: int, pairs: Pairs) -> NDArray[np.int64]:
    """Return the lowest index in the component of each box, (n,) int64."""
    one, other, _ = pairs
    lowest = np.arange(n)
    while True:
        low = np.minimum(lowest[one], lowest[other])
        after = lowest.copy()
        np.minimum.at(after, one, low)
        np.minimum.at(after, other, low)
        after = after[after]
        if (after == lowest).all():
            return lowest
        lowest = after


def _decayed(scores: NDArray[np.float64], pairs: Pairs, sigma: float) -> NDArray[np.float64]:
    """Return the scores after all boxes were visited by decreasing score; of equal scores, the first comes first."""
    one, other, measure = pairs
    ends, neighbours = np.concatenate([one, other]), np.concatenate([other, one])
    order = np.argsort(ends, kind="stable")
    starts = np.searchsorted(ends[order], np.arange(len(scores) + 1))
    neighbours, factors = neighbours[order], np.exp(-(np.concatenate([measure, measure])[order] ** 2) / sigma)
    current, visited = scores.astype(np.float64), np.zeros(len(scores), bool)
    queue = [(-float(score), i) for i, score in enumerate(current) if starts[i] < starts[i + 1]]
    heapq.heapify(queue)
    while queue:
        score, i = heapq.heappop(queue)
        if visited[i] or -score != current[i]:
            continue  # an outdated entry: the box has decayed since and is in the queue again, further down
        visited[i] = True
        for k in range(starts[i], starts[i + 1]):
            j = int(neighbours[k])
            if not visited[j]:
                current[j] *= factors[k]
                heapq.heappush(queue, (-float(current[j]), j))
    return current


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
