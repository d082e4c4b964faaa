"""`detect` against flat NMS over all tiles, on every scheduler."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr
from geopandas.testing import assert_geodataframe_equal
from helpers import crowd, flat_nms, region_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geotile
from geotile.core.daemon_pool import DaemonPool
from geotile.geometry.georeference import Georeference
from geotile.imagery.overlap import map_overlap
from geotile.imagery.source import Source
from geotile.testing import bright_objects, write_example

BOX = ["xmin", "ymin", "xmax", "ymax"]


def rows(table):
    """All that identifies a row, exactly."""
    return [
        (*row[BOX].tolist(), row.score, row.label, shape.wkb)
        for shape, (_, row) in zip(geotile.image_geometry(table), table.iterrows(), strict=True)
    ]


def tiling(job):
    return {name: job[name] for name in ("tile_size", "overlap")}


def expected(every, threshold, metric, agnostic):
    """Flat NMS over the detections of all tiles."""
    kept = flat_nms(
        every[BOX].to_numpy(), every["score"].to_numpy(), every["label"].tolist(), threshold, metric, agnostic
    )
    return every.iloc[kept]


@st.composite
def jobs(draw):
    shape = draw(st.tuples(st.integers(20, 150), st.integers(20, 150)))
    tile = draw(st.integers(16, 60))
    return {
        "image": xr.DataArray(
            np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, (1, *shape), np.uint8),
            dims=("band", "y", "x"),
        ),
        "tile_size": tile,
        "overlap": draw(st.integers(0, tile // 2)),
        "merge": "nms",
        "iou_threshold": draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])),
        "overlap_metric": draw(st.sampled_from(["iou", "ios"])),
        "class_agnostic": draw(st.booleans()),
    }


@pytest.mark.slow
@settings(max_examples=25)
@given(jobs(), st.tuples(st.integers(10, 80), st.integers(10, 80)), st.sampled_from(["synchronous", "threads"]))
def test_equals_flat_nms_for_any_grid_and_region_size(job, region, scheduler):
    image = job.pop("image")
    cut = image.chunk({"y": region[0], "x": region[1]})
    with dask.config.set(scheduler=scheduler):
        every = geotile.detect(image, crowd, region_size=10_000, merge=None, **tiling(job))
        merged = geotile.detect(cut, crowd, region_size=region, **job)
    want = expected(every, job["iou_threshold"], job["overlap_metric"], job["class_agnostic"])
    assert rows(merged) == rows(want)
    assert merged.attrs["report"].detections_before == len(every)


@pytest.mark.slow
def test_runs_leave_the_filters_of_warnings_as_they_are(write_tiff):
    """Threads that check shapes at once could leave the process silent, also about tiles that fail."""
    path = write_tiff(np.random.default_rng(0).integers(1, 255, (1, 512, 512), np.uint8))
    ring = [[2, 2], [20, 3], [18, 20], [1, 15], [2, 2]]
    feature = {
        "type": "Feature",
        "geometry": None,
        "properties": {
            "imageGeometry": {"type": "Polygon", "coordinates": [ring]},
            "featureClasses": [{"iri": "x", "score": 0.9}],
        },
    }
    answer = {"type": "FeatureCollection", "features": [feature] * 30}
    before = list(warnings.filters)
    for _ in range(2):
        geotile.detect(path, lambda tile: answer, tile_size=32, overlap=0, region_size=128)
        assert warnings.filters == before


def test_same_rows_on_processes_and_a_cluster_of_processes(write_tiff, noise, workers):
    path = write_tiff(noise)
    job = {"tile_size": 64, "overlap": 24, "iou_threshold": 0.2}
    with dask.config.set(scheduler="synchronous"):
        alone = geotile.detect(path, crowd, region_size=10_000, **job)
    assert alone.attrs["report"].regions == 1
    with dask.config.set(scheduler="processes", num_workers=2):
        pooled = geotile.detect(path, crowd, region_size=128, **job)
    assert pooled.attrs["report"].regions > 4
    seen = []
    with workers.as_current():
        spread = geotile.detect(path, crowd, region_size=192, progress=seen.append, **job)
        computed = geotile.detect(geotile.open_image(path) + np.uint8(0), crowd, region_size=128, **job)
    for other in (pooled, spread, computed):
        other.attrs = alone.attrs
        assert_geodataframe_equal(alone, other)
    tiles = alone.attrs["report"].tiles
    assert (seen[0].done, seen[0].tiles) == (0, tiles)
    assert (seen[-1].done, seen[-1].tiles) == (tiles, tiles)
    assert len(seen) > 2


@pytest.fixture(scope="module")
def pool():
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.mark.slow
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job=jobs(), region=st.tuples(st.integers(30, 80), st.integers(30, 80)))
def test_equals_flat_nms_on_processes(job, region, pool):
    image = job.pop("image")
    with dask.config.set(scheduler="synchronous"):
        every = geotile.detect(image, crowd, region_size=10_000, merge=None, **tiling(job))
    with dask.config.set(scheduler="processes", pool=pool):
        merged = geotile.detect(image.chunk(y=region[0], x=region[1]), crowd, region_size=region, **job)
    assert rows(merged) == rows(expected(every, job["iou_threshold"], job["overlap_metric"], job["class_agnostic"]))


@pytest.mark.parametrize("region", [64, 100, 128, 1000])
def test_the_halo_of_a_file_and_of_a_computed_array_are_equal(write_tiff, noise, region):
    path = write_tiff(noise)
    image = geotile.open_image(path)
    work = geotile.plan(path, tile_size=50, overlap=20, region_size=region)
    computed = image.copy(data=image.data + np.uint8(0))

    for array in (image, computed):
        for (row, column), values in region_values(array, work.grid).items():
            np.testing.assert_array_equal(values, noise[:, *work.grid.read_window(row, column).slices])


def test_the_model_sees_every_tile_as_rasterio_reads_it(write_tiff, noise):
    import rasterio

    path, seen = write_tiff(noise), []

    def remember(tile):
        seen.append(tile.copy())
        return [], []

    geotile.detect(path, remember, tile_size=(80, 64), overlap=(10, 16), region_size=128)
    grid = geotile.plan(path, tile_size=(80, 64), overlap=(10, 16)).grid
    with rasterio.open(path) as file:
        want = {file.read(window=rasterio.windows.Window.from_slices(*w.slices)).tobytes() for _, w in grid.tiles()}
    assert {tile.tobytes() for tile in seen} == want
    assert len(seen) == grid.n_tiles


def test_no_block_is_read_by_two_regions_but_the_halos(write_tiff):
    image = np.zeros((1, 1024, 1024), np.uint8)
    grid = geotile.plan(write_tiff(image), tile_size=128, overlap=32, region_size=256).grid
    reads = np.zeros((16, 16), int)
    for r, c in np.ndindex(grid.regions_yx):
        w = grid.region_window(r, c)
        reads[w.y0 // 64 : -(-w.y1 // 64), w.x0 // 64 : -(-w.x1 // 64)] += 1
    assert (reads == 1).all()


def test_world_coordinates_of_a_rotated_image(write_tiff):
    from affine import Affine

    transform = Affine.translation(500_000, 4_000_000) @ Affine.rotation(30) @ Affine.scale(2, -3)
    path = write_tiff(np.zeros((1, 90, 120), np.uint8), transform=transform)
    found = geotile.detect(path, lambda tile: ([[10, 20, 30, 50]], [1.0]), tile_size=200, overlap=10)
    ring = [transform @ xy for xy in [(30, 20), (30, 50), (10, 50), (10, 20)]]
    assert found.crs == "EPSG:32631"
    np.testing.assert_allclose(np.array(found.geometry[0].exterior.coords)[:4], ring)
    part = geotile.open_image(path)[:, 20:, 10:]
    shifted = geotile.detect(part, lambda tile: ([[0, 0, 20, 30]], [1.0]), tile_size=200, overlap=10)
    np.testing.assert_allclose(shifted.total_bounds, found.total_bounds)


@pytest.mark.parametrize("cut", [np.s_[:, 10:, 7:], np.s_[:, ::2, ::3], np.s_[:, 5:40:2, :]])
def test_world_coordinates_of_a_cut_or_thinned_image(write_tiff, cut):
    """A detection of the whole array covers the pixels that the array's coordinates name."""
    part = geotile.open_image(write_tiff(np.zeros((1, 90, 120), np.uint8)))[cut]
    height, width = part.shape[1:]
    found = geotile.detect(part, lambda tile: ([[0, 0, width, height]], [1.0]), tile_size=200, overlap=10)
    x0, y0, x1, y1 = found.total_bounds
    np.testing.assert_allclose((x0 + x1) / 2, float(part.x.mean()))
    np.testing.assert_allclose((y0 + y1) / 2, float(part.y.mean()))
    np.testing.assert_allclose((x1 - x0) / width, float(part.x[1] - part.x[0]))


def test_raising_stops_the_run():
    image = xr.DataArray(np.zeros((1, 640, 640), np.uint8), dims=("band", "y", "x"))
    asked = []

    def model(tile):
        asked.append(1)
        raise RuntimeError("no")

    with pytest.raises(geotile.TileError):
        geotile.detect(image, model, tile_size=32, overlap=0, region_size=320, errors="raise")
    import time

    count = len(asked)
    time.sleep(0.3)
    assert len(asked) <= count + 4  # what was under way; 400 tiles were planned


def test_crs_against_pyproj(write_tiff):
    import pyproj

    path = write_tiff(np.zeros((1, 64, 64), np.uint8))
    found = geotile.detect(path, lambda tile: ([[0, 0, 64, 64]], [1.0]), crs="EPSG:4326")
    x, y = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(500_000, 5_000_000)
    assert found.crs == "EPSG:4326"
    assert found.total_bounds[[0, 3]] == pytest.approx([x, y], abs=1e-12)


def test_an_array_without_georeference_answers_in_pixels():
    image = xr.DataArray(np.zeros((40, 50, 3), np.uint8), dims=("y", "x", "band"))
    found = geotile.detect(image, lambda tile: ([[1, 2, 3, 4]], [0.5], ["a"]))
    assert found.crs is None
    assert found.total_bounds.tolist() == [1, 2, 3, 4]
    with pytest.raises(geotile.ArgumentError, match="has no CRS"):
        geotile.detect(image, lambda tile: ([], []), crs="EPSG:4326")


def test_columns_and_their_types(write_tiff, noise):
    found = geotile.detect(write_tiff(noise), crowd, tile_size=64, overlap=16)
    measures = ["angle_deg", "heading_deg", "length_m", "width_m", "area_m2"]
    assert list(found) == ["score", "label", "classes", *BOX, "image_geometry", *measures, "properties", "geometry"]
    assert {str(found[c].dtype) for c in ("score", *BOX)} == {"float64"}
    assert found["classes"][0] == [{"iri": found["label"][0], "score": found["score"][0]}]
    assert found["score"].is_monotonic_decreasing
    empty = geotile.detect(write_tiff(noise), lambda tile: ([], []), tile_size=64, overlap=16)
    assert list(empty) == list(found)
    assert len(empty) == 0
    assert empty.crs == found.crs


def test_merging_looks_at_the_clipped_box_and_the_user_gets_the_whole():
    image = xr.DataArray(np.zeros((1, 40, 50), np.uint8), dims=("band", "y", "x"))
    found = geotile.detect(image, lambda tile: ([[-5, -5, 60, 20]], [0.5]))
    assert found[BOX].to_numpy().tolist() == [[0, 0, 50, 20]]
    assert found.geometry[0].bounds == (-5, -5, 60, 20)


def test_a_failed_tile_is_recorded_and_the_others_stay(noise):
    image = xr.DataArray(noise, dims=("band", "y", "x"))
    broken = noise[:, :64, :64].tobytes()

    def model(tile):
        if tile.tobytes() == broken:
            raise RuntimeError("no luck")
        return crowd(tile)

    with pytest.warns(UserWarning, match=r"1 of \d+ tiles failed \(status PARTIAL\)"):
        found = geotile.detect(image, model, tile_size=64, overlap=16, region_size=128)
    report = found.attrs["report"]
    assert report.status == "PARTIAL"
    assert report.failures == [
        {"tile": 0, "window": [0, 64, 0, 64], "reason": "the model raised RuntimeError: no luck"}
    ]
    with pytest.raises(geotile.TileError, match=r"tile 0 \(rows 0:64, columns 0:64\) failed: .* no luck"):
        geotile.detect(image, model, tile_size=64, overlap=16, errors="raise")


def test_all_tiles_failed_is_a_failed_run(noise):
    image = xr.DataArray(noise, dims=("band", "y", "x"))
    with pytest.warns(UserWarning, match="FAILED"):
        found = geotile.detect(image, lambda tile: "hello", tile_size=128, overlap=16)
    assert found.attrs["report"].status == "FAILED"
    assert len(found) == 0


def test_a_box_far_outside_fails_its_tile_alone(noise):
    image = xr.DataArray(noise, dims=("band", "y", "x"))
    with pytest.warns(UserWarning, match="lies outside the tile of 128 x 128"):
        geotile.detect(image, lambda tile: ([[1e5, 0, 2e5, 5]], [1.0]), tile_size=128, overlap=16)


@pytest.mark.parametrize("bad", [[1e5, 0, 2e5, 5], [9, 9, 5, 5], [0, 0, np.nan, 5], [0, 0, np.inf, 5], [0, 0, 9, 2e6]])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_one_bad_box_leaves_the_good_ones(write_tiff, noise, tmp_path, bad, checkpoint):
    def model(tile):
        return [[10, 10, 20, 20], bad, [30, 30, 40, 40]], [0.9, 0.8, 0.7]

    path, job = (
        write_tiff(noise),
        {"tile_size": 128, "overlap": 16, "checkpoint": tmp_path / "cp" if checkpoint else None},
    )
    for _ in range(1 + checkpoint):  # also as a checkpoint kept it
        found = geotile.detect(path, model, **job)
        report = geotile.report(found)
        assert (report.status, report.boxes_rejected, len(found)) == ("SUCCESS", report.tiles, 2 * report.tiles)
        assert report.first_rejection.startswith("tile 0: ")
    assert "boxes rejected" in repr(report)


def test_blocks_that_do_not_decode_fail_their_tiles_alone(write_tiff, noise):
    path = write_tiff(noise, compress="deflate", blockxsize=64, blockysize=64)
    whole = geotile.detect(path, crowd, tile_size=64, overlap=16, merge=None)
    import rasterio

    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    with open(path, "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 64)
    with pytest.warns(UserWarning, match="PARTIAL"):
        found = geotile.detect(path, crowd, tile_size=64, overlap=16, merge=None)
    lost = found.attrs["report"].failures
    assert 0 < len(lost) < 10
    for failure in lost:
        y0, y1, x0, x1 = failure.window
        assert y0 < 128 < y1 + 64
        assert x0 < 192
        assert x1 > 128
    kept = {tuple(r) for r in rows(found)}
    assert kept < {tuple(r) for r in rows(whole)}


def test_a_short_axis_gives_one_short_tile_or_a_padded_one(noise):
    image = xr.DataArray(noise[:, :40, :50], dims=("band", "y", "x"))
    shapes = []
    geotile.detect(image, lambda t: (shapes.append(t.shape), ([], []))[1], tile_size=64, overlap=8)
    geotile.detect(image, lambda t: (shapes.append(t.shape), ([], []))[1], tile_size=64, overlap=8, pad=True)
    assert shapes == [(3, 40, 50), (3, 64, 64)]


def test_building_reads_no_pixel(write_tiff, noise, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a pixel was read")

    path = write_tiff(noise)
    monkeypatch.setattr(Source, "read", never)
    image = geotile.open_image(path)
    work = geotile.plan(image, tile_size=64, overlap=16, region_size=128)
    work.to_geodataframe(), repr(work), work._repr_html_()
    map_overlap(work.image, work.source, work.grid, "run")
    assert work.encoder.georeference != Georeference(None, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score_threshold": 1.5}, "score_threshold must be a number from 0 to 1; got 1.5"),
        ({"iou_threshold": -0.1}, "iou_threshold must be a number from 0 to 1; got -0.1"),
        ({"overlap_metric": "giou"}, "giou"),
        ({"merge": "wbf"}, "merge must be one of 'seam', 'nms', .* got 'wbf'"),
        ({"errors": "ignore"}, "errors must be one of 'record', 'raise'; got 'ignore'"),
        ({"concurrency": 0}, "concurrency must be .* got 0"),
        ({"tile_size": 64, "overlap": 64}, "smaller than tile_size"),
        ({"tile_size": 10.5}, "whole number"),
        ({"region_size": "big"}, "region_size must be .*; got 'big'"),
        ({"tile_format": "BMP"}, "tile_format must be one of .* got 'BMP'"),
        ({"crs": "EPSG:0"}, "crs must be .*got 'EPSG:0'"),
        ({"progress": 3}, "progress must be .* got 3"),
        ({"retries": 3}, "'retries' does not apply to a run with a Python callable"),
        ({"tilesize": 3}, "unknown option 'tilesize'; did you mean 'tile_size'?"),
    ],
)
def test_bad_arguments_are_named_before_the_model_is_asked(write_tiff, noise, options, said):
    def never(tile):
        raise AssertionError("the model was asked")

    with pytest.raises(geotile.ArgumentError, match=said):
        geotile.detect(write_tiff(noise), never, **options)


def test_the_warning_of_failed_tiles_is_at_the_callers_line(write_tiff, noise):
    def model(tile):
        raise ValueError("no")

    with pytest.warns(geotile.FailedTilesWarning, match="tiles failed") as caught:
        geotile.detect(write_tiff(noise), model, tile_size=64, overlap=0)
    files = [each.filename for each in caught if each.category is geotile.FailedTilesWarning]
    assert files == [__file__]


def test_the_report_counts_what_ends_at_a_seam(write_tiff):
    pixels = np.zeros((1, 300, 300), np.uint8)
    pixels[0, 20:40, 20:40] = pixels[0, 100:140, 110:150] = pixels[0, 280:300, 0:12] = (
        255  # inside, cut, at the image's edge
    )

    image = write_tiff(pixels)
    counts = {}
    for overlap, merge in ((0, "nms"), (0, "seam"), (60, "nms"), (60, "seam")):
        for region in (64, 128, 300):
            found = geotile.detect(
                image,
                geotile.testing.bright_objects,
                tile_size=128,
                overlap=overlap,
                merge=merge,
                region_size=region,
            )
            report = geotile.report(found)
            assert counts.setdefault((overlap, merge), report.detections_at_seams) == report.detections_at_seams
        assert len(found) == 3 or merge == "nms"
    assert counts[60, "seam"] == counts[0, "seam"] == 0  # parts are joined
    assert counts[60, "nms"] > 0 < counts[0, "nms"]


@pytest.mark.parametrize("regions", [1, 4])
def test_a_file_of_one_region_is_read_by_the_thread_that_asks(regions, monkeypatch):
    """A new thread costs PROJ 7 ms; the main thread must see an interrupt, and several regions share the cores."""
    path, readers, read = write_example(), [], Source.read
    monkeypatch.setattr(Source, "read", lambda *args: (readers.append(threading.current_thread().name), read(*args))[1])
    job = {"tile_size": 64, "overlap": 16, "region_size": 256 // (1 if regions == 1 else 2)}
    with ThreadPoolExecutor(1, "asks") as pool:
        found = pool.submit(geotile.detect, path, bright_objects, **job).result()
    assert {name.startswith("asks") for name in readers} == {regions == 1}
    readers.clear()
    assert_geodataframe_equal(found, geotile.detect(path, bright_objects, **job))
    assert not any(name.startswith("MainThread") for name in readers)


def test_a_call_for_which_no_thread_can_start_is_not_made(monkeypatch):
    made = []
    with DaemonPool(2, "example") as pool:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="new thread"):
                pool.submit(made.append, 1)
        pool.submit(made.append, 2).result()
    assert made == [2]


def no_thread(self):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("output", [None, "found/", "found.parquet"])
def test_a_crs_without_a_way_is_refused_before_the_model_is_asked(write_tiff, noise, tmp_path, output):
    asked, to = [], () if output is None else (f"{tmp_path}/{output}",)
    call = geotile.detect_to if to else geotile.detect
    with pytest.raises(geotile.GeoreferenceError, match="there is no way from the CRS"):
        call(write_tiff(noise), asked.append, *to, crs="+proj=longlat +R=3396190 +no_defs")
    assert not asked
