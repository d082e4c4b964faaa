"""Decoding of responses of the OversightML contract: any response gives either an answer or a `ResponseError`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import shapely

from geotile.core.values import as_json, as_text
from geotile.endpoints.answer import Answer, answer_of, properties_of
from geotile.endpoints.json_answer import excerpt, load_json, turn
from geotile.errors import ResponseError
from geotile.options.endpoint import MAX_DETECTIONS

_LIKE_CLASSES = {"score", "scores", "confidence", "label", "labels", "class", "category"}
VALUES_PER_DETECTION = 40
"""JSON values of an answer for each detection that is allowed: Python's objects take 30 to 100 bytes for each."""
# Properties that are decoded into columns; all others are kept as properties of the detection.
_DECODED_PROPERTIES = {
    "imageGeometry", "imageBBox", "featureClasses",
    "bounds_imcoords", "geom_imcoords", "detection", "feature_types", "detection_score",
}  # fmt: skip


def decode_bytes(body: bytes, max_detections: int = MAX_DETECTIONS) -> Answer:
    """Decode a response body: a GeoJSON FeatureCollection in pixels of the tile.

    Parameters
    ----------
    body : bytes
    max_detections : int
        Maximum number of features, and of JSON values for each of them, `VALUES_PER_DETECTION`.

    Raises
    ------
    ResponseError
        If the body cannot be decoded, or holds more than that. Its message contains the first 200 characters of the
        part at fault.
    """
    limit = f"{VALUES_PER_DETECTION} for each of max_detections={max_detections:,}"
    with turn(body):
        return decode_collection(load_json(body, max_detections * VALUES_PER_DETECTION, limit), max_detections)


def decode_collection(collection: Any, max_detections: int | None = None) -> Answer:
    """Decode a parsed FeatureCollection with the current or the former property names of the OSML contract.

    Parameters
    ----------
    collection : object
    max_detections : int, optional
        Maximum number of features. By default there is none.

    Raises
    ------
    ResponseError
        If it is not a FeatureCollection, a score lies outside 0 to 1, or none of its features can be decoded. Single
        features that cannot be decoded are counted in the answer.
    """
    if not isinstance(collection, Mapping) or collection.get("type") != "FeatureCollection":
        raise ResponseError(f"the response must be a GeoJSON FeatureCollection; got {excerpt(collection)}")
    features = collection.get("features")
    if not isinstance(features, list):
        raise ResponseError(f"the FeatureCollection must have a list of features; got {excerpt(collection)}")
    if max_detections is not None and len(features) > max_detections:
        raise ResponseError(f"the response has {len(features):,} features, more than max_detections={max_detections:,}")
    return answer_of(features, _row)


# Everything that decoding a malformed feature can raise.
_MALFORMED = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
    shapely.errors.ShapelyError,
)  # fmt: skip


def _row(number: int, feature: Any) -> tuple[Any, ...]:
    try:
        return _feature(feature)
    except _MALFORMED as error:
        raise ResponseError(f"feature {number} cannot be decoded ({error}): {excerpt(feature)}") from None


def _feature(feature: Any) -> tuple[Any, ...]:
    """Return box, score, label, geometry, classes and properties of a feature."""
    properties = feature.get("properties") or {}
    if feature.get("type") != "Feature" or not isinstance(properties, Mapping):
        raise ValueError("expected a Feature with properties")
    geometry = _geometry(properties)
    bbox = properties.get("imageBBox", properties.get("bounds_imcoords"))
    if bbox is None and geometry is None:
        raise ValueError("expected imageGeometry or imageBBox")
    box = _box(geometry.bounds if bbox is None else bbox)
    classes = _classes(properties)
    best = max(classes, key=lambda each: each["score"], default={"iri": "", "score": 1.0})
    others = {key: value for key, value in properties.items() if key not in _DECODED_PROPERTIES}
    if "id" in feature:
        others.setdefault("id", feature["id"])
    return box, best["score"], best["iri"], geometry, classes or None, properties_of(others.items())


def _geometry(properties: Mapping[str, Any]) -> Any:
    geometry = _geojson_geometry(properties)
    if geometry is None:
        return None
    shape = shapely.from_geojson(json.dumps(as_json(geometry, "imageGeometry")))
    if shape.is_empty or not np.isfinite(shapely.get_coordinates(shape)).all():
        raise ValueError("the geometry is empty or not finite")
    return shape


def _geojson_geometry(properties: Mapping[str, Any]) -> Any:
    """Return a feature's GeoJSON geometry in pixels, from its current or one of its former properties."""
    if (geometry := properties.get("imageGeometry")) is not None:
        return geometry
    if (ring := properties.get("geom_imcoords")) is not None:
        return {"type": "Polygon", "coordinates": [ring]}
    if (detection := properties.get("detection")) is None:
        return None
    coordinates = detection.get("pixelCoordinates", detection.get("coordinates"))
    if detection["type"] == "Polygon" and _is_position(coordinates[0]):
        coordinates = [coordinates]
    return {"type": detection["type"], "coordinates": coordinates}


def _is_position(value: Any) -> bool:
    return isinstance(value[0], Real)


def _classes(properties: Mapping[str, Any]) -> list[dict[str, Any]]:
    if (classes := properties.get("featureClasses")) is not None:
        return [
            as_json(each, "featureClasses") | {"iri": _text(each["iri"]), "score": _score(each)} for each in classes
        ]
    if (scores := properties.get("feature_types")) is not None:
        return [{"iri": _text(name), "score": _number(score)} for name, score in scores.items()]
    if (score := properties.get("detection_score")) is not None:
        return [{"iri": "", "score": _number(score)}]
    if unread := sorted(_LIKE_CLASSES & set(properties)):
        raise ValueError(f"expected featureClasses with iri and score; got {unread}, which have no meaning here")
    return []


def _score(each: Mapping[str, Any]) -> float:
    if "score" not in each:
        raise ValueError("expected a score for each of the featureClasses; give 1.0 if the model has none")
    return _number(each["score"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a class name must be a string; got {value!r}")
    return as_text(value, "class name")


def _number(value: Any) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not np.isfinite(float(value)):
        raise ValueError(f"expected a finite number; got {value!r}")
    return float(value)


def _box(values: Any) -> list[float]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, Sequence) or len(values) != 4:
        raise ValueError(f"a box must have four coordinates; got {values!r}")
    x0, y0, x1, y1 = box = [_number(value) for value in values]
    if x1 < x0 or y1 < y0:
        raise ValueError(f"a box must have x0 <= x1 and y0 <= y1; got {box}")
    return box
