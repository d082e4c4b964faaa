"""Real exports of Ultralytics, decoded as Ultralytics itself does. Skipped where Ultralytics is not installed.

The networks have random weights, so that nothing is downloaded; their heads are made confident, so that boxes come out.
``pip install torch ultralytics onnxslim`` (the CPU build of torch is enough) and run ``pytest tests/test_ultralytics.py``.
"""

import numpy as np
import pytest

from geotile.detectors import OnnxDetector

pytestmark = pytest.mark.slow
ultralytics = pytest.importorskip("ultralytics")
torch = pytest.importorskip("torch")

CASES = {
    "v8": ("yolov8n.yaml", {"imgsz": 160}), "v8-rectangular": ("yolov8n.yaml", {"imgsz": (128, 192)}),
    "v8-dynamic": ("yolov8n.yaml", {"imgsz": 160, "dynamic": True}), "v8-p2": ("yolov8n-p2.yaml", {"imgsz": 160}),
    "v8-p6": ("yolov8n-p6.yaml", {"imgsz": 192}), "v8-nms": ("yolov8n.yaml", {"imgsz": 160, "nms": True, "conf": 0.25, "iou": 0.5}),
    "v8-batch": ("yolov8n.yaml", {"imgsz": 160, "batch": 2}), "v10": ("yolov10n.yaml", {"imgsz": 160}), "v10-end2end": ("yolov10n.yaml", {"imgsz": 160, "end2end": True}),
    "26-end2end": ("yolo26n.yaml", {"imgsz": 160, "end2end": True}),
    "11": ("yolo11n.yaml", {"imgsz": 160}), "26": ("yolo26n.yaml", {"imgsz": 160}), "v8-half": ("yolov8n.yaml", {"imgsz": 160, "half": True}), "rtdetr": ("rtdetr-resnet50.yaml", {"imgsz": 160}),
}  # fmt: skip


def confident(model, size):
    """Spread the outputs of a network with random weights: scores by -2 ± 2, sides of boxes by 0 ± 2."""
    generator = torch.Generator().manual_seed(0)
    heads = tuple(f".{kind}cv{n}.{level}" for kind in ("", "one2one_") for n in (2, 3) for level in range(4))

    def spread(module, inputs, output):
        module.weight.data = torch.randn(module.weight.shape, generator=generator)
        module.bias.data.zero_()
        again = type(module).forward(module, *inputs)
        module.weight.data *= 2 / again.std()
        mean = {64: 0, 4: 8}.get(output.shape[1], -2)  # 64 bins, or the 4 sides themselves, which are positive
        module.bias.data.fill_(float(mean - again.mean() * 2 / again.std()))
        return type(module).forward(module, *inputs)

    hooks = [
        module.register_forward_hook(spread)
        for name, module in model.model.named_modules()
        if (isinstance(module, torch.nn.Conv2d) and name.rpartition(".")[0].endswith(heads))
        or (isinstance(module, torch.nn.Linear) and "score_head" in name)
    ]
    assert hooks
    with torch.no_grad():
        model.model.eval()(torch.rand((1, 3, *size), generator=generator))
    for hook in hooks:
        hook.remove()
    return model


def exported(folder, monkeypatch, config, **options):
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    kind = ultralytics.RTDETR if config.startswith("rtdetr") else ultralytics.YOLO
    size = options["imgsz"] if isinstance(options["imgsz"], tuple) else (options["imgsz"],) * 2
    model = (
        kind(config)
        if config.endswith(("-obb.yaml", "-seg.yaml", "-pose.yaml", "-cls.yaml"))
        else confident(kind(config), size)
    )
    return model.export(format="onnx", opset=17, verbose=False, **options), kind


def rows(boxes, scores, labels):
    return np.array(
        sorted(np.c_[np.asarray(labels, float), np.asarray(scores), np.asarray(boxes).reshape(-1, 4)].tolist())
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_boxes_are_those_of_the_authors(tmp_path, monkeypatch, name):
    config, options = CASES[name]
    path, kind = exported(tmp_path, monkeypatch, config, **options)
    size = options["imgsz"] if isinstance(options["imgsz"], tuple) else (options["imgsz"],) * 2
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    model = kind(path)
    batch = options.get("batch", 1)
    answer = model.predict(
        [picture[..., ::-1]] * batch, imgsz=size, conf=0.25, iou=0.5, max_det=100_000, verbose=False, rect=False
    )[0].boxes
    assert len(answer) > 5
    detector = OnnxDetector(path, score_threshold=0.25, nms_iou_threshold=0.5)
    boxes, scores, labels = detector.batch([np.moveaxis(picture, -1, 0)] * batch)[0]
    ids = {name: number for number, name in model.names.items()}
    got = rows(boxes, scores, [ids[label] for label in labels])
    want = rows(answer.xyxy.numpy(), answer.conf.numpy(), answer.cls.numpy())
    assert len(got) == len(want)
    np.testing.assert_array_equal(got[:, 0], want[:, 0])
    np.testing.assert_allclose(got[:, 1], want[:, 1], atol=1e-3)
    np.testing.assert_allclose(got[:, 2:], want[:, 2:], atol=0.01)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("yolov8n-obb.yaml", "obb"),
        ("yolov8n-seg.yaml", "segment"),
        ("yolov8n-pose.yaml", "pose"),
        ("yolov8n-cls.yaml", "classify"),
    ],
)
def test_other_tasks_are_refused_by_name(tmp_path, monkeypatch, config, said):
    path, _ = exported(tmp_path, monkeypatch, config, imgsz=160)
    with pytest.raises(ValueError, match=said):
        OnnxDetector(path)
