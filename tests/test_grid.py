"""The grid against a brute-force cover."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotile import ArgumentError, TileGrid, Window
from geotile.grid.regions import region_chunks


@st.composite
def grids(draw) -> TileGrid:
    shape = draw(st.tuples(st.integers(1, 120), st.integers(1, 120)))
    tile = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    overlap = tuple(draw(st.integers(0, t - 1)) for t in tile)
    chunks = []
    for n, t, o in zip(shape, tile, overlap, strict=True):
        block = draw(st.integers(1, 40))
        chunks.append(region_chunks(n, t, o, np.arange(block, n, block), draw(st.integers(1, 80))))
    return TileGrid(shape, tile, overlap, tuple(chunks))


@given(grids())
def test_tiles_cover_the_image_full_size_with_the_overlap_asked_for(grid):
    seen = np.zeros(grid.shape_yx, int)
    for _, w in grid.tiles():
        seen[w.slices] += 1
        assert w.shape_yx == tuple(min(t, n) for t, n in zip(grid.tile_size, grid.shape_yx, strict=True))
    assert seen.all()
    for axis in grid.axes:
        starts = axis.starts
        assert starts[0] == 0
        assert axis.stop(len(starts) - 1) == axis.length
        assert (np.diff(starts) > 0).all()
        assert (starts[:-1] + axis.tile - starts[1:] >= axis.overlap).all()
        spread = np.diff(starts)
        assert not len(spread) or spread.max() - spread.min() <= 1


@pytest.mark.slow
@given(grids())
def test_every_tile_is_owned_once_by_the_region_of_its_corner(grid):
    owned = {}
    for r in range(grid.regions_yx[0]):
        for c in range(grid.regions_yx[1]):
            region, read = grid.region_window(r, c), grid.read_window(r, c)
            for number, w in grid.region_tiles(r, c):
                assert number not in owned
                owned[number] = (r, c)
                assert region.y0 <= w.y0 < region.y1
                assert region.x0 <= w.x0 < region.x1
                assert read.y0 <= w.y0
                assert w.y1 <= read.y1
                assert w.x1 <= read.x1
            for k, axis in enumerate(grid.axes):
                halo = (read.y1 - region.y1, read.x1 - region.x1)[k]
                assert halo <= grid.depth_yx[k] < axis.tile
    assert sorted(owned) == list(range(grid.n_tiles))
    across = grid.tiles_yx[1]
    assert all(grid.region_of(*divmod(n, across)) == region for n, region in owned.items())


@given(grids())
def test_a_halo_never_reaches_beyond_the_next_region(grid):
    for axis in grid.axes:
        assert len(axis.chunks) == 1 or min(axis.chunks) >= axis.depth


@pytest.mark.slow
@given(grids(), st.data())
def test_nothing_outside_a_rectangle_of_regions_touches_its_interior(grid, data):
    rows = sorted(data.draw(st.tuples(*[st.integers(0, grid.regions_yx[0])] * 2)))
    columns = sorted(data.draw(st.tuples(*[st.integers(0, grid.regions_yx[1])] * 2)))
    inner = grid.interior(tuple(rows), tuple(columns))
    across = grid.tiles_yx[1]
    for number, w in grid.tiles():
        r, c = grid.region_of(*divmod(number, across))
        if not (rows[0] <= r < rows[1] and columns[0] <= c < columns[1]):
            meets = w.x1 > inner.x0 and w.x0 < inner.x1 and w.y1 > inner.y0 and w.y0 < inner.y1
            assert not meets or inner.x0 >= inner.x1 or inner.y0 >= inner.y1


@given(grids())
def test_one_region_has_all_of_the_image_inside(grid):
    assert grid.interior((0, grid.regions_yx[0]), (0, grid.regions_yx[1])) == (-np.inf, -np.inf, np.inf, np.inf)


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 600), st.integers(1, 1500))
def test_regions_end_on_block_edges(length, block, tile, region):
    chunks = region_chunks(length, tile, tile // 4, np.arange(block, length, block), region)
    edges = np.cumsum(chunks)
    assert edges[-1] == length
    assert all(edge % block == 0 for edge in edges[:-1])
    assert max(chunks) <= max(region, block) or len(chunks) == 1


def test_a_500_gb_grid_is_cheap():
    cut = region_chunks(408_000, 1024, 128, np.arange(512, 408_000, 512), 8192)
    grid = TileGrid((408_000, 408_000), 1024, 128, (cut, cut))
    assert grid.n_tiles == 456**2
    assert grid.tile_window(455, 455).y1 == 408_000  # the last row is covered
    assert max(grid.depth_yx) < 512


def test_osml_misses_twelve_pixels_here_and_geotile_none():
    grid = TileGrid((8192, 8192), 512, 50)
    assert list(grid.tiles())[-1].window == Window(7680, 8192, 7680, 8192)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (((100, 100), 64, 64), "overlap must be smaller than tile_size; got overlap=64 and tile_size=64"),
        (((100, 100), 64.5, 8), "tile_size must be a whole number of pixels, at least 1; got 64.5"),
        (((100, 100), 0, 0), "tile_size must be a whole number of pixels, at least 1; got 0"),
        (((100, 100), True, 0), "tile_size must be .* got True"),
        (((100, 100), (64, 64, 64), 8), "one number or a"),
        (((0, 100), 64, 8), "shape_yx must be .* got 0"),
        (((100, 100), 64, 8, ((50, 40), (100,))), "add up to 90"),
    ],
)
def test_bad_sizes_are_named(args, said):
    with pytest.raises(ArgumentError, match=said):
        TileGrid(*args)


def test_a_grid_pickles_and_compares():
    grid = TileGrid((1000, 900), (512, 256), (64, 0), ((400, 600), (900,)))
    grid.tiles_yx, grid.axes  # noqa: B018 - fill the caches
    assert pickle.loads(pickle.dumps(grid)) == grid
    assert grid == TileGrid((1000, 900), (512, 256), (64, 0), ((400, 600), (900,)))
