"""Soft non-maximum suppression as a `Merge`: scores decay along chains of overlapping boxes.

What decays a box can itself be decayed by another, so nothing of a chain is decided before all of it
is there. A component of the overlap graph with an exposed box stays open, whole; the others settle.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.checks import check_unit
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Interior
from geotile.merging.detections import Detections
from geotile.merging.merge import exposed
from geotile.merging.nms import label_codes, overlap
from geotile.public import public

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


@public
@dataclass(frozen=True)
class SoftNms:
    """Soft non-maximum suppression with Gaussian decay, exact over any tree.

    From the highest score down, a box of intersection over union ``u`` with the one visited has its score multiplied
    by ``exp(-u ** 2 / sigma)``. The classes of a detection keep the score that the model gave as ``rawScore``.

    Parameters
    ----------
    sigma : float
        Width of the decay, greater than 0.
    score_threshold : float
        Detections that decay to this or less are dropped, 0 to 1.
    class_agnostic : bool
        Let detections of different labels decay each other.

    References
    ----------
    Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", ICCV 2017, equation 3.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> found = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32, merge=SoftNms(sigma=0.1))
    >>> sorted(found["classes"].iloc[0][0])
    ['iri', 'rawScore', 'score']
    """

    sigma: float = 0.1
    score_threshold: float = 0.0001
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check_unit(self.score_threshold, "score_threshold")
        if not self.sigma > 0:
            raise ArgumentError(f"sigma={self.sigma!r} is no width; give a number greater than 0, such as 0.1")

    def settle(self, found: Detections, interior: Interior) -> tuple[Detections, Detections]:
        """Split detections into settled and open ones."""
        ranked = found.in_order()
        codes = np.zeros(len(ranked), np.int64) if self.class_agnostic else label_codes(ranked.labels.astype(str))
        pairs = _overlapping(ranked.boxes, codes)
        component = _components(len(ranked), pairs)
        held = np.zeros(len(ranked), bool)
        held[component[exposed(ranked.boxes, interior)]] = True
        waits = held[component]
        scores = _decayed(ranked.scores, pairs, self.sigma)  # of what waits it is not used
        kept = ~waits & (scores > self.score_threshold)
        return _with_scores(ranked.take(kept), scores[kept]), ranked.take(waits)


def _overlapping(boxes: NDArray[np.float64], codes: NDArray[np.int64]) -> Pairs:
    """Return pairs of boxes of one code that overlap, each once, and by how much."""
    diagonals: Any = shapely.linestrings(boxes.reshape(-1, 2, 2))  # their envelopes are the boxes
    one, other = shapely.STRtree(diagonals).query(diagonals)
    wanted = (one < other) & (codes[one] == codes[other])
    one, other = one[wanted], other[wanted]
    measure = overlap(boxes[one], boxes[other])
    return one[measure > 0], other[measure > 0], measure[measure > 0]


def _components(n: int, pairs: Pairs) -> NDArray[np.int64]:
    """Return the lowest member of each box's component."""
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
    """Return the scores after all have been visited, from the highest down; of equal ones, the first."""
    one, other, measure = pairs
    ends, mates = np.concatenate([one, other]), np.concatenate([other, one])
    order = np.argsort(ends, kind="stable")
    starts = np.searchsorted(ends[order], np.arange(len(scores) + 1))
    mates, factors = mates[order], np.exp(-(np.concatenate([measure, measure])[order] ** 2) / sigma)
    now, visited = scores.astype(np.float64), np.zeros(len(scores), bool)
    queue = [(-float(score), i) for i, score in enumerate(now) if starts[i] < starts[i + 1]]
    heapq.heapify(queue)
    while queue:
        score, i = heapq.heappop(queue)
        if visited[i] or -score != now[i]:
            continue  # it has decayed since, and stands further down
        visited[i] = True
        for at in range(starts[i], starts[i + 1]):
            j = int(mates[at])
            if not visited[j]:
                now[j] *= factors[at]
                heapq.heappush(queue, (-float(now[j]), j))
    return now


def _with_scores(found: Detections, scores: NDArray[np.float64]) -> Detections:
    classes = np.empty(len(found), object)
    for i, score in enumerate(scores.tolist()):
        label, raw = found.labels[i], float(found.scores[i])
        said = found.classes[i] or [{"iri": label, "score": raw}]
        best = next((k for k, each in enumerate(said) if each["iri"] == label), 0)
        classes[i] = [
            {**each, "score": score, "rawScore": each["score"]} if k == best else each for k, each in enumerate(said)
        ]
    return replace(found, scores=scores, classes=classes)
