"""Rasters: the same pixels however the work is divided, and those of a flat numpy loop."""

import math
import time
from types import SimpleNamespace

import dask.sizeof
import fsspec
import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from distributed import Client, LocalCluster
from documentation_parts import write_satellite
from helpers import cli
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import BUCKET, KEYS, object_store
from rasters import bordered, encoded, noise, raster_server, scene, small_chunks

import geotile
from geotile.blending.canvas import Answer
from geotile.blending.form import BYTE_STEPS, SCORE_STEPS, VALUE_STEPS
from geotile.blending.output_grid import OutputGrid
from geotile.blending.trim import TrimCanvas
from geotile.endpoints.raster import RasterAnswer
from geotile.grid.tile_grid import TileGrid, Window
from geotile.imagery.region_pixels import ArrayRegion
from geotile.imagery.source import Source
from geotile.results import cog
from geotile.results.raster_output import RasterOutput
from geotile.running.raster import RasterPart, Strip
from geotile.testing.server import decode_tile


def array(pixels, chunk=64):
    return xr.DataArray(pixels, dims=("band", "y", "x")).chunk({"y": chunk, "x": chunk})


def scaled(model, up, down):
    def run(tile):
        out = model(tile)
        out = np.repeat(np.repeat(out, up, axis=1), up, axis=2)
        return out[:, ::down, ::down]

    return run


# --- a flat reference -------------------------------------------------------------------------------------------------


def flat(pixels, model, tile_size, overlap, blend, output, up=1, down=1, failed=()):
    """Return the output of a loop over all tiles, with the whole image in memory."""
    height, width = pixels.shape[1:]
    grid = TileGrid((height, width), tile_size, overlap, align=down)
    shape = -(-height * up // down), -(-width * up // down)
    sums, weights, best, chosen = None, np.zeros(shape, np.int64), None, None
    for number, window in grid.tiles():
        if number in failed:
            continue
        tile = pixels[:, *window.slices]
        missing = [
            (grid.axes[k].tile - n) if down > 1 and grid.axes[k].length > grid.axes[k].tile else 0
            for k, n in enumerate(tile.shape[1:])
        ]
        scores = model(np.pad(tile, [(0, 0), *((0, n) for n in missing)]))
        y0, x0 = window.y0 * up // down, window.x0 * up // down
        y1, x1 = min(y0 + scores.shape[1], shape[0]), min(x0 + scores.shape[2], shape[1])
        part = scores[:, : y1 - y0, : x1 - x0].astype(np.float32)
        steps = VALUE_STEPS if output == "values" else SCORE_STEPS
        ints = np.rint(part.astype(np.float64 if output == "values" else np.float32) * np.float32(steps)).astype(
            np.int64
        )
        if blend == "vote":
            ints = (np.argmax(part, axis=0)[None] == np.arange(len(part))[:, None, None]).astype(np.int64)
        here = np.s_[y0:y1, x0:x1]
        if blend == "trim":
            key = keys(grid, number, shape, up, down)[here]
            if best is None:
                best, chosen = (
                    np.full(shape, -1, np.int64),
                    np.zeros((len(part), *shape), np.float32 if output == "values" else np.int64),
                )
            better = key > best[here]
            best[here][better] = key[better]
            chosen[:, *here][:, better] = (part if output == "values" else ints)[:, better]
            weights[here] += 1
            continue
        w = hann(grid, number, up, down) if blend == "hann" else np.ones(part.shape[1:], np.int64)
        sums = np.zeros((len(part), *shape), np.int64) if sums is None else sums
        sums[:, *here] += ints * w
        weights[here] += w
    seen = weights > 0
    if blend == "trim":
        sums, weights = chosen, np.ones_like(weights)
    divisor = np.maximum(weights, 1)
    if output == "classes":
        result = np.where(seen, np.argmax(sums, axis=0), 255).astype(np.uint8)
    elif output == "scores":
        whole = SCORE_STEPS * divisor
        result = np.where(seen, (2 * BYTE_STEPS * sums + whole) // (2 * whole), 255).astype(np.uint8)
    else:
        values = sums if blend == "trim" else sums / (divisor * float(VALUE_STEPS))
        result = np.where(seen, values, np.nan).astype(np.float32)
    return result


def hann(grid, number, up, down):
    """Weights that rise over the pixels that a tile shares with its neighbours, by their definition."""
    tapers = []
    for axis, place in zip(grid.axes, divmod(number, grid.tiles_yx[1]), strict=True):
        low, high = ([-(-int(n) * up // down) for n in ends] for ends in (axis.starts, axis.starts + axis.tile))
        high = [min(n, -(-axis.length * up // down)) for n in high]
        taper = []
        for at in range(low[place], high[place]):
            weight = 1.0
            if place > 0 and (n := high[place - 1] - low[place]) > at - low[place]:
                weight *= round(np.sin(np.pi / 2 * (at - low[place] + 0.5) / n) ** 2, 9)
            if place + 1 < len(low) and (n := high[place] - low[place + 1]) > high[place] - 1 - at:
                weight *= round(np.sin(np.pi / 2 * (high[place] - at - 0.5) / n) ** 2, 9)
            taper.append(weight)
        tapers.append(taper)
    return np.maximum(1, np.rint(255 * np.multiply.outer(*tapers))).astype(np.int64)


def keys(grid, number, shape, up, down):
    """How good a tile is for each pixel: far from its nearest seam, then far from the other one, then a low number."""
    window = grid.tile_window(*divmod(number, grid.tiles_yx[1]))
    distances = []
    for low, high, length, full in (
        (window.y0, window.y1, shape[0], grid.shape_yx[0]),
        (window.x0, window.x1, shape[1], grid.shape_yx[1]),
    ):
        at = np.arange(length)
        before = np.full(length, 2**20) if low == 0 else 2 * (at - low * up // down) + 1
        after = np.full(length, 2**20) if high == full else 2 * (-(-high * up // down) - at) - 1
        distances.append(np.minimum(before, after))
    near, far = np.minimum.outer(*distances), np.maximum.outer(*distances)
    return (near * 2**21 + far) * 2**10 + (2**10 - 1 - number)


@st.composite
def jobs(draw):
    up, down = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (1, 4)]))
    tile = draw(st.integers(4, 12)) * 4
    blend, output = draw(
        st.sampled_from(
            [
                (b, o)
                for b in ("trim", "hann", "mean", "vote")
                for o in ("classes", "scores", "values")
                if b != "vote" or o == "classes"
            ]
        )
    )
    size = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    if down > 1 and min(size) < tile:
        size = tuple(max(n, tile) for n in size)
    overlap = draw(st.integers(0, tile - down))
    return {"size": size, "tile": tile, "overlap": min(overlap, tile - down - (tile - down) % down) if down > 1 else overlap,
            "up": up, "down": down, "blend": blend, "output": output, "chunk": draw(st.integers(1, 80))}  # fmt: skip


@settings(max_examples=60)
@given(jobs(), st.integers(0, 2**31))
def test_the_pixels_are_those_of_a_flat_loop(job, seed):
    pixels = noise(seed, (1, *job["size"]))
    model = scaled(bordered, job["up"], job["down"])
    overlap = min(job["overlap"], job["tile"] * 3 // 4)
    with small_chunks(32):
        found = geotile.predict(
            array(pixels), model, tile_size=job["tile"], overlap=overlap, region_size=job["chunk"], blend=job["blend"], output=job["output"],
        )  # fmt: skip
    want = flat(pixels, model, job["tile"], overlap, job["blend"], job["output"], job["up"], job["down"])
    np.testing.assert_array_equal(found.values, want)


# --- failures, files, resuming ----------------------------------------------------------------------------------------


class Failing:
    """A model that fails for some tiles, told apart by their first pixels."""

    def __init__(self, pixels, grid, failed):
        self.bad = [pixels[:, *grid.tile_window(*divmod(n, grid.tiles_yx[1])).slices].tobytes() for n in failed]
        self.calls = 0

    def __call__(self, tile):
        self.calls += 1
        if tile.tobytes() in self.bad:
            raise ValueError("bad luck")
        return bordered(tile)


@pytest.mark.parametrize("blend", ["trim", "hann"])
@pytest.mark.parametrize("region", [32, 96, 1000])
def test_pixels_of_a_failed_tile_are_those_of_others_that_saw_it(tmp_path, blend, region):
    path, pixels = scene(tmp_path, (150, 170))
    grid, failed = TileGrid((150, 170), 48, 24), {5, 6, 11, 20}
    model = Failing(pixels, grid, failed)
    with small_chunks(32), pytest.warns(geotile.FailedTilesWarning, match="4 of 42 tiles failed"):
        report = geotile.predict_to(
            path, model, tmp_path / "o.zarr", tile_size=48, overlap=24, region_size=region, blend=blend, output="scores"
        )
    assert (report.status, [each.tile for each in report.failures]) == ("PARTIAL", sorted(failed))
    found = xr.open_zarr(tmp_path / "o.zarr", mask_and_scale=False).prediction.values
    want = flat(pixels, bordered, 48, 24, blend, "scores", failed=failed)
    np.testing.assert_array_equal(found, want)
    assert report.pixels_missing == (want[0] == 255).sum() > 0


def test_a_slice_asks_only_for_the_tiles_that_see_it(tmp_path):
    path, pixels = scene(tmp_path)
    asked = []

    def model(tile):
        asked.append(tile.tobytes())
        return bordered(tile)

    with small_chunks(64):
        found = geotile.predict(path, model, tile_size=48, overlap=16, region_size=64)
    assert len(asked) == 1  # the one that shows the form of the answers
    asked.clear()
    y, x = np.cumsum([0, *found.chunks[0]])[2:4], np.cumsum([0, *found.chunks[1]])[3:5]
    part = found[y[0] + 3 : y[1] - 3, x[0] + 3 : x[1] - 3].compute(scheduler="synchronous")
    windows = [window for _, window in TileGrid(pixels.shape[1:], 48, 16).tiles()]
    seeing = [w for w in windows if w.y0 < y[1] and w.y1 > y[0] and w.x0 < x[1] and w.x1 > x[0]]
    assert sorted(asked) == sorted(pixels[:, *w.slices].tobytes() for w in seeing)
    assert len(seeing) < len(windows) / 4
    np.testing.assert_array_equal(
        part, flat(pixels, bordered, 48, 16, "trim", "classes")[y[0] + 3 : y[1] - 3, x[0] + 3 : x[1] - 3]
    )


@pytest.mark.parametrize("lazy", [True, False])
def test_the_image_is_read_once(tmp_path, monkeypatch, lazy):
    """Also blocks that tiles see that end in their region, and tiles that do not."""
    path, pixels = scene(tmp_path)
    blocks, read = [], Source.read

    def counted(source, window, valid, out=None):
        blocks.append((window.y1 - window.y0) * (window.x1 - window.x0))
        return read(source, window, valid, out)

    with small_chunks(64), dask.config.set(scheduler="threads", num_workers=3):
        monkeypatch.setattr(Source, "read", counted)
        if lazy:
            geotile.predict(path, bordered, tile_size=48, overlap=16, region_size=128).compute()
        else:
            geotile.predict_to(path, bordered, tmp_path / "o.zarr", tile_size=48, overlap=16, region_size=128)
    once = pixels[0].size
    assert sum(blocks) == once + blocks[0]  # the first answer needs a tile of its own


@pytest.mark.parametrize("output", ["classes", "scores", "values"])
@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_files_hold_what_the_array_holds(tmp_path, output, name):
    path, _ = scene(tmp_path)
    options = {"tile_size": 64, "overlap": 16, "output": output, "classes": ["dark", "bright"]}
    want = geotile.predict(path, bordered, **options)
    geotile.predict_to(path, bordered, tmp_path / name, **options)
    if name.endswith("zarr"):
        found = xr.open_zarr(tmp_path / name, mask_and_scale=False).prediction
        assert found.attrs["class_names"] == ["dark", "bright"]
        assert found.rio.crs == want.rio.crs
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(geotile.open_image(tmp_path / name).values.reshape(want.shape), want)
        return
    with rasterio.open(tmp_path / name) as file:
        np.testing.assert_array_equal(file.read().reshape(want.shape), want)
        assert file.crs == want.rio.crs
        assert file.transform == want.rio.transform() == rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
        assert np.array_equal([file.nodata], [want.rio.nodata], equal_nan=True)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.tags(1) if output == "classes" else dict(enumerate(file.descriptions))) != {}
        if output == "scores":
            assert file.scales == (1 / BYTE_STEPS,) * 2
    names = ["out.tif.aux.xml"] if output == "classes" else []  # of the classes, for GDAL and QGIS
    assert sorted(each.name for each in tmp_path.iterdir()) == [name, *names, "scene.tif"]


def test_large_outputs_have_overviews(tmp_path):
    path, _ = scene(tmp_path, (700, 1400))
    geotile.predict_to(path, bordered, tmp_path / "a.tif", tile_size=256, overlap=32)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.overviews(1)


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path, name):
    path, pixels = scene(tmp_path)
    grid = TileGrid(pixels.shape[1:], 48, 16)
    options = {"tile_size": 48, "overlap": 16, "region_size": 64, "blend": "hann", "output": "scores"}
    with small_chunks(32):
        geotile.predict_to(path, bordered, tmp_path / f"whole-{name}", **options)
        broken = Failing(pixels, grid, {grid.n_tiles - 1})
        broken.__class__.version = None
        with pytest.raises(geotile.TileError, match="resumes from there"):
            geotile.predict_to(path, broken, tmp_path / name, checkpoint=tmp_path / "cp", errors="raise", **options)
        assert not (tmp_path / name).exists()
        broken.bad = []
        first, broken.calls = broken.calls, 0
        report = geotile.predict_to(path, broken, tmp_path / name, checkpoint=tmp_path / "cp", **options)
        assert 0 < broken.calls < grid.n_tiles
        assert report.tiles_resumed > 0
        assert first + broken.calls < 1.8 * grid.n_tiles  # tiles of regions that were not complete are asked again
        with pytest.raises(geotile.ArgumentError, match="the checkpoint of another job"):
            geotile.predict_to(
                path, broken, tmp_path / "x.zarr", checkpoint=tmp_path / "cp", **options | {"blend": "mean"}
            )
    assert content(tmp_path / name) == content(tmp_path / f"whole-{name}")


def content(path):
    if path.is_file():
        return path.read_bytes()
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.mark.slow
def test_what_a_model_did_not_answer_since_it_went_away_is_asked_again(tmp_path):
    """Without `retry_failed`: these tiles were not asked, so they did not fail."""
    path, _ = scene(tmp_path)
    asked = []

    def answer(body):
        asked.append(body)
        if len(asked) > limit:
            return 503, {"Retry-After": "0"}, b"gone"
        return 200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", bordered(decode_tile(body)))

    job = {"tile_size": 64, "overlap": 0, "region_size": 64, "output": "scores"}
    with small_chunks(64), raster_server(answer) as url:
        limit, checkpoint = 20, tmp_path / "cp"
        given_up = {"retries": 1, "backoff_s": 0.01, "outage_timeout_s": 0.5, "concurrency": 1}
        with pytest.warns(geotile.FailedTilesWarning):
            report = geotile.predict_to(path, url, tmp_path / "a.tif", checkpoint=checkpoint, **given_up, **job)
        assert report.status == "PARTIAL"
        assert report.pixels_missing > 0
        limit, asked = math.inf, []
        again = geotile.predict_to(path, url, tmp_path / "b.tif", checkpoint=checkpoint, **job)
        assert again.status == "SUCCESS"
        assert 0 < len(asked) == again.requests < again.tiles
        geotile.predict_to(path, url, tmp_path / "want.tif", **job)
    assert content(tmp_path / "b.tif") == content(tmp_path / "want.tif")
    assert "regions kept" in cli("status", checkpoint).stdout


def test_chunks_that_a_resumed_run_has_no_value_for_are_removed(tmp_path):
    """A block that is asked again has the tiles that fail now, not a mixture; or it stays, if more fail now."""
    path, _ = scene(tmp_path, (256, 384))
    fails = "first"

    def model(tile):
        if (tile[0, 0, 0] % 2 == 0) == (fails == "first"):
            raise RuntimeError("not now")
        return (tile[0] > 128).astype(np.uint8)

    job = {"tile_size": 32, "overlap": 0, "region_size": 64, "checkpoint": tmp_path / "cp", "retry_failed": True}
    found, reports = {}, {}
    for fails in ("first", "second"):
        with small_chunks(32):
            reports[fails] = geotile.predict_to(path, model, tmp_path / f"{fails}.zarr", **job)
        found[fails] = xr.open_zarr(tmp_path / f"{fails}.zarr", mask_and_scale=False).prediction.values
    before, after = found["first"], found["second"]
    assert 0.2 < (before == 255).mean() < 0.8
    missing = (before == 255).reshape(4, 64, 6, 64).sum(axis=(1, 3)).repeat(64, axis=0).repeat(64, axis=1)
    is_asked, is_worse = missing > 0, missing < 64 * 64 / 2
    now = is_asked & (before != 255)
    assert (is_asked & is_worse).any()
    assert (is_asked & ~is_worse).any()
    np.testing.assert_array_equal(after == 255, np.where(is_asked & is_worse, before == 255, now))
    assert reports["second"].pixels_missing == (after == 255).sum()
    assert len(reports["second"].failures) == (after == 255).sum() / 32**2


@pytest.mark.parametrize("side", [372, 401, 619])
def test_an_area_of_a_coarser_answer_has_the_tiles_of_the_aligned_grid(tmp_path, side):
    """Aligned tiles have other numbers and places than those of the plan."""
    path, _ = scene(tmp_path, (side, side + 90))
    transform, crs = geotile.open_image(path).rio.transform(), geotile.open_image(path).rio.crs
    corners = [transform @ corner for corner in ((40, 50), (250, 50), (250, 300), (40, 300))]
    roi = gpd.GeoSeries([shapely.Polygon(corners)], crs=crs)
    job = {"tile_size": 96, "overlap": 30, "blend": "mean", "output": "values"}
    model = scaled(lambda tile: tile.astype(np.float32), 1, 4)
    whole = geotile.predict(path, model, **job).values
    part = geotile.predict(path, model, roi=roi, **job).values
    known = np.isfinite(part)
    assert 0 < known.sum() < known.size
    np.testing.assert_array_equal(part[known], whole[known])
    assert known[..., 13:74, 10:62].all()


@pytest.mark.slow
def test_a_computed_array_is_resumed_on_a_cluster(tmp_path, workers):
    """Keys of groups of tiles are not taken for chunks, whose priority depends on their place."""
    image = array(noise(6, (1, 300, 420)), 64)
    job = {"tile_size": 48, "overlap": 16, "region_size": 64, "checkpoint": tmp_path / "cp"}
    with small_chunks(64):
        geotile.predict_to(image, bordered, tmp_path / "a.zarr", **job)
        first = xr.open_zarr(tmp_path / "a.zarr", mask_and_scale=False).prediction.values
        next(iter(sorted((tmp_path / "cp").rglob("00001-00001.json")))).unlink()
        geotile.predict_to(image, bordered, tmp_path / "b.zarr", **job)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "b.zarr", mask_and_scale=False).prediction.values, first)


def test_tiles_that_failed_are_asked_again(tmp_path):
    path, pixels = scene(tmp_path, (150, 170))
    grid = TileGrid((150, 170), 48, 16)
    model = Failing(pixels, grid, {7})
    options = {"tile_size": 48, "overlap": 16, "region_size": 64, "checkpoint": tmp_path / "cp", "output": "scores"}
    with small_chunks(32):
        with pytest.warns(geotile.FailedTilesWarning):
            geotile.predict_to(path, model, tmp_path / "a.zarr", **options)
        model.bad = []
        again = geotile.predict_to(path, model, tmp_path / "b.zarr", retry_failed=True, **options)
    assert (again.status, again.pixels_missing) == ("SUCCESS", 0)
    np.testing.assert_array_equal(
        xr.open_zarr(tmp_path / "b.zarr", mask_and_scale=False).prediction,
        flat(pixels, bordered, 48, 16, "trim", "scores"),
    )


def test_a_run_whose_tiles_all_fail_writes_nothing(tmp_path):
    path, _ = scene(tmp_path, (100, 100))
    answers = iter([np.zeros((48, 48), np.uint8)])
    with pytest.warns(geotile.FailedTilesWarning, match="FAILED"):
        report = geotile.predict_to(path, lambda tile: next(answers), tmp_path / "a.tif", tile_size=48, overlap=8)
    assert report.status == "FAILED"
    assert [each.name for each in tmp_path.iterdir()] == ["scene.tif"]


# --- endpoints, images, refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/x-npy", "image/tiff", "image/png"])
def test_servers_answer_files(tmp_path, kind):
    path, pixels = scene(tmp_path, (100, 120))

    def answer(body):
        with rasterio.MemoryFile(body) as memory, memory.open() as file:
            values = (file.read() > 128).astype(np.uint8)
        return 200, {"Content-Type": kind}, encoded(kind, values)

    with raster_server(answer) as url:
        found = geotile.predict(path, url, tile_size=48, overlap=8)
        np.testing.assert_array_equal(found, pixels[0] > 128)
        assert found.attrs.get("class_names") == (["dark", "bright"] if kind == "image/tiff" else None)


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("application/json", b"{}", "must be image/tiff, image/png or application/x-npy; got the content type 'application/json'"),
        ("application/x-npy", b"rubbish", "not an array as numpy.save writes it"), ("image/png", b"rubbish", "not a PNG that can be read"),
        ("application/x-npy", b"\x93NUMPY", "not an array"),
        ("image/tiff", b"II*\x00", "not a GTiff that can be read"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_read_are_named(tmp_path, content_type, body, said):
    path, _ = scene(tmp_path, (64, 64))
    with (
        raster_server(lambda _: (200, {"Content-Type": content_type}, body)) as url,
        pytest.raises(geotile.ResponseError, match=said),
    ):
        geotile.predict(path, url, tile_size=64, overlap=0, retries=0)


@pytest.mark.parametrize(
    ("name", "text"),
    [("classes.txt", "land\nwater\n"), ("classes.json", '["land", "water"]'), ("by_number.json", '{"1": "water", "0": "land"}')],
)  # fmt: skip
def test_class_names_in_a_file(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    path, _ = scene(tmp_path, (64, 64))
    read = geotile.predict(path, bordered, tile_size=64, overlap=0, classes=tmp_path / name)
    assert read.attrs["class_names"] == ["land", "water"]
    model = small_network(tmp_path / "net.onnx")
    cli(
        "predict",
        scene(tmp_path, (64, 64), bands=2)[0],
        model,
        "-o",
        tmp_path / "map.tif",
        "--tile-size",
        "64",
        "--overlap",
        "0",
        "--classes",
        tmp_path / name,
    )
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.nodata == 255
    assert "<Category>water<" in (tmp_path / "map.tif.aux.xml").read_text()


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (lambda t: "text", {}, "must return an array .* got str"), (lambda t: ([[0, 0, 1, 1]], [0.5]), {}, "must return an array"),
        (lambda t: np.zeros((3, 4, 5, 6)), {}, r"\(y, x\) or \(class, y, x\); got the shape"), (lambda t: np.zeros(3), {}, "got the shape"),
        (lambda t: t[0, :, :30], {}, "must have the size of the tile, 64 x 64 pixels, or a whole multiple"),
        (lambda t: t[0, :40, :40], {}, "whole multiple or fraction"), (lambda t: t[0].astype(complex), {}, "must return numbers"),
        (lambda t: np.stack([t[0]] * 2), {}, "integers in 2 planes"), (lambda t: t[0], {"output": "scores"}, "class numbers, not scores"),
        (lambda t: t[0], {"threshold": 0.5}, "threshold would have no effect: the model answers class numbers"),
        (lambda t: t[0], {"blend": "hann"}, "counts votes for each class; give their names with classes="),
        (lambda t: t / 1.0, {"output": "scores"}, "scores must be from 0 to 1; got 0 to 2.*activation='softmax'"),
        (bordered, {"classes": ["a"]}, "classes must have 2 names"), (bordered, {"classes": "ab"}, "classes must be class names or a readable file with one name per line; got ab"),
        (bordered, {"classes": {0: "a", 2: "b"}}, "classes must name all classes, from number 0 on; class 1 has no name"), (bordered, {"classes": 5}, "classes must be a sequence of names, a mapping"),
        (bordered, {"classes": []}, "1 to 65,535 names; got 0"), (bordered, {"classes": ["a", "a"]}, "names that differ"),
        (bordered, {"classes": ["a\ud800", "b"]}, "without control characters and lone surrogates"),
        (bordered, {"classes": [str(n) for n in range(65_536)]}, "1 to 65,535 names; got 65,536"),
        (bordered, {"threshold": {"x": 0.5, "*": 0.1}}, r"classes that do not exist, \['x'\]; their names are not known"),
        (bordered, {"threshold": {"a": 0.5}, "classes": ["a", "b"]}, r"threshold has no number for \['b'\]"), (bordered, {"threshold": {}}, 'for all other labels under "\\*"'),
        (lambda t: t[0] / 255.0, {"classes": ["water"]}, "2 names, for 0 and 1, since the model answers one score"),
        (bordered, {"threshold": 2}, "threshold must be"),
        (bordered, {"output": "values", "threshold": 0.5}, "threshold would have no effect with output='values'"),
        (bordered, {"output": "scores", "blend": "vote"}, "blend='vote' needs output='classes'"), (bordered, {"output": "boxes"}, "output must be one of 'classes'"),
        (bordered, {"blend": "cosine"}, "blend must be one of 'trim'"), (bordered, {"errors": "record"}, "predict raises the error"),
        (bordered, {"merge": "nms"}, "option 'merge' does not apply to"), (bordered, {"overlap": 64}, "overlap must be smaller"),
        (lambda t: t[:, ::4, ::4], {"output": "values", "tile_size": 62}, "must have the size of the tile|multiple of 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_the_run(model, options, said):
    image = array(noise(3, (1, 100, 100)))
    with pytest.raises((geotile.ArgumentError, geotile.ResponseError), match=said):
        geotile.predict(image, model, **{"tile_size": 64, "overlap": 8} | options)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (lambda tile: np.zeros((2, 64, 64), np.uint8), "must have the form of the first one"),
        (lambda tile: tile[0], "class numbers must be 0 to 1, as 2 classes are named"),
    ],
)
def test_a_later_answer_of_another_form_fails_its_tile(later, said):
    first = [np.zeros((64, 64), np.uint8)]

    def model(tile):
        return first.pop() if first else later(tile)

    found = geotile.predict(array(noise(3, (1, 100, 100))), model, tile_size=64, overlap=8, classes=["a", "b"])
    with pytest.raises(geotile.TileError, match=said):
        found.compute()


def test_pixels_without_data_have_no_value(tmp_path):
    path, pixels = scene(tmp_path, (150, 170), nodata=7)
    found = geotile.predict(path, bordered, tile_size=48, overlap=16)
    assert ((found.values == 255) == (pixels[0] == 7)).all()
    coarse = geotile.predict(path, scaled(bordered, 1, 4), tile_size=48, overlap=16, output="scores")
    assert not (coarse.values == 255).all(axis=0).any()
    assert not (geotile.predict(path, bordered, tile_size=48, overlap=16, skip_nodata=False).values == 255).any()


def test_pixels_outside_a_region_of_interest_have_no_value(tmp_path):
    path, _ = scene(tmp_path)
    asked = []

    def model(tile):
        asked.append(1)
        return bordered(tile)

    roi = gpd.GeoSeries([shapely.box(5e5 + 10, 5e6 - 60, 5e5 + 50, 5e6 - 20)], crs=32631)
    found = geotile.predict(path, model, tile_size=48, overlap=16, roi=roi).compute()
    assert len(asked) < 30
    assert (found[40:120, 20:100] != 255).all()
    assert (found != 255).sum() == 80 * 80
    with pytest.raises(geotile.ArgumentError, match="roi"):
        geotile.predict(path, model, tile_size=48, overlap=16, roi="POINT EMPTY")


def test_thresholds_give_a_band_for_each_class():
    pixels = noise(3, (1, 100, 100))

    def model(tile):
        score = tile[0].astype(np.float32) / 255
        return np.stack([score, 1 - score])

    found = geotile.predict(
        array(pixels), model, tile_size=64, overlap=8, classes=["high", "low"], threshold={"high": 0.8, "*": 0.5}
    )
    assert found.band.values.tolist() == ["high", "low"]
    named = geotile.predict(
        array(pixels), model, tile_size=64, overlap=8, classes=["high", "low"], threshold={"high": 0.8, "low": 0.5}
    )
    xr.testing.assert_identical(named.compute(), found.compute())
    np.testing.assert_array_equal(found.sel(band="high"), pixels[0] / 255 > 0.8)
    np.testing.assert_array_equal(found.sel(band="low"), 1 - pixels[0].astype(np.float32) / 255 > 0.5)
    one = geotile.predict(array(pixels), lambda tile: model(tile)[:1], tile_size=64, overlap=8, threshold=0.8)
    np.testing.assert_array_equal(one, pixels[0] / 255 > 0.8)


def test_activations_make_scores_of_logits():
    pixels = noise(3, (1, 100, 100))

    def logits(tile):
        return np.stack([tile[0] / 32.0 - 4, 1 - tile[0] / 64.0]).astype(np.float32)

    options = {"tile_size": 64, "overlap": 8, "output": "scores", "score_dtype": "float32"}
    soft = geotile.predict(array(pixels), logits, activation="softmax", **options).values
    values = logits(pixels).astype(np.float64)
    np.testing.assert_allclose(soft, np.exp(values) / np.exp(values).sum(axis=0), atol=1e-5)
    single = geotile.predict(array(pixels), logits, activation="sigmoid", **options).values
    np.testing.assert_allclose(single, 1 / (1 + np.exp(-values)), atol=1e-5)


@pytest.mark.parametrize("form", ["tensor", "logits", "out", "dataarray", "batch"])
def test_answers_of_libraries_are_read(form):
    pixels = noise(3, (1, 100, 100))

    class Tensor:
        def __init__(self, values):
            self.values = values

        def detach(self):
            return self

        def cpu(self):
            return self

        def __array__(self, dtype=None, copy=None):
            return self.values

    class Output:
        def __init__(self, logits):
            self.logits = logits

    wrap = {
        "tensor": Tensor, "logits": lambda v: Output(Tensor(v[None])), "out": lambda v: {"out": v[None], "aux": None},
        "dataarray": lambda v: xr.DataArray(v.transpose(1, 2, 0), dims=("y", "x", "class")), "batch": lambda v: v[None],
    }[form]  # fmt: skip
    found = geotile.predict(array(pixels), lambda tile: wrap(bordered(tile)), tile_size=64, overlap=8)
    np.testing.assert_array_equal(found, flat(pixels, bordered, 64, 8, "trim", "classes"))


def test_no_seam_shows_and_no_pixel_is_taken_from_a_border():
    """A smooth field, and a model that is wrong near the borders of its tiles."""
    y, x = np.mgrid[:400, :400]
    field = ((np.sin(y / 60) + np.cos(x / 50) + 2) / 4 * 255).astype(np.uint8)[None]

    def model(tile):
        score = tile.astype(np.float32) / 255
        edge = np.minimum.outer(*(np.minimum(np.arange(n), np.arange(n)[::-1]) for n in score.shape[1:]))
        return np.clip(score + 0.2 * np.exp(-edge / 2), 0, 1)

    options = {"tile_size": 128, "overlap": 64, "output": "scores", "score_dtype": "float32"}
    inner = np.s_[:, 24:-24, 24:-24]  # no other tile sees the borders of the image
    hann = geotile.predict(array(field), model, blend="hann", **options).values
    assert np.abs(hann - field / 255)[inner].max() < 1 / 254
    trim = geotile.predict(array(field), model, **options).values
    np.testing.assert_allclose(trim[inner], (field / 255)[inner], atol=1e-4)

    grid = TileGrid((400, 400), 128, 64)
    numbers = iter(range(10_000))
    owner = geotile.predict(
        array(field), lambda tile: np.full(tile.shape[1:], next(numbers) % 200, np.uint8), tile_size=128, overlap=64
    ).compute(scheduler="synchronous")
    assert len(np.unique(owner)) == grid.n_tiles


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes(tmp_path):
    path, pixels = scene(tmp_path)
    want = flat(pixels, bordered, 48, 16, "hann", "scores")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
        small_chunks(32),
    ):
        found = geotile.predict(path, bordered, tile_size=48, overlap=16, region_size=64, blend="hann", output="scores")
        np.testing.assert_array_equal(found, want)
        lazy = geotile.predict(
            array(pixels), bordered, tile_size=48, overlap=16, region_size=64, blend="hann", output="scores"
        )
        np.testing.assert_array_equal(lazy, want)
        geotile.predict_to(
            path, bordered, tmp_path / "a.zarr", tile_size=48, overlap=16, region_size=64, blend="hann", output="scores"
        )
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "a.zarr", mask_and_scale=False).prediction, want)


def test_dask_knows_the_size_of_what_tasks_return():
    """Dask places a task where its largest inputs are; of objects whose size it does not know it moves any."""
    values, everywhere = np.zeros((1, 512, 512), np.uint8), Window(0, 512, 0, 512)
    canvas = TrimCanvas(everywhere, 1, values.dtype, OutputGrid(TileGrid((512, 512), 512, 0), 1, 1))
    canvas.add([Answer(0, everywhere, values, None)])
    part = RasterPart(
        canvas=canvas,
        failures=(),
        failed=(),
        tiles=0,
        requests=0,
        retries=0,
        without_data=0,
        cancelled=False,
        timing={},
    )
    for result in (part, Strip(canvas, False, ()), ArrayRegion(values, everywhere, None)):
        assert dask.sizeof.sizeof(result) >= values.nbytes


def test_the_report_counts_the_time_that_it_takes_to_write(tmp_path, monkeypatch):
    path, _ = scene(tmp_path)
    end = RasterOutput.end

    def slow(*arguments):
        time.sleep(0.5)
        end(*arguments)

    monkeypatch.setattr(RasterOutput, "end", slow)
    assert geotile.predict_to(path, bordered, tmp_path / "o.tif", tile_size=64, overlap=8).seconds > 0.5


def test_an_output_is_checked_before_the_model_is_asked(tmp_path):
    path, _ = scene(tmp_path, (64, 64))

    def never(tile):
        raise AssertionError

    (tmp_path / "there.tif").write_bytes(b"x")
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "mine.txt").write_text("keep")
    for name, said in (
        ("a.png", "must end in one of .tif"),
        ("there.tif", "exists"),
        ("folder.zarr", "holds something else"),
        ("none/a.tif", "a.tif"),
    ):
        with pytest.raises((geotile.ArgumentError, geotile.OutputError), match=said):
            geotile.predict_to(path, never, tmp_path / name, tile_size=64, overlap=0)
    assert (tmp_path / "folder.zarr" / "mine.txt").exists()
    geotile.predict_to(path, bordered, tmp_path / "there.tif", tile_size=64, overlap=0, overwrite=True)
    geotile.predict_to(path, bordered, tmp_path / "z.zarr", tile_size=64, overlap=0)
    geotile.predict_to(path, bordered, tmp_path / "z.zarr", tile_size=64, overlap=0, overwrite=True)


@pytest.mark.slow
def test_object_storage_gets_whole_outputs(tmp_path):
    path, pixels = scene(tmp_path)
    want = flat(pixels, bordered, 64, 16, "trim", "classes")
    with object_store() as proxy:
        options = {**KEYS, "endpoint_url": proxy.url}
        job = {"tile_size": 64, "overlap": 16, "output_options": options}
        files = fsspec.filesystem("s3", **options)
        for name in ("a.zarr", "a.tif"):
            geotile.predict_to(path, bordered, f"s3://{BUCKET}/predictions/{name}", **job)
            with pytest.raises(geotile.OutputError, match="exists"):
                geotile.predict_to(path, bordered, f"s3://{BUCKET}/predictions/{name}", **job)
        roi = gpd.GeoSeries([shapely.box(5e5, 5e6 - 30, 5e5 + 30, 5e6)], crs=32631)
        with small_chunks(64):
            geotile.predict_to(path, bordered, f"s3://{BUCKET}/predictions/b.zarr", **job)
            geotile.predict_to(path, bordered, f"s3://{BUCKET}/predictions/b.zarr", overwrite=True, roi=roi, **job)
        files.invalidate_cache()
        part = xr.open_zarr(f"s3://{BUCKET}/predictions/b.zarr", storage_options=options, mask_and_scale=False)
        assert (part.prediction != 255).sum() == 60 * 60  # chunks of what was replaced are gone
        files.rm(f"{BUCKET}/predictions/b.zarr", recursive=True)
        geotile.predict_to(path, bordered, f"s3://{BUCKET}/predictions/a.zarr", overwrite=True, **job)
        files.invalidate_cache()
        with rasterio.MemoryFile(files.cat_file(f"{BUCKET}/predictions/a.tif")) as memory, memory.open() as file:
            np.testing.assert_array_equal(file.read(1), want)
        assert {each.split("/")[2] for each in files.find(f"{BUCKET}/predictions")} == {"a.zarr", "a.tif"}
        names = f"{BUCKET}/predictions/a.tif.aux.xml"  # beside it, and gone with what is replaced
        for classes in (["dark", "bright"], None):
            more = {"classes": classes, "overwrite": True}
            geotile.predict_to(path, bordered, f"s3://{BUCKET}/predictions/a.tif", **job, **more)
            files.invalidate_cache()
            assert (b"<Category>bright<" in files.cat_file(names)) if classes else not files.exists(names)
        stored = xr.open_zarr(f"s3://{BUCKET}/predictions/a.zarr", storage_options=options, mask_and_scale=False)
        np.testing.assert_array_equal(stored.prediction, want)


def small_network(path, *, tail=(), shape=("n", 2, "h", "w"), outputs=("out",), names=None):
    """Write a network, with class names in its metadata as Ultralytics writes them: class scores are the bands times 2 and 3, plus 1; then the nodes of `tail`."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    weights = [numpy_helper.from_array(np.diag([2, 3]).astype(np.float32)[:, :, None, None], "w")]
    weights.append(numpy_helper.from_array(np.ones(2, np.float32), "b"))
    nodes = [helper.make_node("Conv", ["images", "w", "b"], ["x0"])]
    for number, name in enumerate(tail):
        nodes.append(helper.make_node(name, [f"x{number}"], [f"x{number + 1}"]))
    nodes += [helper.make_node("Identity", [f"x{len(tail)}"], [name]) for name in outputs]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if names is not None:
        helper.set_model_props(model, {"names": str(names)})
    onnx.save(model, path)
    return f"onnx:{path}"


def test_pixels_of_16_bits_need_a_divisor(tmp_path):
    """What they are divided by is not known, and detectors refuse them too."""
    path, pixels = scene(tmp_path, (64, 64), bands=2, dtype="uint16")
    spec, job = small_network(tmp_path / "net.onnx"), {"tile_size": 64, "overlap": 0, "output": "values"}
    with pytest.raises(
        geotile.EndpointError, match=r"nothing says what the pixels of uint16 are to be divided by.*divisor="
    ):
        geotile.predict(path, spec, **job)
    weights = np.array([2, 3])[:, None, None]
    for divisor in (1, 1000):
        found = geotile.predict(path, spec, **job, divisor=divisor)
        np.testing.assert_allclose(found, weights * (pixels / divisor) + 1, rtol=1e-5)
    with pytest.raises(geotile.ArgumentError, match="divisor must be above 0; got 0"):
        geotile.predict(path, spec, **job, divisor=0)
    with pytest.raises(geotile.ArgumentError, match="divisor is for models that answer rasters or vectors"):
        geotile.endpoint(spec, divisor=2)


def test_an_onnx_file_of_rasters_or_vectors_is_checked(tmp_path):
    said = cli("check", small_network(tmp_path / "net.onnx")).stdout
    assert "returned a raster of the shape (2, 512, 512), float32: run it with geotile predict" in said.replace(
        "geotile.predict", "geotile predict"
    )
    pooled = small_network(tmp_path / "e.onnx", tail=["GlobalAveragePool", "Flatten"])
    assert "returned a vector of 2 numbers" in cli("check", pooled).stdout
    (tmp_path / "no.onnx").write_text("no network")
    assert "is not an ONNX model" in cli("check", f"onnx:{tmp_path / 'no.onnx'}", status=2).stderr


def test_classes_that_nobody_has_named_have_no_names(tmp_path):
    from geotile.endpoints.onnx_arrays import OnnxArrayEndpoint

    assert OnnxArrayEndpoint(small_network(tmp_path / "net.onnx")).class_names is None
    path, _ = scene(tmp_path, (64, 64), bands=2)
    geotile.predict_to(path, small_network(tmp_path / "net.onnx"), tmp_path / "map.tif", tile_size=64, overlap=0)
    assert not (tmp_path / "map.tif.aux.xml").exists()


@pytest.mark.parametrize("name", ["map.tif", "map.zarr"])
def test_an_object_store_that_does_not_answer_is_an_error_of_the_output(name, tmp_path):
    path, _ = scene(tmp_path, (64, 64))
    options = {
        "key": "k",
        "secret": "s",
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    with pytest.raises(geotile.OutputError, match=f"cannot write s3://bucket/{name}: Could not connect"):
        geotile.predict_to(path, bordered, f"s3://bucket/{name}", tile_size=64, overlap=0, output_options=options)


def test_onnx_models_answer_rasters_and_vectors(tmp_path):
    path, pixels = scene(tmp_path, bands=2)
    spec = small_network(tmp_path / "net.onnx")
    want = np.array([2, 3])[:, None, None] * (pixels / 255) + 1
    options = {"tile_size": 64, "overlap": 16, "output": "values"}
    np.testing.assert_allclose(geotile.predict(path, spec, **options), want, atol=1e-5)
    sure = np.abs(want[1] - want[0]) > 1e-4
    assert (geotile.predict(path, spec, tile_size=64, overlap=16).values == (want[1] > want[0]))[sure].all()
    sigmoid = small_network(tmp_path / "s.onnx", tail=["Sigmoid"])
    soft = geotile.predict(path, sigmoid, batch_size=4, **options | {"output": "scores"})
    np.testing.assert_allclose(soft.values / 254, 1 / (1 + np.exp(-want)), atol=1 / 500)
    fixed = small_network(tmp_path / "f.onnx", shape=(3, 2, 64, 64))
    np.testing.assert_allclose(geotile.predict(path, fixed, overlap=16, output="values"), want, atol=1e-5)
    pooled = small_network(tmp_path / "e.onnx", tail=["GlobalAveragePool", "Flatten"])
    vectors = geotile.embed(path, pooled, tile_size=64, overlap=16)
    np.testing.assert_allclose(vectors["embedding"][0], want[:, :64, :64].mean(axis=(1, 2)), rtol=1e-5)
    named = small_network(tmp_path / "named.onnx", names={0: "field", 1: "wood"})
    assert geotile.predict(path, named, tile_size=64, overlap=16).attrs["class_names"] == ["field", "wood"]
    assert geotile.predict(path, named, classes=["a", "b"], tile_size=64, overlap=16).attrs["class_names"] == ["a", "b"]
    more = small_network(tmp_path / "more.onnx", names={0: "field", 1: "wood", 2: "water"})  # not those of two planes
    assert "class_names" not in geotile.predict(path, more, tile_size=64, overlap=16).attrs
    two = small_network(tmp_path / "two.onnx", outputs=("out", "aux"))
    np.testing.assert_allclose(geotile.predict(path, two, output_names={"output": "aux"}, **options), want, atol=1e-5)
    for call, said in (
        (lambda: geotile.predict(path, fixed, tile_size=48, overlap=16), "takes tiles of the height 64; got 48. Give tile_size=64"),
        (lambda: geotile.predict(path, spec, bands=[1], **options), "takes 2 bands; the tile has 1. Choose them with bands="),
        (lambda: geotile.predict(path, two, **options), "has the outputs .*'out', 'aux'.* choose one with output_names="),
        (lambda: geotile.predict(path, spec, family="yolov8", **options), "family is for models that answer detections"),
        (lambda: geotile.predict(path, bordered, score_threshold=0.5), "score_threshold is for models that answer detections"),
        (lambda: geotile.predict_to(path, spec, tmp_path / "x.zarr", labels=["a"]), "name those of the raster with classes="),
        (lambda: geotile.predict(path, spec, compute=False), "predict is lazy always"),
        (lambda: geotile.detect(path, spec, tile_size=64, overlap=16), "onnx"),
    ):  # fmt: skip
        with pytest.raises((geotile.ArgumentError, geotile.EndpointError), match=said):
            call()


def test_a_second_run_leaves_the_blocks_of_the_first_alone(tmp_path):
    path, pixels = scene(tmp_path)
    refused = []

    def model(tile):
        if not refused:
            refused.append(True)
            with pytest.raises(geotile.OutputError, match="another"):
                geotile.predict_to(path, bordered, tmp_path / "a.zarr", tile_size=48, overlap=16, overwrite=True)
        return bordered(tile)

    with small_chunks(64):
        geotile.predict_to(path, model, tmp_path / "a.zarr", tile_size=48, overlap=16, region_size=64)
    found = xr.open_zarr(tmp_path / "a.zarr", mask_and_scale=False).prediction
    np.testing.assert_array_equal(found, flat(pixels, bordered, 48, 16, "trim", "classes"))


def test_an_output_whose_blocks_have_gone_is_none(tmp_path):
    path, _ = scene(tmp_path)
    calls = []

    def model(tile):
        calls.append(1)
        if len(calls) == 60:
            for each in tmp_path.glob(".a.zarr*/blocks/*"):
                each.unlink()
        return bordered(tile)

    with (
        small_chunks(32),
        dask.config.set(scheduler="synchronous"),
        pytest.raises(geotile.OutputError, match="have disappeared"),
    ):
        geotile.predict_to(path, model, tmp_path / "a.zarr", tile_size=48, overlap=16, region_size=32)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (lambda t: np.stack([t[0] * 0.0, t[0] * 0.0 + np.inf]), {"output": "scores", "activation": "softmax"}, "scores must be finite"),
        (lambda t: t * 0.0 + 1e300, {"output": "values"}, "values must fit float32"), (lambda t: t * 0.0 + 1e-6, {"output": "values", "blend": "hann"}, "cannot be averaged well"),
        (lambda t: t * 0.0 + 1e15, {"output": "values", "blend": "mean"}, "cannot be averaged exactly"), (lambda t: t * np.nan, {"output": "scores"}, "NaN as a score"),
    ],
)  # fmt: skip
def test_numbers_that_would_be_lost_are_refused(model, options, said):
    with pytest.raises(geotile.ResponseError, match=said):
        geotile.predict(array(noise(3, (1, 100, 100))), model, tile_size=64, overlap=8, **options)


def test_nodata_of_an_answer_is_nodata(tmp_path):
    path, pixels = scene(tmp_path, (100, 120))

    def answer(body):
        with rasterio.MemoryFile(body) as memory, memory.open() as file:
            values = np.where(file.read() > 128, 255, 1).astype(np.uint8)
        with rasterio.MemoryFile() as memory:
            with memory.open(
                driver="GTiff", count=1, height=values.shape[1], width=values.shape[2], dtype="uint8", nodata=255
            ) as file:
                file.write(values)
            return 200, {"Content-Type": "image/tiff"}, memory.read()

    with raster_server(answer) as url:
        found = geotile.predict(path, url, tile_size=48, overlap=8)
        np.testing.assert_array_equal(found, np.where(pixels[0] > 128, 255, 1))
        heights = geotile.predict(path, url, tile_size=48, overlap=8, output="values", blend="mean")
        np.testing.assert_array_equal(np.isnan(heights[0]), pixels[0] > 128)


def assert_same_areas(found, want):
    assert found.crs.equals(want.crs, ignore_axis_order=True)
    assert shapely.equals_exact(found.geometry.array, want.geometry.array, 1e-9).all()
    np.testing.assert_allclose(found["area_m2"], want["area_m2"], rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 2])
def test_images_that_points_place_give_rasters_with_the_same_points(tmp_path, factor):
    points = [
        rasterio.control.GroundControlPoint(r, c, 5e5 + c, 5e6 - r) for r, c in ((0, 0), (0, 99), (99, 0), (99, 99))
    ]
    path = str(tmp_path / "gcps.tif")
    with rasterio.open(path, "w", driver="GTiff", count=1, height=100, width=100, dtype="uint8") as file:
        file.write(noise(1, (1, 100, 100)))
        file.gcps = points, rasterio.crs.CRS.from_epsg(32631)

    def halves(tile):
        return (tile[0, ::factor, ::factor] > 128).astype(np.uint8)

    options = {"tile_size": 64, "overlap": 8}
    lazy = geotile.predict(path, halves, **options)
    want = geotile.polygonize(lazy)
    assert want.crs.to_epsg() == 32631
    np.testing.assert_allclose(want.total_bounds, [5e5, 5e6 - 100, 5e5 + 100, 5e6])
    for name in ("a.tif", "a.zarr"):
        report = geotile.predict_to(path, halves, tmp_path / name, polygons=tmp_path / f"{name}.parquet", **options)
        assert len(report.notes) == 1  # that polygons were written
        assert_same_areas(gpd.read_parquet(tmp_path / f"{name}.parquet"), want)
        assert_same_areas(geotile.polygonize(tmp_path / name), want)
    part = geotile.polygonize(lazy[50 // factor :, 50 // factor :])
    np.testing.assert_allclose(part.total_bounds, [5e5 + 50, 5e6 - 100, 5e5 + 100, 5e6 - 50])


def test_images_that_polynomials_place_give_geotiffs_with_the_same_polynomials(tmp_path):
    write_satellite(tmp_path)
    path, options = tmp_path / "satellite.ntf", {"tile_size": 512, "overlap": 32}

    def bright(tile):
        return (tile[0] > 200).astype(np.uint8)

    want = geotile.polygonize(geotile.predict(path, bright, **options), classes=[1])
    assert want.total_bounds.round(1).tolist() == [4.4, 51.9, 4.4, 51.9]
    report = geotile.predict_to(path, bright, tmp_path / "a.tif", **options)
    assert report.notes == []
    read = geotile.polygonize(tmp_path / "a.tif", classes=[1])
    assert_same_areas(read, want)
    report = geotile.predict_to(path, bright, tmp_path / "a.zarr", **options)
    assert "cannot hold them: it is in pixels of the image" in report.notes[-1]
    assert geotile.polygonize(tmp_path / "a.zarr").crs is None


def test_one_tile_that_fails_does_not_stop_the_run_even_if_it_is_the_first(tmp_path):
    path, pixels = scene(tmp_path, (150, 170))
    grid = TileGrid((150, 170), 48, 16)
    asked = []

    def note(tile):
        asked.append(tile.tobytes())
        return bordered(tile)

    geotile.predict(path, note, tile_size=48, overlap=16)
    first = next(n for n, w in grid.tiles() if pixels[:, *w.slices].tobytes() == asked[0])
    with pytest.warns(geotile.FailedTilesWarning, match="1 of"):
        report = geotile.predict_to(path, Failing(pixels, grid, {first}), tmp_path / "a.zarr", tile_size=48, overlap=16)
    assert [each.tile for each in report.failures] == [first]


@pytest.mark.parametrize("status", [400, 500, 503])
def test_a_server_that_fails_for_the_first_tile_alone_answers_the_others(tmp_path, status):
    path, _ = scene(tmp_path, (150, 170))
    asked = []

    def answer(body):
        asked.append(body)
        if body == asked[0]:
            return status, {"Content-Type": "text/plain"}, b"out of memory"
        with rasterio.MemoryFile(body) as memory, memory.open() as file:
            return 200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", file.read() // 128)

    options = {"tile_size": 48, "overlap": 16, "retries": 1, "backoff_s": 0.01, "concurrency": 2}
    with raster_server(answer) as url, pytest.warns(geotile.FailedTilesWarning, match="1 of"):
        report = geotile.predict_to(path, url, tmp_path / "a.zarr", **options)
    assert len(report.failures) == 1
    assert f"HTTP {status}" in report.failures[0].reason


def test_the_error_of_a_model_that_never_answers_counts_its_retries(tmp_path):
    path, _ = scene(tmp_path, (150, 170))
    with (
        raster_server(lambda _: (500, {"Content-Type": "text/plain"}, b"broken")) as url,
        pytest.raises(geotile.EndpointError, match="HTTP 500") as error,
    ):
        geotile.predict(path, url, tile_size=48, overlap=16, retries=2, backoff_s=0.01)
    assert error.value.attempts > 1


@pytest.mark.parametrize("region", [48, 1000])
def test_pixels_without_data_are_not_missing(tmp_path, region):
    path, pixels = scene(tmp_path, (150, 170), nodata=0)
    grid = TileGrid((150, 170), 48, 16)
    failed, seen = {0, 7, 8}, np.zeros((150, 170), bool)
    for number, window in grid.tiles():
        seen[window.slices] |= number not in failed
    with pytest.warns(geotile.FailedTilesWarning):
        report = geotile.predict_to(
            path, Failing(pixels, grid, failed), tmp_path / "a.zarr", tile_size=48, overlap=16, region_size=region
        )
    assert report.pixels_missing == int(((pixels[0] != 0) & ~seen).sum()) > 0


@pytest.mark.parametrize("wrong", [np.full((2, 48, 48), np.nan), np.zeros((2, 31, 31)), np.zeros(3), "none"])
def test_a_first_answer_that_cannot_be_used_is_that_of_its_tile_alone(tmp_path, wrong):
    path, _ = scene(tmp_path, (150, 170))
    asked = []

    def model(tile):
        asked.append(tile.tobytes())
        return wrong if asked[-1] == asked[0] else bordered(tile)

    with pytest.warns(geotile.FailedTilesWarning, match="1 of"):
        report = geotile.predict_to(path, model, tmp_path / "a.zarr", tile_size=48, overlap=16)
    assert len(report.failures) == 1


def test_a_tile_that_cannot_be_read_is_not_the_first(tmp_path):
    path, _ = scene(tmp_path, (150, 170), compress="deflate")
    with rasterio.open(path) as file:
        height, width = file.block_shapes[0]
        offset = int(file.get_tag_item(f"BLOCK_OFFSET_{85 // width}_{75 // height}", "TIFF", bidx=1))
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    seen = []

    def model(tile):
        seen.append(tile.any())
        return bordered(tile)

    with pytest.warns(geotile.FailedTilesWarning):
        geotile.predict_to(path, model, tmp_path / "a.zarr", tile_size=48, overlap=16)
    assert all(seen)


def test_a_file_that_the_disk_did_not_take_replaces_nothing(tmp_path, monkeypatch):
    """GDAL's threads write to a full disk without an error."""
    path, _ = scene(tmp_path, (600, 700))
    copy, out = cog._copy_as_cog, tmp_path / "a.tif"
    geotile.predict_to(path, bordered, out, tile_size=256, overlap=16)
    before = out.read_bytes()

    def damaged(plain, target, is_class):
        copy(plain, target, is_class)
        with rasterio.open(target) as file:
            offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
        with target.open("r+b") as file:
            file.seek(offset)
            file.write(bytes(40))

    monkeypatch.setattr(cog, "_copy_as_cog", damaged)
    for options in ({}, {"checkpoint": tmp_path / "kept"}):
        with pytest.raises(geotile.OutputError, match=r"the disk may be full. The blocks are in"):
            geotile.predict_to(path, bordered, out, tile_size=256, overlap=16, overwrite=True, **options)
        assert out.read_bytes() == before


def test_a_run_that_ends_early_leaves_nothing(tmp_path):
    path, pixels = scene(tmp_path, (150, 170))
    model = Failing(pixels, TileGrid((150, 170), 48, 16), {20})
    with pytest.raises(geotile.TileError):
        geotile.predict_to(path, model, tmp_path / "a.tif", tile_size=48, overlap=16, errors="raise")
    assert [each.name for each in tmp_path.iterdir() if "geotile" in each.name] == []


def test_scores_are_no_colours(tmp_path):
    path, _ = scene(tmp_path, (100, 120))
    four = lambda tile: np.stack([tile[0] / 255.0] * 4)  # noqa: E731 - four classes
    geotile.predict_to(path, four, tmp_path / "a.tif", output="scores", tile_size=64, overlap=8)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert {each.name for each in file.colorinterp} <= {"gray", "undefined"}


def test_a_server_that_fails_for_a_moment_is_asked_again(tmp_path):
    path, _ = scene(tmp_path, (150, 170))
    left = [6]  # failures: more than tiles that are tried

    def answer(body):
        left[0] -= 1
        if left[0] >= 0:
            return 500, {"Content-Type": "text/plain"}, b"starting"
        with rasterio.MemoryFile(body) as memory, memory.open() as file:
            return 200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", file.read() // 128)

    with raster_server(answer) as url:
        report = geotile.predict_to(path, url, tmp_path / "a.zarr", tile_size=48, overlap=16, retries=3, backoff_s=0.01)
    assert (report.status, report.requests) == ("SUCCESS", report.tiles + 1 + 6)


def test_missing_pixels_are_those_of_the_region_of_interest(tmp_path):
    path, _ = scene(tmp_path, (150, 170))
    roi = gpd.GeoSeries([shapely.box(5e5, 5e6 - 10, 5e5 + 10, 5e6)], crs=32631)
    answers = iter([bordered(np.zeros((1, 48, 48)))])
    with pytest.warns(geotile.FailedTilesWarning):
        report = geotile.predict_to(
            path, lambda tile: next(answers), tmp_path / "a.zarr", tile_size=48, overlap=0, roi=roi
        )
    assert report.pixels_missing == 400


def test_polygons_of_a_written_file_are_those_of_the_array(tmp_path):
    import rioxarray

    path, _ = scene(tmp_path)
    options = {"tile_size": 64, "overlap": 16, "classes": ["dark", "bright"]}
    want = geotile.polygonize(geotile.predict(path, bordered, **options), min_area_px=20)
    for name in ("a.tif", "a.zarr"):
        geotile.predict_to(path, bordered, tmp_path / name, **options)
    files = (
        tmp_path / "a.tif",
        str(tmp_path / "a.zarr"),
        rioxarray.open_rasterio(tmp_path / "a.tif"),
        xr.open_zarr(tmp_path / "a.zarr", mask_and_scale=False).prediction,
    )
    for read in files:
        found = geotile.polygonize(read, min_area_px=20)
        assert found["label"].tolist() == want["label"].tolist()
        assert found.geometry.geom_equals(want.geometry).all()
    geotile.predict_to(path, bordered, tmp_path / "s.tif", **options | {"output": "scores"})
    geotile.predict_to(path, bordered, tmp_path / "s.zarr", **options | {"output": "scores"})
    scores = geotile.predict(path, bordered, **options | {"output": "scores"})
    want = geotile.polygonize(scores, threshold=0.5, min_area_px=20)
    for read in (rioxarray.open_rasterio(tmp_path / "s.tif"), tmp_path / "s.tif", tmp_path / "s.zarr"):
        scores = geotile.polygonize(read, threshold={"dark": 0.5, "bright": 0.5}, min_area_px=20)
        assert scores["label"].tolist() == want["label"].tolist()
        assert set(want["label"]) == {"dark", "bright"}
        assert scores.geometry.geom_equals(want.geometry).all()
    (tmp_path / "x.tif").write_text("<VRTDataset/>")
    with pytest.raises(geotile.ImageOpenError, match=r"cannot open .*x\.tif as a GeoTIFF"):
        geotile.polygonize(tmp_path / "x.tif")


def test_a_disk_that_may_be_too_small_is_said(tmp_path, monkeypatch):
    path, _ = scene(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=100_000))
    with pytest.warns(UserWarning, match="the output has up to 0.1 MB before compression, and .* has 0.1 MB free"):
        report = geotile.predict_to(path, bordered, tmp_path / "a.zarr", tile_size=64, overlap=0)
    assert "before compression" in report.notes[-1]
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=126_000))
    assert not geotile.predict_to(path, bordered, tmp_path / "b.zarr", tile_size=64, overlap=0).notes


def test_the_first_tile_holds_data(tmp_path):
    """A model is asked about no tile that would not be sent, whatever lies in the middle."""
    path, pixels = scene(tmp_path, (600, 600), nodata=0)
    with rasterio.open(path, "r+") as file:
        pixels[:, :, 70:] = 0
        pixels[:, 70:] = 0
        file.write(pixels)

    def model(tile):
        assert tile.any()
        return (tile[0] > 128).astype(np.uint8)

    options = {"tile_size": 64, "overlap": 0, "skip_nodata": True}
    found = geotile.predict(path, model, **options)
    assert ((found.values == 255) == (pixels[0] == 0)).all()
    lazy = geotile.open_image(path) + 0
    np.testing.assert_array_equal(geotile.predict(lazy.rio.write_nodata(0), model, **options), found)


def test_a_lazy_array_is_computed_after_it_has_failed():
    calls = []

    def model(tile):
        calls.append(1)
        if len(calls) == 5:
            raise ValueError("once")
        return (tile[0] > 128).astype(np.uint8)

    pixels = noise(5, (1, 300, 300))
    found = geotile.predict(array(pixels), model, tile_size=64, overlap=0)
    with pytest.raises(geotile.TileError, match="once"):
        found.compute()
    np.testing.assert_array_equal(found, pixels[0] > 128)


def test_whether_quiet_tiles_are_averaged_does_not_depend_on_others():
    pixels = np.zeros((1, 200, 200), np.uint8)
    pixels[:, 70:130, 70:130] = 200

    def model(tile):
        return tile[:1].astype(np.float32) / 40 + np.float32(1e-5)

    found = geotile.predict(array(pixels), model, tile_size=64, overlap=16, output="values", blend="mean")
    assert np.abs(found.values - (pixels[0] / 40 + 1e-5)).max() < 2**-17 + 1e-6


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (lambda t: t[:1].astype(np.float32), {"activation": "softmax"}, "use 'sigmoid'"),
        (lambda t: np.full(t.shape[1:], -(2**63)), {"output": "values", "blend": "mean"}, "beyond ±16,777,216"),
        (lambda t: np.full(t.shape[1:], 2**24 + 1), {"output": "values"}, "beyond ±16,777,216"),
        (lambda t: np.full(t.shape[1:], 1j), {}, "must return numbers"), (lambda t: np.repeat(np.repeat(t[0] // 200, 40, 0), 40, 1), {}, "at most 32 times"),
    ],
)  # fmt: skip
def test_answers_that_would_be_misread_are_refused(model, options, said):
    with pytest.raises((geotile.ArgumentError, geotile.ResponseError), match=said):
        geotile.predict(array(noise(1, (1, 100, 100))), model, tile_size=64, overlap=0, **options)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (lambda t: (t[0] > 128).astype(np.uint8), "the first answer held scores of float32; got an answer of uint8"),
        (lambda t: RasterAnswer(values=bordered(t), is_flat=False, classes=("b", "a")), "the classes must be those of"),
    ],
)
def test_a_later_answer_of_another_meaning_fails_its_tile(later, said):
    first = [lambda t: RasterAnswer(values=bordered(t)[:1] if "held" in said else bordered(t), is_flat=False)]
    if "classes" in said:
        first = [lambda t: RasterAnswer(values=bordered(t), is_flat=False, classes=("a", "b"))]

    def model(tile):
        return (first.pop() if first else later)(tile)

    with pytest.raises(geotile.TileError, match=said):
        geotile.predict(array(noise(1, (1, 100, 100))), model, tile_size=64, overlap=0).compute()


def test_masks_of_answers_are_read():
    pixels = noise(1, (1, 100, 100))

    def masked(tile):
        return np.ma.masked_array((tile[0] > 128).astype(np.uint8), tile[0] < 20)

    def data_array(tile):
        values = np.where(tile[0] < 20, np.int16(-9999), tile[0])
        return xr.DataArray(values, dims=("y", "x"), attrs={"_FillValue": -9999, "scale_factor": 0.5, "add_offset": 3})

    found = geotile.predict(array(pixels), masked, tile_size=64, overlap=8).values
    np.testing.assert_array_equal(found, np.where(pixels[0] < 20, 255, pixels[0] > 128))
    found = geotile.predict(array(pixels), data_array, tile_size=64, overlap=8, output="values").values
    np.testing.assert_array_equal(found, np.where(pixels[0] < 20, np.nan, pixels[0] * 0.5 + 3)[None])
