"""Vectors: a row for each tile or patch, in frames and files."""

import json

import dask
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from distributed import Client, LocalCluster
from helpers import cli
from rasters import encoded, means, raster_server, scene, small_chunks

import geotile
from geotile.grid.tile_grid import TileGrid

JOB = {"tile_size": 64, "overlap": 16}


@pytest.mark.parametrize("region", [64, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_for_each_tile(tmp_path, region, dtype):
    path, pixels = scene(tmp_path)
    found = geotile.embed(path, means, region_size=region, dtype=dtype, **JOB)
    windows = [window for _, window in TileGrid(pixels.shape[1:], 64, 16).tiles()]
    want = np.stack([means(pixels[:, *window.slices]) for window in windows]).astype(dtype)
    np.testing.assert_array_equal(np.stack(found["embedding"]).astype(dtype), want)
    assert found["embedding"][0].dtype == dtype
    assert found["xmin"].tolist() == [window.x0 for window in windows]
    assert found.crs == "EPSG:32631"
    assert found.geometry[0].equals(shapely.box(5e5, 5e6 - 32, 5e5 + 32, 5e6))
    assert geotile.report(found).status == "SUCCESS"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_may_use_its_array_again(tmp_path, dtype):
    path, _ = scene(tmp_path)
    kept = np.empty(2, dtype)

    def model(tile):
        kept[:] = tile.mean(), tile.max()
        return kept

    found = np.stack(geotile.embed(path, model, dtype=dtype, **JOB)["embedding"])
    assert len(np.unique(found, axis=0)) > 1


def test_patches_have_footprints_of_their_own(tmp_path):
    path, pixels = scene(tmp_path, (64, 128))

    def patches(tile):
        return tile[0].reshape(4, 16, 4, 16).mean(axis=(1, 3)).reshape(16, 1)

    found = geotile.embed(path, patches, tile_size=64, overlap=0, tokens="patches")
    assert len(found) == 32
    for row in found.itertuples():
        part = pixels[0, int(row.ymin) : int(row.ymax), int(row.xmin) : int(row.xmax)]
        assert part.shape == (16, 16)
        assert row.embedding[0] == pytest.approx(part.mean(), rel=1e-6)
    for tokens in ("class", "mean"):
        one = geotile.embed(path, lambda tile: patches(tile)[None], tile_size=64, overlap=0, tokens=tokens)
        want = patches(pixels[:, :, :64])
        assert one["embedding"][0][0] == pytest.approx(want[0, 0] if tokens == "class" else want.mean(), rel=1e-6)


@pytest.mark.parametrize("prefix", [1, 5])
def test_class_and_register_tokens_are_no_patches(tmp_path, prefix):
    """A vision transformer answers them before those of its patches."""
    path, _ = scene(tmp_path)

    def patches(tile):
        return np.arange(48, dtype=np.float32).reshape(16, 3) + float(tile[0, 0, 0])

    def transformer(tile):
        return np.concatenate([np.full((prefix, 3), 1e6, np.float32), patches(tile)])[None]

    job = {"tile_size": 64, "overlap": 0}
    for tokens in ("patches", "mean"):
        want = geotile.embed(path, patches, tokens=tokens, **job)
        found = geotile.embed(path, transformer, tokens=tokens, prefix_tokens=prefix, **job)
        pd.testing.assert_frame_equal(found, want)
    with pytest.raises(geotile.ResponseError, match="say how many with prefix_tokens"):
        geotile.embed(path, transformer, tokens="patches", **job)
    with pytest.raises(geotile.ResponseError, match="no more than the 99 prefix_tokens"):
        geotile.embed(path, transformer, tokens="mean", prefix_tokens=99, **job)
    with pytest.raises(geotile.ArgumentError, match="prefix_tokens would have no effect with tokens='class'"):
        geotile.embed(path, transformer, tokens="class", prefix_tokens=1, **job)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (lambda t: np.zeros((5, 3)), {}, "returned 5 vectors for a tile. Say which with tokens"), (lambda t: "text", {}, "must return an array"),
        (lambda t: np.zeros((5, 3)), {"tokens": "patches"}, "not form a grid of square patches over a tile of 64 x 64"), (lambda t: np.zeros((2, 2, 2)), {}, "must return a vector"),
        (lambda t: np.array([np.nan]), {}, "must be finite"), (lambda t: np.zeros(0), {}, "must return a vector"), (means, {"tokens": "first"}, "tokens must be one of"),
        (lambda t: np.array([1e5]), {"dtype": "float16"}, "a vector must fit float16; got 100000"),
        (means, {"dtype": "int8"}, "dtype must be one of"), (means, {"retry_failed": True}, "give checkpoint= as well"), (means, {"merge": "nms"}, "does not apply to"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, model, options, said):
    path, _ = scene(tmp_path, (100, 100))
    with pytest.raises((geotile.ArgumentError, geotile.ResponseError), match=said):
        geotile.embed(path, model, **JOB | options)


def test_tiles_that_fail_are_reported_and_have_no_row(tmp_path):
    path, pixels = scene(tmp_path, (150, 170))
    bad = pixels[:, :64, :64].tobytes()

    def model(tile):
        if tile.tobytes() == bad:
            raise ValueError("bad luck")
        return means(tile)

    with pytest.warns(geotile.FailedTilesWarning, match="1 of 12 tiles failed"):
        found = geotile.embed(path, model, **JOB)
    assert found["tile"].tolist() == list(range(1, 12))
    with pytest.raises(geotile.TileError, match="bad luck"):
        geotile.embed(path, model, errors="raise", **JOB)


@pytest.mark.parametrize("name", ["a.parquet", "parts/"])
def test_files_hold_what_the_frame_holds(tmp_path, name):
    path, _ = scene(tmp_path)
    want = geotile.embed(path, means, **JOB)
    report = geotile.embed_to(path, means, f"{tmp_path}/{name}", region_size=64, **JOB)
    assert report.tiles == len(want)
    found = gpd.read_parquet(tmp_path / name)
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(want["embedding"]))
    assert found.geometry.equals(want.geometry)
    file = tmp_path / name if name.endswith("parquet") else next((tmp_path / name).glob("part-*"))
    assert pq.read_schema(file).field("embedding").type == pa.list_(pa.float32(), 3)
    with pytest.raises(geotile.OutputError, match="exists"):
        geotile.embed_to(path, means, f"{tmp_path}/{name}", **JOB)


def test_the_command_line_embeds_and_predicts(tmp_path):
    path, pixels = scene(tmp_path)

    def answer(body):
        with geotile_tile(body) as tile:
            values = means(tile) if answer.vectors else (tile[0] > 128).astype(np.uint8)
        return 200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", values)

    with raster_server(answer) as url:
        answer.vectors = True
        done = cli(
            "embed",
            path,
            url,
            "-o",
            tmp_path / "a.parquet",
            "--tile-size",
            "64",
            "--overlap",
            "16",
            "--dtype",
            "float16",
        )
        assert len(gpd.read_parquet(tmp_path / "a.parquet")) == len(geotile.plan(path, **JOB).to_geodataframe())
        answer.vectors = False
        done = cli(
            "predict",
            path,
            url,
            "-o",
            tmp_path / "a.tif",
            "--tile-size",
            "64",
            "--overlap",
            "16",
            "--as",
            "classes",
            "--classes",
            "dark,bright",
        )
        assert "pixels without an answer" in done.stdout
        done = cli("predict", path, url, "-o", tmp_path / "a.png", status=2)
        assert "must end in one of .tif" in done.stderr
    import rasterio

    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(1), pixels[0] > 128)


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_a_command_resumes_a_run_that_was_stopped(tmp_path, command):
    """With the arguments that it was given, and only what is missing."""
    path, _ = scene(tmp_path)
    out, cp = tmp_path / ("a.tif" if command == "predict" else "a.parquet"), tmp_path / "cp"

    def answer(body):
        answer.asked += 1
        with geotile_tile(body) as tile:
            values = (tile[0] > 128).astype(np.uint8) if command == "predict" else means(tile)
        return 200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", values)

    answer.asked = 0
    tiling = ["--tile-size", "64", "--overlap", "16", "--region-size", "128"]
    more = ["--as", "classes", "--classes", "dark,bright"] if command == "predict" else ["--dtype", "float16"]
    with raster_server(answer) as url, small_chunks(64):
        cli(command, path, url, "-o", out, "--checkpoint", cp, *tiling, *more)
        first, answer.asked = out.read_bytes(), 0
        kept = sorted(each for each in cp.rglob("*-*") if each.suffix in (".json", ".npz"))
        assert f"regions kept {len(kept)} of {len(kept)}" in " ".join(cli("status", cp).stdout.split())
        assert "detections" not in cli("status", cp).stdout
        out.unlink()
        kept[0].unlink()
        done = cli("resume", cp)
        assert 0 < answer.asked < len(kept) * 4
        assert f"requests {answer.asked} " in " ".join(done.stdout.split())
        assert out.read_bytes() == first
        changed = ["--as", "classes", "--classes", "dim,bright"] if command == "predict" else ["--dtype", "float32"]
        refused = cli(command, path, url, "-o", out, "--checkpoint", cp, *tiling, *changed, "--overwrite", status=2)
        assert ("classes was" if command == "predict" else "dtype was 'float16'") in " ".join(refused.stderr.split())
        other = cli("detect", path, url, "-o", tmp_path / "b.parquet", "--checkpoint", cp, *tiling, status=2)
        assert "another function" in " ".join(other.stderr.split())


class geotile_tile:
    """The pixels of an encoded tile."""

    def __init__(self, body):
        self.body = body

    def __enter__(self):
        import rasterio

        with rasterio.MemoryFile(self.body) as memory, memory.open() as file:
            return file.read()

    def __exit__(self, *_):
        pass


@pytest.mark.slow
def test_a_cluster_gives_the_same_rows(tmp_path):
    path, _ = scene(tmp_path)
    want = geotile.embed(path, means, **JOB)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        found = geotile.embed(path, means, region_size=64, **JOB)
        geotile.embed_to(path, means, f"{tmp_path}/parts/", region_size=64, **JOB)
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(want["embedding"]))
    assert len(gpd.read_parquet(tmp_path / "parts")) == len(want)


@pytest.mark.parametrize("name", ["a.parquet", "a/"])
def test_a_stopped_run_asks_only_for_regions_that_are_missing(tmp_path, name):
    path, pixels = scene(tmp_path)
    job = JOB | {"region_size": 64}
    asked = []

    def model(tile):
        asked.append(tile.sum())
        if len(asked) == 20:
            raise KeyboardInterrupt
        return means(tile)

    with pytest.raises(KeyboardInterrupt), dask.config.set(scheduler="synchronous"):
        geotile.embed_to(path, model, f"{tmp_path}/{name}", checkpoint=tmp_path / "done", **job)
    before = len(asked)
    report = geotile.embed_to(path, model, f"{tmp_path}/{name}", checkpoint=tmp_path / "done", **job)
    tiles = TileGrid(pixels.shape[1:], 64, 16).n_tiles
    assert report.tiles_resumed > 10
    assert len(asked) - before == tiles - report.tiles_resumed == report.requests
    geotile.embed_to(path, model, f"{tmp_path}/whole-{name}", **job)  # the model's name is in those of the parts
    files = [sorted((tmp_path / each).glob("*")) or [tmp_path / each] for each in (name, f"whole-{name}")]
    assert [each.read_bytes() for each in files[0]] == [each.read_bytes() for each in files[1]]
    again = geotile.embed(path, model, checkpoint=tmp_path / "done", **JOB)  # the regions are those of the checkpoint
    assert geotile.report(again).requests == 0
    with pytest.raises(geotile.ArgumentError, match="is the checkpoint of another job"):
        geotile.embed(path, model, checkpoint=tmp_path / "done", dtype="float16", **job)


def test_vectors_of_tiles_that_failed_are_asked_for_again(tmp_path):
    path, _ = scene(tmp_path)
    bad = {"now": True}

    def model(tile):
        if bad["now"] and tile.sum() % 3 == 0:
            raise ValueError("not now")
        return means(tile)

    options = JOB | {"checkpoint": tmp_path / "done", "region_size": 64}
    first = geotile.embed(path, model, **options)
    failures = geotile.report(first).failures
    assert len(failures) > 3
    assert [each.tile for each in geotile.report(geotile.embed(path, model, **options)).failures] == [
        each.tile for each in failures
    ]
    bad["now"] = False
    whole = geotile.embed(path, model, retry_failed=True, **options)
    np.testing.assert_array_equal(
        np.stack(whole["embedding"]), np.stack(geotile.embed(path, means, **JOB)["embedding"])
    )
    part = next((tmp_path / "done").glob("*/00001-00001.npz"))
    part.write_bytes(part.read_bytes()[:-40])  # damaged
    repaired = geotile.embed(path, model, **options)
    assert 0 < geotile.report(repaired).requests < 5
    assert len(repaired) == len(whole)


def test_rows_of_a_batch_are_those_of_their_tiles(tmp_path):
    """Tiles without data and of other shapes are left out of batches, which changes the order of the answers."""
    path, pixels = scene(tmp_path, (200, 260), nodata=0)
    with rasterio.open(path, "r+") as file:
        pixels[:, 40:130, 30:140] = 0
        file.write(pixels)
    options = JOB | {"skip_nodata": True}
    alone = geotile.embed(path, means, **options)

    def batch(tiles):
        return [means(tile) for tile in tiles]

    found = geotile.embed(path, batch, batch_size=3, **options)
    assert geotile.report(found).tiles_without_data > 0
    assert found["tile"].tolist() == alone["tile"].tolist()
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(alone["embedding"]))

    def classes(tiles):
        return [(tile[0] > 128).astype(np.uint8) for tile in tiles]

    want = geotile.predict(path, lambda tile: (tile[0] > 128).astype(np.uint8), **options).compute()
    np.testing.assert_array_equal(geotile.predict(path, classes, batch_size=3, **options), want)


def test_a_moved_checkpoint_is_resumed_where_it_is(tmp_path):
    path, _ = scene(tmp_path)

    def answer(body):
        answer.asked += 1
        with geotile_tile(body) as tile:
            return 200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", means(tile))

    answer.asked = 0
    with raster_server(answer) as url:
        cli(
            "embed",
            path,
            url,
            "-o",
            tmp_path / "a.parquet",
            "--checkpoint",
            tmp_path / "cp",
            "--tile-size",
            64,
            "--overlap",
            16,
        )
        (tmp_path / "cp").rename(tmp_path / "moved")
        asked = answer.asked
        cli("resume", tmp_path / "moved", "--overwrite")
        assert answer.asked == asked
        assert not (tmp_path / "cp").exists()
        stored = json.loads((tmp_path / "moved" / "call.json").read_text())
        for changed in (
            {"foo": 1},
            {"context": 1},
            {"options": {}},
            {"tile_size": 5},
            {"bands": 5},
            {"headers": "abc"},
            {"image": 5},
        ):
            (tmp_path / "moved" / "call.json").write_text(json.dumps(stored | changed))
            refused = cli("resume", tmp_path / "moved", "--overwrite", status=2)
            assert "stored" in refused.stderr
            assert answer.asked == asked


@pytest.mark.parametrize(
    ("command", "text"), [("predict", "a raster of the shape"), ("embed", "a vector of 3 numbers")]
)
def test_check_says_what_a_model_answers_that_finds_nothing(tmp_path, command, text):
    model = (lambda tile: (tile[0] > 128).astype("uint8")) if command == "predict" else means
    assert f"run it with geotile.{command}" in geotile.endpoint(model).check().message

    def answer(body):
        with geotile_tile(body) as tile:
            return 200, {"Content-Type": "application/x-npy"}, encoded("application/x-npy", model(tile))

    with raster_server(answer) as url:
        found = cli("check", url)
        assert text in " ".join(found.stdout.split())
    assert not geotile.endpoint(lambda tile: "hello").check()


def test_an_error_before_the_run_speaks_of_no_kept_regions(tmp_path):
    path, _ = scene(tmp_path)
    missing = cli("predict", tmp_path / "none.tif", "http://127.0.0.1:9/x", "-o", tmp_path / "a.tif", status=1)
    assert "checkpoint" not in missing.stderr

    def refuse(body):
        return 400, {}, b"no"

    with raster_server(refuse) as url:
        words = ["predict", path, url, "-o", tmp_path / "a.tif", "--checkpoint", tmp_path / "cp", "--tile-size", 64]
        refused = cli(*words, "--overlap", 16, status=1)
    assert "No region was finished" in " ".join(refused.stderr.split())
    with pytest.raises(geotile.ArgumentError, match=r"^polygons must end in one of .*\.gpkg; got"):
        geotile.predict_to(path, means, tmp_path / "b.tif", polygons=f"{tmp_path}/many/")
