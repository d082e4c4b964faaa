"""Overlapping windows of a run: the same pixels as read alone, each block decoded once."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.env import get_gdal_config
from rasterio.shutil import copy

import geotile
from geotile import ImageReadError
from geotile.core.cancellation import cancel_run
from geotile.grid.tile_grid import Window
from geotile.imagery import block_cache, block_store
from geotile.imagery.file_array import source_of
from geotile.imagery.source import Source
from geotile.storage.gdal_cache import gdal_cache


@pytest.fixture
def source(write_tiff, noise):
    return source_of(geotile.open_image(write_tiff(noise)).data)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(10, 120),
    st.integers(0, 9),
    st.tuples(st.integers(20, 200), st.integers(20, 200)),
    st.integers(1, 4),
    st.booleans(),
    st.randoms(),
)
def test_reads_what_the_file_holds_in_any_order(source, noise, tile, overlap, region, threads, in_groups, random):
    """Also the groups of tiles that a lazy raster reads apart; at the end nobody needs a block any more."""
    forget_others()
    chunks = tuple(tuple(np.diff([*range(0, n, r), n]).tolist()) for n, r in zip(noise.shape[1:], region, strict=True))
    grid = geotile.TileGrid(noise.shape[1:], tile, min(overlap, tile - 1), chunks)
    windows = [grid.read_window(*at) for at in np.ndindex(grid.regions_yx)]
    if in_groups:
        windows = [window for at in np.ndindex(grid.regions_yx) for window in groups(grid, *at)]
    random.shuffle(windows)

    def read(window):
        run = f"run-{tile}-{overlap}-{region}-{in_groups}"
        got = block_cache.read_shared(source, grid, window, True, run, in_groups)
        np.testing.assert_array_equal(got.values, noise[:, *window.slices])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, windows))
    assert not block_store.store.pending
    assert (
        block_store.store.size_bytes
        == sum(block_store._size_bytes(kept.part.pixels) for kept in block_store.store.kept.values())
        == 0
    )


def forget_others():
    """Drop the blocks of lazy arrays that other tests did not compute whole."""
    for run in {key[0] for key in block_store.store.kept}:
        block_cache.discard_run(run)


def groups(grid, row, column):
    """Return the windows of the tiles that end in their region, that reach below it, to the right of it, and both."""
    region, found = grid.region_window(row, column), {}
    for _, window in grid.region_tiles(row, column):
        found.setdefault((window.y1 > region.y1, window.x1 > region.x1), []).append(window)
    for windows in found.values():
        y0, y1, x0, x1 = np.array(windows).T
        yield Window(int(y0.min()), int(y1.max()), int(x0.min()), int(x1.max()))


def test_nothing_is_kept_for_a_run_that_ended(source):
    grid = geotile.TileGrid((300, 420), 64, 32, ((128, 172), (128, 292)))
    block_cache.read_shared(source, grid, grid.read_window(0, 0), False, "a run that goes on")
    assert block_store.store.kept
    block_cache.discard_run("a run that goes on")
    cancel_run("a run that ended", "it was stopped")
    block_cache.read_shared(source, grid, grid.read_window(0, 0), False, "a run that ended")
    assert "a run that ended" not in {key[0] for key in block_store.store.kept}


@pytest.mark.parametrize(("tile", "overlap"), [(64, 16), (128, 64), (100, 90)])
def test_no_block_is_decoded_twice(write_tiff, noise, monkeypatch, tile, overlap):
    counts, lock = np.zeros((5, 7), int), threading.Lock()
    real = Source.read

    def counted(self, window, valid=False, out=None):
        with lock:
            counts[window.y0 // 64 : -(-window.y1 // 64), window.x0 // 64 : -(-window.x1 // 64)] += 1
        return real(self, window, valid, out)

    monkeypatch.setattr(Source, "read", counted)
    report = geotile.detect(
        write_tiff(noise), lambda tile: ([], []), tile_size=tile, overlap=overlap, region_size=128
    ).attrs["report"]
    assert report.regions >= 4
    assert (counts == 1).all()


def test_only_what_other_regions_need_is_kept(source):
    """Blocks of 64: the upper region reads 16 rows of the lower one's first row of blocks, the lower all of it."""
    grid = geotile.TileGrid((300, 420), 64, 16, ((128, 172), (420,)))
    upper, lower = (grid.read_window(row, 0) for row in (0, 1))
    rows = upper.y1 - lower.y0
    forget_others()
    assert 0 < rows < 64
    for first, last, kept in ((lower, upper, rows), (upper, lower, 64)):
        block_cache.read_shared(source, grid, first, False, "halo")
        assert block_store.store.size_bytes == source.shape[0] * kept * 420 * np.dtype(source.dtype).itemsize
        block_cache.read_shared(source, grid, last, False, "halo")
        assert block_store.store.size_bytes == 0


def test_a_part_that_is_too_small_is_read_again(source, noise):
    forget_others()
    grid = geotile.TileGrid((300, 420), 64, 16, ((128, 172), (420,)))
    for column in range(7):
        key = "small", source.file_key, False, 2, column
        window = Window(128, 130, 64 * column, min(64 * column + 64, 420))
        assert block_store.store.take(key) is None
        block_store.store.put(key, block_store.BlockPart(source.read(window), window), 1)
    window = grid.read_window(0, 0)
    got = block_cache.read_shared(source, grid, window, False, "small")
    np.testing.assert_array_equal(got.values, noise[:, *window.slices])
    assert block_store.store.size_bytes == 0


def test_the_store_is_bounded(source, noise, monkeypatch):
    """Thrown out is read again: the pixels stay the same."""
    monkeypatch.setattr(block_store, "KEPT_BYTES", 30_000)
    grid = geotile.TileGrid(noise.shape[1:], 100, 50, ((128, 128, 44), (128, 128, 128, 36)))
    for at in np.ndindex(grid.regions_yx):
        window = grid.read_window(*at)
        got = block_cache.read_shared(source, grid, window, False, "bounded").values
        np.testing.assert_array_equal(got, noise[:, *window.slices])
        assert block_store.store.size_bytes <= 30_000
    block_cache.discard_run("bounded")
    assert block_store.store.size_bytes == 0


@pytest.mark.parametrize(("name", "alpha", "cache_mb"), [("a.tif", None, 32), ("a.tif", 3, 64), ("a.jp2", None, 64)])
def test_gdal_has_a_larger_cache_where_blocks_are_decoded_more_than_once(
    write_tiff, noise, monkeypatch, name, alpha, cache_mb
):  # fmt: skip
    """With less, a JPEG 2000 of 8,192 px takes 1.5 times the CPU time, and the blocks of an alpha band are decoded twice."""
    path, seen, real = write_tiff(noise), [], Source.read_file
    if name == "a.jp2":
        copy(path, path := path.replace("image.tif", name), driver="JP2OpenJPEG")
    if alpha is not None:
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [*file.colorinterp[:-1], ColorInterp.alpha]

    def noted(self, window, valid, out=None):
        seen.append(get_gdal_config("GDAL_CACHEMAX"))
        return real(self, window, valid, out)

    monkeypatch.setattr(Source, "read_file", noted)
    geotile.detect(path, lambda tile: ([], []), tile_size=128, overlap=16)
    assert set(seen) == {cache_mb * 2**20}


def test_the_size_of_gdals_cache_holds_for_all_threads_until_the_last_has_read():
    """rasterio sets it for the process, and each thread would return to what it found: 1.2 GB while another reads."""
    before, seen = get_gdal_config("GDAL_CACHEMAX"), set()

    def read(seed):
        pause = random.Random(seed)
        for _ in range(50):
            with gdal_cache(32 * 2**20):
                time.sleep(pause.random() / 1000)
                seen.add(get_gdal_config("GDAL_CACHEMAX"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert seen == {32 * 2**20}
    with gdal_cache(2**20), gdal_cache(2**21):
        assert get_gdal_config("GDAL_CACHEMAX") == 2**21
    assert get_gdal_config("GDAL_CACHEMAX") == before


def test_a_region_that_fails_leaves_no_one_waiting(source, noise, monkeypatch):
    grid = geotile.TileGrid(noise.shape[1:], 100, 50, ((128, 172), (128, 292)))
    real, first = Source.read, threading.Event()

    def fails_once(self, window, valid=False, out=None):
        if not first.is_set():
            first.set()
            raise ImageReadError("broken")
        return real(self, window, valid, out)

    monkeypatch.setattr(Source, "read", fails_once)
    windows = [grid.read_window(*at) for at in np.ndindex(grid.regions_yx)]
    with pytest.raises(ImageReadError):
        block_cache.read_shared(source, grid, windows[0], False, "fails")
    for window in windows:
        got = block_cache.read_shared(source, grid, window, False, "fails").values
        np.testing.assert_array_equal(got, noise[:, *window.slices])
    block_cache.discard_run("fails")
    assert not block_store.store.pending


def test_rectangles_cover_what_is_wanted_once():
    wanted = np.random.default_rng(0).random((9, 11)) < 0.6
    seen = np.zeros(wanted.shape, int)
    for rows, columns in block_cache._rectangles(wanted):
        seen[slice(*rows), slice(*columns)] += 1
    assert (seen == wanted).all()
    assert list(block_cache._rectangles(np.ones((3, 4), bool))) == [((0, 3), (0, 4))]
