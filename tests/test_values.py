"""What stored values mean: palettes, scales and offsets, nodata; the same for files and Zarr stores."""

import numpy as np
import pytest
import rasterio
import rioxarray
from rasterio.transform import from_origin

import geotile
from geotile.imagery.file_array import source_of

TABLE = {0: (10, 60, 10, 255), 1: (250, 240, 230, 255), 7: (0, 0, 255, 255)}


def palette_image(path, dtype="uint8", nodata=None, size=600):
    index = np.zeros((1, size, size), dtype)
    index[0, 10:50, 10:50] = 1
    index[0, 400:, :] = 7
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=size,
        width=size,
        dtype=dtype,
        nodata=nodata,
        transform=from_origin(5e5, 4e6, 1, 1),
        crs=32631,
    ) as file:
        file.write(index)
        file.write_colormap(1, TABLE)
    colours = np.zeros((8, 3), np.uint8)
    for number, colour in TABLE.items():
        colours[number] = colour[:3]
    return index, np.moveaxis(colours[index[0]], -1, 0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_palette_is_expanded_to_colours(tmp_path, dtype):
    path = tmp_path / "palette.tif"
    index, want = palette_image(path, dtype)
    image = geotile.open_image(path)
    assert (image.shape, image.dtype, image.attrs["long_name"]) == ((3, 600, 600), np.uint8, ("red", "green", "blue"))
    np.testing.assert_array_equal(image, want)
    np.testing.assert_array_equal(image[:, 5:60, 7:90], want[:, 5:60, 7:90])
    assert source_of(image[:, 5:60, 7:90].data) is not None
    np.testing.assert_array_equal(image.isel(band=[2, 0]), want[[2, 0]])
    np.testing.assert_array_equal(geotile.open_image(path, palette="index"), index)
    seen = []
    geotile.detect(path, lambda tile: seen.append(tile), tile_size=600, overlap=0)
    np.testing.assert_array_equal(seen[0], want)
    coarse = np.unique(np.asarray(geotile.open_image(path, resolution=3)).reshape(3, -1), axis=1)
    assert set(map(tuple, coarse.T)) <= {colour[:3] for colour in TABLE.values()}  # no colour between two others
    with pytest.raises(geotile.ArgumentError, match="palette must be one of 'expand', 'index'"):
        geotile.open_image(path, palette="grey")


def test_nodata_of_a_palette_is_its_number(tmp_path):
    palette_image(tmp_path / "a.tif", nodata=7)
    report = geotile.report(geotile.detect(tmp_path / "a.tif", lambda tile: None, tile_size=100, overlap=0))
    assert report.tiles_without_data == 12


def scaled_image(path, dtype="int16"):
    pixels = np.arange(2 * 64 * 64).reshape(2, 64, 64).astype(dtype)
    pixels[:, :8] = -1
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=2,
        height=64,
        width=64,
        dtype=dtype,
        nodata=-1,
        transform=from_origin(5e5, 4e6, 1, 1),
        crs=32631,
    ) as file:
        file.write(pixels)
        file.scales, file.offsets = (0.5, 0.25), (10, -3)
    return pixels


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_values_are_as_stored_unless_they_are_scaled(tmp_path, dtype):
    pixels = scaled_image(tmp_path / "a.tif", dtype)
    image = geotile.open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image, pixels)
    assert (image.dtype, image.rio.nodata) == (dtype, -1)
    want = pixels * np.array([0.5, 0.25])[:, None, None] + np.array([10, -3])[:, None, None]
    want[pixels == -1] = np.nan
    scaled = geotile.open_image(tmp_path / "a.tif", scaled=True)
    assert scaled.dtype == ("float64" if dtype in ("int32", "float64") else "float32")
    np.testing.assert_allclose(scaled, want)
    np.testing.assert_allclose(scaled[1:, 4:40, 9:33], want[1:, 4:40, 9:33])
    assert source_of(scaled[1:, 4:40, 9:33].data) is not None
    plain = geotile.report(geotile.detect(image, lambda tile: None, tile_size=8, overlap=0))
    assert (
        plain.tiles_without_data
        == geotile.report(geotile.detect(scaled, lambda tile: None, tile_size=8, overlap=0)).tiles_without_data
        == 8
    )


def test_a_zarr_store_follows_the_rule_of_files(tmp_path, write_tiff):
    pixels = scaled_image(tmp_path / "a.tif")
    array = rioxarray.open_rasterio(write_tiff(pixels[:1].repeat(2, 0)))
    array = array.copy(data=pixels).rename("values")
    array.attrs = {"scale_factor": 0.5, "add_offset": 10.0, "_FillValue": -1}
    array.encoding = {}
    array.to_dataset().to_zarr(tmp_path / "a.zarr")
    image = geotile.open_image(tmp_path / "a.zarr")
    np.testing.assert_array_equal(image, pixels)
    assert (image.dtype, image.rio.nodata) == ("int16", -1)
    scaled = geotile.open_image(tmp_path / "a.zarr", scaled=True)
    np.testing.assert_allclose(scaled, np.where(pixels == -1, np.nan, pixels * 0.5 + 10))
    reports = [
        geotile.report(geotile.detect(each, lambda tile: None, tile_size=8, overlap=0)) for each in (image, scaled)
    ]
    assert [report.tiles_without_data for report in reports] == [8, 8]


def test_an_image_without_a_scale_is_as_it_is(write_tiff, noise):
    image = geotile.open_image(write_tiff(noise), scaled=True)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, noise)
