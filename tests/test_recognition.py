"""What an ONNX file is: its metadata decide, its shapes confirm, and what fits two families is refused."""

import json

import numpy as np
import pytest
from helpers import save_onnx

import geotile
from geotile import ArgumentError, ResponseError
from geotile.detectors import OnnxDetector
from geotile.detectors.class_names import class_names
from geotile.detectors.layouts import count_cells
from geotile.detectors.metadata import read_metadata
from geotile.endpoints.create import check_of
from geotile.endpoints.objects import decode_object

INPUT = (1, 3, 64, 64)
CELLS = 84  # 8 * 8 + 4 * 4 + 2 * 2
TILE = np.zeros((3, 64, 64), np.uint8)
SHIP, SHIP_BOX = [32, 32, 20, 10], [22, 27, 42, 37]
NAMES = "{0: 'ship', 1: 'plane'}"
ULTRALYTICS = {
    "description": "Ultralytics YOLO11n model trained on ships.yaml", "author": "Ultralytics", "version": "8.4.190",
    "stride": "32", "task": "detect", "head": "Detect", "batch": "1", "imgsz": "[64, 64]", "names": NAMES,
    "args": "{'batch': 1, 'half': False, 'dynamic': False, 'nms': False}", "channels": "3", "end2end": "False",
}  # fmt: skip


def v8(classes=2, cells=CELLS, scores=(0.8, 0.1), dtype=np.float32):
    out = np.zeros((1, 4 + classes, cells), dtype)
    out[0, : 4 + len(scores), 0] = [*SHIP, *scores]
    return out


def v5(classes=2, rows=3 * CELLS, scores=(0.9, 0.1)):
    out = np.zeros((1, rows, 5 + classes), np.float32)
    out[0, 0, : 5 + classes] = [*SHIP, 0.9, *scores[:classes]]
    return out


def end_to_end(rows=300, columns=6):
    out = np.zeros((1, rows, columns), np.float32)
    out[0, 0, :6] = [*SHIP_BOX, 0.8, 0]
    return out


def in_shares(out):
    """Return an output with boxes in shares of the input, in every row."""
    out = out.copy()
    out[..., 1:, :4], out[..., 1:, 4:] = [10, 12, 20, 22], 0
    out[..., 1, 4:] = out[..., 0, 4:]
    out[..., :4] /= 64
    return out


def raw_yolox():
    out = np.zeros((1, CELLS, 7), np.float32)
    out[0, :, :4] = [0.5, 0.5, 1, 0.2]
    out[0, 9] = [0.2, 0.3, 1, 0.2, 0.9, 0.9, 0.1]
    return out


def test_a_box_in_a_corner_of_the_tile_is_no_share(tmp_path):
    out = end_to_end()
    out[0, 0, :4] = [0, 0, 1.5, 1.8]
    assert len(detector(tmp_path, out, family="yolo-nms")(TILE)[0]) == 1
    dense = v5()
    dense[0, 1:, :4], dense[0, 0, :4] = [30, 30, 8, 8], [0.5, 0.5, 1, 1]
    assert len(detector(tmp_path, dense)(TILE)[0]) == 1


def test_labels_of_torchvision_begin_with_the_background(tmp_path):
    outputs = {
        "boxes": np.array([SHIP_BOX], np.float32),
        "scores": np.array([0.8], np.float32),
        "labels": np.array([1]),
    }
    for labels in (["__background__", "car"], ["background", "car"], ["N/A", "car"], {1: "car"}):
        assert detector(tmp_path, outputs, labels, shape=(3, "y", "x"))(TILE)[2] == ["car"]
    with pytest.raises(ArgumentError, match=r"labels must begin with the background, which is class 0 .* got 'car'"):
        detector(tmp_path, outputs, ["car", "truck"], shape=(3, "y", "x"))


def decoded_yolox():
    cells = [(x * s, y * s) for s in (8, 16, 32) for y in range(64 // s) for x in range(64 // s)]
    out = np.hstack([cells, np.full((CELLS, 2), 20), np.zeros((CELLS, 3))])
    out[9] = [*SHIP, 0.9, 0.9, 0.1]
    return out[None]


def test_boxes_of_yolox_in_pixels_are_read_as_such(tmp_path):
    boxes, scores, _ = detector(tmp_path, decoded_yolox(), family="yolox-decoded")(TILE)
    np.testing.assert_allclose(boxes, [SHIP_BOX])
    np.testing.assert_allclose(scores, [0.81], atol=1e-6)


def test_a_few_boxes_that_are_too_large_are_clipped_as_their_authors_do(tmp_path):
    out = v8()
    out[0, :, 1] = [32, 32, 2000, 2000, 0.7, 0]
    boxes, _, _ = detector(tmp_path, out)(TILE)
    assert boxes.tolist() == [SHIP_BOX, [0, 0, 64, 64]]


def detector(tmp_path, out, *labels, shape=INPUT, metadata=None, declared=None, dtype=np.float32, **options):
    outputs = out if isinstance(out, dict) else {"output0": out}
    path = save_onnx(
        tmp_path / "m.onnx", outputs, shape, metadata=metadata, dtype=dtype,
        declared=None if declared is None else {"output0": declared},
    )  # fmt: skip
    return OnnxDetector(path, *labels, **options)


def test_a_full_set_of_metadata_is_read():
    said = read_metadata(ULTRALYTICS | {"imgsz": "[64, 96]", "extra": "anything"})
    assert (said.task, said.families, said.names) == ("detect", ("yolov8",), {0: "ship", 1: "plane"})
    assert (said.size_yx, said.stride, said.batch) == ((64, 96), 32, 1)
    assert read_metadata({"imgsz": "640"}).size_yx == (640, 640)
    assert read_metadata({"names": '["ship", "plane"]'}).names == {0: "ship", 1: "plane"}
    assert read_metadata({"names": '{"1": "plane", "0": "ship"}'}).names == {0: "ship", 1: "plane"}
    assert read_metadata({"stride": "[8, 16, 32]"}).stride == 32
    deepness = {"model_type": '"Detector"', "det_type": '"YOLO_v5_or_v7_default"', "class_names": '{"0": "car"}'}
    assert (read_metadata(deepness).families, read_metadata(deepness).names) == (("yolov5",), {0: "car"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", "ship, plane"), ("names", "{0: 'ship', 0.5: 'x'}"), ("names", "{0: 5}"), ("names", "5"),
        ("names", "{'a': 'b'}"), ("names", "["), ("names", ""), ("names", "(" * 5000), ("names", "{0: ''}"),
        ("names", "{0: 'a', '0': 'b'}"), ("names", "__import__('os')"), ("imgsz", "big"), ("imgsz", "[1, 2, 3]"),
        ("imgsz", "[0, 0]"), ("imgsz", "[]"), ("stride", "-32"), ("stride", "nan"), ("stride", "[]"), ("batch", "1.5"),
        ("args", "7"), ("end2end", "perhaps"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_read_are_an_error_that_names_the_key(tmp_path, key, value):
    with pytest.raises(ArgumentError, match=rf"m\.onnx: the metadata '{key}' of the model must be"):
        detector(tmp_path, v8(), metadata=ULTRALYTICS | {key: value})


@pytest.mark.parametrize(
    ("task", "metadata"),
    [
        *[(task, {"task": task, "names": NAMES}) for task in ("classify", "semantic", "depth")],
        ("classify", {"head": "Classify"}), ("segmentor", {"model_type": '"Segmentor"'}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["auto", "yolov8"])
def test_other_tasks_are_refused_by_name(tmp_path, task, metadata, family):
    with pytest.raises(
        ArgumentError, match=rf"task is '{task}'; geotile reads the tasks 'detect', 'obb', 'segment' and"
    ):
        detector(tmp_path, v8(), metadata=metadata, family=family)


@pytest.mark.parametrize(
    ("task", "families", "metadata"),
    [
        *[(task, (f"yolov8-{end}", f"yolo-nms-{end}"), {"task": task, "names": NAMES}) for task, end in (("obb", "obb"), ("segment", "seg"), ("pose", "pose"))],
        ("obb", ("yolov8-obb",), ULTRALYTICS | {"head": "OBB26"}), ("segment", ("yolov8-seg",), {"head": "YOLOESegment26"}),
        ("pose", ("yolo-nms-pose",), {"head": "Pose26", "end2end": "True"}), ("obb", ("yolo-nms-obb",), {"task": "obb", "args": "{'nms': True}"}),
        ("pose", ("yolov8-pose", "yolo-nms-pose"), {"task": "detect", "kpt_shape": "[17, 3]"}),
        ("obb", ("yolov8-obb", "yolo-nms-obb"), {"det_type": '"YOLO_Ultralytics_obb"'}),
    ],
)  # fmt: skip
def test_families_of_other_tasks(task, families, metadata):
    said = read_metadata(metadata)
    assert (said.task, said.families) == (task, families)


@pytest.mark.parametrize(
    ("family", "out", "metadata"),
    [
        ("yolov5", v5(1), {}), ("yolov5", v5(1), {"stride": "32", "names": "['ship']"}), ("yolov5", v5(), {}),
        ("yolov5", v5(), {"det_type": '"YOLO_v5_or_v7_default"', "class_names": '{"0": "ship", "1": "plane"}'}),
        ("yolov5", {"output": v5(), **{f"s{n}": np.zeros((1, 3, n, n, 7)) for n in (8, 4, 2)}}, {}),
        ("yolov5", v5(1, 3 * count_cells((64, 64), (8, 16, 32, 64))), {"stride": "64", "names": "['ship']"}),
        ("yolov8", v8(), {}), ("yolov8", v8(), ULTRALYTICS), ("yolov8", v8(), {"stride": "32", "names": NAMES}),
        ("yolov8", v8(cells=85), ULTRALYTICS | {"stride": "64"}), ("yolov8", v8(cells=340), ULTRALYTICS),
        ("yolo-nms", end_to_end(), ULTRALYTICS | {"end2end": "True"}),
        ("yolo-nms", end_to_end(), ULTRALYTICS | {"args": "{'nms': True}"}),
        ("yolo-nms", end_to_end(), {"author": "Ultralytics", "task": "detect", "names": "['ship', 'b', 'c']"}),
    ],
)  # fmt: skip
def test_the_family_is_recognised(tmp_path, family, out, metadata):
    model = detector(tmp_path, out, metadata=metadata)
    assert model.family == family
    boxes, scores, _ = model(TILE)
    np.testing.assert_allclose(boxes, [SHIP_BOX], atol=1e-3)
    np.testing.assert_allclose(scores, [0.81 if family == "yolov5" else 0.8], atol=1e-3)


@pytest.mark.parametrize(
    ("head", "columns", "names", "family"),
    [
        ({"head": "RTDETRDecoder"}, 6, 3, "rtdetr-ul"), ({"head": "RTDETRDecoder"}, 7, 3, "rtdetr-ul-scores"),
        ({"description": "Ultralytics rtdetr-l model"}, 16, 12, "rtdetr-ul-scores"),
        ({"description": "Ultralytics best model"}, 7, 3, "rtdetr-ul-scores"),
    ],
)  # fmt: skip
def test_both_exports_of_rtdetr(tmp_path, head, columns, names, family):
    out = np.zeros((1, 300, columns), np.float32)
    out[0, :, :4] = 0.5
    out[0, 7, :6] = [0.5, 0.5, 20 / 64, 10 / 64, 0.8, 0]
    said = {"author": "Ultralytics", "task": "detect", "names": str([f"c{n}" for n in range(names)]), **head}
    model = detector(tmp_path, out, metadata=said)
    boxes, scores, labels = model(TILE)
    np.testing.assert_allclose(boxes, [SHIP_BOX], atol=1e-3)
    assert (model.family, scores.round(3).tolist(), labels) == (family, [0.8], ["c0"])


@pytest.mark.parametrize(
    ("out", "metadata", "candidates"),
    [
        (end_to_end(), {}, ("yolo-nms", "rtdetr-ul")),
        (end_to_end(), {"author": "Ultralytics", "names": NAMES}, ("yolo-nms", "rtdetr-ul-scores")),
        (end_to_end(), {"head": "RTDETRDecoder", "names": NAMES}, ("rtdetr-ul", "rtdetr-ul-scores")),
        (np.zeros((1, CELLS, 60)), {}, ("yolox", "nanodet-plus")), (np.zeros((1, CELLS, 112)), {}, ("yolox", "nanodet-plus")),
        ({"logits": np.zeros((1, 9, 4)), "pred_boxes": np.zeros((1, 9, 4))}, {}, ("detr", "rtdetr")),
    ],
)  # fmt: skip
def test_what_fits_two_families_is_refused_with_their_names(tmp_path, out, metadata, candidates):
    with pytest.raises(ArgumentError, match=r"fit several families.*Give family") as caught:
        detector(tmp_path, out, metadata=metadata)
    assert all(f"'{name}'" in str(caught.value) for name in candidates)
    for name in candidates:
        assert detector(tmp_path, out, metadata=metadata, family=name).family == name


def test_a_check_does_not_take_the_rows_of_a_detector_for_a_raster(tmp_path):
    """It said: a raster of the shape (1, 84, 60), run it with geotile.predict."""
    save_onnx(tmp_path / "net.onnx", {"output0": np.zeros((1, CELLS, 60), np.float32)}, INPUT)
    said = check_of(f"onnx:{tmp_path / 'net.onnx'}", {}, "GTIFF").message
    assert "raster" not in said
    assert "If it detects objects: " in said
    assert "fit several families" in said
    save_onnx(tmp_path / "map.onnx", {"output0": np.zeros((1, 5, 64, 64), np.float32)}, INPUT)
    said = check_of(f"onnx:{tmp_path / 'map.onnx'}", {}, "GTIFF").message
    assert "returned a raster of the shape (5, 64, 64)" in said
    assert "detects objects" not in said


def test_the_number_of_names_decides_between_families(tmp_path):
    out = np.zeros((1, CELLS, 60), np.float32)
    assert detector(tmp_path, out, [f"c{n}" for n in range(55)]).family == "yolox"
    assert detector(tmp_path, out, [f"c{n}" for n in range(28)]).family == "nanodet-plus"
    assert detector(tmp_path, np.zeros((1, CELLS, 7), np.float32)).family == "yolox"  # too few for NanoDet's sides
    plus = np.zeros((1, count_cells((416, 416), (8, 16, 32, 64), whole=True), 112), np.float32)
    assert detector(tmp_path, plus, shape=(1, 3, 416, 416)).family == "nanodet-plus"


@pytest.mark.parametrize(
    ("out", "metadata", "options", "said"),
    [
        (v5(1), ULTRALYTICS, {}, r"say 'yolov8', one output .*fit 'yolov5' \(1 classes\)"),
        (v8(), ULTRALYTICS | {"end2end": "True"}, {}, r"say 'yolo-nms', .*fit 'yolov8' \(2 classes\)"),
        (v8(), ULTRALYTICS, {"family": "yolov5"}, r"which say 'yolov8'; got 'yolov5'"),
        (v8(), {}, {"family": "yolov5"}, r"family='yolov5' needs one output \(n, 3·cells, 5 \+ classes\).*fit 'yolov8'"),
        (v5(), {}, {"family": "yolov8"}, r"family='yolov8' needs .*fit 'yolov5'"),
        (v5(), {}, {"family": "yolox"}, r"family='yolox' needs"), (v8(), {}, {"family": "nanodet"}, r"needs three outputs"),
        (v8(), {}, {"family": "yolo-nms"}, r"family='yolo-nms' needs"),
        (v8(cells=85), ULTRALYTICS, {}, r"say 'yolov8'.*fit no family"),  # a head with a stride of 64
        (v8(), {"imgsz": "[640, 640]"}, {}, r"say imgsz=\[640, 640\], and its input has the shape \(1, 3, 64, 64\)"),
        (v8(3, scores=(0.8,)), ULTRALYTICS, {}, r"names in the metadata must give one .*2 names.*'yolov8' \(3 classes\)"),
        (v8(), {}, {"labels": ["ship"]}, r"labels must give one name .*got 1 names.*'yolov8' \(2 classes\)"),
        (v8(), ULTRALYTICS, {"labels": {1: "a", 2: "b"}}, r"labels must give one name .*numbers 1 to 2"),
        (end_to_end(), ULTRALYTICS | {"end2end": "True"}, {"labels": ["ship"]}, r"labels must give one name .*2 classes"),
        ({"output0": v8(36), "output1": np.zeros((1, 32, 16, 9))}, {}, {}, r"cannot be inferred"),
        ({"output0": v8(36), "output1": np.zeros((1, 32, 16, 16))}, {}, {"family": "yolov8"}, r"needs one output"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(tmp_path, out, metadata, options, said):
    with pytest.raises(ArgumentError, match=said):
        detector(tmp_path, out, metadata=metadata, **options)


def test_a_dynamic_model_needs_metadata_or_a_family(tmp_path):
    shape, declared = ("batch", 3, "height", "width"), ("batch", 6, "anchors")
    with pytest.raises(ArgumentError, match=r"no fixed size, and the model has no metadata.*'yolov8'.*Give family"):
        detector(tmp_path, v8(), shape=shape, declared=declared)
    for options in ({"metadata": ULTRALYTICS}, {"family": "yolov8"}, {"metadata": {"stride": "32", "names": NAMES}}):
        assert detector(tmp_path, v8(), shape=shape, declared=declared, **options).family == "yolov8"
    end2end = {"metadata": ULTRALYTICS | {"end2end": "True"}, "declared": ("batch", 300, 6)}
    assert detector(tmp_path, end_to_end(), shape=shape, **end2end).family == "yolo-nms"


def test_a_dynamic_export_that_declares_no_lengths_is_run_once(tmp_path):
    """As torch exports it without a simplifier: every length of the output has a name."""
    shape, declared = ("batch", 3, "height", "width"), ("batch", "Concat_dim_1", "anchors")
    older = {name: ULTRALYTICS[name] for name in ("author", "task", "names", "imgsz", "stride")}
    assert detector(tmp_path, v8(), shape=shape, declared=declared, metadata=older).family == "yolov8"
    assert (
        detector(
            tmp_path,
            end_to_end()[:, :, :6],
            shape=shape,
            declared=declared,
            metadata=older | {"names": "['a', 'b', 'c']"},
        ).family
        == "yolo-nms"
    )
    with pytest.raises(ArgumentError, match=r"3 classes"):
        detector(tmp_path, v8(3), shape=shape, declared=declared, metadata=older)


def test_the_head_of_v10_may_be_exported_with_all_its_cells(tmp_path):
    said = ULTRALYTICS | {"head": "v10Detect"}
    assert detector(tmp_path, v8(), metadata=said).family == "yolov8"
    del said["end2end"]
    assert detector(tmp_path, end_to_end(), metadata=said).family == "yolo-nms"


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        (v8(scores=(80, 1)), {}, r"numbers from 0 to 1; the model returned 0 to 80\. They may be percentages"),
        (v8(scores=(4.5, -3)), {}, r"returned -3 to 4\.5\. They may be logits"),
        (v8(scores=(np.nan, 0)), {}, r"half precision"), (v8(scores=(0.2, 1.2)), {}, r"check family="),
        (v5(scores=(-0.9, -0.9)), {}, r"returned -0\.9 to 0"), (v5(scores=(3, 0)), {}, r"returned 0 to 3"),
        (end_to_end() * [1, 1, 1, 1, 100, 1], {"family": "yolo-nms"}, r"returned 0 to 80"),
        (end_to_end() + np.eye(6)[5] / 2, {"family": "yolo-nms"}, r"class numbers must be whole numbers"),
        (end_to_end(), {"family": "rtdetr-ul"}, r"boxes must be shares of the input"),
        (np.where(v8() == 20, np.inf, v8()), {}, r"finite"),
        (in_shares(v8().transpose(0, 2, 1)).transpose(0, 2, 1), {}, r"largest coordinate .* 0\.656, so they may be shares"),
        (in_shares(end_to_end()), {"family": "yolo-nms"}, r"pixels of the input, 64 x 64 px"), (in_shares(v5()), {}, r"may be shares"),
        (np.insert(in_shares(v5())[:, 1:], 0, [9, 9, 9, 9, 0, 0, 0], axis=1), {}, r"may be shares"),
        (v8() * np.array([16] * 4 + [1] * 2)[:, None], {}, r"most sides of the model's are longer than 4 times"),
        (decoded_yolox(), {}, r"--decode_in_inference: give family='yolox-decoded'"),
        (raw_yolox(), {"family": "yolox-decoded"}, r"offsets from cells, not pixels: give family='yolox'"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_right_fails_the_tile(tmp_path, out, options, said):
    with pytest.raises(ResponseError, match=said):
        decode_object(detector(tmp_path, out, **options)(TILE))


def test_a_model_that_is_exported_again_is_read_again(tmp_path):
    assert detector(tmp_path, v8())(TILE)[1].round(2).tolist() == [0.8]
    assert detector(tmp_path, v8(scores=(0.6, 0.1)))(TILE)[1].round(2).tolist() == [0.6]


def test_outputs_of_half_precision_are_decoded_in_single_precision(tmp_path):
    boxes, scores, _ = detector(tmp_path, v8(dtype=np.float16), dtype=np.float16, metadata=ULTRALYTICS)(TILE)
    np.testing.assert_allclose(boxes, [SHIP_BOX])
    np.testing.assert_allclose(scores, [0.8], atol=1e-3)


def test_scores_of_half_precision_may_round_over_one(tmp_path):
    assert detector(tmp_path, v8(scores=(1.0005, 0)))(TILE)[1].tolist() == [1.0]


def test_names_of_the_user_go_before_those_of_the_file(tmp_path):
    (tmp_path / "coco.names").write_text("person\ndog\n")
    assert detector(tmp_path, v8())(TILE)[2] == ["0"]  # a file that lies beside the model names nothing
    assert detector(tmp_path, v8(), metadata=ULTRALYTICS)(TILE)[2] == ["ship"]
    (tmp_path / "b.json").write_text(json.dumps({"0": "boat", "1": "jet"}))
    for labels in (["boat", "jet"], ("boat", "jet"), {1: "jet", 0: "boat"}, {"0": "boat", "1": "jet"}, tmp_path / "b.json",
                   np.array(["boat", "jet"])):  # fmt: skip
        assert detector(tmp_path, v8(), labels, metadata=ULTRALYTICS)(TILE)[2] == ["boat"]
    assert detector(tmp_path, v8(), tmp_path / "coco.names", metadata=ULTRALYTICS)(TILE)[2] == ["person"]


def test_a_class_without_a_name_fails_the_tile(tmp_path):
    out = end_to_end() + np.eye(6)[5] * 5
    with pytest.raises(ResponseError, match="2 class names; the model returned class 5"):
        detector(tmp_path, out, ["ship", "plane"], family="yolo-nms")(TILE)
    assert detector(tmp_path, out, family="yolo-nms")(TILE)[2] == ["5"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [([], "at least one"), (["ship", ""], "class 1 is ''"), ({-1: "a"}, "not a class number"), ([1, 2], "class 0 is 1"),
     ("none.txt", "readable file"), ("data.yaml", "YAML")],
)  # fmt: skip
def test_labels_that_cannot_be_read_are_named(labels, said):
    with pytest.raises(ArgumentError, match=f"^labels must .*{said}"):
        class_names(labels)


def test_labels_on_the_command_line(tmp_path):
    from helpers import cli

    path = save_onnx(tmp_path / "m.onnx", {"output0": v8()}, INPUT)
    (tmp_path / "my.txt").write_text("ship\nplane\n")
    for given in ('["ship", "plane"]', '{"0": "ship", "1": "plane"}', str(tmp_path / "my.txt")):
        cli("check", f"onnx:{path}", "-O", f"labels={given}")
    assert "2 classes" in cli("check", f"onnx:{path}", "-O", 'labels=["x"]', status=2).stderr


def test_an_endpoint_refuses_before_the_run(tmp_path):
    path = save_onnx(tmp_path / "m.onnx", {"output0": v8()}, INPUT, metadata={"task": "classify"})
    with pytest.raises(ArgumentError, match="task is 'classify'"):
        geotile.detect("none.tif", f"onnx:{path}")
