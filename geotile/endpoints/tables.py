"""Answers in rows: tables of pandas and geopandas, and the results of COCO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.values import as_numbers, as_text, is_missing
from geotile.endpoints.answer import NOTHING, Answer, answer_of, properties_of
from geotile.endpoints.columns import envelopes, from_columns, refuse_unread_names
from geotile.endpoints.run_lengths import Size, segmentation_shape
from geotile.errors import ResponseError

_BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
_COCO = {"bbox", "segmentation", "score", "category_id", "category_name", "keypoints"}


def from_frame(frame: Any) -> Answer:
    """Return the answer in a table in pixels, whose geometries, if it has any, are the shapes."""
    if getattr(frame, "crs", None) is not None:
        raise ResponseError(f"a GeoDataFrame must be in pixels of the tile, without a CRS; got {frame.crs}")
    names = [str(name) for name in frame.columns]
    if not len(frame):
        return NOTHING
    geometry = getattr(frame, "active_geometry_name", None) or "geometry"
    needed = ("score",) if geometry in names and not set(_BOX_COLUMNS) & set(names) else (*_BOX_COLUMNS, "score")
    if missing := [name for name in needed if name not in names]:
        raise ResponseError(
            f"a table must have the columns xmin, ymin, xmax, ymax, or geometries, and score; {missing} are missing"
        )
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ResponseError(f"the columns of a table must have names of their own; {double} occur twice")
    if "label" not in names:
        refuse_unread_names(names)
    used = {*_BOX_COLUMNS, "score", "label", geometry, "image_path"}
    more = {name: list(frame[name]) for name in names if name not in used}
    labels = list(frame["label"]) if "label" in names else None
    scores, parts = frame["score"].to_numpy(object), {}
    if len(needed) == 1:
        parts["geometries"] = [shapely.Polygon() if is_missing(each) else each for each in frame[geometry]]
        return from_columns(None, scores, labels, more, parts)
    boxes = frame[list(_BOX_COLUMNS)].to_numpy(object)
    if geometry in names:
        parts["geometries"] = _other_than_boxes(frame[geometry].to_numpy(object), boxes)
    return from_columns(boxes, scores, labels, more, parts)


def _other_than_boxes(shapes: NDArray[np.object_], boxes: NDArray[Any]) -> list[Any]:
    """Return the shapes, with None for those that are their boxes."""
    corners = as_numbers(boxes, "boxes")
    known = np.isfinite(corners).all(axis=1) & (shapes != None)  # noqa: E711 - element by element
    expected = shapely.normalize(shapely.box(*corners[known].T))
    column = shapes.copy()
    column[np.flatnonzero(known)[shapely.equals_exact(shapely.normalize(shapes[known]), expected, 1e-6)]] = None
    return list(column)


def are_coco_rows(answer: Sequence[Any]) -> bool:
    """Return whether a list holds results in COCO's format."""
    return all(
        isinstance(row, Mapping) and {"bbox", "segmentation"} & set(row) and "boxes" not in row for row in answer
    )


def from_coco_rows(rows: Sequence[Mapping[str, Any]], tile_yx: Size | None = None) -> Answer:
    """Return the answer in a list of results in COCO's format.

    Parameters
    ----------
    rows : sequence of mapping
        ``score``, ``category_name`` or ``category_id``, ``bbox`` (x, y, width, height) or ``segmentation`` or both, and
        perhaps ``keypoints`` (x, y, v of each); other values become properties. Pixels are those of the tile.
    tile_yx : tuple of int, optional
        Height and width of the tile, which masks must have.
    """

    def row_of(number: int, row: Mapping[str, Any]) -> tuple[Any, ...]:
        if row.get("score") is None:
            raise ResponseError("results of COCO must have a score; give 1.0 if the model has none")
        shape = None if row.get("segmentation") is None else segmentation_shape(row["segmentation"], tile_yx)
        if row.get("bbox") is None:
            box = envelopes([shapely.Polygon() if shape is None else shape])[0]
        else:
            x, y, width, height = as_numbers(row["bbox"], "bbox").tolist()
            box = np.array([x, y, x + width, y + height])
        label = row.get("category_name", row.get("category_id", ""))
        others = [(name, value) for name, value in row.items() if name not in _COCO]
        points = None if row.get("keypoints") is None else _points(row["keypoints"])
        score = float(as_numbers(row["score"], "score"))
        return box, score, as_text(label, "label"), shape, None, properties_of(others), False, points

    return answer_of(rows, row_of)


def _points(flat: Any) -> list[list[float]]:
    """Return key points that follow one after the other: x, y and the visibility."""
    values = as_numbers(flat, "keypoints").reshape(-1)
    if len(values) % 3:
        raise ResponseError(f"keypoints of COCO must be x, y, v of each; got {len(values)} numbers")
    points: list[list[float]] = values.reshape(-1, 3).tolist()
    return points
