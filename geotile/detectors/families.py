"""Families of detection networks: the preprocessing that they expect, and the decoding of their outputs.

=========== ======================================= ===================================================
family      outputs, n pictures in a batch          source
=========== ======================================= ===================================================
yolov5      (n, 3·cells, 5 + classes) in pixels     ultralytics/yolov5, ``export.py`` and ``general.py``
yolov8      (n, 4 + classes, cells) in pixels       ultralytics, ``export`` of v8, v9, 11, 12
yolo-nms    (n, k, 6): xyxy, score, class           ultralytics, v10, 26, and ``export(nms=True)``
yolox       (n, cells, 5 + classes), in strides     Megvii-BaseDetection/YOLOX, ``demo_utils.py``
yolox-      the same in pixels; users must name it  the same, exported with ``--decode_in_inference``
decoded
nanodet     three (n, cells, classes), three        RangiLyu/nanodet, GFL head: the expected distance
            (n, cells, 32)                          over a softmax of 8 bins a side
nanodet-    (n, cells, classes + 32), with a        RangiLyu/nanodet, ``nanodet_plus_head.py``: a cell's corner
plus        fourth stride of 64; cells are rounded  in place of its centre
            up
fastestdet  (n, 5 + classes, rows, columns)         dog-qiuqiu/FastestDet, README
detr        logits (n, k, classes + 1), pred_boxes  facebookresearch/detr, ``PostProcess``: softmax, the
            (n, k, 4) in 0 to 1, cx cy w h          last class means "no object"
rtdetr      the same without the last class         transformers, ``RTDetrImageProcessor``: sigmoid
rtdetr-ul   (n, k, 6): cx cy w h in 0 to 1, score,  ultralytics, ``export`` of RT-DETR since 2026; without
            class                                   metadata it looks like yolo-nms, and users must name it
rtdetr-ul-  (n, k, 4 + classes): cx cy w h in 0     the same before 2026
scores      to 1, then a score for each class
=========== ======================================= ===================================================

Networks that return oriented boxes, masks or key points are in `geotile.detectors.yolo_shapes`, others that suppress
overlapping boxes themselves in `geotile.detectors.suppressed`.

cells = the number of cells over the strides 8, 16 and 32 together.
"""

from __future__ import annotations

import numpy as np

from geotile.detectors.layouts import SIDE_BINS, STRIDES, nanodet_strides
from geotile.detectors.preprocessing import Preprocessing
from geotile.detectors.raw import Array, Family, RawDetections, Size, centred
from geotile.detectors.scores import as_scores, class_numbers
from geotile.detectors.suppressed import SUPPRESSED
from geotile.detectors.yolo_shapes import ULTRALYTICS, YOLO_SHAPES

_MAX_SHARE = 2.0  # of the input's side; a box may reach over its edge
_MAX_OFFSET = 4.0  # median distance of a box from its cell, in strides


def _cells(size: Size, stride: int, *, whole: bool = False) -> Array:
    """Return column and row of every cell of a stride, (n, 2), row by row; `whole` counts cells that are cut."""
    down, across = (-(-side // stride) if whole else side // stride for side in size)
    rows, columns = np.divmod(np.arange(down * across), across)
    return np.stack([columns, rows], axis=1).astype(np.float32)


def _softmax(values: Array) -> Array:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Array = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def _sigmoid(values: Array) -> Array:
    return (1 / (1 + np.exp(-np.clip(values, -60, 60)))).astype(np.float32)


def _yolov5(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    return RawDetections(centred(out[:, :2], out[:, 2:4]), as_scores(out[:, 4:5]) * as_scores(out[:, 5:]))


def _yolov8(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0].T
    return RawDetections(centred(out[:, :2], out[:, 2:4]), out[:, 4:])


def _yolo_nms(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    return RawDetections(out[:, :4], out[:, 4], class_numbers(out[:, 5]))


def _yolox(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    if len(out) and np.median(np.abs(out[:, :2])) > _MAX_OFFSET:
        raise ValueError(
            "the boxes are in pixels already, as after an export with --decode_in_inference: give "
            "family='yolox-decoded'"
        )
    cells = np.concatenate([_cells(size, s) for s in STRIDES])
    strides = np.concatenate([np.full((len(_cells(size, s)), 1), s, np.float32) for s in STRIDES])
    boxes = centred((out[:, :2] + cells) * strides, np.exp(out[:, 2:4]) * strides)
    return RawDetections(boxes, as_scores(out[:, 4:5]) * as_scores(out[:, 5:]))


def _yolox_decoded(outputs: list[Array], size: Size) -> RawDetections:
    if len(outputs[0]) and np.median(np.abs(outputs[0][:, :2])) <= _MAX_OFFSET:
        raise ValueError("the boxes are offsets from cells, not pixels: give family='yolox'")
    return _yolov5(outputs, size)


def _around(centre: Array, sides: Array, stride: Array | int, size: Size) -> Array:
    """Return boxes xyxy around points, clipped to the input as NanoDet's authors do it before suppression.

    The distance to a side is its expected value over a softmax of bins, in strides.
    """
    bins = sides.reshape(len(sides), 4, -1)
    reach = _softmax(bins) @ np.arange(bins.shape[2], dtype=np.float32) * stride
    boxes = np.hstack([centre - reach[:, :2], centre + reach[:, 2:]])
    return np.clip(boxes, 0, np.tile(np.array(size[::-1], np.float32), 2))


def _nanodet(outputs: list[Array], size: Size) -> RawDetections:
    boxes = [
        _around(_cells(size, stride) * stride + (stride - 1) / 2, sides, stride, size)
        for stride, sides in zip(STRIDES, outputs[3:], strict=True)
    ]
    return RawDetections(np.concatenate(boxes), np.concatenate(outputs[:3]))


def _nanodet_plus(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    strides = nanodet_strides(size, len(out))
    if strides is None:
        raise ValueError(f"an input of {size} has another number of cells")
    cells = [_cells(size, stride, whole=True) for stride in strides]
    stride = np.concatenate([np.full((len(each), 1), s, np.float32) for each, s in zip(cells, strides, strict=True)])
    boxes = _around(np.concatenate(cells) * stride, out[:, -SIDE_BINS:], stride, size)
    return RawDetections(boxes, out[:, :-SIDE_BINS])


def _fastestdet(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    down, across = out.shape[-2:]
    flat = out.reshape(len(out), -1).T
    rows, columns = np.divmod(np.arange(down * across), across)
    sides = np.array(size[::-1], np.float32)
    centre = (np.tanh(flat[:, 1:3]) + np.stack([columns, rows], axis=1)) * (sides / [across, down])
    boxes = centred(centre.astype(np.float32), _sigmoid(flat[:, 3:5]) * sides)
    return RawDetections(boxes, as_scores(flat[:, :1]) ** 0.6 * as_scores(flat[:, 5:]) ** 0.4)


def _from_queries(boxes: Array, scores: Array, size: Size) -> RawDetections:
    if len(boxes) and np.abs(boxes).max() > _MAX_SHARE:
        raise ValueError(f"boxes must be shares of the input, from 0 to 1; the largest number is {boxes.max():.6g}")
    sides = np.array(size[::-1], np.float32)
    return RawDetections(centred(boxes[:, :2] * sides, boxes[:, 2:] * sides), scores)


def _detr(outputs: list[Array], size: Size) -> RawDetections:
    return _from_queries(outputs[1], _softmax(outputs[0])[:, :-1], size)


def _rtdetr(outputs: list[Array], size: Size) -> RawDetections:
    return _from_queries(outputs[1], _sigmoid(outputs[0]), size)


def _rtdetr_ul(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    return RawDetections(_from_queries(out[:, :4], out[:, 4:5], size).boxes, out[:, 4], class_numbers(out[:, 5]))


def _rtdetr_ul_scores(outputs: list[Array], size: Size) -> RawDetections:
    return _from_queries(outputs[0][:, :4], outputs[0][:, 4:], size)


_IMAGENET = Preprocessing(fit="stretch", scale=255.0, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
_NANODET = Preprocessing(
    fit="stretch", channels="BGR", mean=(103.53, 116.28, 123.675), deviation=(57.375, 57.12, 58.395), bicubic=True,
)  # fmt: skip
_SCALED = Preprocessing(fit="stretch", scale=255.0)
_YOLOX = Preprocessing(fit="corner", channels="BGR", bicubic=True)

FAMILIES: dict[str, Family] = {
    "yolov5": Family(preprocessing=ULTRALYTICS, decode=_yolov5),
    "yolov8": Family(preprocessing=ULTRALYTICS, decode=_yolov8),
    "yolo-nms": Family(preprocessing=ULTRALYTICS, decode=_yolo_nms, needs_nms=False),
    "yolox": Family(preprocessing=_YOLOX, decode=_yolox),
    "yolox-decoded": Family(preprocessing=_YOLOX, decode=_yolox_decoded),
    "nanodet": Family(preprocessing=_NANODET, decode=_nanodet, single_label=False),
    "nanodet-plus": Family(preprocessing=_NANODET, decode=_nanodet_plus, single_label=False),
    "fastestdet": Family(
        preprocessing=Preprocessing(fit="stretch", channels="BGR", scale=255.0, bicubic=True), decode=_fastestdet
    ),
    "detr": Family(preprocessing=_IMAGENET, decode=_detr, needs_nms=False),
    "rtdetr": Family(preprocessing=_SCALED, decode=_rtdetr, needs_nms=False),
    "rtdetr-ul": Family(preprocessing=_SCALED, decode=_rtdetr_ul, needs_nms=False),
    "rtdetr-ul-scores": Family(preprocessing=_SCALED, decode=_rtdetr_ul_scores, needs_nms=False),
    **SUPPRESSED,
    **YOLO_SHAPES,
}  # fmt: skip
