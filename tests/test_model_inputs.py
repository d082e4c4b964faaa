"""What a network is given: dtypes, sizes, colours; where its file lies, and what runs it."""

import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers import cli, save_onnx

import geotile
from geotile import ArgumentError, EndpointError
from geotile.detectors import Detector, OnnxDetector, Tensor
from geotile.detectors.layouts import count_cells
from geotile.detectors.metadata import ModelMetadata
from geotile.detectors.providers import check_started, chosen_providers
from geotile.endpoints.objects import decode_object

GREY = 114


def means_model(path, dtype=np.float32, side=32, layout="NCHW"):
    """Write a model that returns three boxes whose scores are the means of its input's channels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = (1, 3, side, side) if layout == "NCHW" else (1, side, side, 3)
    axes = [0, 2, 3] if layout == "NCHW" else [0, 1, 2]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=axes, keepdims=0),
        helper.make_node("Div" if dtype == np.uint8 else "Mul", ["means", "by"], ["scores"]),
        helper.make_node("Identity", ["where"], ["boxes"]), helper.make_node("Identity", ["numbers"], ["labels"]),
    ]  # fmt: skip
    boxes = np.array([[0, 0, 8, 8], [8, 8, 16, 16], [16, 16, 24, 24]], np.float32)
    weights = [
        numpy_helper.from_array(np.float32(255 if dtype == np.uint8 else 1), "by"),
        numpy_helper.from_array(boxes, "where"), numpy_helper.from_array(np.arange(3), "numbers"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "means",
        [helper.make_tensor_value_info("images", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (3,)),
         helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (3, 4)),
         helper.make_tensor_value_info("labels", TensorProto.INT64, (3,))],
        weights,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


def colours(side=32):
    return np.repeat(np.array([51, 102, 204], np.uint8), side * side).reshape(3, side, side)  # 0.2, 0.4, 0.8


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.uint8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_dtype_of_an_input_gets_the_same_pixels(tmp_path, dtype, layout):
    model = OnnxDetector(means_model(tmp_path / "m.onnx", dtype, layout=layout), score_threshold=0)
    np.testing.assert_allclose(model(colours())[1], [0.2, 0.4, 0.8], atol=1e-3)


def test_mean_and_std_replace_those_of_the_family(tmp_path):
    path = means_model(tmp_path / "m.onnx")
    model = OnnxDetector(path, score_threshold=0, mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 1])
    np.testing.assert_allclose(model(colours())[1], [0.2, 0.4, 0.5], atol=1e-5)
    divided = OnnxDetector(path, score_threshold=0, std=[1, 1, 0.8])
    np.testing.assert_allclose(divided(colours())[1], [0.2, 0.4, 1], atol=1e-5)
    endpoint = geotile.endpoint(f"onnx:{path}", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 1), score_threshold=0)
    np.testing.assert_allclose(endpoint.for_run().invoke([colours()], "")[0][1], [0.2, 0.4, 0.5], atol=1e-5)
    assert endpoint.identity() != geotile.endpoint(f"onnx:{path}", score_threshold=0).identity()
    with pytest.raises(ArgumentError, match="uint8 pixels; leave them out"):
        OnnxDetector(means_model(tmp_path / "u.onnx", np.uint8), mean=[0, 0, 0])
    for wrong in ({"mean": [123.675, 116.28, 103.53]}, {"std": [0, 1, 1]}, {"mean": [0.5, 0.5]}, {"std": 0.5}):
        name = next(iter(wrong))
        with pytest.raises(ArgumentError, match=f"^{name} must be "):
            geotile.endpoint(f"onnx:{path}", **wrong)


def test_mean_and_std_keep_the_scale_and_the_channels_of_the_family():
    size = (32, 32)
    cells = count_cells(size)
    inputs, outputs = [Tensor("images", np.dtype("f4"), (1, 3, *size))], [Tensor("o", np.dtype("f4"), (1, cells, 7))]
    plain, _ = Detector(inputs, outputs, family="yolox").inputs_for([colours()])
    np.testing.assert_allclose(plain["images"][0, :, 0, 0], [204, 102, 51])  # BGR, 0 to 255
    shifted, _ = Detector(inputs, outputs, family="yolox", mean=[0.2, 0, 0]).inputs_for([colours()])
    np.testing.assert_allclose(shifted["images"][0, :, 0, 0], [204, 102, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("tile_yx", "stride", "input_yx", "shift_xy"),
    [((64, 96), 32, (64, 96), (0, 0)), ((50, 70), 32, (64, 96), (13, 7)), ((50, 70), 64, (64, 128), (29, 7))],
)  # fmt: skip
def test_a_tile_of_another_size_is_letterboxed_to_the_stride_of_a_dynamic_model(
    tmp_path, tile_yx, stride, input_yx, shift_xy
):
    out = np.zeros((1, 6, 126), np.float32)
    out[0, :5, 0] = [40, 30, 20, 10, 0.8]
    said = {"task": "detect", "names": "['ship', 'plane']", "stride": str(stride)}
    path = save_onnx(tmp_path / "m.onnx", {"output0": out}, ("n", 3, "h", "w"), metadata=said,
                     declared={"output0": ("n", 6, "anchors")})  # fmt: skip
    model = OnnxDetector(path)
    assert (model.size_yx, model.family) == (None, "yolov8")
    boxes, _, labels = model(np.zeros((3, *tile_yx), np.uint8))
    np.testing.assert_allclose(boxes, np.array([[30, 25, 50, 35]]) - np.tile(shift_xy, 2))
    assert labels == ["ship"]
    tensors, _ = model.detector.inputs_for([np.full((3, *tile_yx), 255, np.uint8)])
    picture = tensors["images"][0]
    assert picture.shape == (3, *input_yx)
    assert (picture == 1).sum() == 3 * np.prod(tile_yx)
    assert set(np.unique(picture).round(4)) <= {1.0, np.float32(round(GREY / 255, 4))}


def test_one_fixed_side_is_kept():
    inputs = [Tensor("images", np.dtype("f4"), (1, 3, 64, None))]
    detector = Detector(
        inputs,
        [Tensor("o", np.dtype("f4"), (1, 6, None))],
        metadata=ModelMetadata(families=("yolov8",)),
    )
    tensors, positions = detector.inputs_for([np.zeros((3, 64, 70), np.uint8)])
    assert tensors["images"].shape == (1, 3, 64, 96)
    assert positions[0].input_yx == (64, 96)


def test_suppression_compares_boxes_before_they_are_clipped(tmp_path):
    """Clipped to the tile, the two boxes overlap by 0.67; as the network returned them, by 0.22."""
    out = np.zeros((1, 5, 84), np.float32)
    out[0, :, 0], out[0, :, 1] = [-10, 5, 40, 10, 0.9], [7.5, 5, 15, 10, 0.8]
    boxes, scores, _ = OnnxDetector(save_onnx(tmp_path / "m.onnx", {"o": out}, (1, 3, 64, 64)))(colours(64))
    np.testing.assert_allclose(boxes, [[0, 0, 10, 10], [0, 0, 15, 10]])
    np.testing.assert_allclose(scores, [0.9, 0.8])


def test_boxes_with_sides_in_the_wrong_order_are_counted(tmp_path):
    """YOLO26 predicts the four sides without bins, so that a side can be negative."""
    out = np.zeros((1, 5, 84), np.float32)
    out[0, :, 0], out[0, :, 1] = [30, 30, 20, -10, 0.9], [30, 30, 20, 10, 0.8]
    read = decode_object(OnnxDetector(save_onnx(tmp_path / "m.onnx", {"o": out}, (1, 3, 64, 64)))(colours(64)))
    np.testing.assert_allclose(read.detections.boxes, [[20, 25, 40, 35]])
    np.testing.assert_allclose(read.detections.scores, [0.8])
    assert (read.rejected, "x0 <= x1" in read.reason) == (1, True)


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [((1, 4, 64, 64), np.float32, "3 channels"), ((1, 1, 64, 64), np.float32, "3 channels"),
     ((1, 64), np.float32, "have shape"), ((1, 3, 64, 64), np.int8, "float or uint8")],
)  # fmt: skip
def test_inputs_that_geotile_cannot_fill_are_refused_at_once(tmp_path, shape, dtype, said):
    path = save_onnx(tmp_path / "m.onnx", {"o": np.zeros((1, 6, 84))}, shape, dtype=dtype)
    with pytest.raises(ArgumentError, match=rf"m\.onnx: the model's input must .*{said}"):
        OnnxDetector(path)
    other = save_onnx(tmp_path / "n.onnx", {"o": np.zeros((1, 6, 84))}, (1, 3, 64, 64), more_inputs=["sizes"])
    with pytest.raises(ArgumentError, match="got 'sizes' besides 'images'"):
        OnnxDetector(other)


def test_two_bands_are_no_picture(tmp_path):
    model = OnnxDetector(means_model(tmp_path / "m.onnx"))
    with pytest.raises(EndpointError, match=r"one band .* or three"):
        model(np.zeros((2, 32, 32), np.uint8))
    assert len(model(np.zeros((1, 32, 32), np.uint8))[0]) == 0


def test_a_dynamic_export_with_suppression_takes_as_many_pictures_as_it_was_made_for(tmp_path):
    said = {"author": "Ultralytics", "task": "detect", "args": "{'nms': True}", "batch": "4", "imgsz": "[64, 64]"}
    path = save_onnx(tmp_path / "m.onnx", {"o": np.zeros((4, 300, 6))}, ("n", 3, "h", "w"), metadata=said,
                     declared={"o": ("n", 300, 6)})  # fmt: skip
    endpoint = geotile.endpoint(f"onnx:{path}")
    assert (endpoint.batch_size, endpoint.sample_shape) == (4, (3, 64, 64))
    with pytest.raises(ArgumentError, match="at most 4"):
        geotile.endpoint(f"onnx:{path}", batch_size=5)


# --- where the file lies ---


def test_a_model_may_lie_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my models").mkdir()
    path = means_model(tmp_path / "my models" / "a%20b.onnx")
    with fsspec.open("memory://models/m.onnx", "wb") as file:
        file.write(Path(path).read_bytes())
    specs = [path, "my models/a%20b.onnx", "~/my models/a%20b.onnx", Path(path).as_uri(), "memory://models/m.onnx"]
    for spec in specs:
        endpoint = geotile.endpoint(f"onnx:{spec}", score_threshold=0)
        assert len(endpoint.for_run().invoke([colours()], "")[0][0]) == 3
        assert endpoint.identity()["version"] == geotile.endpoint(f"onnx:{path}").identity()["version"]
    for missing in ("~/none.onnx", "file:///none%20here.onnx", "memory://models/none.onnx", "nosuch://x/m.onnx"):
        with pytest.raises(ArgumentError, match=r"no ONNX model at .*none|ONNX model at .* cannot be read"):
            geotile.endpoint(f"onnx:{missing}")
    assert not os.path.exists("~")


# --- what runs it ---


def test_providers_are_chosen_by_name():
    full = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"]
    assert chosen_providers(None, full) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert chosen_providers(None, full[2:]) == ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    assert chosen_providers(["TensorRT", "cuda"], full) == full[:2]
    assert chosen_providers("OpenVINOExecutionProvider", full) == [full[2]]
    for wrong in ("CUDA", ["CPU", "CUDA"], "quantum", []):
        with pytest.raises(ArgumentError, match=r"providers must be among .*CPU; got"):
            chosen_providers(wrong, ["CPUExecutionProvider"])
    with pytest.raises(ArgumentError, match="onnxruntime has CUDA, but could not start it"):
        check_started(["CUDAExecutionProvider"], ["CPUExecutionProvider"])


def test_an_endpoint_takes_providers(tmp_path):
    path = means_model(tmp_path / "m.onnx")
    assert OnnxDetector(path).provider == OnnxDetector(path, providers="CPU").provider == "CPU"
    assert len(geotile.endpoint(f"onnx:{path}", providers=["CPU"], score_threshold=0).check().detections) == 3
    assert cli("check", f"onnx:{path}", "-O", "providers=CPU").returncode == 0
    assert "onnxruntime-gpu" in cli("check", f"onnx:{path}", "-O", "providers=CUDA", status=2).stderr
