"""Kinds of endpoints: what a spec means, `check`, batches, factories, ONNX models of every family."""

import pickle

import numpy as np
import pytest
import xarray as xr
from helpers import Heavy, crowd, save_onnx

import geotile
from geotile import ArgumentError
from geotile.detectors import FAMILIES
from geotile.detectors.families import STRIDES
from geotile.testing import ModelServer

COLUMNS = ["xmin", "ymin", "xmax", "ymax", "score", "label"]
JOB = {"tile_size": 64, "overlap": 16, "region_size": 128}


# --- specs ---


@pytest.mark.parametrize(
    ("spec", "said"),
    [("gopher://x", "must start with one of .*https:.*got 'gopher://x'"), ("scene.tif", "must start with one of"),
     (3, "endpoint must be a URL, a callable or an Endpoint; got a value of type int"),
     ("onnx:/nowhere/m.onnx", "no ONNX model at /nowhere")],
)  # fmt: skip
def test_a_spec_that_means_nothing_is_named(spec, said):
    with pytest.raises(ArgumentError, match=said):
        geotile.endpoint(spec)


def test_options_that_nobody_reads_are_refused():
    for spec in ("http://host/x", crowd):
        with pytest.raises(ArgumentError, match="unknown option 'nonsense'"):
            geotile.endpoint(spec, nonsense=1)
    made = geotile.endpoint("http://host/x", retries=1)
    assert geotile.endpoint(made) is made
    with pytest.raises(ArgumentError, match=r"pass it to geotile\.endpoint"):
        geotile.endpoint(made, retries=2)
    for wrong in (
        {"retries": -1},
        {"backoff_s": "x"},
        {"ready_timeout_s": -1},
        {"timeout_s": (0, 1)},
        {"timeout_s": 5},
    ):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            geotile.endpoint("http://host/x", **wrong)


def test_other_packages_add_kinds(tmp_path, monkeypatch):
    """A real distribution on the path, as pip would leave it."""
    (tmp_path / "mine.py").write_text(
        "import geotile\n"
        "class Mine(geotile.Endpoint):\n"
        "    wants_bytes = remote = False\n"
        "    def __init__(self, spec, score): self.spec, self.score = spec, score\n"
        "    def invoke(self, tiles, content_type): return [([[0, 0, 4, 4]], [self.score]) for _ in tiles]\n"
    )
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[geotile.endpoints]\nmine = mine:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    image = xr.DataArray(np.zeros((1, 64, 64), np.uint8), dims=("band", "y", "x"))
    assert geotile.detect(image, "mine://there", score=0.25)["score"].tolist() == [0.25]


class Buggy(geotile.Endpoint):
    wants_bytes = False

    def __init__(self, remote, answers):
        self.remote, self.answers = remote, answers

    def invoke(self, tiles, content_type):
        if self.answers is None:
            raise KeyError("a bug")
        return self.answers


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize(
    ("answers", "said"), [(None, "raised KeyError: 'a bug'"), ([], "0 results for 1 tiles"), (3, "raised TypeError")]
)
def test_a_bug_in_somebody_elses_endpoint_fails_its_tiles(remote, answers, said):
    image = xr.DataArray(np.zeros((1, 64, 64), np.uint8), dims=("band", "y", "x"))
    assert said in Buggy(remote, answers).check().message
    with pytest.warns(UserWarning, match=said.replace("'", ".")):
        assert geotile.detect(image, Buggy(remote, answers)).attrs["report"].status == "FAILED"


# --- check ---


def test_check_says_in_a_sentence_what_is_wrong():
    with ModelServer(crowd) as server:
        found = geotile.endpoint(server.url).check()
        assert found
        assert f"{server.url} returned 3 detections for a tile of 3 x 512 x 512 in" in repr(found)
        wrong = geotile.endpoint(server.url.replace("invocations", "predict")).check()
        assert not wrong
        assert "HTTP 404" in wrong.message
        assert "check the URL" in wrong.message

    def broken(tile):
        raise RuntimeError("no weights")

    with ModelServer(broken) as server:
        failed = geotile.endpoint(server.url).check()
    assert "HTTP 500" in failed.message
    assert "no weights (the model failed on the tile; see the server's log)" in failed.message
    assert "connection refused" in geotile.endpoint(server.url).check().message
    assert (
        "three bands" in geotile.endpoint(lambda tile: three_bands(tile)).check(np.zeros((1, 8, 8), np.uint8)).message
    )


def three_bands(tile):
    if len(tile) != 3:
        raise ValueError("the model wants three bands")
    return [], []


# --- callables ---


def crowds(tiles):
    assert tiles.ndim == 4
    return [crowd(tile) for tile in tiles]


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_a_batch_answers_as_its_tiles_alone(write_tiff, noise, batch_size):
    path = write_tiff(noise)
    alone = geotile.detect(path, crowd, **JOB)
    together = geotile.detect(path, crowds, batch_size=batch_size, **JOB)
    assert together[COLUMNS].equals(alone[COLUMNS])
    report = together.attrs["report"]
    assert report.requests < report.tiles if batch_size > 1 else report.requests == report.tiles


def test_a_poisoned_tile_fails_alone_in_its_batch(write_tiff, noise):
    poison = noise[:, :64, :64].tobytes()

    def model(tiles):
        if any(tile.tobytes() == poison for tile in tiles):
            raise ValueError("poison")
        return crowds(tiles)

    with pytest.warns(UserWarning, match="1 of 54 tiles failed"):
        found = geotile.detect(write_tiff(noise), model, batch_size=4, **JOB)
    assert [failure.tile for failure in found.attrs["report"].failures] == [0]


def test_a_batch_of_another_length_fails(write_tiff, noise):
    with pytest.warns(UserWarning, match="returned 0 results for"):
        geotile.detect(write_tiff(noise), lambda tiles: [], batch_size=4, **JOB)


@pytest.mark.slow
def test_a_factory_builds_once_a_worker(write_tiff, noise, workers):
    with pytest.raises(TypeError):
        pickle.dumps(Heavy())
    with workers.as_current():
        found = geotile.detect(
            write_tiff(noise), Heavy, factory=True, merge=None, tile_size=64, overlap=16, region_size=64
        )
    built = set(found["label"])
    assert len(found) == 54
    assert len(built) == len({label.split("-")[0] for label in built}) <= 2


def test_a_factory_that_fails_is_not_called_for_every_tile(write_tiff, noise):
    calls = []

    def broken():
        calls.append(1)
        raise OSError("no weights here")

    with pytest.warns(UserWarning, match="no weights here"):
        report = geotile.detect(write_tiff(noise), broken, factory=True, **JOB).attrs["report"]
    assert (report.status, len(calls)) == ("FAILED", 1)
    assert "must return a callable; got int" in geotile.endpoint(lambda: 3, factory=True).check().message


# --- ONNX: networks that answer what a family's network would ---

INPUT = (64, 96)  # y, x
BOXES = np.array([[8.0, 4, 40, 28], [50, 30, 90, 60]], np.float32)  # in pixels of the input
CLASSES, SCORES = np.array([1, 2]), np.array([0.75, 0.5], np.float32)


def centred(boxes):
    return np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])


def logit(values):
    values = np.clip(values, 1e-6, 1 - 1e-6)
    return np.log(values / (1 - values))


def cells():
    """Column, row and stride of every cell, and one in which the centre of each box lies."""
    rows = [(x, y, s) for s in STRIDES for y in range(INPUT[0] // s) for x in range(INPUT[1] // s)]
    table = np.array(rows, np.float32)
    picks = [int(np.flatnonzero((table[:, 2] == 8) & (table[:, 0] == cx // 8) & (table[:, 1] == cy // 8))[0])
             for cx, cy, _, _ in centred(BOXES)]  # fmt: skip
    return table, picks


def side_bins(reach):
    """Logits of 8 bins whose expected value is a distance in strides."""
    low, weights = int(reach), np.full(8, 1e-9)
    weights[low], weights[min(low + 1, 7)] = 1 - (reach - low), max(reach - low, 1e-9)
    return np.log(weights)


NAMED_BY_USERS = ("rtdetr-ul", "rtdetr-ul-scores", "yolo-nms", "yolox-decoded")


def raw_outputs(family):
    """The inverse of each decoder, written from the families' own papers and code."""
    table, picks = cells()
    n, boxes = len(table), centred(BOXES)
    one_hot = np.zeros((2, 4), np.float32)
    one_hot[[0, 1], CLASSES] = SCORES
    if family == "yolov5":
        out = np.zeros((3 * n, 9), np.float32)
        out[[5, 77]] = np.hstack([boxes, np.ones((2, 1)), one_hot])
        return {"output0": out[None]}
    if family == "yolov8":
        out = np.zeros((n, 8), np.float32)
        out[[5, 77]] = np.hstack([boxes, one_hot])
        return {"output0": out.T[None]}
    if family == "yolo-nms":
        out = np.zeros((300, 6), np.float32)
        out[[0, 1]] = np.hstack([BOXES, SCORES[:, None], CLASSES[:, None]])
        return {"output0": out[None]}
    if family == "yolox":
        out = np.zeros((n, 9), np.float32)
        stride = table[picks, 2:]
        out[picks] = np.hstack(
            [boxes[:, :2] / stride - table[picks, :2], np.log(boxes[:, 2:] / stride), np.ones((2, 1)), one_hot]
        )
        return {"output": out[None]}
    if family == "yolox-decoded":
        out = np.zeros((n, 9), np.float32)
        out[:, :2], out[:, 2:4] = table[:, :2] * table[:, 2:], 8
        out[picks] = np.hstack([boxes, np.ones((2, 1)), one_hot])
        return {"output": out[None]}
    if family == "nanodet":
        scores, sides = np.zeros((n, 4), np.float32), np.zeros((n, 4, 8), np.float32)
        scores[picks] = one_hot
        for pick, box in zip(picks, BOXES, strict=True):
            centre = table[pick, :2] * 8 + 3.5
            for side, reach in enumerate(np.abs(np.concatenate([centre - box[:2], box[2:] - centre])) / 8):
                sides[pick, side] = side_bins(reach)
        counts = np.cumsum([(INPUT[0] // s) * (INPUT[1] // s) for s in STRIDES])[:-1]
        parts = [*np.split(scores, counts), *np.split(sides.reshape(n, 32), counts)]
        return {f"out{k}": part[None] for k, part in enumerate(parts)}
    if family == "fastestdet":
        rows, columns = INPUT[0] // 16, INPUT[1] // 16
        out = np.zeros((9, rows, columns), np.float32)
        out[0] = 1e-6
        for (cx, cy, w, h), classes in zip(boxes, one_hot, strict=True):
            x, y = int(cx / 16), int(cy / 16)
            offset = np.arctanh(np.array([cx / 16 - x, cy / 16 - y]))
            out[:, y, x] = [
                1,
                *offset,
                *logit(np.array([w / INPUT[1], h / INPUT[0]])),
                *np.where(classes > 0, classes**2.5, 0),
            ]
        return {"output": out[None]}
    unit = boxes / np.tile(INPUT[::-1], 2)
    if family == "detr":
        shares = np.full((20, 5), 1e-9)
        shares[:, 4] = 1
        shares[[3, 9], :4], shares[[3, 9], 4] = np.maximum(one_hot, 1e-9), 1 - SCORES
        queries = np.full((20, 4), 0.5)
        queries[[3, 9]] = unit
        return {"pred_boxes": queries[None], "logits": np.log(shares)[None]}
    if family == "nanodet-plus":
        whole = [(x, y, s) for s in (8, 16, 32, 64) for y in range(-(-INPUT[0] // s)) for x in range(-(-INPUT[1] // s))]
        out = np.zeros((len(whole), 36), np.float32)
        for box, classes in zip(BOXES, one_hot, strict=True):
            x, y = int((box[0] + box[2]) / 2 / 16), int((box[1] + box[3]) / 2 / 16)
            out[whole.index((x, y, 16)), :4] = classes
            corner = np.array([x, y]) * 16.0
            reaches = np.concatenate([corner - box[:2], box[2:] - corner]) / 16
            out[whole.index((x, y, 16)), 4:] = np.concatenate([side_bins(reach) for reach in reaches])
        return {"output": out[None]}
    if family == "rtdetr-ul":
        out = np.zeros((300, 6), np.float32)
        out[[0, 1]] = np.hstack([unit, SCORES[:, None], CLASSES[:, None]])
        return {"output0": out[None]}
    if family == "rtdetr-ul-scores":
        out = np.full((300, 8), 0.01, np.float32)
        out[[3, 9]] = np.hstack([unit, one_hot])
        return {"output0": out[None]}
    if family == "mmdet":
        return {"dets": np.hstack([BOXES, SCORES[:, None]])[None], "labels": CLASSES[None]}
    if family == "efficientnms":
        padded = {
            "det_boxes": np.zeros((1, 9, 4)),
            "det_scores": np.zeros((1, 9)),
            "det_classes": np.zeros((1, 9), int),
        }
        padded["det_boxes"][0, :2], padded["det_scores"][0, :2], padded["det_classes"][0, :2] = BOXES, SCORES, CLASSES
        return {"num_dets": np.array([[2]])} | padded
    if family == "yolov7-nms":
        return {"output": np.hstack([np.zeros((2, 1)), BOXES, CLASSES[:, None], SCORES[:, None]])}
    if family == "rtdetr":
        scores, queries = np.full((30, 4), 1e-6), np.full((30, 4), 0.5)
        scores[[3, 9]], queries[[3, 9]] = np.maximum(one_hot, 1e-6), unit
        return {"logits": logit(scores)[None], "pred_boxes": queries[None]}
    return {"boxes": BOXES, "labels": CLASSES, "scores": SCORES}


@pytest.mark.parametrize("family", sorted(name for name in FAMILIES if not name.endswith(("-obb", "-seg", "-pose"))))
@pytest.mark.parametrize("tile_yx", [INPUT, (128, 192), (64, 64), (32, 96)])
def test_every_family_says_its_boxes_in_pixels_of_the_tile(family, tile_yx, tmp_path):
    more = ["pixel_mask"] if family == "detr" else []
    shape = (3, "y", "x") if family == "torchvision" else (1, 3, *INPUT)
    path = save_onnx(tmp_path / "m.onnx", raw_outputs(family), shape, more_inputs=more)
    options = {"family": family} if family in NAMED_BY_USERS else {}
    labels = dict(enumerate("abcd")) if family == "torchvision" else ["a", "b", "c", "d"]
    model = geotile.endpoint(f"onnx:{path}", labels=labels, score_threshold=0.4, **options)
    assert f", {family}," in repr(model)
    boxes, scores, labels = model.invoke([np.zeros((3, *tile_yx), np.uint8)], "")[0]
    scale, shift = np.array(INPUT[::-1]) / tile_yx[::-1], np.zeros(2)
    fit = FAMILIES[family].preprocessing.fit
    if fit in ("corner", "centre"):
        scale = np.full(2, scale.min())
        if fit == "centre":
            shift = (np.array(INPUT[::-1]) - np.round(np.array(tile_yx[::-1]) * scale)) // 2
    elif fit == "unchanged":
        scale = np.ones(2)
    wanted = np.clip((BOXES - np.tile(shift, 2)) / np.tile(scale, 2), 0, np.tile(tile_yx[::-1], 2))
    seen = (wanted[:, 2:] > wanted[:, :2]).all(axis=1)
    np.testing.assert_allclose(boxes, wanted[seen], atol=0.01)
    np.testing.assert_allclose(scores, SCORES[seen], atol=1e-3)
    assert labels == [["b", "c"][k] for k in np.flatnonzero(seen)]


def test_a_model_whose_family_cannot_be_told_asks_for_it(tmp_path):
    odd = save_onnx(tmp_path / "odd.onnx", {"out": np.zeros((1, 7, 9))}, (1, 3, *INPUT))
    with pytest.raises(ArgumentError, match=r"odd.onnx: the family cannot be inferred from the outputs .*Give family"):
        geotile.endpoint(f"onnx:{odd}")
    with pytest.raises(ArgumentError, match=r"family must be one of .*got 'yolov6'"):
        geotile.endpoint(f"onnx:{odd}", family="yolov6")
    for family in sorted(set(FAMILIES) - {"rtdetr-ul-scores", "torchvision", "yolo-nms-pose"}):
        with pytest.raises(ArgumentError, match=f"family='{family}' needs .*the model .*fit"):
            geotile.endpoint(f"onnx:{odd}", family=family)
    good = save_onnx(tmp_path / "good.onnx", raw_outputs("yolov8"), (1, 3, *INPUT))
    with pytest.raises(ArgumentError, match="dynamic batch size"):
        geotile.endpoint(f"onnx:{good}", batch_size=2)
    floats = np.zeros((3, 8, 8), np.float32)
    assert "geotile.rescale" in geotile.endpoint(f"onnx:{good}").check(floats).message


def test_outputs_by_name(tmp_path):
    outputs = {"det": BOXES, "conf": SCORES, "cls": CLASSES, "more": np.zeros(3)}
    path = save_onnx(tmp_path / "m.onnx", outputs, (3, "y", "x"))
    names = {"boxes": "det", "scores": "conf", "labels": "cls"}
    model = geotile.endpoint(f"onnx:{path}", output_names=names)
    assert model.invoke([np.zeros((3, 64, 96), np.uint8)], "")[0][2] == ["1", "2"]
    with pytest.raises(ArgumentError, match=r"must name outputs of the model.*got \['nope'\]"):
        geotile.endpoint(f"onnx:{path}", output_names=names | {"labels": "nope"})


def test_a_fixed_batch_is_filled_up(tmp_path):
    table = np.repeat(raw_outputs("yolov8")["output0"], 4, axis=0)
    path = save_onnx(tmp_path / "m.onnx", {"output0": table}, (4, 3, *INPUT))
    model = geotile.endpoint(f"onnx:{path}")
    assert model.batch_size == 4
    assert len(model.invoke([np.zeros((3, *INPUT), np.uint8)] * 3, "")) == 3


@pytest.mark.slow
def test_a_real_model_finds_the_aeroplanes_on_a_cluster_too(shared, workers):
    scene, spec = str(shared / "imagery" / "2_planes.tiff"), f"onnx:{shared / 'models' / 'nanodet_m.onnx'}"
    job = {"tile_size": 224, "overlap": 96, "score_threshold": 0.3, "labels": shared / "models" / "coco.names"}
    here = geotile.detect(scene, spec, **job)
    planes = here[here["label"] == "aeroplane"]
    assert len(planes) == 2
    assert planes["score"].round(2).tolist() == [0.38, 0.34]
    assert here.attrs["report"].timing["model"] > 0
    with workers.as_current():
        there = geotile.detect(scene, spec, **job)
    np.testing.assert_allclose(there["score"], here["score"], atol=1e-5)
