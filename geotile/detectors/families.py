"""How networks of each family want pictures and say boxes.

=========== ======================================= ===================================================
family      outputs, n pictures in a batch          source
=========== ======================================= ===================================================
yolov5      (n, 3·cells, 5 + classes) in pixels     ultralytics/yolov5, ``export.py`` and ``general.py``
yolov8      (n, 4 + classes, cells) in pixels       ultralytics, ``export`` of v8, v9, 11, 12
yolo-nms    (n, k, 6): xyxy, score, class           ultralytics, v10, 26, and ``export(nms=True)``
yolox       (n, cells, 5 + classes), in strides     Megvii-BaseDetection/YOLOX, ``demo_utils.py``
nanodet     three (n, cells, classes), three        RangiLyu/nanodet, GFL head: the expected distance
            (n, cells, 32)                          over a softmax of 8 bins a side
fastestdet  (n, 5 + classes, rows, columns)         dog-qiuqiu/FastestDet, README
detr        logits (n, k, classes + 1), pred_boxes  facebookresearch/detr, ``PostProcess``: softmax, the
            (n, k, 4) of 0 to 1, cx cy w h          last class is none
rtdetr      the same without the last class         transformers, ``RTDetrImageProcessor``: sigmoid
rtdetr-ul   (n, k, 6): cx cy w h of 0 to 1, score,  ultralytics, ``export`` of RT-DETR; looks like yolo-nms,
            class                                   so it must be named
torchvision boxes (k, 4), labels (k), scores (k),   torchvision, detection models' ``eval`` output
            in pixels, or with n before k
=========== ======================================= ===================================================

cells = the sum over strides 8, 16, 32 of the cells of that stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotile.detectors.preprocessing import Preparation

Array = NDArray[np.float32]
Size = tuple[int, int]  # (y, x) of the input
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Raw:
    """What a network says of one picture: boxes (k, 4) xyxy in pixels of the input and scores (k, classes)."""

    boxes: Array
    scores: Array
    labels: NDArray[np.int64] | None = None
    """(k,), for scores (k,) of one class each."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of networks."""

    prepare: Preparation
    decode: Callable[[list[Array], Size], Raw]
    """``decode(outputs of one picture, size)``."""
    needs_nms: bool = True
    best_class_alone: bool = True
    """Whether a place is of one class."""


def cells_of(size: Size) -> int:
    """Count the cells of all strides."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)


def _cells(size: Size, stride: int) -> Array:
    """(n, 2) column and row of every cell, row by row."""
    across = size[1] // stride
    rows, columns = np.divmod(np.arange((size[0] // stride) * across), across)
    return np.stack([columns, rows], axis=1).astype(np.float32)


def _around(centre: Array, sides: Array) -> Array:
    return np.hstack([centre - sides / 2, centre + sides / 2])


def _softmax(values: Array) -> Array:
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Array = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def _sigmoid(values: Array) -> Array:
    return (1 / (1 + np.exp(-np.clip(values, -60, 60)))).astype(np.float32)


def _yolov5(outputs: list[Array], size: Size) -> Raw:
    out = outputs[0]
    return Raw(_around(out[:, :2], out[:, 2:4]), out[:, 4:5] * out[:, 5:])


def _yolov8(outputs: list[Array], size: Size) -> Raw:
    out = outputs[0].T
    return Raw(_around(out[:, :2], out[:, 2:4]), out[:, 4:])


def _yolo_nms(outputs: list[Array], size: Size) -> Raw:
    out = outputs[0]
    return Raw(out[:, :4], out[:, 4], out[:, 5].astype(np.int64))


def _yolox(outputs: list[Array], size: Size) -> Raw:
    out = outputs[0]
    cells = np.concatenate([_cells(size, s) for s in STRIDES])
    strides = np.concatenate([np.full((len(_cells(size, s)), 1), s, np.float32) for s in STRIDES])
    return Raw(_around((out[:, :2] + cells) * strides, np.exp(out[:, 2:4]) * strides), out[:, 4:5] * out[:, 5:])


def _nanodet(outputs: list[Array], size: Size) -> Raw:
    boxes, scores = [], []
    for stride, classes, sides in zip(STRIDES, outputs[:3], outputs[3:], strict=True):
        bins = sides.reshape(len(sides), 4, -1)
        reach = _softmax(bins) @ np.arange(bins.shape[2], dtype=np.float32) * stride
        centre = _cells(size, stride) * stride + (stride - 1) / 2
        boxes.append(np.hstack([centre - reach[:, :2], centre + reach[:, 2:]]))
        scores.append(classes)
    return Raw(np.concatenate(boxes), np.concatenate(scores))


def _fastestdet(outputs: list[Array], size: Size) -> Raw:
    out = outputs[0]
    down, across = out.shape[-2:]
    flat = out.reshape(len(out), -1).T
    rows, columns = np.divmod(np.arange(down * across), across)
    sides = np.array(size[::-1], np.float32)
    centre = (np.tanh(flat[:, 1:3]) + np.stack([columns, rows], axis=1)) * (sides / [across, down])
    boxes = _around(centre.astype(np.float32), _sigmoid(flat[:, 3:5]) * sides)
    return Raw(boxes, flat[:, :1] ** 0.6 * flat[:, 5:] ** 0.4)


def _of_queries(boxes: Array, scores: Array, size: Size) -> Raw:
    sides = np.array(size[::-1], np.float32)
    return Raw(_around(boxes[:, :2] * sides, boxes[:, 2:] * sides), scores)


def _detr(outputs: list[Array], size: Size) -> Raw:
    return _of_queries(outputs[1], _softmax(outputs[0])[:, :-1], size)


def _rtdetr(outputs: list[Array], size: Size) -> Raw:
    return _of_queries(outputs[1], _sigmoid(outputs[0]), size)


def _rtdetr_ul(outputs: list[Array], size: Size) -> Raw:
    out = outputs[0]
    return Raw(_of_queries(out[:, :4], out[:, 4:5], size).boxes, out[:, 4], out[:, 5].astype(np.int64))


def _torchvision(outputs: list[Array], size: Size) -> Raw:
    boxes, scores, labels = outputs
    return Raw(boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1).astype(np.int64))


_ULTRALYTICS = Preparation(fit="centre", scale=255.0)
_IMAGENET = Preparation(fit="stretch", scale=255.0, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))

FAMILIES: dict[str, Family] = {
    "yolov5": Family(prepare=_ULTRALYTICS, decode=_yolov5),
    "yolov8": Family(prepare=_ULTRALYTICS, decode=_yolov8),
    "yolo-nms": Family(prepare=_ULTRALYTICS, decode=_yolo_nms, needs_nms=False),
    "yolox": Family(prepare=Preparation(fit="corner", channels="BGR", bicubic=True), decode=_yolox),
    "nanodet": Family(
        prepare=Preparation(
            fit="stretch", channels="BGR", mean=(103.53, 116.28, 123.675), deviation=(57.375, 57.12, 58.395),
            bicubic=True,
        ),
        decode=_nanodet, best_class_alone=False,
    ),
    "fastestdet": Family(
        prepare=Preparation(fit="stretch", channels="BGR", scale=255.0, bicubic=True), decode=_fastestdet
    ),
    "detr": Family(prepare=_IMAGENET, decode=_detr, needs_nms=False),
    "rtdetr": Family(prepare=Preparation(fit="stretch", scale=255.0), decode=_rtdetr, needs_nms=False),
    "rtdetr-ul": Family(prepare=Preparation(fit="stretch", scale=255.0), decode=_rtdetr_ul, needs_nms=False),
    "torchvision": Family(prepare=Preparation(fit="as it is", scale=255.0), decode=_torchvision, needs_nms=False),
}  # fmt: skip
