"""What Python callables return: the objects of the common detection libraries, and plain arrays.

================================== =======================================================================
returned object                    read as
================================== =======================================================================
``None``, ``[]``                   no detections
``(boxes, scores[, labels])``      boxes (n, 4) xyxy; scores (n,); labels: text or class numbers
array (n, 5) or (n, 6)             rows of xyxy, score and, in the sixth column, the class number
dict with ``scores`` and ``boxes`` torchvision's detectors and transformers' ``post_process_...``; optional: ``labels``,
                                   ``text_labels``, ``masks``, ``keypoints``; in place of boxes also
                                   ``segmentation`` (COCO's), ``xyxyxyxy`` (n, 4, 2), ``xywhr`` (n, 5)
Ultralytics ``Results``            boxes or oriented boxes, masks and key points, with the names of the model; ``Boxes``
                                   and ``OBB`` without names
supervision ``Detections``         xyxy, mask (compact, too) or ``data["xyxyxyxy"]``, confidence, class_name or
                                   class_id; other columns become properties
MMDetection ``InstanceData``       bboxes (n, 4), or MMRotate's (n, 5), scores, labels, masks; ``DetDataSample`` too
list of COCO results               bbox, segmentation (polygons or run lengths), score, category, keypoints
DataFrame, GeoDataFrame            columns xmin, ymin, xmax, ymax (or geometries alone), score and label (DeepForest's),
                                   in pixels; other columns become properties; tables of pyarrow and polars too
GeoJSON FeatureCollection          the OversightML contract
`Detections`                       as they are
list of one of these               the same, since many models return a list with one item per picture
================================== =======================================================================

Masks become polygons along the edges of their pixels. Rows of MMRotate, (cx, cy, w, h, angle, score), look like boxes
with a class, so they need their name: ``{"xywhr": rows[:, :5], "scores": rows[:, 5]}``. What would lose a part of the
answer is refused; so is an object without scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.values import as_array
from geotile.endpoints.answer import NOTHING, Answer, checked
from geotile.endpoints.columns import from_columns
from geotile.endpoints.decode import decode_collection
from geotile.endpoints.library_objects import from_boxes, from_instances, from_mapping, from_results
from geotile.endpoints.run_lengths import Size
from geotile.endpoints.tables import are_coco_rows, from_coco_rows, from_frame
from geotile.errors import EndpointError, ResponseError
from geotile.merging.detections import Detections

_UNDERSTOOD = (
    "return (boxes, scores), (boxes, scores, labels), an array (n, 5) or (n, 6), a FeatureCollection, a dict with "
    "scores and boxes or shapes, or an object of Ultralytics, torchvision, transformers, supervision, "
    "MMDetection or DeepForest"
)


def decode_object(answer: Any, tile_yx: Size | None = None) -> Answer:
    """Decode what a Python callable returned for a tile.

    Parameters
    ----------
    answer : object
        One of the objects that the table above names. Boxes are xyxy in pixels of the tile.
    tile_yx : tuple of int, optional
        Height and width of the tile, for masks, and objects that say of which size their picture was.

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
        return _decoded(answer, tile_yx)
    except EndpointError:
        raise
    except Exception as error:  # the object is foreign code: its conversions can raise anything
        raise ResponseError(f"the model's answer cannot be read: {type(error).__name__}: {error}") from error


def _check_size(answer: Any, tile_yx: Size | None) -> None:
    """Refuse the Results of Ultralytics for a picture of another size than the tile's."""
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    picture = getattr(answer, "orig_shape", None) if hasattr(answer, "boxes") else None
    if picture is not None and tile_yx is not None and tuple(picture) != tile_yx:
        raise ResponseError(
            f"the model returned Results of a picture of {picture[1]} x {picture[0]} px for a tile of {tile_yx[1]} x "
            f"{tile_yx[0]} px; give the tile as it is, or return boxes in pixels of the tile"
        )


def _decoded(answer: Any, tile_yx: Size | None) -> Answer:
    if isinstance(answer, Answer):
        return answer
    if isinstance(answer, Detections):
        return checked(Answer(detections=answer))
    if answer is None or (isinstance(answer, list | tuple) and not answer):
        return NOTHING
    if isinstance(answer, Mapping):
        return decode_collection(answer) if "type" in answer else from_mapping(answer, tile_yx)
    if hasattr(answer, "columns") and hasattr(answer, "to_pandas"):  # pyarrow, polars, cudf
        return from_frame(answer.to_pandas())
    if hasattr(answer, "columns") and hasattr(answer, "itertuples"):
        return from_frame(answer)
    if isinstance(answer, list | tuple):
        return _from_sequence(answer, tile_yx)
    return _from_object(answer, tile_yx)


def _from_object(answer: Any, tile_yx: Size | None) -> Answer:
    if hasattr(answer, "boxes") and hasattr(answer, "orig_shape"):
        return from_results(answer)
    if hasattr(answer, "xyxy"):
        return from_boxes(answer, tile_yx)
    if hasattr(answer, "pred_instances"):
        return _from_object(answer.pred_instances, tile_yx)
    if hasattr(answer, "bboxes") and hasattr(answer, "scores"):
        return from_instances(answer, tile_yx)
    if hasattr(answer, "__array__") or hasattr(answer, "detach"):
        return _from_rows(as_array(answer))
    raise ResponseError(f"the model returned {type(answer).__name__}; {_UNDERSTOOD}")


def _from_sequence(answer: list[Any] | tuple[Any, ...], tile_yx: Size | None) -> Answer:
    if all(isinstance(row, list | tuple) and len(row) in (5, 6) and not _nested(row) for row in answer):
        return _from_rows(np.array(answer, object))
    if are_coco_rows(answer):
        return from_coco_rows(answer, tile_yx)
    if len(answer) == 1:
        return _decoded(answer[0], tile_yx)
    if len(answer) in (2, 3):
        return from_columns(*answer)
    raise ResponseError(f"the model returned a {type(answer).__name__} of {len(answer)} items; {_UNDERSTOOD}")


def _nested(row: list[Any] | tuple[Any, ...]) -> bool:
    return any(isinstance(each, list | tuple) or getattr(each, "ndim", 0) for each in row)


def _from_rows(rows: NDArray[Any]) -> Answer:
    if rows.size == 0:
        return NOTHING
    if rows.ndim != 2 or rows.shape[1] not in (5, 6):
        raise ResponseError(f"an array must have shape (n, 5) or (n, 6): xyxy, score, class; got {rows.shape}")
    return from_columns(rows[:, :4], rows[:, 4], rows[:, 5] if rows.shape[1] == 6 else None)
