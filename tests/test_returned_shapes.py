"""Shapes and key points in what callables return: masks, run lengths, polygons, oriented boxes, geometries."""

from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import geotile
from geotile import ResponseError
from geotile.endpoints.objects import decode_object
from geotile.endpoints.run_lengths import run_length_mask
from geotile.geometry.oriented import corners_of

BOXES, SCORES = [[1.0, 2, 11, 12], [20, 20, 30, 31]], [0.75, 0.5]
XYWHR = np.array([[16.0, 16, 20, 6, 0.5], [40, 40, 10, 8, -0.3]])
CORNERS = corners_of(XYWHR)
MASKS = np.zeros((2, 64, 64), bool)
MASKS[0, 2:12, 1:11], MASKS[0, 5, 5], MASKS[1, 20:31, 20:25], MASKS[1, 20:31, 27:30] = True, False, True, True


def runs(mask):
    """Return a mask in COCO's run lengths."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]]).astype(int)
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def compressed(counts):
    """Return run lengths as text, as ``rleToString`` of COCO's maskApi.c writes them."""
    text = bytearray()
    for k, count in enumerate(counts):
        value = count - (counts[k - 2] if k > 2 else 0)
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(48 + bits + (32 if more else 0))
    return bytes(text)


def rle(mask, how=list):
    return {"size": list(mask.shape), "counts": how(runs(mask))}


def flat(shape):
    return shapely.get_coordinates(shape)[:-1].ravel().tolist()


@pytest.mark.parametrize(
    "answer",
    [
        {"masks": MASKS}, {"masks": MASKS[:, None].astype(np.float32) * 0.9}, {"masks": MASKS.astype(np.uint8) * 255},
        {"masks": [MASKS[0], MASKS[1]]}, {"segmentation": [rle(each) for each in MASKS]},
        {"segmentation": [rle(each, compressed) for each in MASKS]}, {"masks": [rle(each, lambda c: compressed(c).decode()) for each in MASKS]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("boxes", [True, False])
def test_masks(answer, boxes):
    found = decode_object(
        {"scores": SCORES, "labels": [1, 2], **({"boxes": BOXES} if boxes else {}), **answer}, (64, 64)
    ).detections
    assert shapely.area(found.geometries).tolist() == MASKS.sum(axis=(1, 2)).tolist()
    assert found.boxes.tolist() == (BOXES if boxes else [BOXES[0], [20, 20, 30, 31]])
    assert (len(found.geometries[0].interiors), len(shapely.get_parts(found.geometries[1]))) == (1, 2)
    assert not found.oriented.any()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_run_lengths_give_their_mask(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    for how in (list, np.array, compressed, lambda counts: compressed(counts).decode()):
        np.testing.assert_array_equal(run_length_mask(rle(mask, how)), mask)


def test_run_lengths_as_pycocotools_writes_them():
    """The example of pycocotools' own documentation of compressed masks, and long runs."""
    mask = np.zeros((427, 640), bool)
    mask[100:300, 50:600] = True
    assert run_length_mask({"size": [427, 640], "counts": compressed(runs(mask))}).sum() == mask.sum()
    coco = pytest.importorskip("pycocotools.mask")
    np.testing.assert_array_equal(run_length_mask(coco.encode(np.asfortranarray(mask.astype(np.uint8)))), mask)


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        ({"size": [2, 2], "counts": [1, 1]}, "must add up"), ({"size": [2, 2], "counts": [5, -1]}, "must add up"), ({"counts": [1]}, "KeyError"),
        ({"size": [2, 2], "counts": "\x01"}, "cannot be part of"), ({"size": [2, 2], "counts": "o"}, "ends within a number"), ({"size": [2, 2], "counts": "oooooooooooooooooo0"}, "cannot be part of"),
        ({"size": [2], "counts": [1]}, "size"), ({"size": [2, 2], "counts": None}, "TypeError"),
    ],
)  # fmt: skip
def test_bad_run_lengths_are_refused(encoded, said):
    with pytest.raises(ResponseError, match=said):
        run_length_mask(encoded)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"masks": MASKS[:, :32]}, r"size of the tile, 64 x 64 pixels; got the shape \(32, 64\)"), ({"masks": MASKS * 3.5 - 1}, "probabilities from 0 to 1"),
        ({"masks": MASKS.astype(str)}, "truth values or numbers"), ({"segmentation": [[[1, 2, 3, 4]]] * 2}, "at least three points"), ({"segmentation": [5, 6]}, "polygons or run lengths"),
        ({"xyxyxyxy": np.zeros((2, 6))}, r"\(n, 4, 2\)"), ({"xywhr": np.zeros((2, 6))}, "sixth column, as scores"),
        ({"xywhr": [[5, 5, 4, 2, 45.0]] * 2}, r"must be radians, from -2π to 2π; got 45"),
        ({"xywhr": XYWHR, "masks": MASKS}, "one shape per detection; got masks and xywhr"), ({"boxes": BOXES, "keypoints": np.zeros((2, 5, 4))}, "key points must have shape"),
        ({"boxes": BOXES, "keypoints": np.zeros((2, 5, 3)), "keypoints_scores": np.zeros((2, 4))}, "scores of shape"), ({"boxes": BOXES, "keypoints": np.full((2, 5, 2), np.nan)}, "must be finite"),
        ({"boxes": BOXES, "polygons": []}, "polygons"), ({}, "must hold boxes, scores"),
    ],
)  # fmt: skip
def test_what_would_lose_a_part_is_refused(answer, said):
    with pytest.raises(ResponseError, match=said):
        decode_object({"scores": SCORES, **answer}, (64, 64))


def test_an_empty_mask_is_counted():
    masks = MASKS.copy()
    masks[0] = False
    for boxes in ({}, {"boxes": BOXES}):
        read = decode_object({"scores": SCORES, "masks": masks, **boxes})
        assert (len(read.detections), read.rejected, "empty" in read.reason) == (1, 1, True)
    assert decode_object({"scores": SCORES[:1], "masks": masks[:1]}).rejected == 1  # and does not fail its tile
    assert (
        len(
            decode_object(
                {"boxes": np.empty((0, 4)), "scores": [], "masks": np.empty((0, 1, 64, 64)), "labels": []}
            ).detections
        )
        == 0
    )


@pytest.mark.parametrize("column", [{"xyxyxyxy": CORNERS}, {"xywhr": XYWHR}, {"xywhr": XYWHR.tolist()}])
def test_oriented_boxes(column):
    found = decode_object({"scores": SCORES, "labels": ["ship", "plane"], **column}).detections
    np.testing.assert_allclose(shapely.get_coordinates(found.geometries).reshape(2, 5, 2)[:, :4], CORNERS)
    np.testing.assert_allclose(found.boxes, np.hstack([CORNERS.min(axis=1), CORNERS.max(axis=1)]))
    assert (found.oriented.tolist(), found.labels.tolist()) == ([True, True], ["ship", "plane"])


def test_corners_in_another_order_are_no_oriented_box():
    read = decode_object({"scores": SCORES, "xyxyxyxy": CORNERS[:, [0, 2, 1, 3]]})
    assert (read.repaired, read.detections.oriented.tolist()) == (2, [False, False])


def test_rows_of_mmrotate_are_not_taken_for_boxes():
    rows = np.c_[XYWHR, SCORES]
    with pytest.raises(ResponseError):
        decode_object(rows)
    assert len(decode_object({"xywhr": rows[:, :5], "scores": rows[:, 5]}).detections) == 2


def test_instances_of_mmdetection():
    sample = SimpleNamespace(bboxes=np.array(BOXES), scores=np.array(SCORES), labels=np.array([0, 2]))
    found = decode_object(SimpleNamespace(pred_instances=sample)).detections
    assert (found.boxes.tolist(), found.labels.tolist(), found.geometries.tolist()) == (BOXES, ["0", "2"], [None, None])
    masked = SimpleNamespace(**sample.__dict__, masks=MASKS)
    assert shapely.area(decode_object(masked).detections.geometries).tolist() == MASKS.sum(axis=(1, 2)).tolist()
    rotated = SimpleNamespace(bboxes=SimpleNamespace(tensor=XYWHR), scores=np.array(SCORES), labels=np.array([0, 2]))
    assert decode_object(rotated).detections.oriented.all()


def test_results_of_coco():
    rows = [
        {"bbox": [1, 2, 10, 10], "score": 0.75, "category_id": 3, "segmentation": rle(MASKS[0]), "area": 99},
        {"score": 0.5, "category_name": "plane", "segmentation": [flat(shapely.box(20, 20, 25, 31)), flat(shapely.box(27, 20, 30, 31))]},
        {"bbox": [4, 4, 2, 2], "score": 0.4, "category_id": 3, "keypoints": [5, 5, 2, 6, 6, 1]},
        {"bbox": [4, 4, 2, 2], "category_id": 3},
    ]  # fmt: skip
    read = decode_object(rows, (64, 64))
    found = read.detections
    assert (found.labels.tolist(), read.rejected, "score" in read.reason) == (["3", "plane", "3"], 1, True)
    assert found.boxes.tolist() == [*BOXES, [4, 4, 6, 6]]
    assert shapely.area(found.geometries[:2]).tolist() == MASKS.sum(axis=(1, 2)).tolist()
    assert (found.properties.tolist(), found.keypoints[2]) == ([{"area": 99}, None, None], [[5, 5, 2], [6, 6, 1]])


def test_key_points_of_torchvision():
    points = np.array([[[1.0, 2, 1], [3, 4, 1]]] * 2)
    answer = {"boxes": BOXES, "scores": SCORES, "labels": [1, 1], "keypoints": points}
    assert decode_object(answer).detections.keypoints.tolist() == points.tolist()
    scored = decode_object(answer | {"keypoints_scores": [[5.0, 6], [7, 8]]}).detections
    assert scored.keypoints.tolist() == [[[1, 2, 5], [3, 4, 6]], [[1, 2, 7], [3, 4, 8]]]


def test_geometries_of_tables():
    table = pd.DataFrame(BOXES, columns=["xmin", "ymin", "xmax", "ymax"]).assign(score=SCORES, label=["ship", "plane"])
    shapes = [shapely.Point(6, 7).buffer(5), shapely.box(*BOXES[1])]
    for frame in (
        gpd.GeoDataFrame(table, geometry=shapes),
        gpd.GeoDataFrame(table.assign(other=shapes), geometry="other"),
    ):
        found = decode_object(frame).detections
        assert (found.geometries.tolist(), found.boxes.tolist()) == ([shapes[0], None], BOXES)
    alone = gpd.GeoDataFrame({"score": SCORES, "label": ["ship", "plane"], "kind": [1, 2]}, geometry=shapes)
    found = decode_object(alone).detections
    np.testing.assert_allclose(found.boxes, [shapes[0].bounds, BOXES[1]])
    assert found.properties.tolist() == [{"kind": 1}, {"kind": 2}]
    for missing in (None, shapely.Polygon()):
        alone.loc[0, "geometry"] = missing
        read = decode_object(alone)
        assert (read.rejected, read.detections.labels.tolist()) == (1, ["plane"])
    points = gpd.GeoDataFrame({"score": SCORES}, geometry=shapely.points([[3, 4], [5, 6]]))
    assert decode_object(points).detections.boxes.tolist() == [[3, 4, 3, 4], [5, 6, 5, 6]]


def test_a_run_with_returned_masks(write_tiff, noise):
    masks = np.zeros((1, 128, 128), bool)
    masks[0, 20:40, 30:60], masks[0, 25:30, 35:40] = True, False
    found = geotile.detect(
        write_tiff(noise),
        lambda tile: {"masks": masks, "scores": [0.9], "labels": ["field"]},
        tile_size=128,
        overlap=0,
        merge=None,
    )
    shapes = geotile.image_geometry(found)
    assert set(shapes.area) == {575.0}
    assert all(len(shape.interiors) == 1 for shape in shapes)


@pytest.mark.parametrize(
    "counts", [[2**62, 2**62, 2**62, 2**62 + 100], [10.5, 89.5], [-1, 101], [50], ["50", "50"], [2**70, 100]]
)
def test_run_lengths_that_do_not_fit_are_refused(counts):
    """A sum that wraps around would write beyond the end of the mask."""
    with pytest.raises(ResponseError, match="run lengths must"):
        run_length_mask({"size": [10, 10], "counts": counts}, (10, 10))


@pytest.mark.parametrize("points", [[], np.zeros((0, 3))])
def test_a_model_that_finds_no_key_points_is_no_error(points):
    image = xr.DataArray(np.zeros((1, 64, 64), np.uint8), dims=("band", "y", "x"))
    answer = [{"bbox": [5, 5, 9, 9], "score": 0.5, "keypoints": points}]
    if isinstance(points, np.ndarray):
        answer = {"boxes": [[5, 5, 9, 9]], "scores": [0.5], "keypoints": points[None]}
    assert len(geotile.detect(image, lambda tile: answer, tile_size=32, overlap=0, merge=None)) == 4
