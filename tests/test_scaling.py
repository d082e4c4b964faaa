"""Pixels as a model wants them, lazily; detections in full-resolution pixels whatever the resolution."""

import pickle

import numpy as np
import pytest
import rasterio
import xarray as xr
from helpers import region_values

import geotile
from geotile import ArgumentError, GeoreferenceError, open_image
from geotile.imagery.file_array import source_of
from geotile.testing import bright_objects, write_example

pytestmark = pytest.mark.slow


@pytest.fixture
def deep():
    """(2, 300, 420) uint16, values to 4,000, a corner of nodata."""
    values = np.random.default_rng(1).integers(100, 4000, (2, 300, 420), np.uint16)
    values[:, :40, :40] = 0
    return values


def by_hand(values, low, high):
    scaled = (values.astype(np.float64) - low) / (high - low) * 255
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["file", "dask", "memory"])
def test_rescale(write_tiff, deep, kind):
    image = {
        "file": lambda: open_image(write_tiff(deep)),
        "dask": lambda: open_image(write_tiff(deep)) + np.uint16(0),
        "memory": lambda: xr.DataArray(deep, dims=("band", "y", "x")),
    }[kind]()
    scaled = geotile.rescale(image, 500, 3500)
    assert scaled.dtype == np.uint8
    assert (source_of(scaled.data) is not None) == (kind == "file")
    assert np.abs(scaled.to_numpy().astype(int) - by_hand(deep, 500, 3500)).max() <= 1
    each = geotile.rescale(image, [100, 200], [3000, 4000], dtype="float32").to_numpy()
    want = np.clip((deep - np.array([100.0, 200.0])[:, None, None]) / np.array([2900.0, 3800.0])[:, None, None], 0, 1)
    np.testing.assert_allclose(each, want, atol=1e-5)
    assert scaled.dims == image.dims
    assert geotile.cast(geotile.rescale(image, 0, 4000, dtype="float32"), "uint8").to_numpy().max() == 1


def test_scaling_is_lazy_and_stays_windows_of_the_file(write_tiff, deep, monkeypatch):
    path = write_tiff(deep, nodata=0)
    from geotile.imagery.source import Source

    monkeypatch.setattr(Source, "read_file", None)
    scaled = pickle.loads(pickle.dumps(geotile.rescale(open_image(path), 0, 4000)))
    work = geotile.plan(scaled, tile_size=64, overlap=16)
    monkeypatch.undo()
    assert work.encoder.nodata is None  # the file's nodata is no value of the result
    assert region_values(work.image, work.grid)[0, 0].dtype == np.uint8
    report = geotile.detect(scaled, lambda tile: ([], []), tile_size=20, overlap=0).attrs["report"]
    assert report.tiles_without_data == 4  # ... but is still known for what it is


def test_stretch_takes_percentiles_of_what_has_data(write_tiff, deep):
    image = open_image(write_tiff(deep, nodata=0))
    stretched = geotile.stretch(image, (5, 95))
    for band in range(2):
        data = deep[band][deep[band] > 0]
        low, high = np.percentile(data, (5, 95))
        assert np.abs(stretched[band].to_numpy().astype(int) - by_hand(deep[band], low, high)).max() <= 1
    memory = xr.DataArray(deep, dims=("band", "y", "x")).rio.write_nodata(0)
    np.testing.assert_array_equal(geotile.stretch(memory, (5, 95)), stretched)


def test_stretch_looks_at_an_overview(write_tiff, monkeypatch):
    """A large file with overviews is not read for its percentiles."""
    values = np.broadcast_to(np.linspace(0, 4000, 4096).astype(np.uint16), (1, 4096, 4096))
    path = write_tiff(values, blockxsize=256, blockysize=256, compress="deflate")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    image = open_image(path)
    stretched = geotile.stretch(image, (10, 90))
    step = source_of(stretched.data).steps[0]
    assert step.low[0] == pytest.approx(400, rel=0.02)
    assert step.high[0] == pytest.approx(3600, rel=0.02)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda i: geotile.rescale(i, 5, 5), "must be smaller than high"),
        (lambda i: geotile.rescale(i, [1, 2, 3], 5), "one for each of 2 bands"),
        (lambda i: geotile.rescale(i, np.nan, 5), "finite"),
        (lambda i: geotile.rescale(i, 0, 5, dtype="complex64"), "integers or floats"),
        (lambda i: geotile.rescale(i, 0, 5, dtype="nonsense"), "nonsense"),
        (lambda i: geotile.stretch(i, (98, 2)), "two ascending numbers"),
        (lambda i: geotile.stretch(i.rio.write_nodata(7).where(i < 0, 7).rio.write_nodata(7)), "no data"),
    ],
)
def test_scaling_that_cannot_be_done(call, said):
    image = xr.DataArray(np.ones((2, 9, 9), np.uint16), dims=("band", "y", "x"))
    with pytest.raises(ArgumentError, match=said):
        call(image)


# resolution


@pytest.fixture
def sharp(write_tiff):
    """512 x 640 pixels of 0.5 m with bright blocks, and overviews."""
    pixels = np.full((3, 512, 640), 40, np.uint8)
    for y, x in ((64, 96), (256, 320), (400, 32)):
        pixels[:, y : y + 64, x : x + 96] = 230
    path = write_tiff(pixels, compress="deflate", blockxsize=128, blockysize=128)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    return path


@pytest.mark.parametrize("resolution", [0.25, 0.5, 1.0, 1.7, 2.0])
def test_boxes_come_back_in_full_resolution(sharp, resolution):
    image = open_image(sharp, resolution=resolution)
    assert image.shape[1:] == (round(512 * 0.5 / resolution), round(640 * 0.5 / resolution))
    found = geotile.detect(sharp, bright_objects, tile_size=400, overlap=200, resolution=resolution)
    boxes = found.sort_values("ymin")[["xmin", "ymin", "xmax", "ymax"]].to_numpy()
    want = [[96, 64, 192, 128], [320, 256, 416, 320], [32, 400, 128, 464]]
    np.testing.assert_allclose(boxes, want, atol=2 * resolution / 0.5)
    world = found.sort_values("ymin").geometry.bounds.to_numpy()
    np.testing.assert_allclose(world[:, 0], 500_000 + 0.5 * boxes[:, 0])
    np.testing.assert_allclose(world[:, 3], 5_000_000 - 0.5 * boxes[:, 1])
    shapes = geotile.image_geometry(found.sort_values("ymin")).bounds.to_numpy()
    np.testing.assert_allclose(shapes, boxes)


@pytest.mark.parametrize("chunks", [100, 128, 333])
def test_a_resampled_pixel_does_not_depend_on_the_window(sharp, chunks):
    whole = open_image(sharp, resolution=0.7, chunks=-1).to_numpy()
    np.testing.assert_array_equal(open_image(sharp, resolution=0.7, chunks=chunks), whole)
    part = open_image(sharp, resolution=0.7)
    source = source_of(part.data)
    from geotile.grid.tile_grid import Window

    np.testing.assert_array_equal(source.read(Window(13, 170, 101, 300)).values, whole[:, 13:170, 101:300])


def test_resampling_is_gdals(sharp):
    """Twice as coarse is GDAL's average of 2 x 2 (from the overview, which is that)."""
    with rasterio.open(sharp) as file:
        want = file.read(out_shape=(256, 320), resampling=rasterio.enums.Resampling.average)
    np.testing.assert_array_equal(open_image(sharp, resolution=1.0), want)


def test_the_coarse_image_comes_from_an_overview(sharp, monkeypatch):
    """It still reads where every full-resolution block is broken."""
    with rasterio.open(sharp) as file:
        spans = [
            (int(file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=1)), int(file.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)))
            for x in range(5) for y in range(4)
        ]  # fmt: skip
    with open(sharp, "r+b") as raw:
        for offset, size in spans:
            raw.seek(offset)
            raw.write(b"\0" * size)
    assert open_image(sharp, resolution=1.0).to_numpy().max() == 230
    with pytest.raises(geotile.ImageReadError):
        open_image(sharp).compute()


def test_resolution_of_images_placed_otherwise(shared):
    for name in ("riotiler_cog_gcps.tif", "rioxarray_test_rpcs.tif", "rastervision_small-uint16-tile.tif"):
        path = shared / "formats" / name
        full = open_image(path)
        from geotile.geometry.georeference import georeference_of
        from geotile.geometry.ground import pixel_size_m

        size_y, size_x = pixel_size_m(georeference_of(full), full.shape[1:])
        coarse = open_image(path, resolution=2 * (size_y + size_x) / 2)
        assert coarse.shape[1] == pytest.approx(full.shape[1] * size_y / (size_y + size_x), abs=1)
        options = {"tile_size": 4096, "overlap": 0, "skip_nodata": False}
        whole = geotile.detect(full, lambda tile: ([[0, 0, tile.shape[2], tile.shape[1]]], [1.0]), **options)
        again = geotile.detect(coarse, lambda tile: ([[0, 0, tile.shape[2], tile.shape[1]]], [1.0]), **options)
        np.testing.assert_allclose(again[["xmax", "ymax"]], whole[["xmax", "ymax"]])
        np.testing.assert_allclose(again.total_bounds, whole.total_bounds, rtol=1e-6)


def test_resolutions_that_cannot_be(sharp, noise, shared):
    with pytest.raises(ArgumentError, match="resolution must be a finite number of metres above 0; got 0"):
        open_image(sharp, resolution=0)
    with pytest.raises(ArgumentError, match="must not be finer"):
        open_image(sharp, resolution=0.001)
    with pytest.raises(GeoreferenceError, match="with a georeference, and this image has none"):
        open_image(shared / "imagery" / "2_planes.tiff", resolution=1.0)


def test_scaled_and_resampled_over_a_cluster_of_threads(sharp):
    image = geotile.rescale(open_image(sharp, resolution=1.0, bands=[3, 1]), 0, 230)
    assert image.shape == (2, 256, 320)
    one = geotile.detect(image, bright_objects, tile_size=128, overlap=64, region_size=10_000)
    many = geotile.detect(image, bright_objects, tile_size=128, overlap=64, region_size=64)
    assert one.drop(columns=["properties", "classes"]).equals(many.drop(columns=["properties", "classes"]))
    assert len(one) == 3


def test_the_example_runs_through_everything():
    found = geotile.detect(
        geotile.stretch(open_image(write_example(), resolution=0.6)), bright_objects, tile_size=64, overlap=32
    )
    assert len(found) == 3


@pytest.mark.parametrize("chunks", [None, {"x": 32, "y": 32}])
def test_an_array_whose_nodata_are_masked_is_scaled(write_tiff, chunks):
    import rioxarray

    pixels = np.random.default_rng(0).integers(0, 3000, (3, 64, 64)).astype(np.int16)
    pixels[:, :8] = -9999
    masked = rioxarray.open_rasterio(write_tiff(pixels, nodata=-9999), masked=True, chunks=chunks)
    for scaled, want in (
        (geotile.rescale(masked, 0, 3000), by_hand(pixels, 0, 3000)), (geotile.cast(masked, "uint8"), np.clip(pixels, 0, 255)),
    ):  # fmt: skip
        np.testing.assert_array_equal(scaled, want)
        assert scaled.rio.nodata is None
        assert geotile.report(geotile.detect(scaled, lambda tile: None, tile_size=32, overlap=0)).tiles == 4
    assert geotile.stretch(masked).dtype == np.uint8
