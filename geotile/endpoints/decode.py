"""Decoding of model responses: any response gives either detections or a `ResponseError`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.errors import ResponseError
from geotile.merging.detections import Detections, detections

# Properties that are decoded into columns; all others are kept as properties of the detection.
_DECODED_PROPERTIES = {
    "imageGeometry", "imageBBox", "featureClasses",
    "bounds_imcoords", "geom_imcoords", "detection", "feature_types", "detection_score",
}  # fmt: skip


def decode_bytes(body: bytes) -> Detections:
    """Decode a response body: a GeoJSON FeatureCollection in pixels of the tile.

    Raises
    ------
    ResponseError
        If the body cannot be decoded. Its message contains the first 200 characters of the part at fault.
    """
    try:
        collection = json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise ResponseError(f"the response is not JSON ({error}): {excerpt(body)}") from None
    return decode_collection(collection)


def decode_object(answer: Any) -> Detections:
    """Decode what a Python callable returned.

    Parameters
    ----------
    answer : tuple, dict or object
        ``(boxes, scores)``, ``(boxes, scores, labels)``, a GeoJSON FeatureCollection, or an object with the
        attributes ``xyxy``, ``confidence`` and ``class_id``. Boxes have the shape (n, 4), xyxy, in pixels of the
        tile.

    Raises
    ------
    ResponseError
        If it is none of these, or contains boxes or scores that are not valid.

    Examples
    --------
    >>> decode_object(([[0, 0, 4, 4]], [0.9], ["car"])).labels.tolist()
    ['car']
    """
    if isinstance(answer, Detections):
        return answer
    if isinstance(answer, Mapping):
        return decode_collection(answer)
    if hasattr(answer, "xyxy"):
        return _columns(answer.xyxy, getattr(answer, "confidence", None), _class_names(answer))
    if isinstance(answer, tuple | list) and len(answer) in (2, 3):
        return _columns(*answer)
    raise ResponseError(
        f"the model returned {type(answer).__name__}; return (boxes, scores), (boxes, scores, labels), "
        "a FeatureCollection, or an object with xyxy, confidence and class_id"
    )


def decode_collection(collection: Any) -> Detections:
    """Decode a parsed FeatureCollection with the current or the former property names of the OSML contract.

    Raises
    ------
    ResponseError
        If it is not a FeatureCollection, or one of its features cannot be decoded.
    """
    if not isinstance(collection, Mapping) or collection.get("type") != "FeatureCollection":
        raise ResponseError(f"the response must be a GeoJSON FeatureCollection; got {excerpt(collection)}")
    features = collection.get("features")
    if not isinstance(features, list):
        raise ResponseError(f"the FeatureCollection must have a list of features; got {excerpt(collection)}")
    rows = []
    for number, feature in enumerate(features):
        try:
            rows.append(_feature(feature))
        except _MALFORMED as error:
            raise ResponseError(f"feature {number} cannot be decoded ({error}): {excerpt(feature)}") from None
    boxes, scores, labels, shapes, classes, properties = zip(*rows, strict=True) if rows else ((),) * 6
    return detections(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64),
        labels, shapes, classes, properties,
    )  # fmt: skip


# Everything that decoding a malformed feature can raise.
_MALFORMED = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
    shapely.errors.ShapelyError,
)  # fmt: skip


def excerpt(value: Any) -> str:
    """Return the first 200 characters of a value, for an error message."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


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
    if bbox is not None and geometry is not None and geometry.geom_type == "Point":
        # A point beside a box is a placeholder or a marker, not the object's shape.
        others["imageGeometry"] = {"type": "Point", "coordinates": [geometry.x, geometry.y]}
        geometry = None
    return box, best["score"], best["iri"], geometry, classes or None, others or None


def _geometry(properties: Mapping[str, Any]) -> Any:
    geometry = _geojson_geometry(properties)
    if geometry is None:
        return None
    shape = shapely.force_2d(shapely.from_geojson(json.dumps(geometry, allow_nan=False)))
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
    return isinstance(value[0], int | float)


def _classes(properties: Mapping[str, Any]) -> list[dict[str, Any]]:
    if (classes := properties.get("featureClasses")) is not None:
        return [{**each, "iri": _text(each["iri"]), "score": _number(each.get("score", 1.0))} for each in classes]
    if (scores := properties.get("feature_types")) is not None:
        return [{"iri": _text(name), "score": _number(score)} for name, score in scores.items()]
    if (score := properties.get("detection_score")) is not None:
        return [{"iri": "", "score": _number(score)}]
    return []


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a class name must be a string; got {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(float(value)):
        raise ValueError(f"expected a finite number; got {value!r}")
    return float(value)


def _box(values: Any) -> list[float]:
    if not isinstance(values, Sequence) or len(values) != 4:
        raise ValueError(f"a box must have four coordinates; got {values!r}")
    x0, y0, x1, y1 = box = [_number(value) for value in values]
    if x1 < x0 or y1 < y0:
        raise ValueError(f"a box must have x0 <= x1 and y0 <= y1; got {box}")
    return box


def _columns(boxes: Any, scores: Any, labels: Any = None) -> Detections:
    try:
        xyxy = np.asarray(boxes, np.float64)
        xyxy = xyxy.reshape(0, 4) if xyxy.size == 0 else xyxy
        values = np.ones(len(xyxy)) if scores is None else np.asarray(scores, np.float64).reshape(-1)
    except (ValueError, TypeError) as error:
        raise ResponseError(f"the model's boxes and scores must be numbers; {error}") from None
    _check_boxes(xyxy, values)
    names = None if labels is None else [str(label) for label in labels]
    if names is not None and len(names) != len(xyxy):
        raise ResponseError(f"the model must return one label per box; got {len(names)} labels for {len(xyxy)} boxes")
    return detections(xyxy, values, names)


def _check_boxes(xyxy: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
    if xyxy.ndim != 2 or xyxy.shape[1] != 4 or len(scores) != len(xyxy):
        raise ResponseError(
            "the model must return boxes of shape (n, 4) and scores of shape (n,); "
            f"got boxes of shape {xyxy.shape} and {len(scores)} scores"
        )
    if not (np.isfinite(xyxy).all() and np.isfinite(scores).all()):
        raise ResponseError("the model's boxes and scores must be finite")
    if (inverted := (xyxy[:, 2:] < xyxy[:, :2]).any(axis=1)).any():
        row = int(np.flatnonzero(inverted)[0])
        raise ResponseError(f"a box must have x0 <= x1 and y0 <= y1; got {xyxy[row].tolist()} (box {row})")


def _class_names(answer: Any) -> NDArray[Any] | list[str] | None:
    data = getattr(answer, "data", None)
    if isinstance(data, Mapping) and "class_name" in data:
        return list(data["class_name"])
    ids: NDArray[Any] | None = getattr(answer, "class_id", None)
    return ids


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a valid JSON number")
