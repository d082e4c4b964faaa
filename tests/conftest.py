"""What the tests share: real files, a real server, arrays with known answers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings

settings.register_profile("geotile", deadline=None)  # a slow machine is no failure
settings.register_profile("fuzz", deadline=None, max_examples=int(os.environ.get("GEOTILE_FUZZ_EXAMPLES", "5000")))
settings.load_profile("geotile")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a background job of a shell, whose children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was():
    """Fail the test that leaves a scheduler, a signal handler or a folder behind, not the ones after it."""

    def state() -> dict[str, object]:
        return {
            "Dask's scheduler": dask.config.get("scheduler", None),
            "the handler of SIGINT": signal.getsignal(signal.SIGINT),
            "the handler of SIGTERM": signal.getsignal(signal.SIGTERM),
            "the current folder": os.getcwd(),
        }

    before = state()
    yield
    after = state()
    dask.config.set(scheduler=before["Dask's scheduler"])
    if after != before and "distributed" in sys.modules:
        sys.modules["distributed"].client._global_clients.clear()
    assert after == before


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def workers():
    """A client of a cluster of two processes with two threads each, which the tests of a module share.

    It is nobody's default; `with workers.as_current():` uses it. Its processes have no AWS credentials. It does not last
    for the session: an idle cluster takes a tenth of a core, more than it takes to start some.
    """
    from distributed import Client, LocalCluster

    quiet = {"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "10s"}
    with pytest.MonkeyPatch.context() as environment, dask.config.set(quiet):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            environment.delenv(name, raising=False)
        cluster = LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0")
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the shared imagery is not at {SHARED}")
    return SHARED


@pytest.fixture
def write_tiff(tmp_path):
    """Write a GeoTIFF of given pixels; keyword arguments go to rasterio."""

    def write(pixels: np.ndarray, name: str = "image.tif", **profile) -> str:
        bands, height, width = pixels.shape
        profile = {
            "driver": "GTiff", "crs": "EPSG:32631", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
            "tiled": True, "blockxsize": 64, "blockysize": 64,
        } | profile  # fmt: skip
        path = str(tmp_path / name)
        with rasterio.open(path, "w", count=bands, height=height, width=width, dtype=pixels.dtype, **profile) as file:
            file.write(pixels)
        return path

    return write


@pytest.fixture
def noise() -> np.ndarray:
    """(3, 300, 420) uint8 noise."""
    return np.random.default_rng(0).integers(0, 256, (3, 300, 420), np.uint8)
