"""Oriented boxes, fields and points that the borders of tiles cut or two tiles show."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from shapely import affinity

import geotile
from geotile.grid.tile_grid import Interior, TileGrid
from geotile.merging.detections import concat, detections

EVERYWHERE = Interior(-np.inf, -np.inf, np.inf, np.inf)
SIZE = 1000
IMAGE = xr.DataArray(
    np.stack([np.repeat(np.arange(SIZE)[:, None], SIZE, 1), np.repeat(np.arange(SIZE)[None], SIZE, 0)]).astype(
        "uint16"
    ),
    dims=("band", "y", "x"),
)


def showing(shapes, answer, least=0.1):
    """Return a model that answers the part of each shape within a tile, if that is not too small."""

    def model(tile):
        y, x = int(tile[0, 0, 0]), int(tile[1, 0, 0])
        window = shapely.box(x, y, x + tile.shape[2], y + tile.shape[1])
        parts = [shape.intersection(window) for shape in shapes]
        seen = [
            part
            for part, shape in zip(parts, shapes, strict=True)
            if part.area >= least * max(shape.area, 1e-9) and not part.is_empty
        ]
        return answer([affinity.translate(part, -x, -y) for part in seen])

    return model


def oriented(parts):
    corners = [shapely.get_coordinates(shapely.oriented_envelope(part))[:4] for part in parts]
    return {
        "xyxyxyxy": np.array(corners).reshape(-1, 4, 2),
        "scores": np.full(len(parts), 0.5),
        "labels": ["ship"] * len(parts),
    }


def outlines(parts):
    return gpd.GeoDataFrame({"score": np.full(len(parts), 0.5)}, geometry=parts)


def ships(seed):
    rng, placed = np.random.default_rng(seed), []
    while len(placed) < 14:
        length = rng.uniform(100, 240)
        width = length * rng.uniform(0.2, 0.45)
        ship = affinity.rotate(shapely.box(-length / 2, -width / 2, length / 2, width / 2), rng.uniform(0, 180))
        ship = affinity.translate(ship, *rng.uniform(60, SIZE - 60, 2))
        if shapely.box(0, 0, SIZE, SIZE).contains(ship) and all(ship.distance(other) > 6 for other in placed):
            placed.append(ship)
    return placed


@pytest.mark.parametrize("overlap", [0, 32, 128])
@pytest.mark.parametrize("seed", [1, 2])
def test_ships_larger_than_tiles_keep_their_width_and_angle(seed, overlap):
    """A corner of a tile shows a sliver of a ship, whose own box is turned and twice as wide."""
    wanted = ships(seed)
    found = geotile.detect(IMAGE, showing(wanted, oriented), tile_size=256, overlap=overlap)
    shapes = geotile.image_geometry(found)
    assert len(found) == len(wanted)
    for ship in wanted:
        share = max(ship.intersection(shape).area / ship.union(shape).area for shape in shapes)
        assert share > 0.9


def test_union_joins_parts_and_leaves_whole_neighbours_alone():
    """A mosaic of fields that touch: the tiles show most of them whole, and none is joined with its neighbours."""
    small = [shapely.box(x, y, x + 50, y + 50) for x in range(0, SIZE, 50) for y in range(0, SIZE, 50)]
    found = geotile.detect(IMAGE, showing(small, outlines), tile_size=250, overlap=100, merge="union")
    assert sorted(geotile.image_geometry(found).area) == pytest.approx([2500] * 400)

    river = (
        shapely.LineString([(0, 90), (400, 500), (999, 510)])
        .buffer(30, cap_style="flat")
        .intersection(shapely.box(0, 0, SIZE, SIZE))
    )
    for overlap in (0, 40):
        (shape,) = geotile.image_geometry(
            geotile.detect(IMAGE, showing([river], outlines, 0), tile_size=250, overlap=overlap, merge="union")
        )
        assert shape.symmetric_difference(river).area < 1e-6


def test_points_that_two_tiles_show_are_reported():
    trees = [shapely.Point(x, y) for x in range(20, SIZE, 60) for y in range(20, SIZE, 60)]

    def model(tile):
        """Place each point a little differently in each tile."""
        found = showing(trees, outlines, 0)(tile)
        return found.set_geometry(found.translate(*np.random.default_rng(int(tile[:, 0, 0].sum())).uniform(-1, 1, 2)))

    kept = geotile.detect(IMAGE, model, tile_size=250, overlap=100)
    assert len(kept) > len(trees)
    (note,) = geotile.report(kept).notes
    assert f"{geotile.report(kept).detections_before} of the detections before merging are points or lines" in note
    merged = geotile.detect(IMAGE, model, tile_size=250, overlap=100, merge="point-nms:distance=3")
    assert len(merged) == len(trees)
    assert not geotile.report(merged).notes


def test_a_bad_part_does_not_join_two_that_a_tile_shows_as_two():
    """Two people stand close together at a seam, and one tile places a box between them."""
    seen = {
        (0, 0): [[100, 180, 150, 256], [140, 180, 190, 256]],
        (192, 0): [[100, 192, 150, 300], [140, 192, 190, 300]],
        (192, 128): [[128, 192, 170, 300]],
    }  # fmt: skip

    def model(tile):
        y, x = int(tile[0, 0, 0]), int(tile[1, 0, 0])
        boxes = np.array(seen.get((y, x), []), float).reshape(-1, 4) - [x, y, x, y]
        return boxes, np.linspace(0.9, 0.8, len(boxes)), ["person"] * len(boxes)

    image = IMAGE[:, :448, :384]
    plan = geotile.plan(image, endpoint=model, tile_size=256, overlap=(64, 128))
    assert {(window.y0, window.x0) for _, window in plan.grid.tiles()} == {(0, 0), (0, 128), (192, 0), (192, 128)}
    found = geotile.detect(image, model, tile_size=256, overlap=(64, 128))
    assert len(found) == 2
    assert sorted(found.xmin) == [100, 140]


@pytest.mark.parametrize("seed", [0, 15, 18, 33])
def test_wings_of_a_building_are_no_buildings(seed):
    """Tiles see two or three wings of a building apart, which others show to be one."""
    rng = np.random.default_rng(seed)
    length, width = rng.uniform(200, 420), rng.uniform(40, 70)
    wings = [
        shapely.box(0, 0, length, width),
        shapely.box(0, 0, width, length * rng.uniform(0.6, 1)),
        shapely.box(0, length / 2, length, length / 2 + width),
    ]
    building = affinity.rotate(shapely.union_all(wings), rng.uniform(0, 360))
    building = affinity.translate(building, *(500 - np.array(building.centroid.coords[0]) + rng.uniform(-100, 100, 2)))

    def wings_apart(parts):
        pieces = [piece for part in parts for piece in shapely.get_parts(part) if piece.area > 60]
        return outlines(pieces)

    found = geotile.detect(IMAGE, showing([building], wings_apart, 0), tile_size=256, overlap=128)
    (shape,) = geotile.image_geometry(found)
    assert shape.intersection(building).area > 0.99 * building.area


def test_oriented_boxes_of_whole_pixels_can_lose_a_corner(tmp_path):
    """Their own corners then are those of a triangle, or of a line."""
    corners = [
        [[30, 30], [31, 30], [30, 31], [30, 30]],
        [[40, 40], [60, 40], [60, 50], [40, 50]],
        [[9, 9], [12, 9], [12, 9], [9, 9]],
    ]
    for merge in ("seam", "nmm", None):
        for _ in range(2):  # the second time, from the checkpoint
            found = geotile.detect(
                IMAGE.rio.write_crs(32631), lambda tile: {"xyxyxyxy": corners, "scores": [0.9, 0.8, 0.7]}, tile_size=500, overlap=0,
                merge=merge, checkpoint=tmp_path / str(merge),
            )  # fmt: skip
            assert len(found) == 8  # of 4 tiles; a box without area is none
            assert found.angle_deg.notna().sum() >= 4


def placed(grid, *found):
    """Return detections of tiles: (tile, polygon, score), all of one label."""
    parts = []
    for tile, shape, score in found:
        window = grid.tile_window(*divmod(tile, grid.tiles_yx[1]))
        local = affinity.translate(shape, -window.x0, -window.y0)
        one = detections(
            np.array([local.bounds]),
            [score],
            ["a"],
            [None if shape.equals(shape.envelope) else local],
            oriented=[not shape.equals(shape.envelope)],
        )
        parts.append(one.moved_to_image(tile, window.x0, window.y0, window.shape_yx[1], window.shape_yx[0]))
    return concat(parts)


def test_boxes_that_only_touch_their_tiles_are_joined_to_no_box():
    """What of them lies in the tiles is one line, the seam."""
    grid = TileGrid((64, 128), 64, 0)
    one, other = (affinity.rotate(shapely.box(x, 10, x + 20, 20), 45) for x in (50, 58))
    one = affinity.translate(one, 64 - one.bounds[0], 0)
    other = affinity.translate(other, 64 - other.bounds[2], 0)
    settled, _ = geotile.SeamNms().settle(placed(grid, (0, one, 0.9), (1, other, 0.8)), EVERYWHERE, grid)
    assert all(not flag or shape.area > 0 for flag, shape in zip(settled.oriented, settled.geometries, strict=True))


def test_a_small_detection_does_not_drop_a_large_one():
    """It lies inside the large one, not the other way round."""
    grid = TileGrid((128, 208), 128, 48)  # tiles from 0 and from 80
    large, small = shapely.box(82, 30, 140, 90), shapely.box(90, 40, 96, 50)
    settled, _ = geotile.SeamNms().settle(placed(grid, (1, large, 0.99), (0, small, 0.31)), EVERYWHERE, grid)
    assert any(shape.equals(large) for shape in settled.image_geometries)


def test_a_sliver_does_not_decide_on_the_width_of_a_ship():
    """One tile shows most of it, the other one extrapolates a strip of it at another angle."""
    grid = TileGrid((128, 128), 64, 0)
    ship = affinity.rotate(shapely.box(54, 15, 103, 37), 80)
    wrong = affinity.scale(affinity.rotate(ship, 12), 1.1, 1.1)
    settled, _ = geotile.SeamNms().settle(placed(grid, (1, ship, 0.9), (0, wrong, 0.6)), EVERYWHERE, grid)
    shown = ship.intersection(shapely.box(64, 0, 128, 64))
    assert max(shape.intersection(shown).area for shape in settled.image_geometries) > 0.9 * shown.area
