"""Detections as columns, from the response of the model to the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.memory import Measured
from geotile.core.thresholds import Threshold
from geotile.merging.ranking import by_label, label_codes, ranking

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections(Measured):
    """Table of detections with one column per field and one row per detection, all of length n."""

    boxes: NDArray[np.float64]
    """(n, 4) float64, xyxy in pixels, clipped to the tile once moved to the image. Merging uses these."""
    scores: NDArray[np.float64]
    """(n,) float64, score of the best class."""
    labels: NDArray[np.object_]
    """(n,) str, label of the best class; empty where the model gives none."""
    geometries: NDArray[np.object_]
    """(n,) valid shapely geometries in pixels as the model returned them; None where the geometry is the box."""
    oriented: NDArray[np.bool_]
    """(n,) bool, whether the geometry is an oriented box: a rectangle at any angle, given by its four corners."""
    classes: NDArray[np.object_]
    """(n,) lists of {"iri", "score"} with all classes of the detection; None for the label and score alone."""
    properties: NDArray[np.object_]
    """(n,) mappings of the other properties that the model returned; None where there are none."""
    keypoints: NDArray[np.object_]
    """(n,) lists of key points, each [x, y] in pixels or [x, y, score]; None where there are none. They become the
    property ``keypoints`` of the result."""
    tiles: NDArray[np.int64]
    """(n,) int64, number of the tile in the grid; 0 until the detections are moved to the image."""
    ordinals: NDArray[np.int64]
    """(n,) int64, position in the model's response."""

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.scores)

    def select(self, rows: NDArray[Any] | slice) -> Detections:
        """Return the rows that an array of indices, a mask or a slice selects, in its order."""
        return Detections(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def sorted_by_rank(self) -> Detections:
        """Return the rows by rank: score, then content, then tile and position in the response.

        The order does not depend on how the work was split.
        """
        codes = label_codes(self.labels)
        return self.select(ranking(self.scores, codes, self.boxes, self.tiles, self.ordinals))

    def with_min_score(self, score_threshold: Threshold) -> Detections:
        """Return the rows whose score is at least `score_threshold`, which may differ by label."""
        return self.select(self.scores >= by_label(score_threshold, self.labels))

    def moved_to_image(self, tile: int, x: int, y: int, width: int, height: int) -> Detections:
        """Return the detections of a tile in image pixels. Only the boxes are clipped to the tile.

        Parameters
        ----------
        tile : int
            Number of the tile in the grid.
        x, y : int
            Upper-left corner of the tile in image pixels.
        width, height : int
            Size of the tile in pixels.
        """
        corner = np.array([x, y], np.float64)
        size = np.array([width, height], np.float64)
        boxes = np.clip(self.boxes.reshape(-1, 2, 2), 0, size) + corner
        shapes = self.geometries
        outside = (self.boxes[:, :2] < 0).any(axis=1) | (self.boxes[:, 2:] > size).any(axis=1)
        if outside.any():  # the clipped box is not what the model returned: keep its box as the geometry
            shapes = np.where(outside & (shapes == None), box_geometries(self.boxes), shapes)  # noqa: E711
        return replace(
            self,
            boxes=boxes.reshape(-1, 4),
            geometries=_shifted(shapes, corner),
            keypoints=self._map_keypoints(lambda xy: xy + corner),
            tiles=np.full(len(self), tile, np.int64),
        )

    def properties_with_keypoints(self, scale_xy: tuple[float, float]) -> NDArray[np.object_]:
        """Return the properties, (n,) mappings or None, with the key points under their name.

        Parameters
        ----------
        scale_xy : tuple of float
            Pixels of the full resolution per pixel, across and down.
        """
        column = self.properties.copy()
        keypoints = self._map_keypoints(lambda xy: xy * scale_xy)
        for row in np.flatnonzero(keypoints != None):  # noqa: E711 - element by element
            column[row] = {**(column[row] or {}), "keypoints": keypoints[row]}
        return column

    def _map_keypoints(self, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.object_]:
        """Return the key points with their coordinates, (k, 2) float64, changed by a function."""
        column = self.keypoints.copy()
        for row in np.flatnonzero(column != None):  # noqa: E711 - element by element
            points = np.array(column[row], np.float64)
            if not points.size:
                continue  # the model found none
            column[row] = np.hstack([move(points[:, :2]), points[:, 2:]]).tolist()
        return column

    @property
    def plain_boxes(self) -> NDArray[np.bool_]:
        """(n,) bool, whether the geometry is the box, and a polygon: neither a line nor a point."""
        has_area = (self.boxes[:, 2:] != self.boxes[:, :2]).all(axis=1)
        return np.asarray(has_area & (self.geometries == None))  # noqa: E711 - element by element

    @property
    def image_geometries(self) -> NDArray[np.object_]:
        """(n,) shapely geometries in pixels: the model's geometry, or the box."""
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
    oriented: Iterable[bool] | None = None,
    keypoints: Iterable[Any] | None = None,
) -> Detections:
    """Return detections with the given columns; columns that are left out are empty.

    Examples
    --------
    >>> cars = detections(np.array([[0., 0, 2, 2]]), np.array([0.5]), ["car"])
    >>> len(cars), cars.labels.tolist()
    (1, ['car'])
    """
    n = len(scores)
    return Detections(
        boxes=np.asarray(boxes, np.float64).reshape(n, 4),
        scores=np.asarray(scores, np.float64),
        labels=_objects([""] * n if labels is None else labels, n),
        geometries=_objects([None] * n if geometries is None else geometries, n),
        oriented=np.zeros(n, bool) if oriented is None else np.asarray(oriented, bool),
        classes=_objects([None] * n if classes is None else classes, n),
        properties=_objects([None] * n if properties is None else properties, n),
        keypoints=_objects([None] * n if keypoints is None else keypoints, n),
        tiles=np.zeros(n, np.int64),
        ordinals=np.arange(n, dtype=np.int64),
    )


def concat(parts: Iterable[Detections]) -> Detections:
    """Concatenate detections."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return detections(np.empty((0, 4)), np.empty(0))
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in filled]) for f in fields(Detections)}
    return Detections(**columns)


def box_geometries(boxes: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return boxes as polygons; a box without width or height as a line, one without either as a point.

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


def _shifted(shapes: NDArray[np.object_], offset_xy: NDArray[np.float64]) -> NDArray[np.object_]:
    if not len(shapes) or (shapes == None).all():  # noqa: E711 - element by element
        return shapes
    moved: NDArray[np.object_] = shapely.transform(shapes, lambda xy: xy + offset_xy)
    return moved
