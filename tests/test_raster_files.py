"""Answers that are files: read whole, with all that they say, or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

import geotile
from geotile.endpoints.raster import decode_array, decode_raster

CLASSES = np.random.default_rng(0).integers(0, 3, (1, 64, 64)).astype(np.uint8)


def tiff(values, masks=None, scale=None, alpha=False, **profile):
    with rasterio.MemoryFile() as memory:
        shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
        with memory.open(driver="GTiff", **shape, **profile) as file:
            if alpha:
                file.colorinterp = [ColorInterp.gray] * (len(values) - 1) + [ColorInterp.alpha]
            file.write(values)
            if masks is not None:
                file.write_mask(masks)
            if scale is not None:
                file.scales, file.offsets = ([each] * len(values) for each in scale)
        return memory.read()


def png(values):
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="PNG", count=1, height=values.shape[1], width=values.shape[2], dtype=values.dtype
        ) as file:
            file.write(values)
        return memory.read()


WHOLE = png(CLASSES)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_png_that_was_cut_off_is_refused(length):
    with pytest.raises(geotile.ResponseError, match="not a PNG that can be read"):
        decode_raster(WHOLE[:length], "image/png")


@given(st.integers(8, len(WHOLE) - 1), st.integers(1, 255))
def test_a_png_that_is_damaged_is_refused(place, change):
    damaged = bytearray(WHOLE)
    damaged[place] ^= change
    with pytest.raises(geotile.ResponseError, match="not a PNG that can be read"):
        decode_raster(bytes(damaged), "image/png")


def test_a_whole_png_is_read_and_an_animated_one_is_not():
    np.testing.assert_array_equal(decode_raster(WHOLE, "image/png").values, CLASSES)
    control = struct.pack(">II", 2, 0)
    chunk = struct.pack(">I", 8) + b"acTL" + control + struct.pack(">I", zlib.crc32(b"acTL" + control))
    with pytest.raises(geotile.ResponseError, match="must be one image; got an animated PNG"):
        decode_raster(WHOLE[:33] + chunk + WHOLE[33:], "image/png")


def test_a_pixel_without_a_value_in_one_band_has_none():
    values = np.ones((2, 4, 4), np.float32)
    values[1, 0, 0] = -9999
    assert (~decode_raster(tiff(values, nodata=-9999), "image/tiff").valid).sum() == 1


def test_masks_transparency_and_scales_of_files_are_read():
    mask = np.full((64, 64), 255, np.uint8)
    mask[:10] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        found = decode_raster(tiff(CLASSES, masks=mask), "image/tiff")
    np.testing.assert_array_equal(found.valid, mask > 0)
    found = decode_raster(tiff(np.concatenate([CLASSES, mask[None]]), alpha=True), "image/tiff")
    assert found.values.shape == (1, 64, 64)
    np.testing.assert_array_equal(found.valid, mask > 0)
    found = decode_raster(tiff(CLASSES.astype(np.int16) + 100, scale=(0.01, 3.0)), "image/tiff")
    np.testing.assert_allclose(found.values, (CLASSES + 100) * 0.01 + 3)
    assert found.valid is None


def test_tags_of_the_file_name_classes_too():
    for bands in (1, 2):
        with rasterio.MemoryFile() as memory:
            with memory.open(driver="GTiff", count=bands, height=8, width=8, dtype="float32") as file:
                file.write(np.zeros((bands, 8, 8), np.float32))
                file.update_tags(CLASS_0="water", CLASS_1="land")
            assert decode_raster(memory.read(), "image/tiff").classes == ("water", "land")


def test_files_of_other_contents_are_refused():
    with pytest.raises(geotile.ResponseError, match="numbers that are not complex; got bands of complex64"):
        decode_raster(tiff(np.full((1, 8, 8), 0.5 + 7j, np.complex64)), "image/tiff")
    bomb = {"width": 40_000, "height": 40_000, "count": 1, "dtype": "uint8", "tiled": True, "SPARSE_OK": True}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **bomb):
            pass
        with pytest.raises(geotile.ResponseError, match="at most 1,073,741,824 bytes of pixels; got 1 bands of 40,000"):
            decode_raster(memory.read(), "image/tiff")
    image = pytest.importorskip("PIL.Image")
    pages, content = [image.fromarray(each) for each in np.zeros((3, 8, 8), np.float32)], io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(geotile.ResponseError, match="must be one image; got a file with 3 pages"):
        decode_raster(content.getvalue(), "image/tiff")


@pytest.mark.parametrize(
    "header", ["{'descr': (", "{[]: 1}", "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", "{}", "-" * 60 + "1",
               "{'descr': '<f4', 'fortran_order': False, 'shape': (1180591620717411303424,)}"],
)  # fmt: skip
def test_arrays_with_odd_headers_are_refused(header):
    text = header.ljust(117).encode() + b"\n"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 64
    with pytest.raises(geotile.ResponseError, match=r"not an array as numpy\.save writes it \(.+\)"):
        decode_array(body, "application/x-npy")


def test_bytes_after_an_array_are_refused():
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    np.save(content, np.ones(3))
    with pytest.raises(geotile.ResponseError, match="152 bytes after its array"):
        decode_array(content.getvalue(), "application/x-npy")


def test_masked_vectors_are_refused():
    model = lambda tile: np.ma.masked_array([1.0, 2.0], [False, True])  # noqa: E731
    with pytest.raises(geotile.EndpointError, match="masked"):
        geotile.embed(geotile.testing.write_example(), model, tile_size=128, overlap=0)
