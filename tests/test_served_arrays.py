"""Rasters and vectors of models behind the Open Inference Protocol: those of the same model as a Python function."""

import json
import pickle
import re

import numpy as np
import pytest
import xarray as xr
from oip_server import HEADER_LENGTH, NAMES, oip_server, response, tensor
from rasters import bordered, means, noise, scene

import geotile
from geotile.detectors import Tensor
from geotile.detectors.array_network import ArrayNetwork, array_network
from geotile.options.endpoint import OnnxArrayOptions

JOB = {"tile_size": 48, "overlap": 16}
PIXELS = noise(1, (2, 100, 116))
IMAGE = xr.DataArray(PIXELS, dims=("band", "y", "x"))
PICTURES = [tensor("images", "UINT8", -1, 2, -1, -1)]
ONE_BY_ONE = [tensor("images", "UINT8", 2, -1, -1)]


def classes(tile):
    return (tile[0] > tile[1]).astype(np.uint8)


def tokens(tile):
    return np.stack([means(tile[:1]), means(tile[1:])])


def batched(function):
    """Return a model of batches that answers the output "out"."""
    return lambda pictures: {"out": np.stack([function(each) for each in pictures])}


# --- forms of answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "shape", "output", "binary", "size"),
    [
        (bordered, (-1, 2, -1, -1), "scores", True, None), (bordered, (-1, 2, -1, -1), "scores", False, 4),
        (bordered, (-1, 2, -1, -1), "values", True, 4), (bordered, (-1, 2, -1, -1), "values", False, None),
        (classes, (-1, -1, -1), "classes", True, None), (classes, (-1, -1, -1), "classes", False, 4),
    ],
)  # fmt: skip
def test_pixels_are_those_of_a_function(function, shape, output, binary, size):
    want = geotile.predict(IMAGE, function, output=output, **JOB).values
    with oip_server(batched(function), PICTURES, [tensor("out", "FP32", *shape)], binary=binary) as (spec, sent):
        found = geotile.predict(IMAGE, spec, output=output, batch_size=size, **JOB)
        np.testing.assert_array_equal(found, want)
    assert {shape[0] for shape in sent} == ({1} if size is None else {1, 4})


@pytest.mark.parametrize(
    ("inputs", "function"), [(PICTURES, bordered), (ONE_BY_ONE, classes), (PICTURES, lambda tile: bordered(tile)[:1])]
)
def test_a_server_that_takes_one_tile_may_answer_without_an_axis_for_it(inputs, function):
    want = geotile.predict(IMAGE, function, **JOB).values

    def model(pictures):
        return {"out": function(pictures[0] if pictures.ndim == 4 else pictures)}

    with oip_server(model, inputs, [tensor("out", "FP32", -1, -1, -1)]) as (spec, _):
        np.testing.assert_array_equal(geotile.predict(IMAGE, spec, **JOB), want)


@pytest.mark.parametrize("inputs", [PICTURES, ONE_BY_ONE])
def test_batches_of_a_server_that_ignores_them_are_refused(inputs):
    """Eight classes would look like the answers for eight tiles."""

    def model(pictures):
        return {"out": np.stack([classes(pictures[0] if pictures.ndim == 4 else pictures) * 0.5] * 8)}

    with oip_server(model, inputs, [tensor("out", "FP32", -1, -1, -1)]) as (spec, _):
        assert geotile.predict(IMAGE, spec, output="scores", **JOB).shape == (8, 100, 116)
        with pytest.raises(
            (geotile.ArgumentError, geotile.ResponseError),
            match=r"as its first axis.*Give batch_size=1|batch_size must be 1",
        ):
            geotile.predict(IMAGE, spec, output="scores", batch_size=8, **JOB)
    with (
        oip_server(model, PICTURES, [tensor("out", "FP32", 8, -1, -1)]) as (spec, _),
        pytest.raises(
            geotile.ArgumentError, match=r"'out' has the shape \(8, None, None\), without an axis for the 4 tiles"
        ),
    ):
        geotile.predict(IMAGE, spec, batch_size=4, **JOB)


def test_a_batch_of_a_fixed_size_is_filled():
    want = geotile.predict(IMAGE, classes, **JOB).values
    inputs = [tensor("images", "UINT8", 4, 2, 48, 48)]
    with oip_server(batched(classes), inputs, [tensor("out", "UINT8", 4, 48, 48)]) as (spec, sent):
        np.testing.assert_array_equal(geotile.predict(IMAGE, spec, **JOB), want)
        with pytest.raises(geotile.ArgumentError, match="batch_size must be 4, as the model's; got 3"):
            geotile.predict(IMAGE, spec, batch_size=3, **JOB)
        with pytest.raises(geotile.EndpointError, match=r"tiles of the height 48; got 64. Give tile_size=48"):
            geotile.predict(IMAGE, spec, tile_size=64, overlap=16)
    assert set(sent) == {(4, 2, 48, 48)}


def test_bands_may_be_the_last_axis():
    inputs, outputs = [tensor("images", "FP32", -1, -1, -1, 2)], [tensor("out", "FP32", -1, -1, -1, 2)]

    def model(pictures):
        return {"out": np.stack([bordered(np.moveaxis(each, -1, 0) * 255).transpose(1, 2, 0) for each in pictures])}

    want = geotile.predict(IMAGE, bordered, output="values", **JOB)
    with oip_server(model, inputs, outputs) as (spec, sent):
        np.testing.assert_allclose(geotile.predict(IMAGE, spec, output="values", **JOB), want, atol=1e-6)
    assert sent[0] == (1, 48, 48, 2)


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_is_read(binary):
    tile = PIXELS[:, :48, :48]
    outputs = [tensor(name, name, -1, -1, -1) for name in NAMES.values()]

    def model(pictures):
        return {name: classes(pictures[0])[None].astype(f"<{code}") for code, name in NAMES.items()}

    with oip_server(model, PICTURES, outputs, binary=binary) as (spec, _):
        for code, name in NAMES.items():
            endpoint = geotile.endpoint(spec, output_names={"output": name}).for_rasters().for_run()
            (answer,) = pickle.loads(pickle.dumps(endpoint)).invoke([tile], "")
            assert answer.dtype == np.dtype(f"<{code}")
            np.testing.assert_array_equal(answer, classes(tile))


def test_the_preprocessing_of_pixels_is_that_of_onnx_files():
    seen, tile = [], noise(2, (3, 8, 8))

    def model(pictures):
        seen.append(pictures[0])
        return {"out": pictures[:, :1]}

    outputs = [tensor("out", "FP16", -1, 1, -1, -1)]
    with oip_server(model, [tensor("images", "FP16", -1, -1, -1, -1)], outputs) as (spec, _):
        normal = geotile.endpoint(spec, mean=(0.5, 0.25, 0), std=(0.5, 0.5, 1)).for_rasters()
        normal.invoke([tile], "")
        geotile.endpoint(spec).for_rasters().invoke([tile.astype(np.float32) * 10], "")
        with pytest.raises(geotile.EndpointError, match="mean has 3 numbers, and the tile 2 bands"):
            normal.invoke([tile[:2]], "")
        with pytest.raises(geotile.EndpointError, match="shares of 255, for uint8 pixels; the tile has uint16"):
            normal.invoke([tile.astype(np.uint16)], "")
    mean, std = (np.array(each)[:, None, None] for each in ((0.5, 0.25, 0), (0.5, 0.5, 1)))
    np.testing.assert_allclose(seen[0], (tile / 255 - mean) / std, atol=1e-3)
    np.testing.assert_allclose(seen[1], tile * 10.0)
    with oip_server(model, [tensor("images", "INT32", -1, -1, -1, -1)], outputs) as (spec, _):
        geotile.endpoint(spec).for_rasters().invoke([tile], "")
    np.testing.assert_array_equal(seen[2], tile)


# --- vectors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "function", "size", "axis"),
    [(PICTURES, means, 3, True), (PICTURES, tokens, 3, True), (PICTURES, tokens, None, True), (PICTURES, means, None, False),
     (PICTURES, tokens, None, False), (ONE_BY_ONE, means, None, False)],
)  # fmt: skip
def test_vectors_are_those_of_a_function(inputs, function, size, axis):
    job = JOB | {"tokens": "mean" if function is tokens else "single"}
    want = geotile.embed(IMAGE, function, **job)

    def model(pictures):
        each = [function(picture) for picture in (pictures if pictures.ndim == 4 else [pictures])]
        return {"out": np.stack(each) if axis else each[0]}

    with oip_server(model, inputs, [tensor("out", "FP32", -1, -1)]) as (spec, sent):
        found = geotile.embed(IMAGE, spec, batch_size=size, **job)
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(want["embedding"]))
    assert max(shape[0] for shape in sent) == (3 if size else sent[0][0])


def test_vectors_of_a_batch_in_one_axis_are_refused():
    def model(pictures):
        return {"out": np.concatenate([tokens(each) for each in pictures])}

    with (
        oip_server(model, PICTURES, [tensor("out", "FP32", -1, 3)]) as (spec, _),
        pytest.raises(
            geotile.ResponseError, match=r"tiles that were sent, 1, as its first axis; got the shape \(2, 3\)"
        ),
    ):
        geotile.embed(IMAGE, spec, batch_size=4, tokens="mean", **JOB)


# --- choices and refusals ----------------------------------------------------------------------------------------------


def test_one_of_several_outputs_is_chosen_by_its_name(tmp_path):
    outputs = [
        tensor("out", "FP32", -1, 2, -1, -1),
        tensor("aux", "UINT8", -1, -1, -1),
        tensor("vectors", "FP32", -1, 3),
    ]

    def model(pictures):
        (tile,) = pictures
        return {"out": bordered(tile)[None], "aux": classes(tile)[None], "vectors": means(tile)[None]}

    path, pixels = scene(tmp_path, bands=2)
    with oip_server(model, PICTURES, outputs) as (spec, _):
        with pytest.raises(
            geotile.ArgumentError, match=r"has the outputs \['out', 'aux', 'vectors'\]; choose one with output_names="
        ):
            geotile.predict(path, spec, **JOB)
        options = JOB | {"checkpoint": tmp_path / "cp", "classes": ["low", "high"]}
        report = geotile.predict_to(path, spec, tmp_path / "a.zarr", output_names={"output": "aux"}, **options)
        assert report.status == "SUCCESS"
        names = {"output_names": {"output": "vectors"}}
        assert geotile.embed_to(path, spec, tmp_path / "a.parquet", **names, **JOB).status == "SUCCESS"
        with pytest.raises(geotile.ArgumentError, match="the checkpoint of another job"):
            geotile.predict_to(path, spec, tmp_path / "b.zarr", output_names={"output": "out"}, **options)
    found = xr.open_zarr(tmp_path / "a.zarr", mask_and_scale=False).prediction
    np.testing.assert_array_equal(found, pixels[0] > pixels[1])


FLOATS = [tensor("out", "FP32", -1, 2, -1, -1)]


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "said"),
    [
        (PICTURES, FLOATS, {"family": "yolov8"}, "family is for models that answer detections"), (PICTURES, FLOATS, {"labels": ["a"]}, "labels names the classes of detections"),
        (PICTURES, FLOATS, {"output_names": {"boxes": "b"}}, "output_names must name the one that is read"),
        (PICTURES, FLOATS, {"output_names": {"output": "b"}}, r"has the outputs \['out'\]"), (PICTURES, [], {}, "declares no outputs"),
        ([], FLOATS, {}, r"must have one input \(n, band, y, x\).*; got \[\]"), (PICTURES * 2, FLOATS, {}, "must have one input"),
        ([tensor("i", "FP32", -1, -1, -1)], FLOATS, {}, r"input has the shape \(None, None, None\), whose first axis may be tiles or bands"),
        ([tensor("i", "FP32", -1, 5, -1, -1)], FLOATS, {}, "takes 5 bands; the tile has 2. Choose them with bands="),
        ([tensor("i", "BOOL", -1, 2, -1, -1)], FLOATS, {}, "the model takes bool; the tile has uint8"),
        (PICTURES, FLOATS, {"mean": (0, 0, 0)}, "mean, std and divisor do not apply to a model that takes uint8"),
        (PICTURES, [tensor("out", "BF16", -1)], {}, "metadata .* cannot be decoded .*tensors must be one of BOOL, .*; got BF16"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_the_run(inputs, outputs, options, said):
    with (
        oip_server(batched(bordered), inputs, outputs) as (spec, _),
        pytest.raises((geotile.ArgumentError, geotile.EndpointError), match=said),
    ):
        geotile.predict(IMAGE, spec, retries=0, **JOB | options)


def test_pixels_that_the_input_cannot_hold_are_refused():
    network = array_network(
        [Tensor("i", np.dtype(np.uint8), (None, 1, None, None))], [Tensor("o", np.dtype(np.uint8), ())], OnnxArrayOptions(), None
    )  # fmt: skip
    with pytest.raises(geotile.EndpointError, match=r"the model takes uint8; the tile has uint16. Use geotile.rescale"):
        network.input_for([np.full((1, 4, 4), 300, np.uint16)])


# --- hostile answers ---------------------------------------------------------------------------------------------------

GOOD = bordered(PIXELS[:, :48, :48])[None]
NAN = np.where(np.arange(48) == 7, np.nan, GOOD).astype(np.float32)


def raw(shape, values, size=None, datatype="FP32", more=b""):
    """Return an answer whose JSON says a shape and a number of bytes, and those bytes."""
    sent = values.tobytes()
    head = tensor("out", datatype, *shape) | {"parameters": {"binary_data_size": len(sent) if size is None else size}}
    text = json.dumps({"outputs": [head]}).encode()
    return {HEADER_LENGTH: str(len(text))}, text + sent + more


HOSTILE = [
    (response({"out": NAN}), "returned NaN as a score"), (response({"out": NAN}, binary=False), "not JSON .*NaN is not a valid JSON number"),
    (response({"out": GOOD * 2}), "scores must be from 0 to 1"), (response({"out": np.concatenate([GOOD, GOOD], axis=1)}), "must have the form of the first one"),
    (response({"out": GOOD[..., :40]}), "must have the size of the tile, 48 x 48"), (response({"out": GOOD[..., ::2, ::2]}), "must have the form of the first one"),
    (response({"out": GOOD[:, :, 0]}), "must have the form of the first one|must return an array|size of the tile"), (response({"out": np.float32(3)}), "must return an array"),
    (response({"out": np.concatenate([GOOD, GOOD])}), "must return an array"), (response({"other": GOOD}), r"must have the output 'out'; got \['other'\]"),
    (response({"out": GOOD[:, :, :0]}), "must return an array"), (response({}), "must have the output 'out'"),
    (raw(GOOD.shape, GOOD[..., 1:]), "a tensor of shape .* has 4512 values"), (raw(GOOD.shape, GOOD, size=7), "buffer size must be a multiple"),
    (raw(GOOD.shape, GOOD, more=b"1234"), "4 bytes follow the last tensor"), (raw(GOOD.shape, GOOD, size=10**12), "a tensor of 1000000000000 bytes, of which 18432 are there"),
    (raw((1, 2, 48, -48), GOOD), "negative shape"), (raw(GOOD.shape, GOOD, datatype="BF16"), "tensors must be one of .*; got BF16"),
    (({HEADER_LENGTH: "99999999"}, b"{}"), "a JSON header of 99999999 bytes"), (({}, b"<html>"), "is not JSON"), (({}, b'{"outputs": 3}'), "does not follow the Open Inference Protocol"),
]  # fmt: skip


def test_an_answer_that_cannot_be_right_fails_its_tile(tmp_path):
    path, pixels = scene(tmp_path, (240, 240), bands=2)

    def answer(number):  # every second one
        return HOSTILE[number // 2][0] if number % 2 and number // 2 < len(HOSTILE) else None

    options = JOB | {"output": "scores", "score_dtype": "float32"}
    with (
        oip_server(batched(bordered), PICTURES, FLOATS, answer=answer) as (spec, _),
        pytest.warns(geotile.FailedTilesWarning, match=f"{len(HOSTILE)} of 49 tiles failed"),
    ):
        report = geotile.predict_to(path, spec, tmp_path / "a.zarr", retries=0, concurrency=1, **options)
    reasons = [each.reason for each in report.failures]
    assert [said for _, said in HOSTILE if not any(re.search(said, reason) for reason in reasons)] == []
    assert [reason for reason in reasons if not any(re.search(said, reason) for _, said in HOSTILE)] == []
    assert 0 < report.pixels_missing < pixels[0].size


@pytest.mark.parametrize(
    ("shape", "read"),
    [((64, 64, 5), (5, 64, 64)), ((5, 64, 64), (5, 64, 64)), ((32, 32, 5), (5, 32, 32)), ((64, 64, 64), None)],
)
def test_the_classes_of_a_model_whose_bands_are_last_are_where_they_fit(shape, read):
    pixels = Tensor("in", np.dtype("float32"), (None, 64, 64, 3))
    network = ArrayNetwork(input=pixels, output=Tensor("out", np.dtype("float32"), (None, *shape)), batch_size=1)
    values = np.zeros((1, *shape), np.float32)
    if read is None:
        with pytest.raises(geotile.ResponseError, match=r"may be \(y, x, class\) or \(class, y, x\)"):
            network.answers_from(values, 1, (64, 64))
    else:
        assert network.answers_from(values, 1, (64, 64))[0].shape == read
