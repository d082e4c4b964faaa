"""What models answer, decoded: any answer gives detections or a `ResponseError`, nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.errors import ResponseError
from geotile.merging.detections import Detections, detections

_CONSUMED = {
    "imageGeometry", "imageBBox", "featureClasses",
    "bounds_imcoords", "geom_imcoords", "detection", "feature_types", "detection_score",
}  # fmt: skip


def decode_bytes(body: bytes) -> Detections:
    """Decode the body of an answer: a GeoJSON FeatureCollection in pixels of the tile.

    Raises
    ------
    ResponseError
        With the first 200 characters of what it cannot read.
    """
    try:
        answer = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ResponseError(f"the answer is not JSON ({error}): {excerpt(body)}") from None
    return decode_collection(answer)


def decode_object(answer: Any) -> Detections:
    """Decode what a Python callable returns.

    Parameters
    ----------
    answer : tuple, dict or object
        ``(boxes, scores)``, ``(boxes, scores, labels)``, a FeatureCollection, or an object with
        ``xyxy``, ``confidence`` and ``class_id``.

    Raises
    ------
    ResponseError
        If it is none of these, or holds numbers that are no boxes.

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


def decode_collection(answer: Any) -> Detections:
    """Decode a parsed FeatureCollection, in today's or yesterday's words of the OSML contract.

    Raises
    ------
    ResponseError
        If it is no FeatureCollection, or one of its features cannot be read.
    """
    if not isinstance(answer, Mapping) or answer.get("type") != "FeatureCollection":
        raise ResponseError(f"the answer is no GeoJSON FeatureCollection: {excerpt(answer)}")
    features = answer.get("features")
    if not isinstance(features, list):
        raise ResponseError(f"the FeatureCollection has no list of features: {excerpt(answer)}")
    rows = []
    for number, feature in enumerate(features):
        try:
            rows.append(_feature(feature))
        except _ANY_BAD_VALUE as error:
            raise ResponseError(f"feature {number} cannot be read ({error}): {excerpt(feature)}") from None
    boxes, scores, labels, shapes, classes, properties = zip(*rows, strict=True) if rows else ((),) * 6
    return detections(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64),
        labels, shapes, classes, properties,
    )  # fmt: skip


# What reading a malformed value can raise; all of it means the model sent something else.
_ANY_BAD_VALUE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
    shapely.errors.ShapelyError,
)  # fmt: skip


def excerpt(value: Any) -> str:
    """Return the first 200 characters of an answer."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _feature(feature: Any) -> tuple[Any, ...]:
    sent = feature.get("properties") or {}
    if feature.get("type") != "Feature" or not isinstance(sent, Mapping):
        raise ValueError("not a Feature with properties")
    shape = _geometry(sent)
    given = sent.get("imageBBox", sent.get("bounds_imcoords"))
    if given is not None:
        box = _box(given)
    elif shape is not None:
        box = _box(shape.bounds)
    else:
        raise ValueError("neither imageGeometry nor imageBBox")
    classes = _classes(sent)
    best = max(classes, key=lambda each: each["score"], default={"iri": "", "score": 1.0})
    kept = {key: value for key, value in sent.items() if key not in _CONSUMED}
    if "id" in feature:
        kept.setdefault("id", feature["id"])
    if given is not None and shape is not None and shape.geom_type == "Point":
        kept["imageGeometry"] = {"type": "Point", "coordinates": [shape.x, shape.y]}
        shape = None
    return box, best["score"], best["iri"], shape, classes or None, kept or None


def _geometry(sent: Mapping[str, Any]) -> Any:
    if (geometry := sent.get("imageGeometry")) is not None:
        pass
    elif (ring := sent.get("geom_imcoords")) is not None:
        geometry = {"type": "Polygon", "coordinates": [ring]}
    elif (old := sent.get("detection")) is not None:
        points = old.get("pixelCoordinates", old.get("coordinates"))
        if old["type"] == "Polygon" and _is_position(points[0]):
            points = [points]
        geometry = {"type": old["type"], "coordinates": points}
    else:
        return None
    shape = shapely.force_2d(shapely.from_geojson(json.dumps(geometry, allow_nan=False)))
    if shape.is_empty or not np.isfinite(shapely.get_coordinates(shape)).all():
        raise ValueError("an empty or infinite geometry")
    return shape


def _is_position(value: Any) -> bool:
    return isinstance(value[0], int | float)


def _classes(sent: Mapping[str, Any]) -> list[dict[str, Any]]:
    if (listed := sent.get("featureClasses")) is not None:
        return [{**each, "iri": _text(each["iri"]), "score": _number(each.get("score", 1.0))} for each in listed]
    if (types := sent.get("feature_types")) is not None:
        return [{"iri": _text(name), "score": _number(score)} for name, score in types.items()]
    if (score := sent.get("detection_score")) is not None:
        return [{"iri": "", "score": _number(score)}]
    return []


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a class named {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(float(value)):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _box(values: Any) -> list[float]:
    if not isinstance(values, Sequence) or len(values) != 4:
        raise ValueError(f"a box of {values!r}")
    x0, y0, x1, y1 = box = [_number(value) for value in values]
    if x1 < x0 or y1 < y0:
        raise ValueError(f"box {box} ends before it starts")
    return box


def _columns(boxes: Any, scores: Any, labels: Any = None) -> Detections:
    try:
        xyxy = np.asarray(boxes, np.float64)
        xyxy = xyxy.reshape(0, 4) if xyxy.size == 0 else xyxy
        points = np.ones(len(xyxy)) if scores is None else np.asarray(scores, np.float64).reshape(-1)
    except (ValueError, TypeError) as error:
        raise ResponseError(f"the model's boxes or scores are no numbers: {error}") from None
    if xyxy.ndim != 2 or xyxy.shape[1] != 4 or len(points) != len(xyxy):
        raise ResponseError(f"boxes of shape {xyxy.shape} with {len(points)} scores; return (n, 4) and (n,)")
    if not (np.isfinite(xyxy).all() and np.isfinite(points).all()):
        raise ResponseError("boxes or scores are not finite")
    if (xyxy[:, 2:] < xyxy[:, :2]).any():
        row = int(np.flatnonzero((xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))[0])
        raise ResponseError(f"box {row} is {xyxy[row].tolist()}: it ends before it starts")
    names = None if labels is None else [str(label) for label in labels]
    if names is not None and len(names) != len(xyxy):
        raise ResponseError(f"{len(names)} labels for {len(xyxy)} boxes")
    return detections(xyxy, points, names)


def _class_names(answer: Any) -> NDArray[Any] | list[str] | None:
    data = getattr(answer, "data", None)
    if isinstance(data, Mapping) and "class_name" in data:
        return list(data["class_name"])
    ids: NDArray[Any] | None = getattr(answer, "class_id", None)
    return ids


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
