"""Decoders of Ultralytics' networks that return more than boxes: oriented boxes, masks and key points.

=========== ============================================= ========================================================
task        outputs of the head, n pictures in a batch    outputs after suppression (``nms=True``, end-to-end heads)
=========== ============================================= ========================================================
obb         (n, 4 + classes + 1, cells): cx cy w h,       (n, k, 7): cx cy w h, score, class, angle
            scores, angle in radians
segment     (n, 4 + classes + m, cells): cx cy w h,       (n, k, 6 + m): xyxy, score, class, coefficients; with the
            scores, coefficients; with (n, m, y, x)       same prototypes
            prototypes at a quarter of the resolution
pose        (n, 4 + classes + points · d, cells), where   (n, k, 6 + points · d): xyxy, score, class, key points
            d is 2 (x y) or 3 (x y and a score)
=========== ============================================= ========================================================

Sources: ultralytics, ``nn/modules/head.py``, ``utils/nms.py`` and ``utils/ops.py`` (``xywhr2xyxyxyxy``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geotile.detectors.preprocessing import Preprocessing
from geotile.detectors.raw import Array, Family, RawDetections, Size, centred
from geotile.detectors.scores import class_numbers
from geotile.geometry.oriented import corners_of

ULTRALYTICS = Preprocessing(fit="centre", scale=255.0)


def _oriented(xywhr: Array, scores: Array, labels: NDArray[np.int64] | None = None) -> RawDetections:
    corners = corners_of(xywhr)
    return RawDetections(np.hstack([corners.min(axis=1), corners.max(axis=1)]), scores, labels, oriented=xywhr)


def _yolov8_obb(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0].T
    return _oriented(np.hstack([out[:, :4], out[:, -1:]]), out[:, 4:-1])


def _yolo_nms_obb(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    return _oriented(np.hstack([out[:, :4], out[:, 6:]]), out[:, 4], class_numbers(out[:, 5]))


def _yolov8_seg(outputs: list[Array], size: Size) -> RawDetections:
    out, prototypes = outputs[0].T, outputs[1]
    boxes, m = centred(out[:, :2], out[:, 2:4]), len(prototypes)
    return RawDetections(boxes, out[:, 4:-m], coefficients=out[:, -m:], prototypes=prototypes)


def _yolo_nms_seg(outputs: list[Array], size: Size) -> RawDetections:
    out, prototypes = outputs
    labels = class_numbers(out[:, 5])
    return RawDetections(out[:, :4], out[:, 4], labels, coefficients=out[:, 6:], prototypes=prototypes)


def _yolov8_pose(outputs: list[Array], size: Size, shape: tuple[int, int]) -> RawDetections:
    out, values = outputs[0].T, shape[0] * shape[1]
    keypoints = out[:, -values:].reshape(-1, *shape)
    return RawDetections(centred(out[:, :2], out[:, 2:4]), out[:, 4:-values], keypoints=keypoints)


def _yolo_nms_pose(outputs: list[Array], size: Size, shape: tuple[int, int]) -> RawDetections:
    out = outputs[0]
    return RawDetections(out[:, :4], out[:, 4], class_numbers(out[:, 5]), keypoints=out[:, 6:].reshape(-1, *shape))


YOLO_SHAPES: dict[str, Family] = {
    "yolov8-obb": Family(preprocessing=ULTRALYTICS, decode=_yolov8_obb),
    "yolov8-seg": Family(preprocessing=ULTRALYTICS, decode=_yolov8_seg),
    "yolov8-pose": Family(preprocessing=ULTRALYTICS, decode=_yolov8_pose),
    "yolo-nms-obb": Family(preprocessing=ULTRALYTICS, decode=_yolo_nms_obb, needs_nms=False),
    "yolo-nms-seg": Family(preprocessing=ULTRALYTICS, decode=_yolo_nms_seg, needs_nms=False),
    "yolo-nms-pose": Family(preprocessing=ULTRALYTICS, decode=_yolo_nms_pose, needs_nms=False),
}
