"""Shapes in the result: on the ground they are the model's shapes, with their measures."""

import json

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import shapely.affinity
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

import geotile
from geotile.endpoints.answer import Answer
from geotile.merging.detections import detections
from geotile.testing import write_example

GEOD = pyproj.Geod(ellps="WGS84")
PLACES = {
    "north-up": ("EPSG:32631", Affine(0.5, 0, 430_000, 0, -0.5, 5_780_000)),
    "rotated": ("EPSG:32631", Affine.translation(430_000, 5_780_000) @ Affine.rotation(33) @ Affine.scale(0.5, -0.5)),
    "degrees": ("EPSG:4326", Affine(1e-5, 0, 12.0, 0, -5e-6, 60.0)),
    "web mercator": ("EPSG:3857", Affine(0.5, 0, 1_000_000, 0, -0.5, 8_000_000)),
}


def answering(shapes, oriented):
    found = detections(
        shapely.bounds(shapes), np.full(len(shapes), 0.5), ["x"] * len(shapes), shapes, oriented=oriented
    )
    return lambda tile: Answer(detections=found)


def write_at(path, place, side=400):
    crs, transform = PLACES[place]
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=1, dtype="uint8", crs=crs, transform=transform
    ) as file:
        file.write(np.ones((1, side, side), np.uint8))
    return path


def on_ground(place, heading, length, width):
    """Return the corners of a rectangle on the ground in pixels of an image."""
    crs, transform = PLACES[place]
    x, y = transform @ (200, 200)
    lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    corners = []
    for ahead, aside in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        a, b, _ = GEOD.fwd(lon, lat, heading, ahead * length / 2)
        a, b, _ = GEOD.fwd(a, b, heading + 90, aside * width / 2)
        corners.append(~transform @ pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(a, b))
    return shapely.Polygon(corners)


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=15)
@given(heading=st.floats(0, 179), length=st.floats(20, 60), width=st.floats(3, 15))
def test_an_oriented_box_has_its_measures_on_the_ground(place, tmp_path_factory, heading, length, width):
    image = write_at(tmp_path_factory.mktemp("image") / "image.tif", place)
    shape = on_ground(place, heading, length, width)
    found = geotile.detect(image, answering(np.array([shape]), [True]), tile_size=400, overlap=0)
    row = found.iloc[0]
    assert row["length_m"] == pytest.approx(length, rel=1e-3)
    assert row["width_m"] == pytest.approx(width, rel=1e-3)
    assert row["area_m2"] == pytest.approx(length * width, rel=1e-3)
    off = abs(row["heading_deg"] - heading) % 180
    assert min(off, 180 - off) < 0.1
    assert 0 <= row["heading_deg"] < 180
    assert 0 <= row["angle_deg"] < 180


@pytest.mark.parametrize(
    ("angle", "sides", "want"),
    [
        (0, (30, 10), 0),
        (30, (30, 10), 30),
        (90, (30, 10), 90),
        (0, (10, 30), 90),
        (150, (30, 10), 150),
        (200, (30, 10), 20),
    ],
)
def test_angles_are_clockwise_from_the_x_axis(angle, sides, want):
    """In the image y goes down, so that a positive rotation is clockwise."""
    t, (w, h) = np.radians(angle), sides
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    turned = corners @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) + [100, 100]
    shape = shapely.Polygon(turned)
    found = geotile.detect(write_example(), answering(np.array([shape]), [True]), tile_size=256, overlap=0)
    assert found["angle_deg"].tolist() == [pytest.approx(want, abs=1e-6)]


def test_polygons_have_areas_without_their_holes(tmp_path):
    image = write_at(tmp_path / "image.tif", "north-up")
    shape = shapely.difference(shapely.box(100, 100, 200, 150), shapely.box(120, 110, 140, 130))
    both = shapely.MultiPolygon([shape, shapely.box(300, 300, 310, 310)])
    found = geotile.detect(image, answering(np.array([shape, both]), [False, False]), tile_size=400, overlap=0)
    want = found.to_crs("EPSG:6933").area  # an equal-area projection
    assert found["area_m2"].to_numpy() == pytest.approx(want.to_numpy(), rel=1e-4)
    assert found["angle_deg"].isna().all()
    assert shapely.equals_exact(
        geotile.image_geometry(found).to_numpy(), found.image_geometry.map(shapely.from_wkt)
    ).all()


def test_boxes_have_no_measures():
    found = geotile.detect(write_example(), lambda tile: ([[1, 1, 5, 5]], [0.5]), tile_size=256, overlap=0)
    measures = ["angle_deg", "heading_deg", "length_m", "width_m", "area_m2"]
    assert list(found) == [
        "score", "label", "classes", "xmin", "ymin", "xmax", "ymax", "image_geometry", *measures, "properties", "geometry",
    ]  # fmt: skip
    assert found[measures].isna().all(axis=None)


def test_shapes_come_back_from_every_format(tmp_path):
    shapes = np.array(
        [
            shapely.affinity.rotate(shapely.box(30, 40, 60, 50), 30),
            shapely.Polygon([(80, 80), (99, 80), (80, 99)]),
            None,
        ],
        object,
    )
    shapes[2] = shapely.Point(10, 10)
    model = answering(shapes, [True, False, False])
    for name in ("a.geojson", "a.geojsonl", "a.parquet", "a.fgb", "a.gpkg", "parts/"):
        geotile.detect_to(write_example(), model, f"{tmp_path}/{name}", tile_size=256, overlap=0)
        if name == "parts/":
            table = gpd.read_parquet(tmp_path / "parts")
        else:
            table = gpd.read_parquet(tmp_path / name) if "parquet" in name else gpd.read_file(tmp_path / name)
        assert sorted(np.round(table["angle_deg"].dropna(), 3)) == [30.0]
        assert table["area_m2"].notna().sum() == 2
        types = sorted(table.geometry.geom_type)
        assert types == ["Point", "Polygon", "Polygon"]
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert sorted(each["properties"]["imageGeometry"]["type"] for each in features) == ["Point", "Polygon", "Polygon"]
    assert all(
        "angle_deg" not in each["properties"]
        for each in features
        if each["properties"]["imageGeometry"]["type"] == "Point"
    )
    for name in ("a.gpkg", "a.geojson"):
        read = gpd.read_file(tmp_path / name)
        assert sorted(geotile.image_geometry(read).area.round(6)) == sorted(shapely.area(shapes).round(6))
        geotile.plot_detections(geotile.open_image(write_example()), read)
    read["imageGeometry"] = '{"type": "Point", "coordinates": [1, 2]}'  # as readers of GeoJSON leave nested objects
    assert set(geotile.image_geometry(read)) == {shapely.Point(1, 2)}
    read["imageGeometry"] = 5
    with pytest.raises(geotile.ArgumentError, match="imageGeometry must be a geometry"):
        geotile.image_geometry(read)


def test_shapes_are_drawn_as_they_are():
    pytest.importorskip("matplotlib")
    shape = shapely.affinity.rotate(shapely.box(30, 40, 60, 50), 30)
    found = geotile.detect(
        write_example(), answering(np.array([shape, shapely.Point(9, 9)]), [True, False]), tile_size=256, overlap=0
    )
    axes = geotile.plot_detections(geotile.open_image(write_example()), found)
    outline = axes.collections[0].get_segments()[0]
    assert shapely.Polygon(outline).equals_exact(shape, 1e-9)
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[9.0, 9.0]]]


def test_holes_across_the_antimeridian_stay_holes(tmp_path):
    path = tmp_path / "am.tif"
    profile = {"driver": "GTiff", "width": 300, "height": 200, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(path, "w", transform=Affine(0.001, 0, 179.85, 0, -0.001, 10), **profile) as file:
        file.write(np.ones((1, 200, 300), np.uint8))
    shapes = np.array([
        shapely.difference(shapely.box(30, 30, 200, 170), shapely.box(140, 60, 160, 70)),
        shapely.difference(shapely.box(200, 30, 240, 90), shapely.box(215, 40, 225, 50)),
    ])  # fmt: skip
    found = geotile.detect(path, answering(shapes, [False, False]), tile_size=(200, 300), overlap=0)
    assert found.geometry.is_valid.all()
    assert (abs(found.total_bounds[[0, 2]]) <= 180).all()
    pixels = shapely.area(geotile.image_geometry(found).to_numpy())
    assert shapely.area(found.geometry.to_numpy()) * 1e6 == pytest.approx(pixels, rel=1e-4)
    assert found["area_m2"].to_numpy() / pixels == pytest.approx(found["area_m2"].iloc[0] / pixels[0], rel=1e-3)


def test_rectangular_polygons_have_areas_and_boxes_none():
    shape = shapely.box(10, 10, 50, 50)
    found = geotile.detect(write_example(), answering(np.array([shape]), [False]), tile_size=256, overlap=0)
    assert found["area_m2"].iloc[0] == pytest.approx(found.area.iloc[0], rel=2e-3)
    found = geotile.detect(write_example(), lambda tile: ([[-5, -5, 20, 20]], [0.5]), tile_size=256, overlap=0)
    assert found["area_m2"].isna().all()
