"""What callables return: the objects of the detection libraries, arrays, tables; and what is refused."""

import datetime
import math
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from rasterio.features import rasterize

import geotile
from geotile import ResponseError
from geotile.core.values import as_json
from geotile.endpoints.answer import Answer
from geotile.endpoints.objects import decode_object

BOXES, SCORES = [[1.0, 2, 11, 12], [20, 20, 30, 31]], [0.75, 0.5]


class Tensor:
    """A tensor that requires grad and lies on a GPU: numpy takes it only after detach() and cpu()."""

    def __init__(self, values, state="grad"):
        self.values, self.state = np.asarray(values), state

    shape = property(lambda self: self.values.shape)
    ndim = property(lambda self: self.values.ndim)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return (Tensor(each, self.state) for each in self.values)

    def detach(self):
        return Tensor(self.values, "gpu")

    def cpu(self):
        return Tensor(self.values, "cpu" if self.state == "gpu" else self.state)

    def __array__(self, dtype=None, copy=None):
        if self.state != "cpu":
            raise RuntimeError(f"cannot convert a tensor ({self.state})")
        return np.asarray(self.values, dtype)


def results(**more):
    """Return what Ultralytics' models return for a picture."""
    boxes = SimpleNamespace(xyxy=Tensor(BOXES), conf=Tensor(SCORES), cls=Tensor([0.0, 2.0]), id=None)
    parts = {"masks": None, "keypoints": None, "obb": None, "probs": None}
    given = {"boxes": boxes, "names": {0: "ship", 2: "plane"}, "orig_shape": (64, 64)}
    return SimpleNamespace(**parts | given | more)


def supervision(**more):
    given = {"xyxy": np.array(BOXES), "confidence": np.array(SCORES), "class_id": np.array([0, 2]), "tracker_id": None}
    return SimpleNamespace(**given | {"data": {}, "mask": None} | more)


def tv_boxes(form):
    """Return boxes as torchvision.tv_tensors.BoundingBoxes has them."""
    boxes = np.array(BOXES).view(type("BoundingBoxes", (np.ndarray,), {}))
    boxes.format = SimpleNamespace(name=form)
    return boxes


TABLE = pd.DataFrame(BOXES, columns=["xmin", "ymin", "xmax", "ymax"]).assign(score=SCORES, label=["ship", "plane"])
SHIP_PLANE, NUMBERS, NONE = ["ship", "plane"], ["0", "2"], ["", ""]


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ((BOXES, SCORES), NONE), ((BOXES, SCORES, SHIP_PLANE), SHIP_PLANE), ([np.array(BOXES), SCORES, None], NONE),
        ((Tensor(BOXES), Tensor(SCORES), Tensor([0, 2])), NUMBERS), (([Tensor(b) for b in BOXES], SCORES), NONE),
        ((BOXES, np.array(SCORES)[:, None], np.array([0.0, 2.0])), NUMBERS), ((BOXES, SCORES, [b"ship", "plane"]), SHIP_PLANE),
        ((BOXES, SCORES, np.array(SHIP_PLANE)), SHIP_PLANE), ((tv_boxes("XYXY"), SCORES), NONE), ((BOXES, SCORES, pd.Series(SHIP_PLANE)), SHIP_PLANE),
        (np.c_[BOXES, SCORES], NONE), (np.c_[BOXES, SCORES, [0, 2]], NUMBERS), (np.c_[BOXES, SCORES, [0, 2]].tolist(), NUMBERS),
        (Tensor(np.c_[BOXES, SCORES]), NONE), ([np.c_[BOXES, SCORES]], NONE),
        ({"boxes": Tensor(BOXES), "scores": Tensor(SCORES), "labels": Tensor([0, 2])}, NUMBERS),
        ([{"boxes": Tensor(BOXES), "scores": Tensor(SCORES), "labels": Tensor([0, 2])}], NUMBERS),
        ({"boxes": BOXES, "scores": SCORES, "labels": [0, 2], "text_labels": SHIP_PLANE}, SHIP_PLANE),
        (results(), SHIP_PLANE), ([results()], SHIP_PLANE), (results(names=["ship", "", "plane"]), SHIP_PLANE),
        (results().boxes, NUMBERS), (supervision(), NUMBERS), (supervision(class_id=None), NONE),
        (supervision(data={"class_name": np.array(SHIP_PLANE)}), SHIP_PLANE), (TABLE, SHIP_PLANE), ([TABLE], SHIP_PLANE),
        (gpd.GeoDataFrame(TABLE, geometry=shapely.box(*np.array(BOXES).T)), SHIP_PLANE), (TABLE.drop(columns="label"), NONE),
    ],
)  # fmt: skip
def test_what_callables_return(answer, labels):
    found = decode_object(answer).detections
    assert (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()) == (BOXES, SCORES, labels)


@pytest.mark.parametrize(
    "answer",
    [
        None, [], (), ([], []), (np.empty((0, 4)), np.empty(0), []), np.empty((0, 6)), np.empty(0), [None], [[]],
        {"type": "FeatureCollection", "features": []}, {"boxes": np.empty((0, 4)), "scores": [], "labels": []},
        supervision(xyxy=np.empty((0, 4)), confidence=None, class_id=None), TABLE[:0], pd.DataFrame(),
    ],
)  # fmt: skip
def test_nothing_in_any_form(answer):
    assert len(decode_object(answer).detections) == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (7, "returned int"), ("car", "returned str"), ((BOXES, [0.5]), "boxes of shape"), (([[0, 0, 1]], [0.5]), "boxes of shape"),
        (([[0, 0, "x", 1]], [0.5]), "must be numbers"), (np.zeros((2, 4)), r"\(n, 5\) or \(n, 6\)"), (np.zeros((2, 7)), "n, 5"),
        ((BOXES, SCORES, ["a"]), "got 1 labels for 2 boxes"), ((BOXES, SCORES, "ab"), "got the text 'ab'"),
        ((BOXES, SCORES, [0.5, 1]), "a label must be text"), ((BOXES, SCORES, [None, None]), "a label must be text"),
        ((np.array(BOXES) + 2j, SCORES), "boxes must be real numbers; got complex"), ((BOXES, [True, False]), "got truth values"),
        ((np.array(BOXES).astype(str), SCORES), "got text"), (([["0", "0", "5", "5"]], [0.5]), "got text"),
        ((np.array(BOXES, int).astype("M8[s]"), SCORES), "got dates"), ((BOXES, np.array(SCORES).astype(object) + 1j), "got complex"),
        ((np.ma.masked_all((2, 4)), SCORES), "must be finite"), (np.ma.masked_all((2, 6)), "a label must|must be finite"),
        (TABLE.rename(columns={"label": "Label"}), r"column label of a table.*got \['Label'\]"), (TABLE.rename(columns={"label": "name"}), "name"),
        (TABLE.rename(columns={"label": "class_id"}), "Rename the column"), (pa.table({"a": [1]}), "are missing"),
        ((np.array(BOXES) / 64, SCORES), "all of the model's lie in the first pixel"), (([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 1.01, 0.9]], SCORES), "first pixel"),
        (pd.concat([TABLE, TABLE[["label"]]], axis=1), r"\['label'\] occur twice"), (supervision(class_id=None, data={"label": SHIP_PLANE}), "class_name"),
        (results(names={0: "ship"}), "class 2, which is not among its names"), (results(names=["a", "b"]), "class 2"),
        ((tv_boxes("XYWH"), SCORES), "boxes must be xyxy; got"),
        ((BOXES, [95.0, 40]), r"scores must be numbers from 0 to 1; got 95"), ((BOXES, [0.5, -3.2]), "got -3.2"),
        ((BOXES, SCORES, ["a", "b"], 5), "a tuple of 4 items"), ({"boxes": BOXES}, "must hold boxes, scores"),
        ({"boxes": BOXES, "scores": SCORES, "embeddings": 5}, "embeddings"),
        ({"boxes": BOXES, "scores": SCORES, "masks": np.ones((3, 4, 4), bool)}, "one of the geometries per box; got 3 for 2"),
        ({"boxes": BOXES, "scores": SCORES, "keypoints": np.ones((2, 4))}, "key points must have shape"),
        (results(probs=[1]), "class scores of the whole tile"), (results(depth=[1]), "depths of the whole tile"),
        (results(boxes=None), "without boxes"), (supervision(confidence=None), "must have scores"),
        (SimpleNamespace(xyxy=np.array(BOXES)), "must have scores"), (supervision(mask=np.ones((3, 4, 4), bool)), "got 3 for 2 boxes"),
        (supervision(mask=np.ones((2, 4, 4), bool), data={"xyxyxyxy": np.zeros((2, 4, 2))}), "one shape per detection; got xyxyxyxy and masks"), (TABLE.drop(columns="score"), r"\['score'\] are missing"),
        (gpd.GeoDataFrame(TABLE, geometry=shapely.box(*np.array(BOXES).T), crs=32631), "without a CRS"),
        (([[3, 0, 1, 1]], [0.5]), "x0 <= x1"), (([[0, 0, math.inf, 1]], [0.5]), "must be finite"), (([[0, 0, 1, 1]], [math.nan]), "finite"),
    ],
)  # fmt: skip
def test_what_callables_must_not_return(answer, said):
    with pytest.raises(ResponseError, match=said):
        decode_object(answer)


@pytest.mark.parametrize("method", ["__len__", "__iter__", "__array__", "columns", "xyxy", "boxes", "detach"])
def test_whatever_an_object_raises_fails_its_tile(method):
    def fail(*_):
        raise ZeroDivisionError("deep inside")

    attribute = fail if method.startswith("__") or method == "detach" else property(fail)
    odd = type(
        "Odd",
        (),
        {"__len__": lambda self: 2, "__array__": lambda self, dtype=None, copy=None: np.zeros(3), method: attribute},
    )()
    with pytest.raises(ResponseError):
        decode_object((odd, SCORES))
    with pytest.raises(ResponseError):
        decode_object(odd)


def test_rounding_above_one_is_one():
    scores = np.array([np.nextafter(np.float32(1), np.float32(2)), 1.0])
    assert decode_object((BOXES, scores)).detections.scores.tolist() == [1, 1]
    assert scores[0] > 1  # the model's own array is as it was


def test_tables_of_other_libraries_are_read_by_the_names_of_their_columns():
    mixed = pa.table({name: TABLE[name] for name in ("label", "score", "ymax", "xmax", "ymin", "xmin")})
    for table in (mixed, mixed.to_batches()[0]):
        found = decode_object(table).detections
        assert (found.boxes.tolist(), found.labels.tolist()) == (BOXES, SHIP_PLANE)


def test_missing_values_are_missing_in_properties_and_reject_a_row_elsewhere():
    odd = TABLE.assign(area=pd.array([5, None], "Int64"), when=[pd.NaT, pd.Timestamp("2024-01-01")], name=["a", pd.NA])
    assert decode_object(odd).detections.properties.tolist() == [
        {"area": 5, "when": None, "name": "a"}, {"area": None, "when": "2024-01-01T00:00:00", "name": None}
    ]  # fmt: skip
    for column in ("score", "xmin", "label"):
        gap = TABLE.astype({column: object})
        gap.loc[0, column] = pd.NA
        read = decode_object(gap)
        assert (read.rejected, read.detections.labels.tolist()) == (1, ["plane"])
    rows = np.array([[*BOXES[0], 0.75, np.nan], [*BOXES[1], 0.5, 2]])
    for answer in (
        (np.ma.masked_equal(BOXES, 2), SCORES, [0, 2]), rows, rows.astype(np.float32), np.ma.masked_invalid(rows),
        (BOXES, SCORES, np.ma.masked_equal([1, 2], 1)), (BOXES, SCORES, list(np.ma.masked_equal([1, 2], 1))),
    ):  # fmt: skip
        read = decode_object(answer)
        assert (read.rejected, read.detections.labels.tolist()) == (1, ["2"])
    shapes = [None, shapely.box(*BOXES[1])]
    placed = gpd.GeoDataFrame(TABLE.astype({"xmin": object}), geometry=shapes)
    placed.loc[0, "xmin"] = pd.NA
    read = decode_object(placed)
    assert (read.rejected, read.detections.labels.tolist()) == (1, ["plane"])


def test_padding_is_no_box_in_shares():
    assert decode_object(np.zeros((100, 6))).detections.scores.max() == 0
    padded = np.zeros((9, 6))
    padded[0] = [*BOXES[0], 0.75, 0]
    assert decode_object(padded).detections.scores.max() == 0.75


def test_results_of_a_resized_picture_are_refused():
    assert len(decode_object(results(), (64, 64)).detections) == 2
    for wrapped in (results(), [results()]):
        with pytest.raises(ResponseError, match="picture of 64 x 64 px for a tile of 128 x 256 px"):
            decode_object(wrapped, (256, 128))


def test_numbers_of_other_libraries():
    from decimal import Decimal

    found = decode_object((BOXES, [Decimal("0.75"), Decimal("0.5")], np.array([[0], [2]]))).detections
    assert (found.scores.tolist(), found.labels.tolist()) == (SCORES, NUMBERS)


def test_other_columns_become_properties():
    found = decode_object(TABLE.assign(area=np.float32(3.5), when=pd.Timestamp("2024-01-01"))).detections
    assert found.properties.tolist() == [{"area": 3.5, "when": "2024-01-01T00:00:00"}] * 2
    tracked = decode_object(
        supervision(tracker_id=np.array([4, 5]), data={"speed": np.array([1.5, np.nan])})
    ).detections
    assert tracked.properties.tolist() == [{"speed": 1.5, "track_id": 4}, {"speed": None, "track_id": 5}]


def test_one_bad_row_leaves_the_good_ones():
    read = decode_object(([BOXES[0], [5, 5, 1, 1], [0, 0, math.nan, 1]], [0.9, 0.8, 0.7]))
    assert (len(read.detections), read.rejected, "finite" in read.reason) == (1, 2, True)
    feature = {
        "type": "Feature",
        "properties": {"imageBBox": [0, 0, 4, 4], "featureClasses": [{"iri": "a", "score": 0.5}]},
    }
    for bad in ({"type": "Feature"}, 5, None, feature | {"properties": {"imageBBox": [0, 0, 4, 4], "odd": object()}}):
        read = decode_object({"type": "FeatureCollection", "features": [feature, bad]})
        assert (len(read.detections), read.rejected) == (1, 1), bad
        assert read.reason.startswith("feature 1 ")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.float32(3.5), 3.5), (np.int64(3), 3), (np.bool_(True), True), (math.nan, None), (math.inf, None), (np.nan, None),
        (np.array([1, 2]), [1, 2]), (Tensor([1.5]), [1.5]), ({1: (2, {3})}, {"1": [2, [3]]}), ("\ud800a", "\ufffda"),
        (pd.NA, None), (pd.NaT, None), (np.datetime64("NaT", "s"), None), (np.timedelta64("NaT", "s"), None), (np.timedelta64(90, "s"), "P0DT0H1M30S"), ("a\0b", "a\ufffdb"), (np.array(["2024-01-01", "NaT"], "M8[D]"), ["2024-01-01", None]),
        (np.ma.masked_equal([1, 2], 2), [1, None]), (np.ma.masked, None), (pd.array([1, None], "Int64"), [1, None]),
        (datetime.date(2024, 1, 1), "2024-01-01"), (np.datetime64("2024-01-01"), "2024-01-01"), (10**30, 10**30), (b"a"[0], 97),
    ],
)  # fmt: skip
def test_properties_are_json(value, wanted):
    if isinstance(value, Tensor):
        value.tolist = None
    assert as_json(value, "p") == wanted


@pytest.mark.parametrize("value", [object(), slice(3), 3j, {"a": object()}, {(1, 2): 3}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"must be text|cannot be written as JSON"):
        as_json(value, "p")
    deep = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        as_json(deep, "p")


@given(st.recursive(st.none() | st.floats() | st.integers() | st.text(max_size=3) | st.binary(max_size=3), lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=12))  # fmt: skip
def test_any_value_is_read_or_refused(value):
    try:
        read = decode_object(value)
    except ResponseError:
        return
    assert isinstance(read, Answer)
    assert ((read.detections.scores >= 0) & (read.detections.scores <= 1)).all()


@pytest.mark.parametrize("dask", [False, True])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_tile_belongs_to_the_model(dask, batch_size, write_tiff):
    pixels = np.full((1, 200, 200), 200, np.float32)
    image = xr.DataArray(pixels.copy(), dims=("band", "y", "x"))
    seen = []

    def model(tile):
        tile /= 255
        seen.append(round(float(tile.min()), 4))
        return None if batch_size is None else [None] * len(tile)

    class Own(geotile.Endpoint):
        remote = wants_bytes = False

        def invoke(self, tiles, content_type):
            return [model(tile) and None for tile in tiles]

    for endpoint in (model, Own()) if batch_size is None else (model,):
        for each in (image.chunk({"y": 100, "x": 100}) if dask else image, write_tiff(pixels)):
            options = {} if batch_size is None else {"batch_size": batch_size}
            geotile.detect(each, endpoint, tile_size=64, overlap=16, **options)
    assert set(seen) == {0.7843}
    assert (image.values == 200).all()


def test_a_long_label_costs_its_own_length():
    boxes = np.tile([[0.0, 0, 1, 1]], (20_000, 1)) + np.arange(20_000)[:, None]
    kept = geotile.nms(boxes, np.full(20_000, 0.5), np.array(["x" * 100_000] + ["y"] * 19_999, object))
    assert len(kept) == 20_000  # as fixed-width text, the labels would take 8 GB


# --- the libraries themselves, where they are installed ---


def test_torch():
    torch = pytest.importorskip("torch")
    boxes = torch.tensor(BOXES, requires_grad=True)
    scores = torch.tensor(SCORES, dtype=torch.bfloat16)
    for answer in (
        (boxes, scores, torch.tensor([0, 2])),
        [{"boxes": boxes, "scores": scores, "labels": torch.tensor([0, 2])}],
    ):
        found = decode_object(answer).detections
        assert (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()) == (BOXES, SCORES, NUMBERS)


def test_ultralytics():
    torch, engine = pytest.importorskip("torch"), pytest.importorskip("ultralytics.engine.results")
    from ultralytics.utils.ops import scale_masks

    rows = torch.tensor(np.c_[BOXES, SCORES, [0, 2]], dtype=torch.float32)
    names = {0: "ship", 2: "plane"}
    real = engine.Results(np.zeros((64, 64, 3), np.uint8), "", names, boxes=rows)
    for answer, labels in ((real, SHIP_PLANE), ([real], SHIP_PLANE), (real.boxes, NUMBERS)):
        found = decode_object(answer).detections
        assert (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()) == (BOXES, SCORES, labels)
    oriented = torch.tensor([[32, 32, 20, 10, 0.6, 0.8, 0]])
    turned = engine.Results(np.zeros((64, 64, 3), np.uint8), "", names, obb=oriented)
    for answer, label in ((turned, "ship"), (turned.obb, "0"), ([turned.obb], "0")):
        found = decode_object(answer).detections
        np.testing.assert_allclose(shapely.get_coordinates(found.geometries)[:4], turned.obb.xyxyxyxy[0], atol=1e-4)
        assert (found.labels.tolist(), found.oriented.tolist()) == ([label], [True])
    for size in ((64, 64), (32, 32), (32, 48)):  # retina masks, and those of the network's input
        masks = np.zeros((2, *size), np.uint8)
        masks[0, size[0] // 4 : size[0] // 2, size[1] // 2 : -2], masks[1, 5:15, 9:21], masks[1, 8:10, 12:15] = 1, 1, 0
        real = engine.Results(np.zeros((64, 64, 3), np.uint8), "", names, boxes=rows, masks=torch.from_numpy(masks))
        found = decode_object(real, (64, 64)).detections
        whole = scale_masks(torch.from_numpy(masks)[None].float(), (64, 64))[0].numpy() > 0.5
        for shape, mask in zip(found.geometries, whole, strict=True):
            ours = rasterize([shape], out_shape=(64, 64)).astype(bool)
            assert (ours & mask).sum() / (ours | mask).sum() > 0.9
        assert len(found.geometries[1].interiors) == 1
    posed = engine.Results(np.zeros((64, 64, 3), np.uint8), "", names, boxes=rows, keypoints=torch.ones(2, 4, 3))
    assert decode_object(posed).detections.keypoints.tolist() == [[[1, 1, 1]] * 4] * 2
    empty = engine.Results(np.zeros((64, 64, 3), np.uint8), "", names, boxes=rows[:0])
    assert len(decode_object(empty).detections) == 0


def test_supervision():
    sv = pytest.importorskip("supervision")
    real = sv.Detections(np.array(BOXES), confidence=np.array(SCORES), class_id=np.array([0, 2]))
    assert decode_object(real).detections.labels.tolist() == NUMBERS
    real.data["class_name"] = np.array(SHIP_PLANE)
    assert decode_object(real).detections.labels.tolist() == SHIP_PLANE
    assert len(decode_object(sv.Detections.empty()).detections) == 0
    with pytest.raises(ResponseError, match="must have scores"):
        decode_object(sv.Detections(np.array(BOXES)))
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 3:9, 2:7], masks[1, 21:28, 22:29], masks[1, 24, 24] = True, True, False
    compact = sv.detection.compact_mask.CompactMask.from_dense(masks, np.array(BOXES), (64, 64))
    for mask in (masks, compact):
        real = sv.Detections(np.array(BOXES), confidence=np.array(SCORES), class_id=np.array([0, 2]), mask=mask)
        found = decode_object(real, (64, 64)).detections
        assert shapely.area(found.geometries).tolist() == masks.sum(axis=(1, 2)).tolist()
        assert found.geometries[0].equals(shapely.box(2, 3, 7, 9))
        assert found.boxes.tolist() == BOXES
        with pytest.raises(ResponseError, match="size of the tile, 32 x 32"):
            decode_object(real, (32, 32))
    corners = np.array([[[5, 1], [11, 7], [7, 11], [1, 5]], [[20, 20], [30, 20], [30, 25], [20, 25]]], float)
    real = sv.Detections(
        np.array(BOXES), confidence=np.array(SCORES), data={"xyxyxyxy": corners, "class_name": np.array(SHIP_PLANE)}
    )
    found = decode_object(real).detections
    np.testing.assert_array_equal(shapely.get_coordinates(found.geometries).reshape(2, 5, 2)[:, :4], corners)
    assert (found.oriented.tolist(), found.boxes.tolist()) == ([True] * 2, [[1, 1, 11, 11], [20, 20, 30, 25]])
