"""Stores that send a byte now and then, or nothing: every call comes back within its deadline."""

import time

import dask
import numpy as np
import pytest
import xarray as xr
from helpers import crowd
from silent_store import silent_store

import geotile
from geotile import ImageOpenError, open_image
from geotile.imagery import file_version, redirects
from geotile.storage import location

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("silent")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1024, 1024), np.uint8)
    image = xr.DataArray(pixels, dims=("band", "y", "x"), name="a")
    image.to_dataset().to_zarr(folder / "a.zarr", zarr_format=2, encoding={"a": {"chunks": (3, 256, 256)}})
    image.rio.to_raster(folder / "a.tif", tiled=True, blockxsize=256, blockysize=256)
    with silent_store(folder) as url:
        yield url


@pytest.fixture(autouse=True)
def short_requests_for_a_version(monkeypatch):
    monkeypatch.setattr(file_version, "_TIMEOUT_S", 1.0)
    monkeypatch.setitem(location._REMOTE, "GDAL_HTTP_RETRY_DELAY", "0.01")


@pytest.mark.parametrize(("name", "total_s"), [("a.tif", 1), ("a.zarr", 1)])  # of a file, GDAL asks six times for 1 s
@pytest.mark.parametrize("mode", ["never", "head", "body"])
def test_opening_ends_within_the_deadline(store, mode, name, total_s):
    started = time.monotonic()
    with pytest.raises(ImageOpenError, match=r"total_timeout|[Tt]imed out") as caught:
        open_image(f"{store}/{mode}/{name}", storage_options={"total_timeout": total_s})
    assert time.monotonic() - started < 6 * total_s + 4
    assert caught.value.retryable


@pytest.mark.parametrize("mode", ["never", "head"])
def test_the_question_for_redirects_ends_at_its_deadline(store, mode, monkeypatch):
    monkeypatch.setattr(redirects, "_TIMEOUT_S", 0.5)
    started = time.monotonic()
    assert list(redirects.redirect_targets(f"{store}/{mode}/a.tif", {"X-Api-Key": "k"})) == []
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_a_run_ends_within_the_deadline(store, name):
    """The header comes at once, and then 8 bytes a second, which is no silence."""
    started = time.monotonic()
    path, how = f"{store}/late/{name}", {"storage_options": {"total_timeout": 3}}
    with dask.config.set(scheduler="threads", num_workers=2), pytest.warns(geotile.FailedTilesWarning):
        found = geotile.detect(path, crowd, tile_size=256, overlap=0, region_size=256, **how)
    report = found.attrs["report"]
    assert time.monotonic() - started < 12
    assert report.status == "FAILED"
    assert len(report.failures) == report.tiles == 16
    assert any("total_timeout" in failure.reason for failure in report.failures), report.failures


def test_what_answers_is_read(store):
    assert open_image(f"{store}/well/a.tif", storage_options={"total_timeout": 60}).shape == (3, 1024, 1024)
    image = open_image(f"{store}/well/a.zarr", storage_options={"total_timeout": 60})
    np.testing.assert_array_equal(image, open_image(f"{store}/well/a.tif"))
