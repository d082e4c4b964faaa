"""A model's answer for a tile: the rows that are valid, and what was wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike

from geotile.core.values import as_json, as_text
from geotile.endpoints.shapes import repair
from geotile.errors import ResponseError
from geotile.merging.detections import Detections, concat, detections
from geotile.merging.overlaps import are_four_sided

_FARTHEST_PX = 1e6  # of a coordinate from its tile: no image is as large, and projections fail far outside
_MAX_SHARE = 1.25  # of a tile: a box in shares may reach over its edge
_ROUNDING = 1e-6  # of a softmax in float32, whose shares may add up to slightly more than 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Detections of a tile, in pixels of the tile, and the rows that were rejected."""

    detections: Detections
    rejected: int = 0
    """Number of rows that are not valid."""
    reason: str | None = None
    """What was wrong with the first of them."""
    repaired: int = 0
    """Number of rows whose shape was not valid and was made valid."""
    flaw: str | None = None
    """What was wrong with the first of these shapes."""

    def without(self, rows: ArrayLike, reason: Callable[[int], str]) -> Answer:
        """Return the answer with some more rows rejected.

        Parameters
        ----------
        rows : array_like
            (n,) bool, the rows to reject.
        reason : callable
            ``reason(row)`` says what is wrong with a row.

        Raises
        ------
        ResponseError
            If no row would remain: then the answer as a whole is wrong.
        """
        rows = np.asarray(rows, bool)
        if not rows.any():
            return self
        first = self.reason or reason(int(np.flatnonzero(rows)[0]))
        if rows.all():
            raise ResponseError(first)
        kept = self.detections.select(~rows)
        return replace(self, detections=kept, rejected=self.rejected + int(rows.sum()), reason=first)


NOTHING = Answer(detections=concat([]))


def answer_of(rows: Sequence[Any], row_of: Callable[[int, Any], Sequence[Any]]) -> Answer:
    """Return the answer that consists of rows, each of which may be wrong.

    Parameters
    ----------
    rows : sequence
        The rows as the model returned them.
    row_of : callable
        ``row_of(number, row)`` returns box, score, label, geometry, classes and properties of a row, or raises a
        ValueError or a ResponseError.

    Raises
    ------
    ResponseError
        If a score lies outside 0 to 1, or no row is valid.
    """
    good, reason = [], None
    for number, row in enumerate(rows):
        try:
            good.append(row_of(number, row))
        except (ResponseError, ValueError) as error:
            reason = reason or str(error)
    if reason is not None and not good:
        raise ResponseError(reason)
    if not good:
        return NOTHING
    boxes, scores, *others = zip(*good, strict=True)
    found = detections(np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64), *others)
    return checked(Answer(detections=found, rejected=len(rows) - len(good), reason=reason))


def checked(answer: Answer) -> Answer:
    """Return an answer with valid shapes, without the rows whose box, score or shape cannot be used.

    Raises
    ------
    ResponseError
        If a score lies outside 0 to 1, or no row is valid.
    """
    boxes, scores = answer.detections.boxes, answer.detections.scores
    outside = (scores < 0) | (scores > 1 + _ROUNDING)
    if outside.any():
        raise ResponseError(
            f"scores must be numbers from 0 to 1; got {scores[outside][0]:g}. If the model returns percentages or "
            "logits, convert them (score / 100, or the sigmoid or softmax of the logit)"
        )
    answer = _with_valid_shapes(replace(answer, detections=replace(answer.detections, scores=np.minimum(scores, 1))))
    boxes, scores = answer.detections.boxes, answer.detections.scores
    answer = answer.without(
        ~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores)),
        lambda row: f"boxes and scores must be finite; got {boxes[row].tolist()} with score {scores[row]}",
    )
    points = answer.detections.keypoints
    answer = answer.without(
        [each is not None and not np.isfinite(np.array(each, np.float64)).all() for each in points],
        lambda row: f"key points must be finite; got {points[row]}",
    )
    boxes = answer.detections.boxes
    answer = answer.without(
        (boxes[:, 2:] < boxes[:, :2]).any(axis=1),
        lambda row: f"a box must have x0 <= x1 and y0 <= y1; got {boxes[row].tolist()} (box {row})",
    )
    extended = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]  # padding has no extent
    if len(extended) > 1 and (np.abs(extended - 0.5) <= _MAX_SHARE - 0.5).all():
        raise ResponseError(
            "boxes must be in pixels of the tile; all of the model's lie in the first pixel, so they may be shares "
            "from 0 to 1. Multiply them by the size of the tile"
        )
    far = np.hstack([answer.detections.boxes, shapely.bounds(answer.detections.geometries).reshape(-1, 4)])
    return answer.without(
        (np.abs(far) > _FARTHEST_PX).any(axis=1),
        lambda row: f"box {far[row, :4].tolist()}, or its shape, lies beyond any image",
    )


def _with_valid_shapes(answer: Answer) -> Answer:
    """Return an answer whose shapes are valid, without the rows of whose shape nothing is left, such as empty masks.

    A box that was the envelope of its shape is so afterwards.
    """
    found = answer.detections
    if (found.geometries == None).all():  # noqa: E711 - element by element
        return answer
    fixed = repair(found.geometries)
    boxes, rows = found.boxes.copy(), np.flatnonzero(fixed.repaired)
    rows = rows[(boxes[rows] == shapely.bounds(found.geometries[rows])).all(axis=1)]
    boxes[rows] = shapely.bounds(fixed.shapes[rows])
    first = next((f"a shape was not valid: {fixed.reasons[row]}" for row in np.flatnonzero(fixed.repaired)), None)
    oriented = found.oriented & ~fixed.repaired & are_four_sided(fixed.shapes)  # a repaired one may be no rectangle
    repaired = replace(
        answer, detections=replace(found, boxes=boxes, geometries=fixed.shapes, oriented=oriented),
        repaired=answer.repaired + int(fixed.repaired.sum()), flaw=answer.flaw or first,
    )  # fmt: skip
    lost = next(
        (f"a shape must have an area or a place: {fixed.reasons[row]}" for row in np.flatnonzero(fixed.lost)), None
    )
    return replace(
        repaired, detections=repaired.detections.select(~fixed.lost), rejected=answer.rejected + int(fixed.lost.sum()),
        reason=answer.reason or lost,
    )  # fmt: skip


def properties_of(values: Iterable[tuple[str, Any]]) -> dict[str, Any] | None:
    """Return properties as JSON has them; None if there are none."""
    return {as_text(name, "property's name"): as_json(value, repr(name)) for name, value in values} or None
