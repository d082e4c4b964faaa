"""Tiles read back by GDAL: the same pixels, at the same place."""

import numpy as np
import pytest
from affine import Affine
from rasterio.io import MemoryFile

import geotile
from geotile import ArgumentError, open_image
from geotile.encoding.encoder import Encoder
from geotile.geometry.georeference import Georeference, georeference_of, wkt_of
from geotile.geometry.placement import AffinePlacement, GcpPlacement, RpcPlacement
from geotile.grid.tile_grid import Window
from geotile.testing.server import decode_tile

PLACE = Georeference(AffinePlacement(Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)), wkt_of("EPSG:32631"))
ROTATED = Georeference(
    AffinePlacement(Affine.translation(7, 8) @ Affine.rotation(20) @ Affine.scale(2, -3)), wkt_of("EPSG:3857")
)
WINDOW = Window(100, 140, 60, 130)


def pixels(dtype, bands=3):
    values = np.random.default_rng(0).uniform(0, 250, (bands, 40, 70))
    return np.asarray(np.asfortranarray(values.astype(dtype)))  # not contiguous, as a cut tile is not


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", ">u2"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 8])
def test_gtiff_by_hand_reads_back_as_gdal_reads_its_own(dtype, bands):
    tile = pixels(dtype, bands)
    body = Encoder("GTIFF", PLACE, 0.0).encode(tile, WINDOW)
    with MemoryFile(body) as memory, memory.open() as file:
        np.testing.assert_array_equal(file.read(), tile)
        assert file.driver == "GTiff"
        assert file.transform == Affine(0.5, 0, 500_030, 0, -0.5, 4_999_950)
        assert file.crs == "EPSG:32631"
        assert file.nodata == 0
        assert file.dtypes[0] == np.dtype(dtype).newbyteorder("=").name


@pytest.mark.parametrize("dtype", ["uint8", "float32", ">u2"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_the_bytes_of_a_tile_do_not_depend_on_how_its_pixels_lie_in_memory(dtype, bands):
    tile = np.ascontiguousarray(pixels(dtype, bands))
    by_pixel = np.ascontiguousarray(tile.transpose(1, 2, 0)).transpose(2, 0, 1)
    cut = by_pixel[:, 3:-3, 5:-5]
    for one, other in ((by_pixel, tile), (cut, np.ascontiguousarray(cut))):
        assert Encoder("GTIFF", PLACE).encode(one, WINDOW) == Encoder("GTIFF", PLACE).encode(other, WINDOW)


@pytest.mark.parametrize("place", [ROTATED, Georeference(None, None), Georeference(PLACE.placement, None)])
def test_gtiff_places(place):
    body = Encoder("GTIFF", place).encode(pixels("uint8"), WINDOW)
    with MemoryFile(body) as memory, memory.open() as file:
        want = Affine.identity() if place.transform is None else place.transform @ Affine.translation(60, 100)
        assert file.transform.almost_equals(want)
        assert (file.crs is None) == (place.crs is None)


def test_gtiff_gives_a_model_what_gdals_writer_gives():
    from PIL import Image

    tile = pixels("uint8")
    body = Encoder("GTIFF", PLACE).encode(tile, WINDOW)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=70, height=40, count=3, dtype="uint8", photometric="RGB",
            crs=PLACE.crs, transform=PLACE.transform @ Affine.translation(60, 100),
        ) as file:  # fmt: skip
            file.write(tile)
        with memory.open() as theirs, MemoryFile(body) as mine, mine.open() as ours:
            assert ours.profile == theirs.profile
            assert ours.colorinterp == theirs.colorinterp
            np.testing.assert_array_equal(ours.read(), theirs.read())
    import io

    np.testing.assert_array_equal(np.moveaxis(np.asarray(Image.open(io.BytesIO(body))), -1, 0), tile)


@pytest.mark.parametrize(
    ("name", "dtype", "bands"),
    [("NITF", "uint16", 5), ("PNG", "uint16", 1), ("PNG", "uint8", 4), ("NPY", "float32", 2)],
)
def test_the_other_lossless_formats(name, dtype, bands):
    encoder = Encoder(name, PLACE)
    encoder.check(dtype, bands)
    np.testing.assert_array_equal(decode_tile(encoder.encode(pixels(dtype, bands), WINDOW)), pixels(dtype, bands))


def test_jpeg_is_close():
    ramp = np.broadcast_to(np.linspace(0, 200, 70).astype(np.uint8), (3, 40, 70))
    assert np.abs(decode_tile(Encoder("JPEG").encode(ramp, WINDOW)).astype(int) - ramp).mean() < 2


@pytest.mark.parametrize(
    ("name", "dtype", "bands"),
    [("JPEG", "uint16", 3), ("PNG", "uint8", 8), ("NITF", "int8", 1), ("GTIFF", "complex64", 1), ("GTIFF", "bool", 1)],
)
def test_a_format_that_cannot_hold_the_image_says_so(name, dtype, bands):
    with pytest.raises(ArgumentError, match=f"{name}.*{dtype}"):
        Encoder(name).check(dtype, bands)


@pytest.mark.parametrize(
    ("name", "compression", "dtype", "bands", "driver"),
    [("GTIFF", "LZW", "uint8", 3, "lzw"), ("GTIFF", "LZW", "float32", 2, "lzw"), ("NITF", "J2K", "uint16", 5, "jpeg2000"),
     ("NITF", "J2K", "uint8", 3, "jpeg2000")],
)  # fmt: skip
def test_lossless_compressions(name, compression, dtype, bands, driver):
    encoder = Encoder(name, PLACE, compression=compression)
    encoder.check(dtype, bands)
    body = encoder.encode(pixels(dtype, bands), WINDOW)
    np.testing.assert_array_equal(decode_tile(body), pixels(dtype, bands))
    with MemoryFile(body) as memory, memory.open() as file:
        assert file.profile["compress"] == driver
    plain = read_back(Encoder(name, PLACE).encode(pixels(dtype, bands), WINDOW))
    assert read_back(body) == plain


@pytest.mark.parametrize("name", ["GTIFF", "NITF"])
def test_jpeg_inside_is_close_and_smaller(name):
    ramp = np.broadcast_to(np.linspace(0, 200, 70).astype(np.uint8), (3, 40, 70))
    body = Encoder(name, compression="JPEG").encode(ramp, WINDOW)
    assert np.abs(decode_tile(body).astype(int) - ramp).mean() < 2
    assert len(body) < len(Encoder(name).encode(ramp, WINDOW))


@pytest.mark.parametrize(
    ("name", "compression", "dtype", "said"),
    [("GTIFF", "J2K", "uint8", "must be 'NONE', 'LZW' or 'JPEG'"), ("PNG", "LZW", "uint8", "must be 'NONE'"),
     ("GTIFF", "JPEG", "uint16", "JPEG' supports"), ("NITF", "J2K", "float32", "J2K' supports")],
)  # fmt: skip
def test_a_compression_that_does_not_go_is_refused(name, compression, dtype, said):
    with pytest.raises(ArgumentError, match=said):
        Encoder(name, compression=compression).check(dtype, 1)


def read_back(body):
    with MemoryFile(body) as memory, memory.open() as file:
        return file.transform, file.crs, file.gcps, file.tags(ns="RPC"), file.driver


@pytest.mark.parametrize("pixels_of", [Affine.identity(), Affine.translation(40, 30), Affine.scale(2)])
def test_a_gtiff_chip_of_an_rpc_image_has_shifted_rpcs(shared, pixels_of):
    """GDAL places the chip's pixels where it places the same pixels of the whole image."""
    whole = georeference_of(open_image(shared / "formats" / "rioxarray_test_rpcs.tif"))
    body = Encoder("GTIFF", whole.for_pixels(pixels_of)).encode(pixels("uint16"), WINDOW)
    metadata = read_back(body)[3]
    assert metadata.keys() >= {"LINE_OFF", "SAMP_NUM_COEFF"}
    chip = RpcPlacement(tuple(metadata.items()))
    xy = np.array([[0.0, 0.0], [70.0, 40.0], [33.0, 12.0]])
    there = np.array([pixels_of @ Affine.translation(WINDOW.x0, WINDOW.y0) @ tuple(p) for p in xy])
    lonlat = whole.placement.to_world(there)
    np.testing.assert_allclose(chip.to_pixels(lonlat), xy, atol=0.01)


def test_a_gtiff_chip_of_a_gcp_image_has_shifted_points(shared):
    whole = georeference_of(open_image(shared / "formats" / "riotiler_cog_gcps.tif"))
    _, _, (points, crs), _, _ = read_back(Encoder("GTIFF", whole).encode(pixels("uint16"), WINDOW))
    assert len(points) == 210
    assert crs == "EPSG:4326"
    chip = GcpPlacement(tuple((p.col, p.row, p.x, p.y, p.z) for p in points))
    xy = np.array([[0.0, 0.0], [70.0, 40.0]])
    np.testing.assert_allclose(chip.to_world(xy), whole.placement.to_world(xy + np.array([60, 100])), atol=1e-9)


def test_a_nitf_tile_says_where_it_lies(shared):
    import pyproj

    transform, crs, _, _, driver = read_back(Encoder("NITF", PLACE).encode(pixels("uint8"), WINDOW))
    assert driver == "NITF"
    assert crs == "EPSG:4326"
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32631", "OGC:CRS84", always_xy=True)
    for x, y in ((0, 0), (70, 0), (35, 20), (70, 40)):
        want = to_lonlat.transform(*(PLACE.transform @ (x + WINDOW.x0, y + WINDOW.y0)))
        off_m = pyproj.Geod(ellps="WGS84").inv(*(transform @ (x, y)), *want)[2]
        assert off_m < 0.15  # BLOCKA holds millionths of a degree
    whole = georeference_of(open_image(shared / "formats" / "rioxarray_test_rpcs.tif"))
    metadata = read_back(Encoder("NITF", whole).encode(pixels("uint16"), WINDOW))[3]
    assert float(metadata["LINE_OFF"]) == 2295 - WINDOW.y0
    assert float(metadata["SAMP_OFF"]) == 2792 - WINDOW.x0
    nowhere = read_back(Encoder("NITF").encode(pixels("uint8"), WINDOW))
    assert nowhere[1] is None


def test_an_rpc_image_reaches_a_model_with_its_place(shared):
    """Over real HTTP: the model's server opens each tile with GDAL and finds RPCs."""
    from geotile.testing import ModelServer

    seen = []

    class Server(ModelServer):
        def respond(self, body):
            seen.append(read_back(body)[3])
            return super().respond(body)

    with Server(lambda tile: ([], [])) as server:
        geotile.detect(shared / "formats" / "rioxarray_test_rpcs.tif", server.url, tile_size=128, overlap=16)
    offsets = {(float(each["SAMP_OFF"]), float(each["LINE_OFF"])) for each in seen}
    windows = [
        window
        for _, window in geotile.plan(
            shared / "formats" / "rioxarray_test_rpcs.tif", tile_size=128, overlap=16
        ).grid.tiles()
    ]
    assert offsets == {(2792.0 - w.x0, 2295.0 - w.y0) for w in windows}
