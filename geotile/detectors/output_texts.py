"""The outputs of each family as text, for error messages."""

from __future__ import annotations

_SHAPES = {
    "yolov5": "one output (n, 3·cells, 5 + classes)", "yolov8": "one output (n, 4 + classes, cells)",
    "yolo-nms": "one output (n, k, 6)", "yolox": "one output (n, cells, 5 + classes)",
    "yolox-decoded": "one output (n, cells, 5 + classes)",
    "nanodet": "three outputs (n, cells, classes) and three (n, cells, 32)",
    "nanodet-plus": "one output (n, cells, classes + 32)",
    "fastestdet": "one output (n, 5 + classes, rows, columns) with a stride of 16",
    "detr": "the outputs logits (n, k, classes + 1) and pred_boxes (n, k, 4)",
    "rtdetr": "the outputs logits (n, k, classes) and pred_boxes (n, k, 4)",
    "rtdetr-ul": "one output (n, k, 6)", "rtdetr-ul-scores": "one output (n, k, 4 + classes)",
    "torchvision": "the outputs boxes, scores and labels", "mmdet": "the outputs dets (n, k, 5) and labels (n, k)",
    "efficientnms": "the outputs num_dets, det_boxes, det_scores and det_classes",
    "yolov7-nms": "one output (rows, 7)",
    "yolov8-obb": "one output (n, 4 + classes + 1, cells)",
    "yolov8-seg": "the outputs (n, 4 + classes + m, cells) and (n, m, y, x)",
    "yolov8-pose": "one output (n, 4 + classes + values of the key points, cells)",
    "yolo-nms-obb": "one output (n, k, 7)", "yolo-nms-seg": "the outputs (n, k, 6 + m) and (n, m, y, x)",
    "yolo-nms-pose": "one output (n, k, 6 + values of the key points)",
}  # fmt: skip


def output_shapes(family: str) -> str:
    """Return the outputs of a family as text, for an error message."""
    return _SHAPES[family]
