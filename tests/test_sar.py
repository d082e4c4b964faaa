"""SAR products: magnitudes, and places by their own XML. The files are written with sarkit around real metadata."""

import numpy as np
import pytest
import rasterio

import geotile
from geotile import ArgumentError, ImageOpenError, open_image
from geotile.geometry.georeference import georeference_of

ROWS, COLUMNS, FIRST = 64, 96, (2660, 9500)


@pytest.fixture
def sicd(shared, tmp_path):
    """A chip of a SICD (Capella's metadata) and its complex pixels."""
    import lxml.etree
    import sarkit.sicd as sksicd

    tree = lxml.etree.parse(shared / "formats" / "osmltk_example.sicd121.capella.xml")
    helper = sksicd.XmlHelper(tree)
    for name, value in (("NumRows", ROWS), ("NumCols", COLUMNS), ("FirstRow", FIRST[0]), ("FirstCol", FIRST[1])):
        helper.set(f"{{*}}ImageData/{{*}}{name}", value)
    rng = np.random.default_rng(0)
    pixels = np.zeros((ROWS, COLUMNS), sksicd.PIXEL_TYPES["RE16I_IM16I"]["dtype"])
    pixels["real"], pixels["imag"] = rng.integers(-300, 300, (2, ROWS, COLUMNS))
    security = sksicd.NitfSecurityFields(clas="U")
    metadata = sksicd.NitfMetadata(
        xmltree=tree,
        file_header_part=sksicd.NitfFileHeaderPart(ostaid="test", security=security),
        im_subheader_part=sksicd.NitfImSubheaderPart(isorce="test", security=security),
        de_subheader_part=sksicd.NitfDeSubheaderPart(security=security),
    )
    path = tmp_path / "sicd.nitf"
    with open(path, "wb") as file, sksicd.NitfWriter(file, metadata) as writer:
        writer.write_image(pixels)
    return path, pixels["real"].astype(float) + 1j * pixels["imag"], tree


@pytest.fixture
def sidd(shared, tmp_path):
    import lxml.etree
    import sarkit.sidd as sksidd

    tree = lxml.etree.parse(shared / "formats" / "osmltk_example.sidd.xml")
    sksidd.XmlHelper(tree).set("{*}Measurement/{*}PixelFootprint", (ROWS, COLUMNS))
    security = sksidd.NitfSecurityFields(clas="U")
    image = sksidd.NitfProductImageMetadata(
        xmltree=tree,
        im_subheader_part=sksidd.NitfImSubheaderPart(security=security),
        de_subheader_part=sksidd.NitfDeSubheaderPart(security=security),
    )
    metadata = sksidd.NitfMetadata(
        file_header_part=sksidd.NitfFileHeaderPart(ostaid="test", security=security), images=[image]
    )
    path = tmp_path / "sidd.nitf"
    with open(path, "wb") as file, sksidd.NitfWriter(file, metadata) as writer:
        writer.write_image(0, np.full((ROWS, COLUMNS), 7, np.uint8))
    return path, tree


def test_magnitudes_of_a_sicd(sicd):
    path, pixels, _ = sicd
    np.testing.assert_allclose(open_image(path, sar="amplitude")[0], np.abs(pixels), rtol=1e-6)
    np.testing.assert_allclose(open_image(path, sar="quarter_power")[0], np.abs(pixels) ** 0.5, rtol=1e-6)
    assert open_image(path).shape == (2, ROWS, COLUMNS)  # I and Q
    ready = geotile.stretch(open_image(path, sar="quarter_power"))
    assert ready.dtype == np.uint8
    with pytest.raises(ArgumentError, match=r"sar must be one of .*; got 'decibel'"):
        open_image(path, sar="decibel")
    with pytest.raises(ArgumentError, match="two bands I and Q"):
        open_image(path, bands=[1], sar="amplitude")


def test_complex_tiffs(shared):
    path = shared / "formats" / "gdal_cint_sar.tif"
    with pytest.raises(ImageOpenError, match="sar='amplitude'"):
        open_image(path)
    with rasterio.open(path) as file:
        want = np.abs(file.read())
    np.testing.assert_allclose(open_image(path, sar="amplitude"), want, rtol=1e-6)


def test_a_sicd_lies_where_its_header_says(sicd):
    """The scene centre point is at its pixel; the corners in the header are those of the full image."""
    import sarkit.sicd as sksicd

    path, _, tree = sicd
    read = sksicd.XmlHelper(tree).load
    place = georeference_of(open_image(path, sar="amplitude")).placement
    row, column = read("{*}ImageData/{*}SCPPixel")
    lat, lon, _ = read("{*}GeoData/{*}SCP/{*}LLH")
    centre = np.array([[column - FIRST[1] + 0.5, row - FIRST[0] + 0.5]])
    np.testing.assert_allclose(place.to_world(centre), [[lon, lat]], atol=1e-7)
    corners = np.asarray(read("{*}GeoData/{*}ImageCorners"))[:, ::-1]  # of the full image, first row first column on
    full = np.array([[0, 0], [19082, 0], [19082, 5387], [0, 5387]]) - np.array(FIRST[::-1]) + 0.5
    off = np.abs(place.to_pixels(corners) - full)
    assert off[:, 0].max() < 2  # along the track
    assert off[:, 1].max() < 100  # across, of 5,388: the ground rises under the corners


def test_a_sicd_both_ways_and_at_a_height(sicd):
    path, _, _ = sicd
    xy = np.array([[0.0, 0.0], [96.0, 64.0], [10.5, 50.25]])
    for height in (None, 0.0, 250.0):
        place = georeference_of(open_image(path, sar="amplitude", height=height)).placement
        assert np.abs(place.to_pixels(place.to_world(xy)) - xy).max() < 0.01
    low = georeference_of(open_image(path, sar="amplitude", height=0.0)).placement.to_world(xy)
    high = georeference_of(open_image(path, sar="amplitude", height=250.0)).placement.to_world(xy)
    assert np.abs(low - high).max() > 1e-4
    whole = open_image(path, sar="amplitude")
    part = georeference_of(whole[:, 10:, 20:]).placement
    np.testing.assert_allclose(part.to_world(xy), georeference_of(whole).placement.to_world(xy + np.array([20, 10])))


def test_detections_on_a_sicd_are_geolocated(sicd):
    path, _, _ = sicd
    found = geotile.detect(path, lambda tile: ([[10, 10, 20, 20]], [1.0]), sar="amplitude", tile_size=64, overlap=8)
    assert found.crs.is_geographic
    assert found.geometry.is_valid.all()
    place = georeference_of(open_image(path, sar="amplitude")).placement
    np.testing.assert_allclose(
        found.geometry[0].centroid.coords[0], place.to_world(np.array([[15.0, 15.0]]))[0], atol=1e-6
    )


def test_a_sidd_lies_on_its_grid(sidd):
    import sarkit.sidd as sksidd
    import sarkit.wgs84

    path, tree = sidd
    image = open_image(path)
    place = georeference_of(image).placement
    xy = np.array([[0.5, 0.5], [96.0, 64.0], [10.5, 50.25]])
    ecef = sksidd.pixel_to_ecef(tree, xy[:, ::-1] - 0.5)
    want = sarkit.wgs84.cartesian_to_geodetic(ecef)
    np.testing.assert_allclose(place.to_world(xy), want[:, 1::-1], atol=1e-9)
    assert np.abs(place.to_pixels(place.to_world(xy)) - xy).max() < 0.01
    found = geotile.detect(image, lambda tile: ([[0, 0, 96, 64]], [1.0]), tile_size=96, overlap=8)
    assert found.crs.is_geographic
    with pytest.raises(ArgumentError, match="does not apply to a SIDD"):
        open_image(path, height=3.0)


def test_what_of_sar_is_not_done_is_said(sicd, monkeypatch):
    from geotile import GeoreferenceError
    from geotile.imagery.file_array import source_of
    from geotile.imagery.header import Place
    from geotile.imagery.sar import remapped, sar_placement

    path, _, _ = sicd
    with pytest.raises(GeoreferenceError, match="image segment 1"):
        sar_placement(Place(sar_xml=b"<SICD/>", segment=1), None)
    with pytest.raises(ArgumentError, match="AMP8I_PHS8I"):
        remapped(source_of(open_image(path).data), "amplitude", Place(sar_xml=b"<PixelType>AMP8I_PHS8I</PixelType>"))
    monkeypatch.setitem(__import__("sys").modules, "sarkit.sicd", None)
    other = path.with_name("other.nitf")  # an image that is opened again is not placed again
    other.write_bytes(path.read_bytes())
    with pytest.raises(ArgumentError, match="pip install sarkit"):
        open_image(other)
    assert open_image(other, georeference=False).rio.crs is None
