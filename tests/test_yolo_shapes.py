"""Oriented boxes, masks and key points of Ultralytics' networks, from arrays: what is read, and what is refused."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from helpers import save_onnx

import geotile
from geotile import ArgumentError, ResponseError
from geotile.detectors import OnnxDetector
from geotile.detectors.layouts import count_cells
from geotile.endpoints.objects import decode_object
from geotile.geometry.oriented import corners_of
from geotile.merging.detections import Detections

INPUT = (64, 96)
CELLS = count_cells(INPUT)
TILE = np.zeros((3, *INPUT), np.uint8)
SHIP, PLANE = [48.0, 32, 40, 10, 0.5], [20.0, 40, 12, 8, -0.2]  # cx cy w h angle
NAMES = {"author": "Ultralytics", "names": "{0: 'ship', 1: 'plane'}", "stride": "32"}
POINTS = [[30.0, 30.0, 0.9], [50.0, 34.0, 0.25], [66.0, 36.0, 0.5], [48.0, 31.0, 0.75]]


def xyxy(box):
    return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2]


def prototypes():
    """Return 32 prototypes: the first is above 0 in a disc, the second on the left."""
    y, x = (np.mgrid[: INPUT[0] // 4, : INPUT[1] // 4] + 0.5) * 4
    protos = np.zeros((1, 32, INPUT[0] // 4, INPUT[1] // 4), np.float32)
    protos[0, 0], protos[0, 1] = 100 - (x - 48) ** 2 - (y - 32) ** 2, 50 - x
    return protos


def raw(kind):
    """Return outputs of a head with a ship and a plane, and a copy of the ship with a lower score."""
    more = {"obb": 1, "seg": 32, "pose": 12}[kind]
    out = np.zeros((1, 6 + more, CELLS), np.float32)
    for cell, box, scores in ((3, SHIP, [0.9, 0.1]), (8, SHIP, [0.8, 0]), (50, PLANE, [0, 0.7])):
        values = {"obb": [box[4]], "seg": [1.0] + [0.0] * 31, "pose": np.ravel(POINTS)}[kind]
        out[0, :, cell] = [*box[:4], *scores, *values]
    return {"output0": out} | ({"output1": prototypes()} if kind == "seg" else {})


def suppressed(kind):
    """Return outputs after suppression: rows, most of which are padding."""
    more = {"obb": 1, "seg": 32, "pose": 12}[kind]
    out = np.zeros((1, 300, 6 + more), np.float32)
    for row, (box, score, label) in enumerate(((SHIP, 0.9, 0), (PLANE, 0.7, 1))):
        values = {"obb": [box[4]], "seg": [1.0] + [0.0] * 31, "pose": np.ravel(POINTS)}[kind]
        out[0, row] = [*(box[:4] if kind == "obb" else xyxy(box)), score, label, *values]
    return {"output0": out} | ({"output1": prototypes()} if kind == "seg" else {})


def metadata(kind, nms):
    task = {"obb": "obb", "seg": "segment", "pose": "pose"}[kind]
    said = NAMES | {"task": task, "args": f"{{'nms': {nms}}}"}
    return said | ({"kpt_shape": "[4, 3]"} if kind == "pose" else {})


def detector(tmp_path, outputs, said=None, shape=(1, 3, *INPUT), **options):
    return OnnxDetector(save_onnx(tmp_path / "m.onnx", outputs, shape, metadata=said), **options)


@pytest.mark.parametrize("nms", [False, True])
@pytest.mark.parametrize("kind", ["obb", "seg", "pose"])
def test_the_task_in_the_metadata_decides(tmp_path, kind, nms):
    model = detector(tmp_path, suppressed(kind) if nms else raw(kind), metadata(kind, nms))
    assert model.family == f"{'yolo-nms' if nms else 'yolov8'}-{kind}"
    found = model(TILE)
    assert isinstance(found, Detections)
    assert found.labels.tolist() == ["ship", "plane"]
    np.testing.assert_allclose(found.scores, [0.9, 0.7], atol=1e-6)
    assert found.oriented.tolist() == [kind == "obb"] * 2
    read = decode_object(found)
    if kind == "obb":
        corners = shapely.get_coordinates(found.geometries).reshape(2, 5, 2)[:, :4]
        np.testing.assert_allclose(corners, corners_of(np.array([SHIP, PLANE])), atol=1e-4)
        np.testing.assert_array_equal(found.boxes, shapely.bounds(found.geometries))
    else:
        np.testing.assert_allclose(found.boxes, [xyxy(SHIP), xyxy(PLANE)], atol=1e-4)
    if kind == "pose":
        np.testing.assert_allclose(found.keypoints.tolist(), [POINTS, POINTS], atol=1e-4)
    if kind == "seg":  # the disc does not reach the plane's box: its mask has no pixel
        assert (len(read.detections), read.rejected, "empty" in read.reason) == (1, 1, True)
        disc = shapely.Point(48, 32).buffer(10).intersection(shapely.box(*xyxy(SHIP)))
        shape = read.detections.geometries[0]
        assert shape.intersection(disc).area / shape.union(disc).area > 0.9
        assert shapely.box(*xyxy(SHIP)).covers(shape)


@pytest.mark.parametrize("kind", ["obb", "seg", "pose"])
@pytest.mark.parametrize("nms", [False, True])
@pytest.mark.parametrize("tile_yx", [(64, 96), (128, 192), (32, 96), (100, 75)])
def test_shapes_go_through_the_letterbox(tmp_path, kind, nms, tile_yx):
    found = detector(tmp_path, suppressed(kind) if nms else raw(kind), metadata(kind, nms))(
        np.zeros((3, *tile_yx), np.uint8)
    )
    scale = min(INPUT[0] / tile_yx[0], INPUT[1] / tile_yx[1])
    sides = np.round(np.array(tile_yx[::-1]) * scale)
    shift, scale = (np.array(INPUT[::-1]) - sides) // 2, sides / tile_yx[::-1]
    ship = np.flatnonzero(found.labels == "ship")[0]
    if kind == "obb":
        box = np.array([*(SHIP[:2] - shift) / scale, *SHIP[2:4] / scale, SHIP[4]])
        np.testing.assert_allclose(
            shapely.get_coordinates(found.geometries[ship])[:4], corners_of(box[None])[0], atol=1e-3
        )
        assert len(found) == len(shapely.get_coordinates(found.geometries)) // 5
    elif kind == "pose":
        points = np.array(POINTS)
        points[:, :2] = (points[:, :2] - shift) / scale
        np.testing.assert_allclose(found.keypoints[ship], points, atol=1e-3)
    else:
        centre = (np.array([48, 32]) - shift) / scale
        np.testing.assert_allclose(shapely.centroid(found.geometries[ship]).coords[0], centre, atol=0.5)
        area = shapely.affinity.scale(
            shapely.Point(48, 32).buffer(10).intersection(shapely.box(*xyxy(SHIP))), *1 / scale
        ).area
        np.testing.assert_allclose(found.geometries[ship].area, area, rtol=0.12)


def test_oriented_boxes_are_suppressed_by_their_own_areas(tmp_path):
    out = np.zeros((1, 7, CELLS), np.float32)
    out[0, :, 1], out[0, :, 2] = [48, 32, 40, 6, 0.9, 0, 0.7], [48, 32, 40, 6, 0.8, 0, -0.7]  # crossed
    found = detector(tmp_path, {"o": out}, metadata("obb", False), nms_iou_threshold=0.3)(TILE)
    assert len(found) == 2
    out[0, 6, 2] = 0.75
    assert len(detector(tmp_path, {"o": out}, metadata("obb", False), nms_iou_threshold=0.3)(TILE)) == 1
    out[0, 4:6, 2] = [0, 0.8]  # of another class
    assert len(detector(tmp_path, {"o": out}, metadata("obb", False), nms_iou_threshold=0.3)(TILE)) == 2


def test_an_oriented_box_without_area_or_that_is_not_finite_is_counted(tmp_path):
    outputs = suppressed("obb")
    outputs["output0"][0, 2] = [20, 20, 10, 0, 0.8, 1, 0.5]
    outputs["output0"][0, 3] = [20, np.nan, 10, 5, 0.8, 1, 0.5]
    read = decode_object(detector(tmp_path, outputs, metadata("obb", True))(TILE))
    assert (len(read.detections), read.rejected) == (2, 2)


@pytest.mark.parametrize(
    ("outputs", "options", "said"),
    [
        (suppressed("obb"), {}, r"cannot be inferred.*'rtdetr-ul-scores' \(3 classes\), 'yolo-nms-obb' would fit\. Give family"),
        (suppressed("obb"), {"labels": ["a", "b", "c"]}, r"'rtdetr-ul-scores' \(3 classes\), 'yolo-nms-obb' would fit"),
        (raw("obb"), {"family": "yolov8-obb", "labels": ["a"]}, r"'yolov8-obb' \(2 classes\)"),
        (raw("obb"), {"family": "yolo-nms-obb"}, r"needs one output \(n, k, 7\)"),
        (raw("pose"), {"family": "yolov8-pose"}, r"number of key points must be known.*unknown number.*Give labels"),
        (raw("pose"), {"family": "yolov8-pose", "labels": ["a", "b"]}, "12 values for them"),  # 4 times 3, or 6 times 2
        (suppressed("pose"), {"family": "yolo-nms-pose"}, "12 values for them"),
        (raw("seg") | {"output2": np.zeros(3)}, {}, "cannot be inferred"),
        (raw("seg"), {"family": "yolov8"}, r"needs one output .* fit 'yolov8-seg' \(2 classes\)"),
        (raw("seg") | {"output1": np.zeros((1, 32, 9, 9))}, {"family": "yolov8-seg"}, r"needs the outputs"),
    ],
)  # fmt: skip
def test_without_metadata_the_user_names_the_family(tmp_path, outputs, options, said):
    with pytest.raises(ArgumentError, match=said):
        detector(tmp_path, outputs, **options)


@pytest.mark.parametrize(
    ("outputs", "options", "family"),
    [
        (raw("obb"), {"family": "yolov8-obb"}, "yolov8-obb"), (suppressed("obb"), {"family": "yolo-nms-obb"}, "yolo-nms-obb"),
        (raw("seg"), {}, "yolov8-seg"), (suppressed("seg"), {}, "yolo-nms-seg"), (raw("obb"), {}, "yolov8"),
    ],
)  # fmt: skip
def test_families_by_their_names_or_shapes(tmp_path, outputs, options, family):
    assert detector(tmp_path, outputs, **options).family == family


def test_key_points_without_metadata_where_only_one_shape_fits(tmp_path):
    out = np.zeros((1, 300, 6 + 51), np.float32)
    out[0, 0, :6] = [*xyxy(SHIP), 0.9, 0]
    found = detector(tmp_path, {"o": out}, family="yolo-nms-pose")(TILE)
    assert np.shape(found.keypoints[0]) == (17, 3)


def test_an_angle_is_no_score(tmp_path):
    """Raw oriented boxes without metadata look like boxes with one more class: their angles give them away."""
    model = detector(tmp_path, {"o": np.where(raw("obb")["output0"] == 0.5, 1.8, raw("obb")["output0"])})
    with pytest.raises(ResponseError, match=r"angles and key points are not scores\): check family="):
        model(TILE)


def test_contradicting_metadata_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"metadata of the model, which say 'yolo-nms-obb'; got 'yolov8'"):
        detector(tmp_path, suppressed("obb"), metadata("obb", True), family="yolov8")
    with pytest.raises(ArgumentError, match=r"say 'yolo-nms-pose', one output .*values of the key points"):
        detector(
            tmp_path, suppressed("pose"), metadata("pose", True) | {"kpt_shape": "[5, 2]", "args": "{'nms': True}"}
        )


@pytest.mark.parametrize("kind", ["obb", "seg", "pose"])
@pytest.mark.parametrize("resolution", [1, 2])
def test_a_run_with_shapes(tmp_path, write_tiff, kind, resolution):
    """Four tiles side by side: the same objects in each, in pixels of the full resolution."""
    path = save_onnx(tmp_path / "m.onnx", raw(kind), (1, 3, *INPUT), metadata=metadata(kind, False))
    image = write_tiff(np.zeros((3, 128 * resolution, 192 * resolution), np.uint8))
    found = geotile.detect(
        image,
        f"onnx:{path}",
        tile_size=(64, 96),
        overlap=0,
        merge=None,
        resolution=0.5 * resolution,  # the pixels of the file have 0.5 m
    )
    ships = found[found.label == "ship"]
    assert len(ships) == 4
    corners = np.array([[0, 0], [96, 0], [0, 64], [96, 64]])
    shapes = geotile.image_geometry(ships)
    if kind == "obb":
        wanted = {
            shapely.Polygon((corners_of(np.array([SHIP]))[0] + c) * resolution).normalize().wkt[:12] for c in corners
        }
        assert {each.normalize().wkt[:12] for each in shapes} == wanted
        assert found["image_geometry"].notna().all()
    if kind == "seg":
        report = geotile.report(found)
        assert (len(found), report.boxes_rejected) == (4, 4)
        assert "empty" in report.first_rejection
    if kind == "pose":
        first = sorted(each["keypoints"][0] for each in ships["properties"])
        np.testing.assert_allclose(
            first, sorted([*((np.array(POINTS[0][:2]) + c) * resolution), 0.9] for c in corners.tolist()), atol=1e-3
        )
    geotile.write(found, tmp_path / "a.parquet")
    back = gpd.read_parquet(tmp_path / "a.parquet")
    assert len(back) == len(found)


def test_the_box_of_a_tile_of_another_size_is_in_the_mask(tmp_path):
    random = np.random.default_rng(0)
    outputs = raw("seg")
    outputs["output1"] = random.normal(size=outputs["output1"].shape).astype(np.float32)
    outputs["output0"][0, 6:] = random.normal(size=outputs["output0"][0, 6:].shape)
    for tile_yx in ((64, 96), (77, 33), (200, 300)):
        found = detector(tmp_path, outputs, metadata("seg", False))(np.zeros((3, *tile_yx), np.uint8))
        for shape, (x0, y0, x1, y1) in zip(found.geometries, found.boxes, strict=True):
            assert shape.is_valid
            assert shapely.box(np.floor(x0), np.floor(y0), np.ceil(x1), np.ceil(y1)).covers(shape)
            assert shape.within(shapely.box(0, 0, *tile_yx[::-1]))
