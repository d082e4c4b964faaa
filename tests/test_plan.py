"""What `plan` says holds in the run."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from helpers import crowd

import geotile
from geotile.encoding.encoder import Encoder
from geotile.grid.tile_grid import Window
from geotile.options import DetectOptions
from geotile.pipeline import _run


def test_numbers_hold_in_the_run(write_tiff, noise):
    path = write_tiff(noise)
    work = geotile.plan(path, tile_size=64, overlap=16, region_size=128)
    report = geotile.detect(path, crowd, tile_size=64, overlap=16, region_size=128).attrs["report"]
    assert (work.tiles, work.regions, work.requests) == (report.tiles, report.regions, report.requests)
    assert work.request_bytes == 64 * 64 * 3
    body = Encoder("NPY").encode(noise[:, :64, :64], Window(0, 64, 0, 64))
    assert 0 <= len(body) - work.request_bytes < 200
    sizes = [np.prod(work.grid.read_window(r, c).shape_yx) * 3 for r, c in np.ndindex(work.grid.regions_yx)]
    assert work.region_bytes == max(sizes)
    assert work.read_ratio == pytest.approx(sum(sizes) / noise.size)


def test_the_graph_is_as_large_as_said_and_small(write_tiff):
    image = xr.DataArray(dask.array.zeros((3, 4096, 4096), chunks=(3, 64, 64), dtype="uint8"), dims=("band", "y", "x"))
    path = write_tiff(np.zeros((1, 2048, 2048), np.uint8))
    work = geotile.plan(path, tile_size=64, overlap=16, region_size=128)
    with _run(path, geotile.endpoint(crowd), DetectOptions(tile_size=64, overlap=16, region_size=128)) as run:
        tree = run.tree
    assert len(dict(tree.dask)) == work.tasks
    assert work.tasks < 5 * work.regions
    assert len(dict(dask.optimize(tree)[0].dask)) < 2 * work.regions
    assert geotile.plan(image).regions < 50  # small chunks are joined


def test_tiles_as_a_table(write_tiff, noise):
    work = geotile.plan(write_tiff(noise), tile_size=64, overlap=16, region_size=128)
    table = work.to_geodataframe()
    assert len(table) == work.tiles
    assert table.crs == "EPSG:32631"
    assert table["region"].nunique() == work.regions
    first = table.iloc[0]
    assert first.geometry.bounds == (500_000, 5_000_000 - 32, 500_032, 5_000_000)


def test_shown_to_people(write_tiff, noise):
    import matplotlib

    matplotlib.use("Agg")
    work = geotile.plan(write_tiff(noise), tile_size=64, overlap=16, region_size=128)
    assert "54 (9 x 6)" in repr(work)
    assert "54 tiles" in work.plot().get_title()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((3, 9, 9)), "ndarray"),
        (xr.DataArray(np.zeros((3, 9, 9)), dims=("time", "y", "x")), "Rename its dims"),
        (xr.DataArray(np.zeros((3, 0, 9)), dims=("band", "y", "x")), "at least one pixel"),
        (xr.DataArray(np.zeros((3, 9, 9), complex), dims=("band", "y", "x")), "complex"),
    ],
)
def test_arrays_that_are_no_images(image, said):
    with pytest.raises(geotile.ArgumentError, match=said):
        geotile.plan(image)


@pytest.mark.parametrize("kind", [k for k in vars(geotile.errors).values() if isinstance(k, type)])
def test_errors_pickle(kind):
    error = pickle.loads(pickle.dumps(kind("said")))
    assert type(error) is kind
    assert str(error) == "said"
    assert isinstance(error, geotile.GeotileError | geotile.FailedTilesWarning)


def test_reports_endpoints_and_attempts_pickle(write_tiff, noise):
    report = geotile.detect(write_tiff(noise), crowd, tile_size=128, overlap=16).attrs["report"]
    back = pickle.loads(pickle.dumps(report))
    assert back == report
    assert back.status == "SUCCESS"
    endpoint = pickle.loads(pickle.dumps(geotile.endpoint("http://host/x", retries=3)))
    assert (repr(endpoint), endpoint.retry_policy.retries) == ("HttpEndpoint('http://host/x')", 3)
    error = geotile.EndpointError("x")
    error.attempts = 4
    assert pickle.loads(pickle.dumps(error)).attempts == 4
    with pytest.raises(AttributeError, match="it has"):
        report.nothing  # noqa: B018


def test_the_public_names():
    assert all(hasattr(geotile, name) for name in geotile.__all__)
    assert sorted(geotile.__all__) == geotile.__all__
    assert {"detect", "detect_to", "endpoint", "nms", "open_image", "plan", "write", "TileGrid"} <= set(geotile.__all__)


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "mib"), [("1GiB", 32), (0, 128)])
def test_regions_grow_with_the_threads_of_a_cluster(memory, mib):
    """Each costs the scheduler a millisecond, so that many threads wait for it; they stay within the workers' memory."""
    image = xr.DataArray(da.zeros((3, 100_000, 100_000), dtype=np.uint8, chunks=(3, 512, 512)), dims=("band", "y", "x"))
    own = {"n_workers": 1, "threads_per_worker": 64, "processes": False, "dashboard_address": None}
    with LocalCluster(memory_limit=memory, **own) as cluster, Client(cluster):
        y, x = geotile.plan(image).grid.chunks
    assert 0.5 * mib < 3 * y[0] * x[0] / 2**20 <= mib
