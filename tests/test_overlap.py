"""The one place that adds halos: windows of a file, Dask's own overlap and strips give the same pixels."""

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from helpers import region_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geotile
from geotile.imagery.overlap import with_dask_overlap
from geotile.imagery.strips import with_strips


@st.composite
def layouts(draw):
    """Size of an image, tile, overlap, and size of a region."""
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    tile = draw(st.tuples(st.integers(2, 60), st.integers(2, 60)))
    overlap = tuple(draw(st.integers(0, side - 1)) for side in tile)
    return (height, width), tile, overlap, draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("overlap")


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts())
def test_all_sources_of_the_halo_are_equal(layout, folder):
    (height, width), tile, overlap, region = layout
    pixels = np.random.default_rng(height * width).integers(0, 256, (2, height, width), np.uint8)
    path = folder / "image.tif"
    profile = {"driver": "GTiff", "count": 2, "dtype": "uint8", "tiled": True, "blockxsize": 16, "blockysize": 16}
    with rasterio.open(path, "w", height=height, width=width, **profile) as file:
        file.write(pixels)
    work = geotile.plan(path, tile_size=tile, overlap=overlap, region_size=region)
    grid = work.grid
    data = da.from_array(pixels, (-1, *grid.chunks))
    by_strips, by_dask = with_strips(data, grid, "run"), with_dask_overlap(data, grid)
    by_file = region_values(work.image, grid)
    by_array = region_values(xr.DataArray(pixels, dims=("band", "y", "x")), grid)
    for (row, column), values in by_file.items():
        want = pixels[:, *grid.read_window(row, column).slices]
        np.testing.assert_array_equal(values, want)
        np.testing.assert_array_equal(by_array[row, column], want)
        np.testing.assert_array_equal(by_strips.blocks[0, row, column].compute(), want)
        shape = want.shape
        np.testing.assert_array_equal(by_dask.blocks[0, row, column].compute()[:, : shape[1], : shape[2]], want)
