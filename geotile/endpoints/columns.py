"""An answer from columns of the same length, as the objects of the detection libraries have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.values import as_array, as_numbers, as_text, is_missing
from geotile.endpoints.answer import Answer, answer_of, checked, properties_of
from geotile.errors import ResponseError
from geotile.merging.detections import detections

_LIKE_LABEL = {"label", "labels", "name", "class", "class_name", "class_id", "cls", "category", "category_id"}
Parts = Mapping[str, Sequence[Any]]  # shapes, oriented and keypoints, one value per box each


def from_columns(
    boxes: Any, scores: Any, labels: Any = None, more: Mapping[str, Any] | None = None, parts: Parts | None = None
) -> Answer:
    """Return the answer in columns.

    Parameters
    ----------
    boxes : array_like
        (n, 4) xyxy in pixels of the tile; None for the envelopes of the shapes.
    scores : array_like
        (n,) scores.
    labels : sequence, optional
        (n,) texts or class numbers.
    more : mapping, optional
        Columns that become properties.
    parts : mapping, optional
        ``geometries``, ``oriented`` and ``keypoints``, columns of `geotile.merging.detections.detections`.

    Raises
    ------
    ResponseError
        If a column cannot be used, or no row is valid.
    """
    given = {name: list(column) for name, column in (parts or {}).items()}
    if boxes is None:
        boxes = envelopes(given["geometries"])
    xyxy, values = _numbers(boxes, scores)
    n = len(xyxy)
    names = [""] * n if labels is None else _listed(labels, "label", n)
    columns = {name: _listed(column, name, n) for name, column in (more or {}).items()}
    for name, column in given.items():
        if len(column) != n:
            raise ResponseError(f"the model must return one of the {name} per box; got {len(column)} for {n} boxes")
    missing = [is_missing(each) for each in names]
    try:
        texts = ["" if gap else as_text(each, "label") for each, gap in zip(names, missing, strict=True)]
    except ValueError as error:
        raise ResponseError(str(error)) from None
    if not columns and not any(missing):
        return checked(Answer(detections=detections(xyxy, values, texts, **given)))

    def row_of(k: int, box: Any) -> tuple[Any, ...]:
        if missing[k]:
            raise ResponseError(f"a label must be text or a whole number; got {names[k]!r}")
        properties = properties_of((name, column[k]) for name, column in columns.items())
        shape, oriented, points = (given[name][k] if name in given else None for name in _PARTS)
        return box, values[k], texts[k], shape, None, properties, bool(oriented), points

    return answer_of(list(xyxy), row_of)


_PARTS = ("geometries", "oriented", "keypoints")


def envelopes(shapes: Sequence[Any]) -> NDArray[np.float64]:
    """Return the boxes around shapes, (n, 4) xyxy; zeros around empty ones, which are rejected anyway."""
    bounds = shapely.bounds(np.array([*shapes, None], object)[:-1]).reshape(-1, 4)
    empty = np.array([shape is not None and shape.is_empty for shape in shapes], bool)
    bounds[empty] = 0
    return bounds


def _numbers(boxes: Any, scores: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return boxes, (n, 4), and scores, (n,)."""
    if getattr(getattr(boxes, "format", None), "name", "XYXY") != "XYXY":  # torchvision's BoundingBoxes
        raise ResponseError(f"the model's boxes must be xyxy; got {boxes.format}. Convert them first")
    try:
        xyxy, values = as_numbers(boxes, "boxes"), as_numbers(scores, "scores")
    except (ValueError, TypeError) as error:
        raise ResponseError(f"the model's boxes and scores must be numbers; {error}") from None
    xyxy = xyxy.reshape(0, 4) if xyxy.size == 0 else xyxy
    if xyxy.ndim != 2 or xyxy.shape[1] != 4 or values.shape not in ((len(xyxy),), (len(xyxy), 1)):
        raise ResponseError(
            "the model must return boxes of shape (n, 4) and scores of shape (n,); "
            f"got boxes of shape {xyxy.shape} and scores of shape {values.shape}"
        )
    return xyxy, values.reshape(-1)


def _listed(column: Any, name: str, n: int) -> list[Any]:
    """Return one value per box."""
    if isinstance(column, str | bytes):
        raise ResponseError(f"the model must return one {name} per box; got the text {column!r} for {n} boxes")
    values = list(column) if isinstance(column, list | tuple) else list(as_array(column))
    if values and all(np.shape(each) == (1,) for each in values):  # a column of shape (n, 1)
        values = [each[0] for each in values]
    if len(values) != n:
        raise ResponseError(f"the model must return one {name} per box; got {len(values)} {name}s for {n} boxes")
    return values


def refuse_unread_names(columns: Iterable[str]) -> None:
    """Refuse columns that look like class names where the column of class names is missing.

    Raises
    ------
    ResponseError
        If there is such a column.
    """
    if like := [name for name in columns if name.lower() in _LIKE_LABEL]:
        raise ResponseError(
            "class names must be in the column label of a table, or as class_name in the data of supervision; got "
            f"{like}. Rename the column"
        )
