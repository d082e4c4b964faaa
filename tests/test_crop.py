"""A crop or a selection of bands of an opened file stays a file: only its windows are read."""

import copy
import pickle

import numpy as np
import pytest
import rasterio
import xarray as xr
from geopandas.testing import assert_geodataframe_equal
from helpers import crowd, region_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geotile
from geotile.imagery.file_array import source_of
from geotile.imagery.source import Source

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 300, 420), np.uint8)
    path = tmp_path_factory.mktemp("crop") / "image.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "blockxsize": 64, "blockysize": 64}
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    with rasterio.open(path, "w", height=300, width=420, crs="EPSG:32631", transform=transform, **profile) as file:
        file.write(pixels)
    return path


def in_memory(image: xr.DataArray) -> xr.DataArray:
    """The same image as an array in memory."""
    return image.copy(data=np.asarray(image))


def slices(length):
    ends = st.integers(-length - 5, length + 5) | st.none()
    return st.builds(slice, ends, ends)


bands = (
    st.just(slice(None)) | st.integers(-3, 2) | st.lists(st.integers(-3, 2), min_size=1, max_size=4) | slices(3)
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(band=bands, y=slices(300), x=slices(420), again=st.tuples(slices(200), slices(200)))
def test_a_crop_is_a_file_with_the_pixels_of_the_crop(path, band, y, x, again):
    image = geotile.open_image(path)
    cut, want = image, in_memory(image)
    for key in ({"band": band, "y": y, "x": x}, {"y": again[0], "x": again[1]}):
        cut, want = cut.isel(key), want.isel(key)
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(want))
    assert cut.sizes == want.sizes
    assert cut.dtype == want.dtype
    assert (source_of(cut.data) is not None) == bool(want.size)


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i + 0,
        lambda i: i[:, ::2],
        lambda i: i[:, ::-1],
        lambda i: i.roll(x=3),
        lambda i: i.isel(y=[3, 1, 7]),
        lambda i: i.transpose("y", "x", "band"),
        lambda i: i.pad(x=2),
        lambda i: i[:, 10:20].astype("float32"),
        lambda i: xr.concat([i[:, :100], i[:, 100:]], "y"),
    ],
)
def test_everything_else_is_computed(path, change):
    image = geotile.open_image(path)
    changed = change(image)
    assert source_of(changed.data) is None
    np.testing.assert_array_equal(np.asarray(changed), np.asarray(change(in_memory(image))))


@pytest.mark.parametrize(
    "cut",
    [
        lambda i: i[:, 70:250, 33:390],
        lambda i: i[:, 64:256, 128:384],
        lambda i: i.isel(band=[2, 0]),
        lambda i: i.isel(band=1),
        lambda i: i[0, 5:, :-7],
        lambda i: i.sel(band=[3, 1]).isel(x=slice(100, None)),
        lambda i: geotile.rescale(i, 0, [100, 200, 250])[1:, 40:200],
        lambda i: geotile.cast(i[:, 17:], "uint16"),
        lambda i: geotile.rescale(i.isel(band=2), 10, 200),
    ],
)
@pytest.mark.parametrize("region", [64, 150, 1000])
def test_a_crop_gives_the_detections_of_the_same_crop_in_memory(path, cut, region):
    job = {"tile_size": 50, "overlap": 20, "region_size": region}
    image = cut(geotile.open_image(path))
    assert source_of(image.data) is not None
    assert geotile.plan(image, tile_size=50, overlap=20).source is not None
    found, want = geotile.detect(image, crowd, **job), geotile.detect(in_memory(image), crowd, **job)
    want.attrs = found.attrs
    assert len(found)
    assert_geodataframe_equal(found, want)


def test_only_the_blocks_of_a_crop_are_read(path, monkeypatch):
    read = []
    raw = Source.read_file
    monkeypatch.setattr(
        Source, "read_file", lambda self, window, valid, out=None: (read.append(window), raw(self, window, valid))[1]
    )
    geotile.detect(geotile.open_image(path)[:, 130:190, 200:310], crowd, tile_size=40, overlap=10)
    assert all(130 <= w.y0 < w.y1 <= 190 and 200 <= w.x0 < w.x1 <= 310 for w in read)
    assert sum(np.prod(w.shape_yx) for w in read) == 60 * 110  # each pixel once


def test_a_crop_knows_its_empty_blocks(tmp_path):
    """Tiles on blocks that a sparse file does not hold are not read, wherever the crop begins."""
    path = tmp_path / "sparse.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "tiled": True, "blockxsize": 64, "blockysize": 64}
    with rasterio.open(path, "w", height=256, width=256, SPARSE_OK=True, nodata=0, **profile) as file:
        file.write(np.full((1, 64, 64), 7, np.uint8), window=rasterio.windows.Window(128, 128, 64, 64))
    image = geotile.open_image(path)[:, 100:, 100:]
    found = geotile.detect(image, lambda tile: ([[0, 0, 1, 1]], [tile.max() / 10]), tile_size=28, overlap=0, merge=None)
    assert geotile.report(found).tiles_without_data == 36 - 9
    assert set(found["score"]) == {0.7}


def test_a_resampled_image_is_cropped_in_its_own_pixels(path):
    image = geotile.open_image(path, resolution=1.0)
    cut = image[:, 20:120, 30:170]
    assert source_of(cut.data).scale_yx == source_of(image.data).scale_yx
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(image)[:, 20:120, 30:170])
    stretched = geotile.stretch(geotile.open_image(path)[:, :150], (0, 100))
    assert source_of(stretched.data).steps[0].low == tuple(geotile.open_image(path)[:, :150].min(("y", "x")).to_numpy())


def test_a_crop_pickles_and_keeps_its_place(path):
    image = geotile.open_image(path)[:, 64:200, 64:]
    again = pickle.loads(pickle.dumps(image))
    assert source_of(again[:, 5:, 5:].data).origin_yx == (69, 69)
    whole, part = geotile.plan(geotile.open_image(path)), geotile.plan(image)
    assert part.encoder.georeference.transform @ (0, 0) == whole.encoder.georeference.transform @ (64, 64)
    for (row, column), values in region_values(image, geotile.plan(image, tile_size=50, overlap=10).grid).items():
        assert values.size, (row, column)


def test_checkpoints_tell_crops_apart(path, tmp_path):
    image = geotile.open_image(path)
    geotile.detect(image[:, :200], crowd, tile_size=64, overlap=16, checkpoint=tmp_path / "ck")
    with pytest.raises(geotile.ArgumentError, match="the part of the image has changed"):
        geotile.detect(image[:, 100:], crowd, tile_size=64, overlap=16, checkpoint=tmp_path / "ck")


@pytest.mark.parametrize("copied", [lambda image: image.copy(), lambda image: image.copy(deep=True), copy.deepcopy])
def test_assigning_to_a_copy_does_not_change_the_image(copied, write_tiff, noise):
    image = geotile.open_image(write_tiff(noise))
    other = copied(image)
    other[:, :50] = 0
    assert (other.values[:, :50] == 0).all()
    np.testing.assert_array_equal(image.values, noise)
