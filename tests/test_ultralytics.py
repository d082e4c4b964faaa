"""Real exports of Ultralytics, against Ultralytics' own predictions on them. Skipped where it is not installed.

The networks have random weights, with the statistics of a few pictures, so that they return hundreds of boxes.
"""

import numpy as np
import pytest

from geotile import ArgumentError
from geotile.detectors import OnnxDetector

ultralytics = pytest.importorskip("ultralytics")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # torch's exporter warns

CONFIDENCE, IOU, SIDE = 0.05, 0.5, 256
NMS = {"nms": True, "conf": CONFIDENCE, "iou": IOU}


def pictures(n, height, width, seed=0):
    """(n, 3, height, width) float32, 0 to 1, smooth noise."""
    torch.manual_seed(seed)
    small = torch.rand(n, 3, height // 8, width // 8)
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)


def enliven(network):
    """Give a new network heads and statistics with which it returns many different boxes."""
    torch.manual_seed(1)
    for head in (each for each in network.modules() if isinstance(each, ultralytics.nn.modules.Detect)):
        for name, bias in (("cv3", -3.5), ("one2one_cv3", -3.5), ("cv2", None), ("one2one_cv2", None)):
            for last in (branch[-1] for branch in getattr(head, name, None) or []):
                last.weight.data = torch.randn_like(last.weight) * 0.1
                if bias is not None:
                    last.bias.data = torch.full_like(last.bias, bias)
    network.eval()
    for each in network.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            each.momentum = None
            each.reset_running_stats()
            each.train()
    with torch.no_grad():
        network(pictures(8, SIDE, SIDE))
    network.eval()


def exported(folder, config, **options):
    model = (ultralytics.RTDETR if "rtdetr" in config else ultralytics.YOLO)(config)
    enliven(model.model)
    model.model.pt_path = str(folder / "m.pt")  # where the export goes
    return model.export(format="onnx", simplify=False, verbose=False, **{"imgsz": SIDE, **options})


@pytest.mark.parametrize(
    ("config", "options", "family"),
    [
        ("yolov8n.yaml", {}, "yolov8"), ("yolov10n.yaml", {}, "yolov8"), ("yolo11n.yaml", {}, "yolov8"),
        ("yolo26n.yaml", {}, "yolov8"), ("yolov10n.yaml", {"end2end": True}, "yolo-nms"),
        ("yolo26n.yaml", {"end2end": True}, "yolo-nms"), ("yolov8n.yaml", NMS, "yolo-nms"),
        ("yolov8n.yaml", {"dynamic": True}, "yolov8"), ("yolo26n.yaml", {"dynamic": True, "end2end": True}, "yolo-nms"),
        ("yolov8n.yaml", NMS | {"dynamic": True, "batch": 4}, "yolo-nms"), ("yolov8n.yaml", {"half": True}, "yolov8"),
        ("yolo11n.yaml", {"imgsz": (192, 320)}, "yolov8"), ("yolov8n-p2.yaml", {}, "yolov8"),
        ("yolov8n-p6.yaml", {}, "yolov8"), ("rtdetr-l.yaml", {}, "rtdetr-ul"), ("rtdetr-l.yaml", {"dynamic": True}, "rtdetr-ul"),
    ],
)  # fmt: skip
def test_an_export_returns_what_ultralytics_returns(tmp_path, config, options, family):
    path = exported(tmp_path, config, **options)
    size = options.get("imgsz", (SIDE, SIDE))
    pixels = (pictures(1, *size, seed=2)[0].numpy() * 255).astype(np.uint8)
    theirs = ultralytics.RTDETR(path) if "rtdetr" in config else ultralytics.YOLO(path, task="detect")
    picture = np.ascontiguousarray(np.moveaxis(pixels, 0, -1)[..., ::-1])
    wanted = theirs.predict(picture, imgsz=list(size), conf=CONFIDENCE, iou=IOU, max_det=30_000, verbose=False)[0].boxes
    height, width = size
    boxes_wanted = np.clip(wanted.xyxy.numpy(), 0, [width, height, width, height])
    wide = (boxes_wanted[:, 2:] > boxes_wanted[:, :2]).all(axis=1)  # geotile leaves out boxes without area
    model = OnnxDetector(path, score_threshold=CONFIDENCE, nms_iou_threshold=IOU)
    assert model.family == family
    boxes, scores, labels = model(pixels)
    numbers = {name: number for number, name in model.detector.names.items()}
    classes = np.array([numbers[each] for each in labels])
    assert len(boxes) > 10
    assert abs(len(boxes) - wide.sum()) <= len(boxes) // 300  # their suppression compares in single precision
    missing = 0
    for box, score, number in zip(boxes_wanted[wide], wanted.conf.numpy()[wide], wanted.cls.numpy()[wide], strict=True):
        near = (np.abs(boxes - box).max(axis=1) < 0.01) & (np.abs(scores - score) < 1e-3) & (classes == number)
        missing += not near.any()
    assert missing <= len(boxes) // 300


@pytest.mark.parametrize(
    ("config", "task"),
    [("yolov8n-obb.yaml", "obb"), ("yolo26n-obb.yaml", "obb"), ("yolov8n-seg.yaml", "segment"),
     ("yolov8n-pose.yaml", "pose"), ("yolov8n-cls.yaml", "classify")],
)  # fmt: skip
def test_an_export_for_another_task_is_refused(tmp_path, config, task):
    with pytest.raises(ArgumentError, match=f"task is '{task}'"):
        OnnxDetector(exported(tmp_path, config))
