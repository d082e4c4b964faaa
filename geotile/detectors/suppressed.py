"""Decoders of networks with suppression of their own, other than Ultralytics'.

============ ======================================== ==================================================
family       outputs, n pictures in a batch           source
============ ======================================== ==================================================
mmdet        dets (n, k, 5): xyxy, score; labels      MMDetection and MMDeploy, exports of detectors
             (n, k); perhaps masks (n, k, y, x)
efficientnms num_dets (n, 1), det_boxes (n, k, 4),    TensorRT's plugin EfficientNMS, for which YOLOv7
             det_scores (n, k), det_classes (n, k)    and others are exported
yolov7-nms   (rows, 7): number of the picture, xyxy,  WongKinYiu/yolov7, ``export.py --end2end --max-wh``
             class, score
torchvision  boxes (k, 4), labels (k), scores (k), in torchvision, detection models' ``eval`` output
             pixels, or with n before k; perhaps
             masks (k, 1, y, x), keypoints (k, p, 3)
             and keypoints_scores (k, p)
============ ======================================== ==================================================
"""

from __future__ import annotations

import numpy as np

from geotile.detectors.preprocessing import Preprocessing
from geotile.detectors.raw import Array, Family, RawDetections, Size
from geotile.detectors.scores import class_numbers
from geotile.detectors.yolo_shapes import ULTRALYTICS


def _mmdet(outputs: list[Array], size: Size) -> RawDetections:
    dets, labels = outputs[:2]
    masks = outputs[2] if len(outputs) > 2 else None
    return RawDetections(dets[:, :4], dets[:, 4], class_numbers(labels), masks=masks)


def _efficientnms(outputs: list[Array], size: Size) -> RawDetections:
    number, boxes, scores, labels = outputs
    k = int(class_numbers(number.reshape(-1))[0])
    if not 0 <= k <= len(boxes):
        raise ValueError(f"num_dets must be at most the {len(boxes)} boxes; it is {k}")
    return RawDetections(boxes[:k], scores[:k].reshape(-1), class_numbers(labels[:k].reshape(-1)))


def _yolov7_nms(outputs: list[Array], size: Size) -> RawDetections:
    out = outputs[0]
    return RawDetections(out[:, 1:5], out[:, 6], class_numbers(out[:, 5]))


def _torchvision(outputs: list[Array], size: Size) -> RawDetections:
    boxes, scores, labels, *others = outputs
    masks, keypoints = None, None
    for each in others:  # masks, key points, and their scores, which replace the visibility
        if each.ndim == 4:
            masks = each[:, 0]
        elif each.ndim == 3:
            keypoints = each
        elif keypoints is not None:
            keypoints = np.concatenate([keypoints[..., :2], each[..., None]], axis=2)
    numbers = class_numbers(labels.reshape(-1))
    return RawDetections(boxes.reshape(-1, 4), scores.reshape(-1), numbers, masks=masks, keypoints=keypoints)


_MMDETECTION = Preprocessing(fit="corner", mean=(123.675, 116.28, 103.53), deviation=(58.395, 57.12, 57.375))

SUPPRESSED: dict[str, Family] = {
    "mmdet": Family(preprocessing=_MMDETECTION, decode=_mmdet, needs_nms=False),
    "efficientnms": Family(preprocessing=ULTRALYTICS, decode=_efficientnms, needs_nms=False),
    "yolov7-nms": Family(preprocessing=ULTRALYTICS, decode=_yolov7_nms, needs_nms=False),
    "torchvision": Family(
        preprocessing=Preprocessing(fit="unchanged", scale=255.0), decode=_torchvision, needs_nms=False
    ),
}
