"""Detections as columns: what travels from the model to the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.merging.nms import label_codes, ranking

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """A column a field, a row a detection, all of length n."""

    boxes: NDArray[np.float64]
    """(n, 4) float64, xyxy in pixels. What merging looks at."""
    scores: NDArray[np.float64]
    """(n,) float64, of the best class."""
    labels: NDArray[np.object_]
    """(n,) str, of the best class; empty where the model names none."""
    geometries: NDArray[np.object_]
    """(n,) shapely geometries in pixels as the model gave them; None where that is the box."""
    classes: NDArray[np.object_]
    """(n,) lists of {"iri", "score"}, all classes of the detection; None for (label, score)."""
    properties: NDArray[np.object_]
    """(n,) mappings of what else the model sent; None for nothing."""
    tiles: NDArray[np.int64]
    """(n,) int64, number of the tile in its grid; 0 until it is placed."""
    ordinals: NDArray[np.int64]
    """(n,) int64, position in the model's answer."""

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.scores)

    def take(self, rows: NDArray[Any]) -> Detections:
        """Return the rows that an index or a mask selects, in its order."""
        return Detections(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def in_order(self) -> Detections:
        """Return the rows by rank: score, then content, then tile and position in the answer.

        Nothing in that order depends on how the work was split.
        """
        codes = label_codes(self.labels.astype(str))
        return self.take(ranking(self.scores, codes, self.boxes, self.tiles, self.ordinals))

    def above(self, score_threshold: float) -> Detections:
        """Return the rows with at least this score."""
        return self.take(self.scores >= score_threshold)

    def placed(self, tile: int, x: int, y: int, width: int, height: int) -> Detections:
        """Return the rows of a tile in image pixels, boxes clipped to the tile, geometries not.

        Parameters
        ----------
        tile : int
            Number of the tile.
        x, y : int
            Its upper-left corner in image pixels.
        width, height : int
            Its size in pixels.
        """
        corner = np.array([x, y], np.float64)
        size = np.array([width, height], np.float64)
        boxes = np.clip(self.boxes.reshape(-1, 2, 2), 0, size) + corner
        shapes = self.geometries
        outside = (self.boxes[:, :2] < 0).any(axis=1) | (self.boxes[:, 2:] > size).any(axis=1)
        if outside.any():  # the clipped box is not what the model said: keep that beside it
            shapes = np.where(outside & (shapes == None), box_geometries(self.boxes), shapes)  # noqa: E711
        return replace(
            self,
            boxes=boxes.reshape(-1, 4),
            geometries=_moved(shapes, corner),
            properties=_moved_points(self.properties, corner),
            tiles=np.full(len(self), tile, np.int64),
        )

    @property
    def image_geometries(self) -> NDArray[np.object_]:
        """(n,) shapely geometries in pixels: the model's, or the box."""
        missing = self.geometries == None  # noqa: E711 - element by element
        shapes = self.geometries.copy()
        shapes[missing] = box_geometries(self.boxes[missing])
        return shapes


def detections(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: Iterable[str] | None = None,
    geometries: Iterable[Any] | None = None,
    classes: Iterable[Any] | None = None,
    properties: Iterable[Any] | None = None,
) -> Detections:
    """Make detections of columns; what is not given is empty.

    Examples
    --------
    >>> found = detections(np.array([[0., 0, 2, 2]]), np.array([0.5]), ["car"])
    >>> len(found), found.labels.tolist()
    (1, ['car'])
    """
    n = len(scores)
    return Detections(
        boxes=np.asarray(boxes, np.float64).reshape(n, 4),
        scores=np.asarray(scores, np.float64),
        labels=_objects([""] * n if labels is None else labels, n),
        geometries=_objects([None] * n if geometries is None else geometries, n),
        classes=_objects([None] * n if classes is None else classes, n),
        properties=_objects([None] * n if properties is None else properties, n),
        tiles=np.zeros(n, np.int64),
        ordinals=np.arange(n, dtype=np.int64),
    )


def concat(parts: Iterable[Detections]) -> Detections:
    """Put detections one after the other."""
    kept = [part for part in parts if len(part)]
    if not kept:
        return detections(np.empty((0, 4)), np.empty(0))
    return Detections(**{f.name: np.concatenate([getattr(part, f.name) for part in kept]) for f in fields(Detections)})


def box_geometries(boxes: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return boxes as polygons; one without width as a line, without width and height a point.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) float64, xyxy.
    """
    shapes: NDArray[np.object_] = np.asarray(shapely.box(*boxes.T), object).reshape(-1)
    flat = (boxes[:, 2:] == boxes[:, :2]).any(axis=1)
    if flat.any():
        shapes[flat] = [
            shapely.Point(b[:2]) if (b[:2] == b[2:]).all() else shapely.LineString([b[:2], b[2:]]) for b in boxes[flat]
        ]
    return shapes


def _objects(values: Iterable[Any], n: int) -> NDArray[np.object_]:
    column = np.empty(n, object)
    column[:] = list(values)
    return column


def _moved(shapes: NDArray[np.object_], by: NDArray[np.float64]) -> NDArray[np.object_]:
    if not len(shapes) or (shapes == None).all():  # noqa: E711 - element by element
        return shapes
    moved: NDArray[np.object_] = shapely.transform(shapes, lambda xy: xy + by)
    return moved


def _moved_points(properties: NDArray[np.object_], by: NDArray[np.float64]) -> NDArray[np.object_]:
    """Move the points that models send beside a box, so that all geometry is in image pixels."""
    rows = [i for i, each in enumerate(properties) if each and "imageGeometry" in each]
    if not rows:
        return properties
    moved = properties.copy()
    for i in rows:
        point = properties[i]["imageGeometry"]
        xy = [float(a) + float(b) for a, b in zip(point["coordinates"][:2], by, strict=True)]
        moved[i] = {**properties[i], "imageGeometry": {**point, "coordinates": xy}}
    return moved
