"""Networks that suppress overlapping boxes themselves: MMDetection, EfficientNMS, YOLOv7, torchvision; as files and servers."""

import json

import numpy as np
import pytest
import shapely
from helpers import save_onnx
from test_yolo_shapes import CELLS, INPUT, PLANE, SHIP, raw, suppressed
from web_servers import serving

import geotile
from geotile import ArgumentError, ResponseError
from geotile.detectors import OnnxDetector
from geotile.endpoints.objects import decode_object
from geotile.geometry.oriented import corners_of

BOXES, SCORES, LABELS = np.array([[10.0, 12, 30, 22], [40, 20, 60, 50]]), np.array([0.9, 0.6]), np.array([1, 0])
TILE = np.zeros((3, *INPUT), np.uint8)
MASKS = np.zeros((2, 1, *INPUT), np.float32)
MASKS[0, 0, 12:22, 10:30], MASKS[0, 0, 15:18, 15:18], MASKS[1, 0, 20:50, 40:60] = 0.9, 0.2, 0.7
POINTS = np.array([[[11.0, 13, 1], [20, 20, 1]], [[41, 21, 1], [50, 40, 1]]])
TORCHVISION = {"boxes": BOXES, "labels": LABELS, "scores": SCORES}
MMDET = {"dets": np.hstack([BOXES, SCORES[:, None]])[None], "labels": LABELS[None]}
EFFICIENT = {"num_dets": [[2]], "det_boxes": BOXES[None], "det_scores": SCORES[None], "det_classes": LABELS[None]}
YOLOV7 = {"output": np.hstack([np.zeros((2, 1)), BOXES, LABELS[:, None], SCORES[:, None]])}


def detector(tmp_path, outputs, shape=(1, 3, *INPUT), **options):
    return OnnxDetector(save_onnx(tmp_path / "m.onnx", outputs, shape), **options)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_masks_of_torchvision(tmp_path, batched, named):
    outputs = TORCHVISION | {"masks": MASKS}
    if batched:
        outputs = {name: each[None] for name, each in outputs.items()}
    options = {"output_names": {name: f"o{k}" for k, name in enumerate(outputs)}} if named else {}
    if named:
        outputs = {options["output_names"][name]: each for name, each in outputs.items()}
    model = detector(tmp_path, outputs, (1, 3, *INPUT) if batched else (3, "y", "x"), **options)
    found = model(TILE)
    assert (model.family, found.labels.tolist(), found.boxes.tolist()) == ("torchvision", ["1", "0"], BOXES.tolist())
    assert shapely.area(found.geometries).tolist() == [200 - 9, 600]
    assert len(found.geometries[0].interiors) == 1


def test_masks_of_torchvision_without_a_name_are_not_lost(tmp_path):
    with pytest.raises(ArgumentError, match=r"output 'more' \(2, 1, 64, 96\) may hold masks.*output_names as 'masks'"):
        detector(tmp_path, TORCHVISION | {"more": MASKS}, (3, "y", "x"))
    with pytest.raises(ArgumentError, match="and may give those for"):
        detector(tmp_path, TORCHVISION, (3, "y", "x"), output_names={"boxes": "boxes"})
    small = detector(tmp_path, TORCHVISION | {"masks": MASKS[:, :, ::2, ::2]}, (3, "y", "x"))
    with pytest.raises(ResponseError, match="they must cover the input"):
        small(TILE)


def test_key_points_of_torchvision(tmp_path):
    found = detector(tmp_path, TORCHVISION | {"keypoints": POINTS}, (3, "y", "x"))(TILE)
    np.testing.assert_allclose(found.keypoints.tolist(), POINTS)
    scored = TORCHVISION | {"keypoints": POINTS, "keypoints_scores": np.full((2, 2), 5.0)}
    assert detector(tmp_path, scored, (3, "y", "x"))(TILE).keypoints[0][0] == [11, 13, 5]


@pytest.mark.parametrize("outputs", [MMDET, EFFICIENT, YOLOV7])
def test_boxes_of_exports_with_suppression(tmp_path, outputs):
    boxes, scores, labels = detector(tmp_path, outputs)(TILE)
    assert (boxes.tolist(), labels) == (BOXES.tolist(), ["1", "0"])
    np.testing.assert_allclose(scores, SCORES)


def test_masks_of_mmdetection(tmp_path):
    found = detector(tmp_path, MMDET | {"masks": MASKS[None, :, 0]})(TILE)
    assert shapely.area(found.geometries).tolist() == [200 - 9, 600]
    grids = detector(tmp_path, MMDET | {"masks": np.ones((1, 2, 28, 28))})
    with pytest.raises(ResponseError, match="they must cover the input"):
        grids(TILE)
    with pytest.raises(ArgumentError, match="cannot be inferred"):
        detector(tmp_path, MMDET | {"embeddings": np.ones((1, 2, 8))})


def test_outputs_of_the_plugin_have_two_names(tmp_path):
    names = dict(
        zip(EFFICIENT, ("num_detections", "detection_boxes", "detection_scores", "detection_classes"), strict=True)
    )
    model = detector(tmp_path, {names[name]: each for name, each in EFFICIENT.items()})
    assert (model.family, len(model(TILE)[0])) == ("efficientnms", 2)
    assert len(detector(tmp_path, EFFICIENT | {"num_dets": [[1]]})(TILE)[0]) == 1
    with pytest.raises(ResponseError, match="at most the 2 boxes; it is 3"):
        detector(tmp_path, EFFICIENT | {"num_dets": [[3]]})(TILE)


def test_rows_of_yolov7_belong_to_their_pictures(tmp_path):
    rows = np.repeat(YOLOV7["output"], 2, axis=0)
    rows[:, 0] = [0, 1, 1, 1]
    model = detector(tmp_path, {"output": rows}, ("n", 3, *INPUT))
    assert [len(each[0]) for each in model.batch([TILE, TILE])] == [1, 3]


def served(outputs, batch=1):
    """Answer as a server of the Open Inference Protocol with constant outputs does."""
    arrays = {name: np.asarray(each) for name, each in outputs.items()}
    kinds = {name: "INT64" if each.dtype.kind == "i" else "FP32" for name, each in arrays.items()}

    def answer(handler):
        if handler.path.endswith("/infer"):
            said = [
                {"name": n, "datatype": kinds[n], "shape": list(a.shape), "data": a.ravel().tolist()}
                for n, a in arrays.items()
            ]
            body = {"outputs": said}
        else:
            said = [{"name": n, "datatype": kinds[n], "shape": list(a.shape)} for n, a in arrays.items()]
            body = {
                "inputs": [{"name": "images", "datatype": "FP32", "shape": [batch, 3, *INPUT]}],
                "outputs": said,
                "ready": True,
            }
        data = json.dumps(body).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@pytest.mark.parametrize(
    ("outputs", "options"),
    [
        (MMDET, {}), (EFFICIENT, {}), (YOLOV7, {}), (TORCHVISION | {"masks": MASKS}, {}), (raw("seg"), {}), (suppressed("seg"), {}),
        (raw("obb"), {"family": "yolov8-obb"}), (suppressed("obb"), {"family": "yolo-nms-obb"}),
        ({"o": np.zeros((1, 300, 57))}, {"family": "yolo-nms-pose"}),
    ],
)  # fmt: skip
def test_servers_take_the_same_families(tmp_path, outputs, options):
    shape = (1, 3, *INPUT)
    with serving(served(outputs)) as (url, _):
        server = geotile.endpoint(f"oip+{url}/v2/models/m", **options).for_run()
        there = decode_object(server.invoke([TILE], "")[0]).detections
    local = decode_object(detector(tmp_path, outputs, shape, **options)(TILE)).detections
    assert (there.boxes.tolist(), there.labels.tolist()) == (local.boxes.tolist(), local.labels.tolist())
    assert shapely.equals_exact(there.image_geometries, local.image_geometries).all()
    assert there.oriented.tolist() == local.oriented.tolist()


def test_a_server_of_oriented_boxes_needs_its_family(write_tiff):
    assert (len(SHIP), len(PLANE), CELLS) == (5, 5, 126)
    with serving(served(suppressed("obb"))) as (url, _):
        spec = f"oip+{url}/v2/models/m"
        with pytest.raises(ArgumentError, match=r"'rtdetr-ul-scores' \(3 classes\), 'yolo-nms-obb' would fit"):
            geotile.endpoint(spec).for_run()
        image = write_tiff(np.zeros((3, *INPUT), np.uint8))
        found = geotile.detect(image, spec, family="yolo-nms-obb", tile_size=INPUT, overlap=0)
    np.testing.assert_allclose(
        shapely.get_coordinates(geotile.image_geometry(found))[:4], corners_of(np.array([SHIP]))[0], atol=1e-4
    )
