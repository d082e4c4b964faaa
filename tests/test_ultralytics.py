"""Real exports of Ultralytics: boxes, oriented boxes, masks and key points as its own code gives them. Skipped where Ultralytics is not installed.

The networks have random weights, so that nothing is downloaded; their heads are made confident, so that boxes come out.
``pip install torch ultralytics onnxslim`` (the CPU build of torch is enough) and run ``pytest tests/test_ultralytics.py``.
"""

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize

from geotile.detectors import OnnxDetector
from geotile.detectors.onnx import open_session_of
from geotile.endpoints.objects import decode_object

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
    model = kind(config) if config.endswith("-cls.yaml") else confident(kind(config), size)
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


SHAPES = {
    f"{version}-{suffix}{kind}": (f"yolo{version}n-{suffix}.yaml", {"imgsz": 160, **options})
    for version, kind, options in (
        ("v8", "", {}), ("11", "-nms", {"nms": True, "conf": 0.25, "iou": 0.5}), ("26", "", {}), ("26", "-end2end", {"end2end": True}),
    )
    for suffix in ("obb", "seg", "pose")
} | {"v8-seg-rectangular": ("yolov8n-seg.yaml", {"imgsz": (128, 192)})}  # fmt: skip
TASKS = {"obb": "obb", "seg": "segment", "pose": "pose"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_authors(tmp_path, monkeypatch, name):
    """The outputs of one run of the network are decoded by both, for tiles of the input's size and of others."""
    config, options = SHAPES[name]
    path, _ = exported(tmp_path, monkeypatch, config, **options)
    model = ultralytics.YOLO(path, task=TASKS[name.split("-")[1]])
    detector = OnnxDetector(path, score_threshold=0.25, nms_iou_threshold=0.5)
    size = options["imgsz"] if isinstance(options["imgsz"], tuple) else (options["imgsz"],) * 2
    for shape_yx in (size, (100, 220), (300, 170)):
        picture = np.random.default_rng(1).integers(0, 256, (*shape_yx, 3), np.uint8)
        model.predict(picture, imgsz=size, conf=0.25, iou=0.5, max_det=100_000, verbose=False, retina_masks=True)
        feeds, positions = detector.detector.inputs_for([np.moveaxis(picture, -1, 0)])
        outputs = open_session_of(detector._key).run(None, feeds)
        tensors = [torch.from_numpy(each.copy()) for each in outputs]
        pixels = torch.from_numpy(next(iter(feeds.values())))
        theirs = model.predictor.postprocess(tensors if len(tensors) > 1 else tensors[0], pixels, [picture])[0]
        names = [each.name for each in detector.detector.outputs]
        read = decode_object(detector.detector.detections_from(dict(zip(names, outputs, strict=True)), positions)[0])
        assert len(theirs) > 5
        raw_obb = "obb" in name and detector.family == "yolov8-obb"  # its ProbIoU suppresses more than the IoU of areas
        assert (len(read.detections) >= len(theirs)) if raw_obb else (len(read.detections) == len(theirs))
        compare(read.detections, theirs, {label: number for number, label in model.names.items()}, shape_yx)


def compare(found, theirs, numbers, shape_yx):
    """Compare each of their detections with the closest of ours of the same class and score."""
    answer = theirs.boxes if theirs.obb is None else theirs.obb
    labels = np.array([numbers[label] for label in found.labels])
    for k, (score, label) in enumerate(zip(answer.conf.numpy(), answer.cls.numpy(), strict=True)):
        same = np.flatnonzero((np.abs(found.scores - score) < 1e-5) & (labels == label))
        if theirs.obb is not None:
            corners = theirs.obb.xyxyxyxy[k].numpy()
            ours = [shapely.get_coordinates(each)[:4] for each in found.geometries[same]]
            assert min(np.abs(each - corners).max() for each in ours) < 0.01
            assert found.oriented[same].all()
        elif theirs.masks is not None:
            mask = theirs.masks.data[k].numpy() > 0
            ours = [rasterize([each], out_shape=mask.shape).astype(bool) for each in found.geometries[same]]
            assert max((each & mask).sum() / (each | mask).sum() for each in ours) >= 0.99
        else:
            points = theirs.keypoints.data[k].numpy()
            ours = [np.array(each) for each in found.keypoints[same]]
            for each in ours:  # the authors clip them to the picture
                each[:, :2] = np.clip(each[:, :2], 0, shape_yx[::-1])
            assert min(np.abs(each - points).max() for each in ours) < 0.01


def test_masks_are_those_of_the_authors():
    """Ragged masks: smooth random prototypes, boxes of all sizes, letterboxed tiles."""
    from ultralytics.utils.ops import process_mask_native

    from geotile.detectors.mask_shapes import prototype_shapes
    from geotile.detectors.preprocessing import Preprocessing, preprocess

    random = np.random.default_rng(3)
    for shape_yx, input_yx in (
        ((160, 160), (160, 160)),
        ((200, 320), (160, 160)),
        ((90, 61), (128, 192)),
        ((512, 512), (256, 256)),
    ):
        _, position = preprocess(np.zeros((3, *shape_yx), np.uint8), input_yx, Preprocessing(fit="centre"))
        prototypes = random.normal(size=(8, input_yx[0] // 4, input_yx[1] // 4)).astype(np.float32)
        prototypes = sum(np.roll(prototypes, (j, i), (1, 2)) for j in range(4) for i in range(4))
        weights = random.normal(size=(40, 8)).astype(np.float32)
        corners = np.sort(random.uniform(0, 1, (40, 2, 2)), axis=1) * shape_yx[::-1]
        boxes = corners.reshape(40, 4).astype(np.float32)
        masks = process_mask_native(*map(torch.from_numpy, (prototypes, weights, boxes)), shape_yx).numpy() > 0
        shapes = prototype_shapes(weights, prototypes, boxes.astype(np.float64), position)
        for shape, mask, (x0, y0, x1, y1) in zip(shapes, masks, boxes, strict=True):
            ours = np.zeros_like(mask) if shape.is_empty else rasterize([shape], out_shape=mask.shape).astype(bool)
            assert shape.is_valid
            assert shape.area == ours.sum()
            assert (ours & mask).sum() >= 0.99 * (ours | mask).sum()
            assert shape.is_empty or shapely.box(np.floor(x0), np.floor(y0), np.ceil(x1), np.ceil(y1)).covers(shape)


@pytest.mark.filterwarnings("ignore")
def test_other_tasks_are_refused_by_name(tmp_path, monkeypatch):
    path, _ = exported(tmp_path, monkeypatch, "yolov8n-cls.yaml", imgsz=160)
    with pytest.raises(ValueError, match="classify"):
        OnnxDetector(path)
