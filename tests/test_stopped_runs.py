"""A run that is stopped leaves no thread of geotile behind, and a cluster that is closed afterwards has nothing to say."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import rasterio
from misbehaving import POISON, misbehaving, numbered

import geotile
from geotile import traffic
from geotile.running import run as running

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


def at_once(script, *calls, timeout_s):
    """Run a script of this folder with each of some lists of words, all at the same time, as they mostly wait.

    Returns each finished process and when it ended.
    """
    words = [sys.executable, "-W", "ignore", str(Path(__file__).parent / script)]

    def run(call):
        done = subprocess.run([*words, *call], capture_output=True, text=True, timeout=timeout_s)
        return done, time.time()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_no_thread_is_left(image):
    places = ("threads", "cluster", "processes")
    with misbehaving(poisoned) as (raising, _), misbehaving(slow) as (late, _):
        runs = at_once("stopped_run.py", *([where, image, raising, late] for where in places), timeout_s=120)
    for where, (done, _) in zip(places, runs, strict=True):
        said = ["raised", "left: []", "interrupted", "left: []"]
        said += ["raised", "left: []"] if where == "threads" else []
        assert done.stdout.splitlines() == said, (where, done)
        if where == "threads":
            assert done.stderr == ""
        else:  # before that, Dask reports the task that raised
            assert done.stderr.rpartition("closing\n")[2] == "", where


def hangs(handler, number, times):
    """One tile fails after a while, and no other is ever answered."""
    if number == POISON:
        time.sleep(1)
        return handler.reply(400, b"no")
    time.sleep(60)
    return True


def test_a_run_that_is_stopped_aborts_its_requests_and_lets_the_process_end(image):
    ways = {
        "interrupt": ["interrupted", "left: []"], "raise": ["raised", "left: []"], "callable": ["interrupted"]
    }  # fmt: skip
    with misbehaving(hangs) as (url, _):
        runs = at_once("interrupted_run.py", *([how, image, url] for how in ways), timeout_s=50)
    for (how, wanted), (done, ended) in zip(ways.items(), runs, strict=True):
        *said, at = done.stdout.splitlines()
        assert said == wanted, (how, done)
        assert ended - float(at) < 5, how
        assert done.stderr == "", how


def wait_a_minute(handler, number, times):
    """One tile fails for good while all others are asked to come back in a minute."""
    if number == POISON:
        time.sleep(0.5)
        return handler.reply(400, b"poisoned")
    return handler.reply(429, b"later", Retry_After="60")


@pytest.fixture
def runs(monkeypatch):
    """The names of the runs that begin."""
    begun = []
    monkeypatch.setattr(running, "begin_run", lambda run: begun.append(run) or traffic.begin_run(run))
    return begun


@pytest.mark.filterwarnings("ignore:.*tiles failed")
@pytest.mark.parametrize("where", ["threads", "cluster"])
@pytest.mark.parametrize("how", ["raise", "interrupt", "cancel"])
def test_a_run_ends_while_its_tiles_wait_for_their_retry(image, where, how, runs, request):
    """An error, Ctrl-C and a cancelled job end the wait of a tile, although the server asked for a minute."""

    current = request.getfixturevalue("workers").as_current if where == "cluster" else nullcontext

    def end():
        if how == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif how == "cancel":
            with current():  # the current client of a thread is its own
                traffic.stop_run_everywhere(runs[0], "the job was cancelled")

    ends = {"raise": pytest.raises(geotile.TileError, match="poisoned"), "interrupt": pytest.raises(KeyboardInterrupt)}
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    timer = threading.Timer(2, end)
    try:
        with (
            current(),
            misbehaving(wait_a_minute) as (url, _),
            ends.get(how, nullcontext()),
        ):
            began = time.monotonic()
            timer.start()
            geotile.detect(
                image, url, tile_size=32, overlap=0, region_size=192, concurrency=64,
                errors="raise" if how == "raise" else "record",
            )  # fmt: skip
    finally:
        timer.cancel()  # of a run that failed before: the signal would end the process of the tests
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - began < 20
