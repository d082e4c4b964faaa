"""Zarr stores that are not trusted: nothing is executed, little is allocated, and a damaged chunk fails its tiles."""

import bz2
import copy
import gzip
import json
import lzma
import os
import pickle
import resource
import struct
import time
import zlib
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from helpers import crowd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geotile
from geotile import GeotileError, ImageOpenError, open_image

pytestmark = pytest.mark.slow
COLUMNS = ["xmin", "ymin", "xmax", "ymax", "score", "label"]


class Evil:
    """What runs a command where it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def store(path, noise, version=2, compressor="default", side=64):
    """Write (3, 300, 420) pixels with coordinates; returns the path."""
    image = xr.DataArray(
        noise, dims=("band", "y", "x"), name="a",
        coords={"band": ["r", "g", "b"], "y": 5_000_000 - np.arange(300.0), "x": 500_000 + np.arange(420.0)},
    ).rio.write_crs("EPSG:32631")  # fmt: skip
    how = {"chunks": (3, side, side)}
    if compressor != "default":
        how["compressors"] = (compressor,) if version == 3 else compressor
    image.to_dataset().to_zarr(path, zarr_format=version, encoding={"a": how}, consolidated=False)
    return Path(path)


def rewritten(path, change, name="a/.zarray"):
    """Change a document of metadata."""
    document = json.loads((path / name).read_text())
    change(document)
    (path / name).write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 300, 420), np.uint8)


def refused(path, words):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    for use in (open_image, lambda path: geotile.detect(path, crowd, tile_size=64, overlap=8)):
        with pytest.raises(ImageOpenError, match=words):
            use(str(path))
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # kB


PICKLES = {
    "compressor": {"compressor": {"id": "pickle", "protocol": 5}},
    "filter": {"filters": [{"id": "pickle", "protocol": 5}]},
    "object dtype": {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": 0},
    "json of objects": {"dtype": "|O", "filters": [{"id": "json2"}], "compressor": None, "fill_value": 0},
    "labels": {"filters": [{"id": "categorize", "labels": ["a"], "dtype": "|O", "astype": "|u1"}]},
    "objects in a filter": {"filters": [{"id": "astype", "encode_dtype": "|O", "decode_dtype": "|u1"}]},
    "structure": {"dtype": [["a", "|O"]], "fill_value": None},
    "any other codec": {"compressor": {"id": "somebody_elses"}},
}


@pytest.mark.parametrize("kind", PICKLES)
def test_nothing_is_executed(tmp_path, pixels, kind):
    path = rewritten(store(tmp_path / "a.zarr", pixels), lambda array: array.update(PICKLES[kind]))
    for chunk in path.glob("a/[0-9]*"):
        chunk.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    refused(path, "codec|dtype")
    rewritten(
        path, lambda array: array.update(shape=[1], chunks=[1], dtype="|u1", filters=None, compressor=None), "y/.zarray"
    )
    group = {"zarr_consolidated_format": 1, "metadata": {"a/.zarray": json.loads((path / "a/.zarray").read_text())}}
    (path / ".zmetadata").write_text(json.dumps(group))
    refused(path, "codec|dtype")
    assert not (tmp_path / "ran").exists()


def test_nothing_of_version_3_is_executed(tmp_path, pixels):
    path = store(tmp_path / "a.zarr", pixels, 3)
    whole = json.loads((path / "a/zarr.json").read_text())
    for codec in ({"name": "numcodecs.pickle"}, {"name": "numcodecs.vlen-array"}, {"name": "os.system"}):
        rewritten(path, lambda array, codec=codec: array["codecs"].append(codec), "a/zarr.json")
        refused(path, "only those that cannot run code")
        rewritten(path, lambda root, codec=codec: root.update(consolidated_metadata={
            "kind": "inline", "must_understand": False, "metadata": {"a": whole | {"codecs": [codec]}},
        }), "zarr.json")  # fmt: skip
        (path / "a/zarr.json").write_text(json.dumps(whole))
        refused(path, "only those that cannot run code")
        rewritten(path, lambda root: root.pop("consolidated_metadata"), "zarr.json")
    assert open_image(path).shape == (3, 300, 420)


HUGE = {
    "chunk": (lambda a: a.update(chunks=[3, 2**15, 2**15]), "a/.zarray", "claim chunks of"),
    "item": (lambda a: a.update(dtype="|S1000000000", fill_value=""), "a/.zarray", "have the dtype"),
    "coordinate": (lambda a: a.update(shape=[10**9], chunks=[10**9]), "y/.zarray", "length that is not a number"),
    "coordinate of texts": (lambda a: a.update(shape=[2**24], chunks=[2**17], dtype="<U900", fill_value=""), "y/.zarray", "claim a coordinate"),
    "coordinate in chunks": (lambda a: a.update(shape=[2**22], chunks=[1]), "y/.zarray", "claim a coordinate"),
    "chunks": (lambda a: a.update(shape=[3, 2**20, 2**20], chunks=[3, 1, 1]), "a/.zarray", "chunks, and the maximum"),
    "sides": (lambda a: a.update(shape=[3, 2**40, 2**40], chunks=[3, 9, 9]), "a/.zarray", "length that is not a number"),
    "negative": (lambda a: a.update(chunks=[3, -1, 64]), "a/.zarray", "length that is not a number"),
    "nothing": (lambda a: a.update(chunks=[3, 0, 64]), "a/.zarray", "do not belong together"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGE)
def test_a_store_of_a_kilobyte_takes_no_gigabytes(tmp_path, pixels, kind):
    change, name, words = HUGE[kind]
    path = rewritten(store(tmp_path / "a.zarr", pixels), change, name)
    refused(path, words)
    if kind == "chunk":
        assert open_image(path, max_block_bytes=2**33).shape == (3, 300, 420)


def test_large_metadata_links_and_keys_outside_are_refused(tmp_path, pixels):
    path = store(tmp_path / "a.zarr", pixels, compressor=None)
    (tmp_path / "secret").write_bytes(b"secret" * 2048)
    chunk = path / "a" / "0.0.0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret")
    report = geotile.detect(str(path), crowd, tile_size=60, overlap=0).attrs["report"]
    grid = geotile.plan(str(path), tile_size=60, overlap=0).grid
    assert [failure.tile for failure in report.failures] == [n for n, w in grid.tiles() if w.y0 < 64 and w.x0 < 64]
    assert "outside the store" in report.failures[0].reason
    outside = {"zarr_consolidated_format": 1, "metadata": {"../other/.zarray": {}}}
    (path / ".zmetadata").write_text(json.dumps(outside))
    refused(path, "outside the store")
    (path / ".zmetadata").write_text(" " * 2**25)
    refused(path, "has more than 16,777,216 bytes")


@pytest.mark.timeout(60)
def test_a_pipe_in_a_store_is_refused(tmp_path, pixels):
    path = store(tmp_path / "a.zarr", pixels, compressor=None)
    (path / "a" / "0.1.2").unlink()
    os.mkfifo(path / "a" / "0.1.2")
    fails_its_tiles_alone(open_image(path), pixels, "is not a file")
    for name in ("zarr.json", "a/.zattrs"):
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)
        refused(path, "is not a file")
        (path / name).unlink()


def fails_its_tiles_alone(image, pixels, said=""):
    """The tiles on the chunk (1, 2) fail, and all others are what they are."""
    seen = []
    with pytest.warns(geotile.FailedTilesWarning):
        found = geotile.detect(image, lambda tile: (seen.append(tile.copy()), ([], []))[1], tile_size=40, overlap=8)
    report, grid = found.attrs["report"], geotile.plan(image, tile_size=40, overlap=8).grid
    hit = [n for n, w in grid.tiles() if w.y0 < 128 and w.y1 > 64 and w.x0 < 192 and w.x1 > 128]
    assert [failure.tile for failure in report.failures] == hit
    real = {pixels[:, w.y0 : w.y1, w.x0 : w.x1].tobytes() for n, w in grid.tiles() if n not in hit}
    assert {tile.tobytes() for tile in seen} == real
    assert all("cannot read rows" in failure.reason and said in failure.reason for failure in report.failures)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("damage", ["cut off", "noise", "empty", "larger"])
def test_a_damaged_chunk_fails_its_tiles_as_a_damaged_block_does(tmp_path, pixels, version, damage):
    path = store(tmp_path / "a.zarr", pixels, version)
    chunk = path / "a" / ("0.1.2" if version == 2 else "c/0/1/2")
    data = chunk.read_bytes()
    chunk.write_bytes({
        "cut off": data[: len(data) // 2], "noise": os.urandom(len(data)), "empty": b"", "larger": os.urandom(2**20),
    }[damage])  # fmt: skip
    fails_its_tiles_alone(str(path), pixels)


BOMBS = {
    "zlib": (numcodecs.Zlib(), zlib.compress(bytes(2**26), 9) * 1),
    "gzip": (numcodecs.GZip(), gzip.compress(bytes(2**22)) * 16),
    "bz2": (numcodecs.BZ2(), bz2.compress(bytes(2**25))),
    "lzma": (numcodecs.LZMA(), lzma.compress(bytes(2**25))),
    "lz4": (numcodecs.LZ4(), struct.pack("<I", 2**31 - 1) + b"\x1f\x00" * 8),
    "zstd": (numcodecs.Zstd(), numcodecs.Zstd().encode(bytes(2**25))),
    "zstd without its size": (numcodecs.Zstd(), b"\x28\xb5\x2f\xfd\x00\x58" + (b"\x02\x00\x10\x00" * 255) + b"\x03\x00\x10\x00"),
    "blosc": (numcodecs.Blosc("zstd"), numcodecs.Blosc("zstd").encode(bytes(2**25))),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_chunk_that_would_become_gigabytes_fails_its_tiles(tmp_path, pixels, name):
    codec, bomb = BOMBS[name]
    path = store(tmp_path / "a.zarr", pixels, 2, codec)
    np.testing.assert_array_equal(open_image(path, max_block_bytes=2**24), pixels)
    (path / "a" / "0.1.2").write_bytes(bomb)
    image = open_image(path, max_block_bytes=2**24)
    fails_its_tiles_alone(image, pixels, "becomes more than 16,777,216 (max_block_bytes)")


def test_a_filter_can_hide_no_bomb(tmp_path, pixels):
    path = store(tmp_path / "a.zarr", pixels, 2, numcodecs.Zlib())
    whole = json.loads((path / "a/.zarray").read_text())
    rewritten(path, lambda array: array.update(filters=[{"id": "zlib", "level": 1}]))
    refused(path, "as a filter")
    codecs = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]
    path3 = store(tmp_path / "3.zarr", pixels, 3)
    for more in (
        codecs[1],
        {"name": "numcodecs.zlib"},
        {"name": "numcodecs.shuffle"},
        {"name": "numcodecs.crc32"},
        {"name": "zstd"},
    ):
        rewritten(path3, lambda array, more=more: array.update(codecs=[*codecs, more]), "a/zarr.json")
        refused(path3, "after the compressor")
    rewritten(path, lambda array: array.update(whole, filters=[{"id": "packbits"}] * 6, compressor=None, dtype="|b1"))
    (path / "a" / "0.1.2").write_bytes(b"\0" * 2**16)  # 8 to the power of 6 times as much when it is decoded
    grow = {"id": "astype", "encode_dtype": "|u1", "decode_dtype": "<c16"}
    for filters in ([{"id": "packbits"}] * 6, [grow] * 4):
        rewritten(path, lambda array, filters=filters: array.update(filters=filters, dtype="|u1"))
        with pytest.raises(GeotileError, match="becomes more than"):
            np.asarray(open_image(path)[:, 64:128, 128:192])


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_shard_can_hide_no_bomb(tmp_path, pixels, location):
    array = zarr.create_array(
        str(tmp_path / "a.zarr" / "a"), shape=pixels.shape, chunks=(3, 32, 32), dtype=pixels.dtype, dimension_names=("band", "y", "x"),
        shards={"shape": (3, 64, 64), "index_location": location}, compressors=zarr.codecs.GzipCodec(),
    )  # fmt: skip
    zarr.open_group(str(tmp_path / "a.zarr"), mode="a")
    array[:] = pixels
    image = open_image(tmp_path / "a.zarr", max_block_bytes=2**22)
    np.testing.assert_array_equal(image, pixels)
    shard = tmp_path / "a.zarr" / "a" / "c" / "0" / "1" / "2"
    bomb = gzip.compress(bytes(2**25), 9)
    start = 0 if location == "end" else 68
    index = struct.pack("<8Q", *[start, len(bomb)] * 4)
    index += struct.pack("<I", google_crc32c.value(index))
    shard.write_bytes(bomb + index if location == "end" else index + bomb)
    fails_its_tiles_alone(image, pixels, "becomes more than 4,194,304")
    with pytest.raises(GeotileError, match="becomes more than 4,194,304"):  # a part of the shard
        np.asarray(image[:, 70:80, 130:140])
    rewritten(tmp_path / "a.zarr", lambda a: a["codecs"].append({"name": "crc32c"}), "a/zarr.json")
    refused(tmp_path / "a.zarr", "with further codecs")


def test_a_cluster_a_crop_and_a_stretch_read_the_same(tmp_path, pixels, workers):
    path = store(tmp_path / "a.zarr", pixels, 3)
    image = pickle.loads(pickle.dumps(open_image(path)))
    np.testing.assert_array_equal(image[:, 50:200, 7:333], pixels[:, 50:200, 7:333])
    np.testing.assert_array_equal(image.isel(band=[2, 0]), pixels[[2, 0]])
    low, high = np.percentile(pixels[0], (2, 98))
    assert (
        abs(
            int(geotile.stretch(image, (2, 98))[0, 0, 0])
            - np.clip((pixels[0, 0, 0] - low) / (high - low) * 255, 0, 255)
        )
        < 3
    )
    want = geotile.detect(str(path), crowd, tile_size=64, overlap=16)
    with workers.as_current():
        assert geotile.detect(str(path), crowd, tile_size=64, overlap=16)[COLUMNS].equals(want[COLUMNS])


def test_axes_in_the_order_of_the_store_and_of_other_names(tmp_path, pixels):
    image = xr.DataArray(pixels, dims=("band", "y", "x"), name="a")
    for order in (("y", "x", "band"), ("x", "band", "y")):
        path = str(tmp_path / f"{''.join(order)}.zarr")
        chunks = {"band": 2, "y": 50, "x": 70}
        stored = image.transpose(*order).rename(y="lat", x="lon")
        how = {"chunks": [chunks[axis] for axis in order]}
        stored.to_dataset().to_zarr(path, encoding={"a": how})
        opened = open_image(path)
        assert opened.chunks[1:] == ((50,) * 6, (70,) * 6)
        np.testing.assert_array_equal(opened, pixels)
    image[0].to_dataset().to_zarr(tmp_path / "flat.zarr")
    np.testing.assert_array_equal(open_image(tmp_path / "flat.zarr"), pixels[0])
    np.testing.assert_array_equal(open_image(tmp_path / "flat.zarr")[3:50, 9:40], pixels[0, 3:50, 9:40])


# a fuzzer of metadata

NONSENSE = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(), st.text(max_size=5),
    st.sampled_from([
        "|O", "<U1000000000", "|V1000000000", "<f8", "|u1", "<M8[ns]", "pickle", "zlib", "vlen-utf8", "json2", "numcodecs.pickle",
        "sharding_indexed", "structured", "raw_bytes", "r8000000000", "fixed_length_utf32", "../..", "float64", "NaN",
        [2**30], [1, 1, 1], [0, 0, 0], {}, [], {"id": "pickle"}, [{"id": "pickle"}], [{"name": "numcodecs.pickle"}],
        {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**40}}, {"id": "blosc", "clevel": 2**70},
        [["a", "|O"]], {"id": "categorize", "labels": [], "dtype": "|O"}, {"name": "regular", "configuration": {"chunk_shape": [2**40]}},
    ]),
)  # fmt: skip


def places(document, path=()):
    """Yield where a value of a document is."""
    yield path
    for key in document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        yield from places(document[key], (*path, key))


def put(document, path, value):
    if not path:
        return value
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return document


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    stores = []
    for version in (2, 3):
        path = folder / f"{version}.zarr"
        xr.DataArray(
            image, dims=("band", "y", "x"), name="a", coords={"y": np.arange(4.0), "x": np.arange(4.0), "band": ["r", "g", "b"]},
        ).rio.write_crs("EPSG:32631").to_dataset().to_zarr(path, zarr_format=version, consolidated=True)  # fmt: skip
        for chunk in [each for each in path.rglob("*") if each.is_file() and "z" not in each.name]:
            chunk.write_bytes(pickle.dumps(Evil(folder / "ran")) if chunk.parent.name == "a" else chunk.read_bytes())
        documents = {
            str(each.relative_to(path)): json.loads(each.read_text())
            for each in path.rglob("*") if each.is_file() and "z" in each.name
        }  # fmt: skip
        stores.append((path, documents))
    return folder, stores


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_any_metadata_are_read_or_refused(fuzzed, data):
    folder, stores = fuzzed
    path, documents = data.draw(st.sampled_from(stores))
    name = data.draw(st.sampled_from(sorted(documents)))
    document = copy.deepcopy(documents[name])
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from(list(places(document))))
        document = put(document, where, copy.deepcopy(data.draw(NONSENSE)))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    (path / name).write_text(json.dumps(document))
    try:
        open_image(path, subdataset="a").compute()
    except GeotileError:
        pass
    finally:
        (path / name).write_text(json.dumps(documents[name]))
    assert not (folder / "ran").exists()
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024  # a chunk of 512 MiB is allowed
