"""What Python callables return: the objects of the common detection libraries, and plain arrays.

================================== =======================================================================
returned object                    read as
================================== =======================================================================
``None``, ``[]``                   no detections
``(boxes, scores[, labels])``      boxes (n, 4) xyxy; scores (n,); labels: text or class numbers
array (n, 5) or (n, 6)             rows of xyxy, score and, in the sixth column, the class number
dict with ``boxes``, ``scores``    torchvision's detectors and ``post_process_object_detection`` of transformers;
                                   ``labels`` and ``text_labels`` are optional
Ultralytics ``Results``            its boxes, with the names of the model; ``Boxes`` without names
supervision ``Detections``         xyxy, confidence, class_name or class_id; other columns become properties
DataFrame, GeoDataFrame            columns xmin, ymin, xmax, ymax, score and label (DeepForest's), in pixels;
                                   other columns become properties; tables of pyarrow and polars too
GeoJSON FeatureCollection          the OversightML contract
list of one of these               the same, since many models return a list with one item per picture
================================== =======================================================================

Masks, oriented boxes and key points are refused, since they would be lost; so is an object without scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.values import as_array, as_numbers, as_text, is_missing
from geotile.detectors.scores import class_numbers
from geotile.endpoints.answer import NOTHING, Answer, answer_of, checked, properties_of
from geotile.endpoints.decode import decode_collection
from geotile.errors import EndpointError, ResponseError
from geotile.merging.detections import Detections, detections

_BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
_LIKE_LABEL = {"label", "labels", "name", "class", "class_name", "class_id", "cls", "category", "category_id"}
_UNDERSTOOD = (
    "return (boxes, scores), (boxes, scores, labels), an array (n, 5) or (n, 6), a FeatureCollection, or what "
    "Ultralytics, torchvision, transformers, supervision or DeepForest return"
)


def decode_object(answer: Any, tile_yx: tuple[int, int] | None = None) -> Answer:
    """Decode what a Python callable returned for a tile.

    Parameters
    ----------
    answer : object
        One of the objects that the table above names. Boxes are xyxy in pixels of the tile.
    tile_yx : tuple of int, optional
        Height and width of the tile, for objects that say of which size their picture was.

    Raises
    ------
    ResponseError
        If it is none of these, if a part of it would be lost, or if nothing in it is valid. Whatever the object
        itself raises while it is read becomes a ResponseError too.

    Examples
    --------
    >>> decode_object(([[0, 0, 4, 4]], [0.9], ["car"])).detections.labels.tolist()
    ['car']
    """
    try:
        _check_size(answer, tile_yx)
        return _decoded(answer)
    except EndpointError:
        raise
    except Exception as error:  # the object is foreign code: its conversions can raise anything
        raise ResponseError(f"the model's answer cannot be read: {type(error).__name__}: {error}") from error


def _check_size(answer: Any, tile_yx: tuple[int, int] | None) -> None:
    """Refuse the Results of Ultralytics for a picture of another size than the tile's."""
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    picture = getattr(answer, "orig_shape", None) if hasattr(answer, "boxes") else None
    if picture is not None and tile_yx is not None and tuple(picture) != tile_yx:
        raise ResponseError(
            f"the model returned Results of a picture of {picture[1]} x {picture[0]} px for a tile of {tile_yx[1]} x "
            f"{tile_yx[0]} px; give the tile as it is, or return boxes in pixels of the tile"
        )


def _decoded(answer: Any) -> Answer:
    if isinstance(answer, Answer):
        return answer
    if isinstance(answer, Detections):
        return checked(Answer(detections=answer))
    if answer is None or (isinstance(answer, list | tuple) and not answer):
        return NOTHING
    if isinstance(answer, Mapping):
        return decode_collection(answer) if "type" in answer else _from_mapping(answer)
    if hasattr(answer, "columns") and hasattr(answer, "to_pandas"):  # pyarrow, polars, cudf
        return _from_frame(answer.to_pandas())
    if hasattr(answer, "columns") and hasattr(answer, "itertuples"):
        return _from_frame(answer)
    if hasattr(answer, "boxes") and hasattr(answer, "orig_shape"):
        return _from_results(answer)
    if hasattr(answer, "xyxy"):
        return _from_boxes(answer)
    if isinstance(answer, list | tuple):
        return _from_sequence(answer)
    if hasattr(answer, "__array__") or hasattr(answer, "detach"):
        return _from_rows(as_array(answer))
    raise ResponseError(f"the model returned {type(answer).__name__}; {_UNDERSTOOD}")


def _from_sequence(answer: list[Any] | tuple[Any, ...]) -> Answer:
    if all(isinstance(row, list | tuple) and len(row) in (5, 6) and not _nested(row) for row in answer):
        return _from_rows(np.array(answer, object))
    if len(answer) == 1:
        return _decoded(answer[0])
    if len(answer) in (2, 3):
        return _from_columns(*answer)
    raise ResponseError(f"the model returned a {type(answer).__name__} of {len(answer)} items; {_UNDERSTOOD}")


def _nested(row: list[Any] | tuple[Any, ...]) -> bool:
    return any(isinstance(each, list | tuple) or getattr(each, "ndim", 0) for each in row)


def _from_rows(rows: NDArray[Any]) -> Answer:
    if rows.size == 0:
        return NOTHING
    if rows.ndim != 2 or rows.shape[1] not in (5, 6):
        raise ResponseError(f"an array must have shape (n, 5) or (n, 6): xyxy, score, class; got {rows.shape}")
    return _from_columns(rows[:, :4], rows[:, 4], rows[:, 5] if rows.shape[1] == 6 else None)


def _from_mapping(answer: Mapping[str, Any]) -> Answer:
    _refuse_parts(answer, ("masks", "keypoints", "keypoints_scores", "segmentation", "obb"))
    unknown = sorted(set(map(str, answer)) - {"boxes", "scores", "labels", "text_labels"} - set(_PARTS))
    if "boxes" not in answer or "scores" not in answer or unknown:
        raise ResponseError(
            "a dict must hold boxes, scores and, if there are any, labels or text_labels; got "
            f"{sorted(map(str, answer))}"
        )
    labels = answer.get("text_labels")
    return _from_columns(answer["boxes"], answer["scores"], answer.get("labels") if labels is None else labels)


def _from_results(answer: Any) -> Answer:
    """Decode the ``Results`` of Ultralytics."""
    _refuse_parts({name: getattr(answer, name, None) for name in _PARTS}, ("masks", "keypoints", "obb", "probs"))
    boxes = answer.boxes
    if boxes is None:
        raise ResponseError("the model returned Results without boxes; use a model whose task is detect")
    names, numbers = getattr(answer, "names", None), class_numbers(as_array(boxes.cls)).tolist()
    if unnamed := set(numbers) - (set(names) if isinstance(names, Mapping) else set(range(len(names or ())))):
        raise ResponseError(f"the model returned class {min(unnamed)}, which is not among its names ({names!r})")
    labels = [names[k] for k in numbers]  # type: ignore[index]  # all are among them
    more = {} if getattr(boxes, "id", None) is None else {"track_id": as_array(boxes.id)}
    return _from_columns(boxes.xyxy, boxes.conf, labels, more)


def _from_boxes(answer: Any) -> Answer:
    """Decode an object with ``xyxy``: supervision's Detections, or the Boxes of Ultralytics."""
    scores = next((each for name in ("confidence", "conf") if (each := getattr(answer, name, None)) is not None), None)
    if len(as_array(answer.xyxy)) == 0:
        return NOTHING
    if scores is None:
        raise ResponseError(
            f"the {type(answer).__name__} must have scores, as `confidence` or `conf`; set them, to ones if the model "
            "has none"
        )
    _refuse_parts({name: getattr(answer, name, None) for name in _PARTS}, ("mask", "masks", "xyxyxyxy"))
    data = getattr(answer, "data", None)
    columns = dict(data) if isinstance(data, Mapping) else {}
    metadata = getattr(answer, "metadata", None) or {}
    columns |= {name: [value] * len(answer.xyxy) for name, value in metadata.items()}
    _refuse_parts(columns, ("xyxyxyxy",))
    ids = next((each for name in ("class_id", "cls") if (each := getattr(answer, name, None)) is not None), None)
    names = columns.pop("class_name", None)
    if names is None:
        _refuse_unread_names(columns)
    tracks = next((each for name in ("tracker_id", "id") if (each := getattr(answer, name, None)) is not None), None)
    more = columns if tracks is None else columns | {"track_id": as_array(tracks)}
    return _from_columns(answer.xyxy, scores, ids if names is None else names, more)


def _from_frame(frame: Any) -> Answer:
    """Decode a table in pixels."""
    if getattr(frame, "crs", None) is not None:
        raise ResponseError(f"a GeoDataFrame must be in pixels of the tile, without a CRS; got {frame.crs}")
    names = [str(name) for name in frame.columns]
    if not len(frame):
        return NOTHING
    if missing := [name for name in (*_BOX_COLUMNS, "score") if name not in names]:
        raise ResponseError(f"a table must have the columns xmin, ymin, xmax, ymax and score; {missing} are missing")
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ResponseError(f"the columns of a table must have names of their own; {double} occur twice")
    if "label" not in names:
        _refuse_unread_names(names)
    used = {*_BOX_COLUMNS, "score", "label", "geometry", "image_path"}
    if "geometry" in names:
        boxes = as_numbers(frame[list(_BOX_COLUMNS)].to_numpy(object), "boxes")
        known = np.isfinite(boxes).all(axis=1)  # the others are rejected row by row
        shapes, expected = frame["geometry"].to_numpy()[known], shapely.box(*boxes[known].T)
        if not shapely.equals_exact(shapely.normalize(shapes), shapely.normalize(expected), 1e-6).all():
            raise ResponseError("the geometries of a table must be its boxes; other shapes would be lost")
    more = {name: list(frame[name]) for name in names if name not in used}
    labels = list(frame["label"]) if "label" in names else None
    return _from_columns(frame[list(_BOX_COLUMNS)].to_numpy(object), frame["score"].to_numpy(object), labels, more)


def _from_columns(boxes: Any, scores: Any, labels: Any = None, more: Mapping[str, Any] | None = None) -> Answer:
    """Decode columns of the same length."""
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
    n = len(xyxy)
    names = [""] * n if labels is None else _listed(labels, "label", n)
    columns = {name: _listed(column, name, n) for name, column in (more or {}).items()}
    missing = [is_missing(each) for each in names]
    try:
        texts = ["" if gap else as_text(each, "label") for each, gap in zip(names, missing, strict=True)]
    except ValueError as error:
        raise ResponseError(str(error)) from None
    if not columns and not any(missing):
        return checked(Answer(detections=detections(xyxy, values.reshape(-1), texts)))

    def row_of(k: int, box: Any) -> tuple[Any, ...]:
        if missing[k]:
            raise ResponseError(f"a label must be text or a whole number; got {names[k]!r}")
        properties = properties_of((name, column[k]) for name, column in columns.items())
        return box, values.reshape(-1)[k], texts[k], None, None, properties

    return answer_of(list(xyxy), row_of)


def _refuse_unread_names(columns: Iterable[str]) -> None:
    """Refuse columns that look like class names where the column of class names is missing."""
    if like := [name for name in columns if name.lower() in _LIKE_LABEL]:
        raise ResponseError(
            "class names must be in the column label of a table, or as class_name in the data of supervision; got "
            f"{like}. Rename the column"
        )


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


_PARTS = {
    "mask": "masks", "masks": "masks", "segmentation": "masks", "keypoints": "key points",
    "keypoints_scores": "key points", "obb": "oriented boxes", "xyxyxyxy": "oriented boxes",
    "probs": "class scores of the whole tile",
}  # fmt: skip


def _refuse_parts(parts: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse parts of an answer that detections cannot hold yet."""
    for name in names:
        part = parts.get(name)
        if part is not None and (not hasattr(part, "__len__") or len(part)):
            raise ResponseError(
                f"the model returned {_PARTS[name]} ({name}), which geotile cannot merge yet; return boxes only"
            )
