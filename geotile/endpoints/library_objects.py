"""Answers of Ultralytics, supervision, torchvision, transformers and MMDetection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely

from geotile.core.values import as_array
from geotile.detectors.scores import class_numbers
from geotile.endpoints.answer import NOTHING, Answer
from geotile.endpoints.columns import from_columns, refuse_unread_names
from geotile.endpoints.parts import is_given, keypoint_lists, mask_shapes, oriented_shapes, pixels_of, rotated_shapes
from geotile.endpoints.run_lengths import Size
from geotile.errors import ResponseError
from geotile.geometry.masks import mask_polygon

_SHAPES = ("masks", "segmentation", "xyxyxyxy", "xywhr")
_KEYS = {"boxes", "scores", "labels", "text_labels", "keypoints", "keypoints_scores", *_SHAPES}
_WHOLE_TILE = {"probs": "class scores", "semantic_mask": "classes of the pixels", "depth": "depths"}


def from_mapping(answer: Mapping[str, Any], tile_yx: Size | None = None) -> Answer:
    """Return the answer in a dict of torchvision or transformers, or in one that names its columns likewise."""
    shapes = [name for name in _SHAPES if answer.get(name) is not None]
    unknown = sorted(set(map(str, answer)) - _KEYS)
    if "scores" not in answer or unknown or not ("boxes" in answer or shapes):
        raise ResponseError(
            "a dict must hold boxes, scores and, if there are any, labels or text_labels, keypoints, and masks, "
            f"segmentation, xyxyxyxy or xywhr, which may stand alone; got {sorted(map(str, answer))}"
        )
    labels = answer.get("text_labels")
    labels = answer.get("labels") if labels is None else labels
    parts = _parts({name: answer[name] for name in shapes}, tile_yx)
    if answer.get("keypoints") is not None and len(answer["keypoints"]):
        parts["keypoints"] = keypoint_lists(answer["keypoints"], answer.get("keypoints_scores"))
    if answer.get("boxes") is None and not len(parts["geometries"]):
        return NOTHING
    return from_columns(answer.get("boxes"), answer["scores"], labels, None, parts)


def _parts(given: Mapping[str, Any], tile_yx: Size | None) -> dict[str, Any]:
    """Return the shapes in one of several notations, and whether they are oriented boxes."""
    if len(given) > 1:
        raise ResponseError(f"the model must return one shape per detection; got {' and '.join(given)}. Leave one out")
    for name, column in given.items():
        if name in ("masks", "segmentation"):
            return {"geometries": mask_shapes(column, tile_yx)}
        if not is_given(column):
            return {"geometries": []}
        shapes = oriented_shapes(column) if name == "xyxyxyxy" else rotated_shapes(column)
        return {"geometries": shapes, "oriented": [True] * len(shapes)}
    return {}


def from_instances(answer: Any, tile_yx: Size | None = None) -> Answer:
    """Return the answer in the ``InstanceData`` of MMDetection and MMRotate: bboxes, scores, labels, perhaps masks."""
    boxes, masks = as_array(getattr(answer.bboxes, "tensor", answer.bboxes)), getattr(answer, "masks", None)
    columns = {"scores": answer.scores, "labels": answer.labels}
    if boxes.ndim == 2 and boxes.shape[1] == 5:
        columns["xywhr"] = boxes
    else:
        columns["boxes"] = boxes
    if masks is not None and len(boxes):
        columns["masks"] = getattr(masks, "masks", masks)  # BitmapMasks
    for name in ("keypoints", "keypoint_scores"):
        if getattr(answer, name, None) is not None:
            columns[name.replace("keypoint_", "keypoints_")] = getattr(answer, name)
    return NOTHING if not len(boxes) else from_mapping(columns, tile_yx)


def from_results(answer: Any) -> Answer:
    """Return the answer in the ``Results`` of Ultralytics: its boxes or oriented boxes, with masks and key points."""
    for name, content in _WHOLE_TILE.items():
        if is_given(getattr(answer, name, None)):
            raise ResponseError(
                f"the model returned {content} of the whole tile ({name}); use a model that detects objects"
            )
    obb: Any = getattr(answer, "obb", None)
    keypoints: Any = getattr(answer, "keypoints", None)
    masks: Any = getattr(answer, "masks", None)
    boxes = answer.boxes if obb is None else obb
    if boxes is None:
        raise ResponseError("the model returned Results without boxes; use a model that detects objects")
    if obb is not None and is_given(answer.boxes):
        raise ResponseError("the model returned Results with boxes and oriented boxes; return one of them")
    if not len(as_array(boxes.cls)):
        return NOTHING
    parts: dict[str, Any] = {}
    if obb is not None:
        parts = _parts({"xyxyxyxy": obb.xyxyxyxy}, None)
    elif is_given(masks):
        parts["geometries"] = [_unletterboxed(mask, tuple(answer.orig_shape)) for mask in masks.data]
    if is_given(keypoints):
        parts["keypoints"] = keypoint_lists(keypoints.data)
    more = {} if getattr(boxes, "id", None) is None else {"track_id": as_array(boxes.id)}
    return from_columns(None if obb is not None else boxes.xyxy, boxes.conf, _labels(answer, boxes.cls), more, parts)


def _labels(answer: Any, numbers: Any) -> list[str]:
    """Return the names of class numbers in the ``Results`` of Ultralytics."""
    names, found = getattr(answer, "names", None), class_numbers(as_array(numbers)).tolist()
    if unnamed := set(found) - (set(names) if isinstance(names, Mapping) else set(range(len(names or ())))):
        raise ResponseError(f"the model returned class {min(unnamed)}, which is not among its names ({names!r})")
    return [names[k] for k in found]  # type: ignore[index]  # all are among them


def _unletterboxed(mask: Any, picture_yx: tuple[int, int]) -> Any:
    """Return a mask of Ultralytics, which has the size of the network's input unless it is a retina mask, as a shape.

    References
    ----------
    ``scale_masks`` of Ultralytics: the picture lies in the middle of the mask, with its own aspect ratio.
    """
    pixels = pixels_of(mask)
    shape = mask_polygon(pixels)
    if pixels.shape == picture_yx or shape.is_empty:
        return shape
    mask_xy, picture_xy = np.array(pixels.shape[::-1]), np.array(picture_yx[::-1])
    inner = np.maximum(np.rint(picture_xy * (mask_xy / picture_xy).min()), 1)
    border = np.rint((mask_xy - inner) / 2 - 0.1)
    return shapely.transform(shape, lambda xy: (xy - border) / inner * picture_xy)


def from_boxes(answer: Any, tile_yx: Size | None = None) -> Answer:
    """Return the answer in an object with ``xyxy``: supervision's Detections, or the Boxes or OBB of Ultralytics."""
    scores = next((each for name in ("confidence", "conf") if (each := getattr(answer, name, None)) is not None), None)
    if len(as_array(answer.xyxy)) == 0:
        return NOTHING
    if scores is None:
        raise ResponseError(
            f"the {type(answer).__name__} must have scores, as `confidence` or `conf`; set them, to ones if the model "
            "has none"
        )
    data = getattr(answer, "data", None)
    columns = dict(data) if isinstance(data, Mapping) else {}
    metadata = getattr(answer, "metadata", None) or {}
    columns |= {name: [value] * len(answer.xyxy) for name, value in metadata.items()}
    corners = columns.pop("xyxyxyxy", None)
    shapes = {"xyxyxyxy": getattr(answer, "xyxyxyxy", None) if corners is None else corners}
    shapes["masks"] = getattr(answer, "mask", None)
    parts = _parts({name: column for name, column in shapes.items() if column is not None}, tile_yx)
    ids = next((each for name in ("class_id", "cls") if (each := getattr(answer, name, None)) is not None), None)
    names = columns.pop("class_name", None)
    if names is None:
        refuse_unread_names(columns)
    tracks = next((each for name in ("tracker_id", "id") if (each := getattr(answer, name, None)) is not None), None)
    more = columns if tracks is None else columns | {"track_id": as_array(tracks)}
    boxes = None if parts.get("oriented") else answer.xyxy
    return from_columns(boxes, scores, ids if names is None else names, more, parts)
