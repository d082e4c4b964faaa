"""What QGIS shows without settings: the style of a GeoPackage, and the legend of a map of classes."""

import sqlite3
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from helpers import crowd

import geotile
from geotile.results.class_legend import frame_colours

LABELS = ["car", "ship", "a <b> & 'c' \"d\" ü", "", "bad\x01"]


@pytest.fixture
def detections(write_tiff, noise):
    found = geotile.detect(write_tiff(noise), crowd, tile_size=64, overlap=16)
    found["label"] = [LABELS[i % len(LABELS)] for i in range(len(found))]
    return found


def style_of(path):
    """The row of the default style, and its QML."""
    row = pyogrio.read_dataframe(path, layer="layer_styles").iloc[0]
    assert row["useAsDefault"]
    text = row["styleQML"]
    assert text.startswith("<!DOCTYPE qgis")
    return row, ElementTree.fromstring(text.partition("\n")[2])


def test_a_geopackage_has_a_colour_for_each_label(detections, tmp_path):
    geotile.write(detections, tmp_path / "found.gpkg")
    row, qml = style_of(tmp_path / "found.gpkg")
    with sqlite3.connect(tmp_path / "found.gpkg") as file:
        ((table, column),) = file.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
    assert (row["f_table_name"], row["f_geometry_column"]) == (table, column) == ("detections", "geom")
    assert qml.find("renderer-v2").attrib["attr"] == "label"
    symbols = {symbol.attrib["name"]: symbol for symbol in qml.iter("symbol")}
    colours = frame_colours(detections)
    shown = {}
    for category in qml.iter("category"):
        options = {each.attrib["name"]: each.attrib["value"] for each in symbols[category.attrib["symbol"]].iter("Option") if "name" in each.attrib}  # fmt: skip
        shown[category.attrib["value"], category.attrib["type"]] = options["outline_color"]
    assert shown.pop(("", "NULL"))  # all other labels, such as those that XML cannot hold
    assert set(shown) == {(label, "string") for label in LABELS[:4]}
    for (label, _), colour in shown.items():
        assert "#{:02x}{:02x}{:02x}".format(*map(int, colour.split(",")[:3])) == colours[label]
    assert len(gpd.read_file(tmp_path / "found.gpkg", layer="detections")) == len(detections)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (shapely.Point(1, 1), "marker"),
        (shapely.LineString([(0, 0), (1, 1)]), "line"),
        (shapely.box(0, 0, 1, 1), "fill"),
        (shapely.Polygon(), "fill"),
    ],
)
def test_symbols_fit_the_geometries(shape, kind, tmp_path):
    frame = gpd.GeoDataFrame({"label": ["a", "b"]}, geometry=[shape, shape], crs="EPSG:32631")
    geotile.write(frame, tmp_path / "a.gpkg")
    _, qml = style_of(tmp_path / "a.gpkg")
    assert {symbol.attrib["type"] for symbol in qml.iter("symbol")} == {kind}


def test_many_labels_share_the_colour_of_others(tmp_path):
    frame = gpd.GeoDataFrame({"label": [f"kind {i}" for i in range(1000)]}, geometry=[shapely.Point(0, 0)] * 1000)
    geotile.write(frame, tmp_path / "a.gpkg")
    _, qml = style_of(tmp_path / "a.gpkg")
    assert len(list(qml.iter("category"))) == 257


def test_tables_without_labels_have_no_style(tmp_path):
    frame = gpd.GeoDataFrame({"tile": [1]}, geometry=[shapely.Point(0, 0)])
    geotile.write(frame, tmp_path / "a.gpkg")
    assert pyogrio.list_layers(tmp_path / "a.gpkg")[:, 0].tolist() == ["detections"]


def classes(tile):
    return (tile[0] > 128).astype(np.uint8)


def names_beside(path):
    root = ElementTree.parse(f"{path}.aux.xml").getroot()
    return [each.text for each in root.iter("Category")]


def test_a_map_of_classes_has_its_names_beside_it(write_tiff, noise, tmp_path):
    path, out = write_tiff(noise), str(tmp_path / "classes.tif")
    options = {"tile_size": 64, "overlap": 16}
    geotile.predict_to(path, classes, out, classes=["dark", "<bright> &"], **options)
    assert names_beside(out) == ["dark", "<bright> &"]
    with rasterio.open(out) as file:
        assert any(name.endswith(".aux.xml") for name in file.files)  # GDAL reads it
    assert geotile.open_image(out).shape[1:] == noise.shape[1:]
    geotile.predict_to(path, classes, out, classes=["low", "high"], overwrite=True, **options)
    assert names_beside(out) == ["low", "high"]
    geotile.predict_to(path, classes, out, overwrite=True, **options)
    assert not (tmp_path / "classes.tif.aux.xml").exists()  # names and statistics of the file that was replaced


def test_a_run_that_fails_leaves_file_and_names_as_they_were(write_tiff, noise, tmp_path, monkeypatch):
    path, out = write_tiff(noise), str(tmp_path / "classes.tif")
    options = {"tile_size": 64, "overlap": 16, "overwrite": True}
    geotile.predict_to(path, classes, out, classes=["dark", "bright"], **options)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("geotile.results.cog._copy_as_cog", full)
    with pytest.raises(geotile.OutputError, match="No space"):
        geotile.predict_to(path, classes, out, classes=["low", "high"], **options)
    assert names_beside(out) == ["dark", "bright"]
