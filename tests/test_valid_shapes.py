"""Shapes in a model's answer: each reaches merging valid, or is rejected; both are counted."""

import json
import time

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import geotile
from geotile import ResponseError
from geotile.endpoints.decode import decode_collection

BOW_TIE = [[10, 10], [20, 20], [20, 10], [10, 20], [10, 10]]
SQUARE = [[30, 10], [40, 10], [40, 20], [30, 20], [30, 10]]
HOLE = [[33, 13], [36, 13], [36, 16], [33, 16], [33, 13]]
SPIKE = [[30, 10], [40, 10], [40, 20], [50, 20], [30, 20], [30, 10]]
FLAT = [[1, 1], [9, 1], [1, 1], [1, 1]]


def features(*geometries):
    return {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "properties": {"imageGeometry": each}} for each in geometries],
    }


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def test_polygons_are_made_valid_and_counted():
    read = decode_collection(features(polygon(BOW_TIE), polygon(SQUARE, HOLE), polygon(SPIKE), polygon(FLAT)))
    found = read.detections
    assert shapely.is_valid(found.geometries).all()
    assert shapely.area(found.geometries).tolist() == [50, 91, 100]
    assert len(found.geometries[1].interiors) == 1
    assert found.boxes.tolist()[2] == [30, 10, 40, 20]  # the spike is no part of the area
    assert (read.repaired, read.rejected) == (2, 1)
    assert read.flaw == "a shape was not valid: Self-intersection[15 15]"
    assert "must have an area" in read.reason


def test_a_hole_of_a_polygon_that_crosses_itself_is_kept():
    crossing = [[0, 0], [20, 0], [20, 20], [8, 20], [8, 21], [9, 21], [0, 20], [0, 0]]
    found = decode_collection(features(polygon(crossing, [[5, 5], [9, 5], [9, 9], [5, 9], [5, 5]]))).detections
    assert not found.geometries[0].covers(shapely.Point(7, 7))
    assert found.geometries[0].covers(shapely.Point(3, 3))


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Point", "coordinates": [4, 3]}, {"type": "MultiPoint", "coordinates": [[0, 1], [4, 1]]},
        {"type": "LineString", "coordinates": [[0, 1], [4, 5]]}, {"type": "LineString", "coordinates": [[4, 5], [4, 5]]},
        {"type": "MultiLineString", "coordinates": [[[0, 1], [4, 5]], [[1, 1], [2, 2]]]}, polygon(SQUARE, HOLE),
        {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [BOW_TIE]]},
        {"type": "GeometryCollection", "geometries": [polygon(BOW_TIE), {"type": "Point", "coordinates": [50, 50]}]},
        {"type": "GeometryCollection", "geometries": [{"type": "GeometryCollection", "geometries": [polygon(BOW_TIE)]}]},
        {"type": "Polygon", "coordinates": [[[*xy, 7] for xy in SQUARE]]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("merge", ["nms", "seam", "greedy-nmm", "union", "soft-nms", None])
def test_every_type_of_geojson_is_merged(write_tiff, noise, geometry, merge):
    path = write_tiff(noise)
    found = geotile.detect(
        path, lambda tile: features(geometry, polygon(SQUARE)), tile_size=128, overlap=64, merge=merge
    )
    assert len(found)
    assert geotile.image_geometry(found).is_valid.all()
    has_area = shapely.get_dimensions(geotile.image_geometry(found)) == 2
    assert (found.area_m2.notna() == has_area).all()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_repairs_are_counted_in_the_report(write_tiff, noise, tmp_path, checkpoint):
    path = write_tiff(noise)
    options = {"tile_size": 128, "overlap": 16, "checkpoint": tmp_path / "cp" if checkpoint else None}
    for _ in range(1 + checkpoint):  # also as a checkpoint kept it
        found = geotile.detect(path, lambda tile: features(polygon(BOW_TIE), polygon(SQUARE)), **options)
        report = geotile.report(found)
        assert (report.status, report.shapes_repaired, report.boxes_rejected) == ("SUCCESS", report.tiles, 0)
        assert report.first_repair == "tile 0: a shape was not valid: Self-intersection[15 15]"
    assert "first repair" in repr(report)
    geotile.write(found, tmp_path / "a.geojson")
    assert gpd.read_file(tmp_path / "a.geojson").is_valid.all()


def test_the_check_of_an_endpoint_tells_of_repairs():
    check = geotile.endpoint(lambda tile: features(polygon(BOW_TIE))).check()
    assert "1 shapes were repaired: a shape was not valid" in check.message


def test_shapes_beyond_any_image_are_rejected():
    with pytest.raises(ResponseError, match="beyond any image"):
        decode_collection(features(polygon([[0, 0], [1e300, 0], [0, 5], [0, 0]])))


def test_a_comb_at_an_angle_is_valid_and_many_of_them_take_too_long():
    """The envelopes of its teeth overlap, and none of them crosses another."""

    def comb(teeth):
        starts = 1000 / teeth * np.arange(teeth)[:, None]
        tooth = np.array([[0, 0], [1000, 1000], [1000 + 500 / teeth, 1000], [500 / teeth, 0]])
        ring = (tooth + np.array([1, 0]) * starts[:, :, None]).reshape(-1, 2)
        return polygon([*ring.tolist(), [1001, -5], [-1, -5], ring[0].tolist()])

    fine = decode_collection(features(comb(2500), polygon(SQUARE)))
    assert (len(fine.detections), fine.repaired, fine.rejected) == (2, 0, 0)
    began = time.monotonic()
    many = decode_collection(features(*[comb(2500)] * 20, polygon(SQUARE)))
    assert time.monotonic() - began < 30
    assert len(many.detections) + many.rejected == 21
    assert many.rejected >= 10
    assert "too often to be repaired" in many.reason


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=12), st.booleans())
def test_any_ring_is_an_area_or_rejected(ring, hole):
    rings = [[list(map(float, xy)) for xy in [*ring, ring[0]]]]
    rings += [[[3.0, 3.0], [6.0, 3.0], [6.0, 6.0], [3.0, 3.0]]] if hole else []
    read = decode_collection(json.loads(json.dumps(features(polygon(*rings), polygon(SQUARE)))))
    shapes = read.detections.geometries
    assert len(shapes) + read.rejected == 2
    assert shapely.is_valid(shapes).all()
    assert not shapely.is_empty(shapes).any()
    assert set(shapely.get_dimensions(shapes)) == {2}
    np.testing.assert_array_equal(shapely.bounds(shapes), read.detections.boxes)


def test_key_points_move_with_their_detections_and_are_scaled():
    from geotile.merging.detections import concat, detections

    found = detections(
        np.array([[0.0, 0, 4, 4], [1, 1, 3, 3]]), np.array([0.9, 0.8]), keypoints=[[[1.0, 2.0, 0.5], [3.0, 4.0, 0.25]], None],
        properties=[{"speed": 3}, None],
    )  # fmt: skip
    placed = concat([found.moved_to_image(3, 100, 200, 64, 64), found.moved_to_image(4, 0, 0, 64, 64)])
    assert placed.keypoints.tolist()[:2] == [[[101, 202, 0.5], [103, 204, 0.25]], None]
    assert found.keypoints[0][0] == [1, 2, 0.5]
    assert placed.properties_with_keypoints((2, 4)).tolist()[:2] == [
        {"speed": 3, "keypoints": [[202, 808, 0.5], [206, 816, 0.25]]}, None
    ]  # fmt: skip


def test_a_shape_beside_its_tile_is_rejected_though_its_box_touches_it(write_tiff, noise):
    corner = polygon([[-30, 5], [5, -30], [-30, -30], [-30, 5]])  # its envelope reaches 5 px into the tile
    found = geotile.detect(write_tiff(noise), lambda tile: features(corner, polygon(SQUARE)), tile_size=128, overlap=0)
    report = geotile.report(found)
    assert report.boxes_rejected == report.tiles
    assert "or its shape, lies outside the tile" in report.first_rejection


def test_a_shape_that_crosses_itself_everywhere_is_rejected_at_once():
    """GEOS would take minutes and gigabytes to repair it, and minutes to find that a large one is not valid."""
    random = np.random.default_rng(0)
    tangles = [polygon(random.uniform(0, 500, (n, 2)).tolist()) for n in (2_000, 50_000)]
    for each in tangles:
        each["coordinates"][0].append(each["coordinates"][0][0])
    started = time.perf_counter()
    read = decode_collection(features(*tangles, polygon(SQUARE), polygon(BOW_TIE)))
    assert time.perf_counter() - started < 20
    assert (len(read.detections), read.rejected, read.repaired) == (2, 2, 1)
    assert "too often to be repaired" in read.reason


def test_a_large_outline_with_one_pinch_is_repaired():
    turn = np.linspace(0, 2 * np.pi, 20_000)
    xy = np.c_[np.cos(turn), np.sin(turn)] * 200 * (1 + 0.2 * np.sin(40 * turn))[:, None] + 250
    xy[100] = xy[160]
    xy[-1] = xy[0]
    read = decode_collection(features(polygon(xy.tolist())))
    assert (len(read.detections), read.repaired) == (1, 1)
