"""Maps: the image lies where it is on the ground, and each label has a layer."""

import re

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from folium.raster_layers import ImageOverlay

import geotile
from geotile.results.class_legend import frame_colours
from geotile.testing import bright_objects, write_example

JOB = {"tile_size": 128, "overlap": 32}


def overlay(view):
    return next(each for each in view._children.values() if isinstance(each, ImageOverlay))


@pytest.mark.parametrize("computed", [False, True])
def test_the_image_lies_on_its_ground(computed):
    image = geotile.open_image(write_example())
    if computed:
        image = image + 0
    found = geotile.detect(image, bright_objects, **JOB)
    view = geotile.explore(found, image)
    (south, west), (north, east) = overlay(view).bounds
    ground = image.rio.transform_bounds("EPSG:4326")
    np.testing.assert_allclose((west, south, east, north), ground, atol=5e-6)  # a pixel of 0.3 m
    assert found.to_crs("EPSG:4326").within(shapely.box(west, south, east, north)).all()
    assert "object (3)" in view.get_root().render()


def test_numbers_are_short_and_the_layers_are_a_legend():
    found = gpd.GeoDataFrame(
        {"label": ["car", "ship"], "score": np.float32([0.87654321, 0.1]), "length_m": [12.345678901, np.nan]},
        geometry=[shapely.Point(4, 52), shapely.Point(4.1, 52)], crs="EPSG:4326",
    )  # fmt: skip
    page = geotile.explore(found).get_root().render()
    assert re.search(r'"score": 0\.877\b', page)
    assert re.search(r'"length_m": 12\.346\b', page)
    for name, colour in frame_colours(found).items():
        assert f'\\u003cspan style=\\"color:{colour}\\"\\u003e\\u0026#9632;\\u003c/span\\u003e {name} (1)' in page


def test_each_label_has_a_layer_and_rows_without_a_place_are_left_out():
    found = gpd.GeoDataFrame(
        {"label": ["ship", "car", "ship"], "score": [0.9, 0.8, 0.7], "properties": [{"a": 1}, None, None]},
        geometry=[shapely.Point(4, 52), shapely.box(4, 52, 4.1, 52.1), None], crs="EPSG:4326",
    )  # fmt: skip
    page = geotile.explore(found).get_root().render()
    assert set(re.findall(r"(?:ship|car) \(\d\)", page)) >= {"ship (1)", "car (1)"}
    embedded = geotile.embed(write_example(), lambda tile: tile.mean(axis=(1, 2)), **JOB)
    assert "Polygon (9)" in geotile.explore(embedded).get_root().render()
    assert geotile.explore(found.iloc[:0]) is not None


def test_very_many_rows_are_drawn_by_the_graphics_card():
    lonboard = pytest.importorskip("lonboard")
    image = geotile.open_image(write_example())
    west, south, east, north = image.rio.bounds()
    count = 50_003
    x, y = np.random.default_rng(0).uniform((west, south), (east, north), (count, 2)).T
    shapes = np.concatenate([shapely.box(x[2:], y[2:], x[2:] + 1, y[2:] + 1), shapely.points(x[:1], y[:1]), [None]])
    found = gpd.GeoDataFrame(
        {"label": ["<b>"] * 30_000 + ["ship"] * 20_003, "score": 0.5}, geometry=shapes, crs=image.rio.crs
    )
    view = geotile.explore(found, image)
    assert isinstance(view, lonboard.Map)
    bitmap, car, ship, point = view.layers
    assert [type(each).__name__ for each in view.layers] == [
        "BitmapLayer",
        "PolygonLayer",
        "PolygonLayer",
        "ScatterplotLayer",
    ]
    np.testing.assert_allclose(bitmap.bounds, image.rio.transform_bounds("EPSG:4326"), atol=5e-6)
    assert [each.table.num_rows for each in (car, ship, point)] == [30_000, 20_001, 1]
    colours = frame_colours(found)
    assert "#{:02x}{:02x}{:02x}".format(*car.get_line_color[:3]) == colours["<b>"]
    assert {"label", "score"} <= set(ship.table.column_names)
    assert "data:image/png;base64," in view.to_html()


def test_what_has_no_map_is_refused():
    plain = gpd.GeoDataFrame({"label": ["a"]}, geometry=[shapely.Point(0, 0)])
    many = gpd.GeoDataFrame(
        {"label": [""] * 3_000_001}, geometry=np.full(3_000_001, shapely.Point(0, 0)), crs="EPSG:4326"
    )
    nowhere = xr.DataArray(np.zeros((3, 8, 8), np.uint8), dims=("band", "y", "x"))
    for arguments, text in (
        ((plain,), "must have a CRS"), (("found.parquet",), "must be a GeoDataFrame"), ((many,), "at most 3,000,000 rows"),
        ((many[:1], nowhere), "placed by an affine transform"),
    ):  # fmt: skip
        with pytest.raises(geotile.ArgumentError, match=text):
            geotile.explore(*arguments)


def test_text_of_a_model_is_no_html():
    bad = "<img src=x onerror=alert(1)>"
    found = gpd.GeoDataFrame({"label": [bad], "score": [0.5]}, geometry=[shapely.Point(4, 52)], crs="EPSG:4326")
    page = geotile.explore(found).get_root().render()
    assert "<img" not in page
    assert "\\u003cimg" not in page
    assert "onerror" in page


def test_a_map_without_detections_shows_the_image():
    image = geotile.open_image(write_example())
    found = geotile.detect(image, lambda tile: ([], []), **JOB)
    assert "fitBounds" in geotile.explore(found, image).get_root().render()
    renamed = geotile.detect(image, bright_objects, **JOB).drop(columns="score").rename_geometry("score")
    assert "object (3)" in geotile.explore(renamed).get_root().render()


def test_a_class_map_lies_under_its_polygons():
    bright = geotile.predict(write_example(), lambda tile: (tile[0] > 128).astype("uint8"), **JOB)
    view = geotile.explore(geotile.polygonize(bright, classes=[1]), bright)
    np.testing.assert_allclose(overlay(view).bounds[0][0], bright.rio.transform_bounds("EPSG:4326")[1], atol=5e-6)
