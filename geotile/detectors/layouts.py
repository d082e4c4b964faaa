"""Which families the shapes of a network's inputs and outputs fit, and how many classes the outputs then have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]
STRIDES = (8, 16, 32)
_STRIDE_SETS = (STRIDES, (8, 16, 32, 64), (4, 8, 16, 32), (4, 8, 16, 32, 64), (16, 32))  # heads P3-5, P3-6, P2-5 ...
_MAX_QUERIES = 1000
EFFICIENT_NMS = (
    ("num_dets", "det_boxes", "det_scores", "det_classes"),
    ("num_detections", "detection_boxes", "detection_scores", "detection_classes"),
)
"""Names of the outputs of TensorRT's plugin, as YOLOv7 and as the plugin give them."""
SIDE_BINS = 32
"""Number of channels in which NanoDet stores the four sides of a box: 8 bins for each."""


@dataclass(frozen=True)
class Tensor:
    """Input or output of a network."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    """Length of each axis; None where any length is accepted."""


@dataclass(frozen=True)
class Network:
    """Inputs and outputs of a network, as it declares them."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    size_yx: tuple[int, int] | None
    """Height and width of the input in pixels; None if they are not known."""
    stride: int | None = None
    """Largest stride in pixels, as the metadata say it."""
    keypoints: tuple[int, int] | None = None
    """Number of key points, and of the values of each, as the metadata say it."""

    def listed(self) -> str:
        """Return the outputs as text, for an error message."""
        return ", ".join(f"{each.name} {each.shape}" for each in self.outputs)


@dataclass(frozen=True)
class Fit:
    """A family that the shapes fit."""

    classes: int | None = None
    """Number of classes that the outputs have; None if the shapes do not tell."""


def count_cells(size_yx: tuple[int, int], strides: Sequence[int] = STRIDES, *, whole: bool = False) -> int:
    """Return the number of cells of all strides together.

    Parameters
    ----------
    size_yx : tuple of int
        Height and width of the input in pixels.
    strides : sequence of int
        Strides in pixels.
    whole : bool
        Whether a cell that lies partly outside the input counts.

    Examples
    --------
    >>> count_cells((416, 416)), count_cells((416, 416), (8, 16, 32, 64), whole=True)
    (3549, 3598)
    """
    divide: Callable[[float], int] = math.ceil if whole else math.floor
    return sum(divide(size_yx[0] / stride) * divide(size_yx[1] / stride) for stride in strides)


def fit(family: str, network: Network) -> Fit | None:
    """Return how the shapes of a network fit a family, None if they do not."""
    return _RULES[family](network)


def _single(network: Network) -> tuple[int | None, int | None] | None:
    """Return the last two lengths of the only output, None if there are others or it has other axes."""
    shapes = [each.shape for each in network.outputs]
    return (shapes[0][1], shapes[0][2]) if len(shapes) == 1 and len(shapes[0]) == 3 else None


def _counts(network: Network) -> Iterator[int]:
    """Yield the numbers of cells that a head can have."""
    for strides in _STRIDE_SETS:
        if network.size_yx is not None and network.stride in (None, strides[-1]):
            yield count_cells(network.size_yx, strides)
            yield count_cells(network.size_yx, strides, whole=True)


def _may_be_cells(length: int | None, network: Network, each: int = 1) -> bool:
    return length is None or network.size_yx is None or length in {each * count for count in _counts(network)}


def _classes(channels: int | None, others: int) -> Fit | None:
    """Return the fit of an output whose channels are the classes and some others."""
    if channels is None:
        return Fit()
    return Fit(channels - others) if channels > others else None


def _yolov5(network: Network) -> Fit | None:
    outputs = network.outputs
    first = outputs[0].shape
    inner = all(len(each.shape) == 5 for each in outputs[1:])  # exports of before 2022 also return the raw heads
    if len(first) != 3 or not inner or not _may_be_cells(first[1], network, each=3):
        return None
    return _classes(first[2], 5)


def _yolov8(network: Network) -> Fit | None:
    lengths = _single(network)
    if lengths is None or not _may_be_cells(lengths[1], network):
        return None
    return _classes(lengths[0], 4)


def _yolox(network: Network) -> Fit | None:
    lengths, size = _single(network), network.size_yx
    if lengths is None or (size is not None and lengths[0] not in (None, count_cells(size))):
        return None
    return _classes(lengths[1], 5)


def _nanodet_plus(network: Network) -> Fit | None:
    lengths, size = _single(network), network.size_yx
    if lengths is None or (size is not None and lengths[0] is not None and nanodet_strides(size, lengths[0]) is None):
        return None
    return _classes(lengths[1], SIDE_BINS)


def nanodet_strides(size_yx: tuple[int, int], cells: int) -> tuple[int, ...] | None:
    """Return the strides of a NanoDet-Plus head by its number of cells, None if no head has this number."""
    heads = ((8, 16, 32, 64), STRIDES)
    return next((strides for strides in heads if count_cells(size_yx, strides, whole=True) == cells), None)


def _end_to_end(network: Network, columns: int = 6) -> Fit | None:
    """Return the fit of (n, k, columns), unless k is a number of cells."""
    lengths, size = _single(network), network.size_yx
    if lengths is None or lengths[1] not in (None, columns):
        return None
    if size is not None and lengths[0] is not None:
        cells = {count_cells(size, strides) for strides in _STRIDE_SETS[:3]}
        if lengths[0] in {3 * count for count in cells} | {count_cells(size)}:
            return None
    return Fit()


def _yolov8_obb(network: Network) -> Fit | None:
    lengths = _single(network)
    return None if lengths is None or not _may_be_cells(lengths[1], network) else _classes(lengths[0], 5)


def _prototypes(network: Network) -> tuple[Network, int | None] | None:
    """Return a network without its prototypes, and their number; None if it has none that cover the input."""
    flat = [each for each in network.outputs if len(each.shape) == 3]
    deep = [each for each in network.outputs if len(each.shape) == 4]
    if len(network.outputs) != 2 or len(flat) != 1 or len(deep) != 1:
        return None
    count, rows, columns = deep[0].shape[1:]
    height, width = network.size_yx or (0, 0)
    if None not in (rows, columns) and (rows or 0) * width != (columns or 0) * height:
        return None
    return replace(network, outputs=flat), count


def _yolov8_seg(network: Network) -> Fit | None:
    parts = _prototypes(network)
    found = None if parts is None else _yolov8(parts[0])
    if parts is None or found is None or found.classes is None or parts[1] is None:
        return found
    return _classes(found.classes, parts[1])


def _yolo_nms_seg(network: Network) -> Fit | None:
    parts = _prototypes(network)
    return None if parts is None else _end_to_end(parts[0], 6 + (parts[1] or 32))


def _yolov8_pose(network: Network) -> Fit | None:
    lengths = _single(network)
    if lengths is None or not _may_be_cells(lengths[1], network):
        return None
    return Fit() if network.keypoints is None else _classes(lengths[0], 4 + math.prod(network.keypoints))


def _yolo_nms_pose(network: Network) -> Fit | None:
    lengths = _single(network)
    if lengths is None or (lengths[1] is not None and lengths[1] < 8):
        return None
    return _end_to_end(network, lengths[1] or 0 if network.keypoints is None else 6 + math.prod(network.keypoints))


def _rtdetr_ul(network: Network) -> Fit | None:
    lengths = _single(network)
    return _end_to_end(network) if lengths is not None and (lengths[0] or 0) <= _MAX_QUERIES else None


def _rtdetr_ul_scores(network: Network) -> Fit | None:
    lengths = _single(network)
    if lengths is None or (lengths[0] or 0) > _MAX_QUERIES:
        return None
    cells = {each * count for count in _counts(replace(network, stride=None)) for each in (1, 3)}
    if cells & set(lengths):
        return None
    return _classes(lengths[1], 4)


def _nanodet(network: Network) -> Fit | None:
    shapes = [each.shape for each in network.outputs]
    if len(shapes) != 6 or any(len(shape) != 3 for shape in shapes):
        return None
    size = network.size_yx
    cells = [None] * 3 if size is None else [count_cells(size, [stride]) for stride in STRIDES]
    for shape, count in zip(shapes, [*cells, *cells], strict=True):
        if None not in (shape[1], count) and shape[1] != count:
            return None
    classes, sides = {shape[2] for shape in shapes[:3]}, {shape[2] for shape in shapes[3:]}
    if len(classes) > 1 or len(sides) > 1 or any(bins is not None and bins % 4 for bins in sides):
        return None
    return _classes(classes.pop(), 0)


def _fastestdet(network: Network) -> Fit | None:
    shapes, size = [each.shape for each in network.outputs], network.size_yx
    if len(shapes) != 1 or len(shapes[0]) != 4:
        return None
    cells = (None, None) if size is None else (size[0] // 16, size[1] // 16)
    if any(None not in (n, count) and n != count for n, count in zip(shapes[0][2:], cells, strict=True)):
        return None
    return _classes(shapes[0][1], 5)


def _queries(network: Network, others: int) -> Fit | None:
    """Return the fit of the outputs logits and pred_boxes, or of the first two where they have other names."""
    by_name = {each.name: each.shape for each in network.outputs}
    shapes = [each.shape for each in network.outputs]
    if {"logits", "pred_boxes"} <= set(by_name):
        shapes = [by_name["logits"], by_name["pred_boxes"]]
    if len(shapes) < 2 or len(shapes[0]) != 3 or len(shapes[1]) != 3 or shapes[1][2] not in (None, 4):
        return None
    return _classes(shapes[0][2], others)


def _torchvision(network: Network) -> Fit | None:
    return Fit() if len(network.outputs) >= 3 else None


def _mmdet(network: Network) -> Fit | None:
    shapes = {each.name: each.shape for each in network.outputs}
    known = set(shapes) in ({"dets", "labels"}, {"dets", "labels", "masks"})
    return Fit() if known and shapes["dets"][-1:] in ((5,), (None,)) else None


def _efficientnms(network: Network) -> Fit | None:
    names = {each.name for each in network.outputs}
    return Fit() if any(names == set(group) for group in EFFICIENT_NMS) else None


def _yolov7_nms(network: Network) -> Fit | None:
    shapes = [each.shape for each in network.outputs]
    return Fit() if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] in (7, None) else None


_RULES: dict[str, Callable[[Network], Fit | None]] = {
    "yolov5": _yolov5, "yolov8": _yolov8, "yolo-nms": _end_to_end, "yolox": _yolox, "yolox-decoded": _yolox,
    "nanodet": _nanodet, "nanodet-plus": _nanodet_plus, "fastestdet": _fastestdet,
    "detr": lambda network: _queries(network, 1), "rtdetr": lambda network: _queries(network, 0),
    "rtdetr-ul": _rtdetr_ul, "rtdetr-ul-scores": _rtdetr_ul_scores, "torchvision": _torchvision,
    "mmdet": _mmdet, "efficientnms": _efficientnms, "yolov7-nms": _yolov7_nms,
    "yolov8-obb": _yolov8_obb, "yolov8-seg": _yolov8_seg, "yolov8-pose": _yolov8_pose,
    "yolo-nms-obb": lambda network: _end_to_end(network, 7), "yolo-nms-seg": _yolo_nms_seg,
    "yolo-nms-pose": _yolo_nms_pose,
}  # fmt: skip
