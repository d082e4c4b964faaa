"""A run that is stopped leaves no thread of geotile behind, and a cluster that is closed afterwards has nothing to say."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import rasterio
from misbehaving import POISON, misbehaving, numbered

pytestmark = pytest.mark.slow


def poisoned(handler, number, times):
    """One tile fails at once, and all others come later."""
    if number == POISON:
        return handler.reply(400, b"no")
    time.sleep(0.8)
    return True


def slow(handler, number, times):
    time.sleep(1.2)
    return True


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path, pixels = str(tmp_path_factory.mktemp("stopped") / "a.tif"), numbered(6, 6)
    profile = {"width": pixels.shape[2], "height": pixels.shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, blockxsize=64, blockysize=64, **profile) as file:
        file.write(pixels)
    return path


@pytest.mark.parametrize("where", ["threads", "cluster", "processes"])
def test_no_thread_is_left(image, where):
    script = str(Path(__file__).parent / "stopped_run.py")
    with misbehaving(poisoned) as (raising, _), misbehaving(slow) as (late, _):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script, where, image, raising, late], capture_output=True, text=True,
            timeout=90,
        )  # fmt: skip
    said = ["raised", "left: []", "interrupted", "left: []"] + (["raised", "left: []"] if where == "threads" else [])
    assert done.stdout.splitlines() == said, done
    if where == "threads":
        assert done.stderr == ""
    else:  # before that, Dask reports the task that raised
        assert done.stderr.rpartition("closing\n")[2] == ""
