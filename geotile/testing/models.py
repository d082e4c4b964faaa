"""Models that threshold pixels and need no weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from geotile.core.rasterio_env import ignore_georeference_warnings, memory_env

# rasterio silences its warning of pixels without a transform in a way that lets it through where several threads do so
# at once. It is ignored from here on, unless somebody has another filter for it.
warnings.simplefilter("ignore", NotGeoreferencedWarning, append=True)

_BRIGHTNESS_THRESHOLD = 200
_MIN_BUILDING_WIDTH_PX = 30  # ships and vehicles are narrower
_CUT_FACTOR = 0.5  # an object that the tile's border cuts scores less than a whole one


def bright_objects(tile: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Detect connected areas that are brighter than 200 in any band.

    Parameters
    ----------
    tile : numpy.ndarray
        Tile of shape (band, y, x), uint8.

    Returns
    -------
    boxes : numpy.ndarray of shape (n, 4), float64
        Boxes, xyxy in tile pixels.
    scores : numpy.ndarray of shape (n,), float64
        Scores in [0, 1].
    labels : list of str
        ``"object"`` for each box.

    Examples
    --------
    >>> tile = np.zeros((1, 8, 8), np.uint8)
    >>> tile[:, 2:4, 3:6] = 255
    >>> bright_objects(tile)[0].tolist()
    [[3.0, 2.0, 6.0, 4.0]]
    """
    shapes = list(_bright_shapes(tile))
    return _boxes(shapes), _scores(shapes, tile.shape[1:]), ["object"] * len(shapes)


def scene_detector(tile: NDArray[Any]) -> dict[str, Any]:
    """Detect the cars, trucks, ships and buildings of `make_scene` by brightness, length and width.

    Parameters
    ----------
    tile : numpy.ndarray
        Tile of shape (3, y, x), uint8.

    Returns
    -------
    dict
        A GeoJSON FeatureCollection as OversightML's models return it, with the oriented boxes of ships and vehicles and
        the outlines of buildings, in tile pixels.
    """
    shapes = [shape for shape in _bright_shapes(tile) if shape.area >= 20]
    kinds = [_kind(shape) for shape in shapes]
    features = []
    for shape, (label, outline), cut in zip(shapes, kinds, _is_cut(shapes, tile.shape[1:]), strict=True):
        score = min(shape.area / outline.area, 1) * (_CUT_FACTOR if cut else 1)
        features.append({
            "type": "Feature", "geometry": None,
            "properties": {
                "imageGeometry": shapely.geometry.mapping(outline),
                "imageBBox": list(shape.bounds),
                "featureClasses": [{"iri": label, "score": float(score)}],
                "length_px": round(_sides(outline)[1], 1),
            },
        })  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


SCENE_CLASSES = ("water", "beach", "field", "road", "object")
"""Names of the classes of `scene_classifier`, in the order of their numbers."""
_CLASS_COLOURS = np.array([(36, 74, 104), (162, 152, 122), (98, 116, 74), (118, 118, 118)], np.float32)
_COLOUR_SCALE = 24.0  # difference of colours at which a class becomes unlikely


def scene_classifier(tile: NDArray[Any]) -> NDArray[np.float32]:
    """Score the land cover of each pixel of `make_scene` by its colour, blurred as a network blurs its input.

    Parameters
    ----------
    tile : numpy.ndarray
        Tile of shape (3, y, x), uint8.

    Returns
    -------
    numpy.ndarray
        (5, y, x) float32, scores of `SCENE_CLASSES`, whose sum is 1 for each pixel. Near the border of a tile they are
        less sure, as those of a network are.

    Examples
    --------
    >>> scene_classifier(np.full((3, 8, 8), 250, np.uint8)).argmax(axis=0)[4, 4]
    np.int64(4)
    """
    pixels = tile.astype(np.float32)
    height, width = pixels.shape[1:]
    padded = np.pad(pixels, [(0, 0), (2, 2), (2, 2)])  # zeros beyond the border, as convolutions have them
    rows = np.sum([padded[:, k : k + height] for k in range(5)], axis=0)
    smooth = np.sum([rows[:, :, k : k + width] for k in range(5)], axis=0) / 25
    away = ((smooth[None] - _CLASS_COLOURS[:, :, None, None]) ** 2).sum(axis=1) / _COLOUR_SCALE**2
    bright = np.clip((pixels.max(axis=0) - 190) / 20, 0, 1)
    ground = np.exp(-away) + 1e-6
    ground *= (1 - bright) / ground.sum(axis=0)
    return np.asarray(np.concatenate([ground, bright[None]]), np.float32)


def scene_embedder(tile: NDArray[Any]) -> NDArray[np.float32]:
    """Describe a tile by the histogram of its colours.

    Parameters
    ----------
    tile : numpy.ndarray
        Tile of shape (3, y, x), uint8.

    Returns
    -------
    numpy.ndarray
        (512,) float32, the square roots of the shares of 8 x 8 x 8 colours; its length is 1.

    Examples
    --------
    >>> vector = scene_embedder(np.zeros((3, 8, 8), np.uint8))
    >>> vector.shape, float(vector[0])
    ((512,), 1.0)
    """
    red, green, blue = (band.astype(np.int64) >> 5 for band in tile[:3])
    counts = np.bincount(((red * 8 + green) * 8 + blue).ravel(), minlength=512)
    return np.asarray(np.sqrt(counts / counts.sum()), np.float32)


def _kind(shape: Any) -> tuple[str, Any]:
    """Return the label of an object and its outline: the polygon of a building, the oriented box of all others."""
    outline = shapely.minimum_rotated_rectangle(shape)
    width, length = _sides(outline)
    if width >= _MIN_BUILDING_WIDTH_PX:
        return "building", shapely.simplify(shape, 1.0)
    return ("car" if length < 26 else "truck" if length < 56 else "ship"), outline


def _sides(shape: Any) -> tuple[float, float]:
    """Return the shorter and the longer side of the oriented box of a shape."""
    ring = np.asarray(shapely.minimum_rotated_rectangle(shape).exterior.coords)
    width, length = np.sort(np.hypot(*(ring[1:3] - ring[:2]).T))
    return float(width), float(length)


def _bright_shapes(tile: NDArray[Any]) -> Iterator[Any]:
    mask = (tile.max(axis=0) > _BRIGHTNESS_THRESHOLD).astype(np.uint8)
    if mask.any():
        with memory_env(), ignore_georeference_warnings():
            outlines = list(rasterio.features.shapes(mask, mask.astype(bool), connectivity=8))
        yield from (shapely.geometry.shape(outline) for outline, _ in outlines)


def _boxes(shapes: list[Any]) -> NDArray[np.float64]:
    bounds: NDArray[np.float64] = shapely.bounds(np.array(shapes, object)).reshape(-1, 4)
    return bounds


def _scores(shapes: list[Any], shape_yx: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the fraction of its oriented outline that each object fills; halve it if the tile's border cuts it."""
    fill = np.array([shape.area / max(shapely.minimum_rotated_rectangle(shape).area, 1e-9) for shape in shapes])
    scores: NDArray[np.float64] = np.clip(fill.reshape(-1), 0, 1)
    return scores * np.where(_is_cut(shapes, shape_yx), _CUT_FACTOR, 1.0)


def _is_cut(shapes: list[Any], shape_yx: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which objects end at the border of the tile, (n,) bool."""
    boxes = _boxes(shapes)
    return np.asarray((boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2:] >= shape_yx[::-1]).any(axis=1))
