"""Files that claim too much, or hold blocks that cannot be decoded: bounded memory, and no block tried for each tile."""

import struct
import zlib

import dask
import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as copy_file

import geotile
from geotile import ArgumentError, ImageOpenError, open_image
from geotile.imagery.damaged import _failed
from geotile.imagery.source import Source

pytestmark = pytest.mark.slow

SHORT, LONG = 3, 4


def tiff(path, *directories) -> str:
    """Write a little-endian TIFF of directories, {tag: (type, value, ...)}, without any pixels."""
    data = bytearray(b"II*\0\x08\0\0\0")
    for number, tags in enumerate(directories):
        entries = b""
        for tag, (kind, *values) in sorted(tags.items()):
            packed = struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values)
            assert len(packed) <= 4
            entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
        end = len(data) + 2 + len(entries) + 4
        data += struct.pack("<H", len(tags)) + entries
        data += struct.pack("<I", end if number + 1 < len(directories) else 0)
    path.write_bytes(bytes(data))
    return str(path)


def directory(side, block, kind=0, bits=8):
    """The tags of a deflated TIFF of one band."""
    return {
        254: (LONG, kind), 256: (LONG, side), 257: (LONG, side), 258: (SHORT, bits), 259: (SHORT, 8),
        262: (SHORT, 4 if kind & 4 else 1), 277: (SHORT, 1), 322: (LONG, block), 323: (LONG, block), 324: (LONG, 8),
        325: (LONG, 9),
    }  # fmt: skip


def jpeg2000(tmp_path, side, code_block="4") -> bytes:
    """A small JPEG 2000 whose header claims another size."""
    small = str(tmp_path / "small.tif")
    with rasterio.open(small, "w", driver="GTiff", width=256, height=256, count=1, dtype="uint8") as file:
        file.write(np.zeros((1, 256, 256), np.uint8))
    how = {"CODEBLOCK_WIDTH": code_block, "CODEBLOCK_HEIGHT": code_block}
    copy_file(small, str(tmp_path / "small.jp2"), driver="JP2OpenJPEG", BLOCKXSIZE="256", BLOCKYSIZE="256", **how)
    data = bytearray((tmp_path / "small.jp2").read_bytes())
    struct.pack_into(">8I", data, data.find(b"\xff\x4f\xff\x51") + 8, side, side, 0, 0, side, side, 0, 0)
    struct.pack_into(">2I", data, data.find(b"ihdr") + 4, side, side)
    return bytes(data)


def in_nitf(codestream: bytes, tmp_path, side) -> bytes:
    """A NITF of 256 x 256 pixels as JPEG 2000, with another codestream and size."""
    path = str(tmp_path / "small.ntf")
    copy_file(str(tmp_path / "small.tif"), path, driver="NITF", IC="C8")
    data = bytearray((tmp_path / "small.ntf").read_bytes())
    data = data[: data.find(b"\xff\x4f\xff\x51")] + codestream[codestream.find(b"\xff\x4f\xff\x51") :]
    for old, new in ((b"0000025600000256", f"{side:08}{side:08}"), (b"00010001" + b"0256" * 2, "00010001" + "0" * 8)):
        assert old in data
        data = data.replace(old, new.encode(), 1)
    lengths, at = len(codestream) - codestream.find(b"\xff\x4f\xff\x51"), 363 + 6
    data[at : at + 10] = f"{lengths:010}".encode()
    data[342:354] = f"{len(data):012}".encode()
    return bytes(data)


def test_what_a_header_claims_to_decode_at_once_is_limited(tmp_path):
    """Each file has a few hundred bytes; without the limit a read would take gigabytes."""
    huge, small = 2**15, 2**10
    stream = jpeg2000(tmp_path, 30_000)
    (tmp_path / "tile.jp2").write_bytes(stream)
    (tmp_path / "tile.ntf").write_bytes(in_nitf(stream, tmp_path, 30_000))
    bombs = {
        "a block takes": tiff(tmp_path / "block.tif", directory(huge, huge)),
        "a block of overview 0 takes": tiff(tmp_path / "ovr.tif", directory(small, 256), directory(512, huge, 1)),
        "a block of its mask takes": tiff(tmp_path / "mask.tif", directory(small, 256), directory(small, huge, 4, 1)),
        "a tile of its JPEG 2000 takes": str(tmp_path / "tile.jp2"),
        "a tile of its JPEG 2000 takes ": str(tmp_path / "tile.ntf"),
    }
    for said, path in bombs.items():
        with pytest.raises(ImageOpenError, match=f"{said.strip()}.*raise max_block_bytes"):
            open_image(path)
        with pytest.raises(ImageOpenError, match="max_block_bytes=536870912"):
            geotile.detect(path, lambda tile: ([], []))
    assert open_image(bombs["a block takes"], max_block_bytes=2**30).shape == (1, huge, huge)
    assert open_image(bombs["a block of its mask takes"], max_block_bytes=2**30).shape == (1, small, small)
    (tmp_path / "usual.jp2").write_bytes(jpeg2000(tmp_path, 30_000, "64"))
    assert open_image(tmp_path / "usual.jp2").shape == (1, 30_000, 30_000)  # not every large tile is a bomb


def test_a_thousand_bands_are_no_region_without_being_asked_for(tmp_path):
    path = str(tmp_path / "bands.tif")
    profile = {"width": 4096, "height": 4096, "count": 1000, "dtype": "uint8", "interleave": "band"}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, sparse_ok=True, **profile):
        pass
    with pytest.raises(ArgumentError, match="a region would take"):
        geotile.plan(path)
    assert geotile.plan(path, bands=[1, 2, 3]).tiles == 25
    assert geotile.plan(path, region_size=2048).regions == 9


@pytest.fixture
def reads(monkeypatch):
    """The windows that are read, in order: GDAL decodes every block on them."""
    windows, read = [], Source.read

    def counting(self, window, valid=False, out=None):
        windows.append(window)
        return read(self, window, valid, out)

    monkeypatch.setattr(Source, "read", counting)
    return windows


def damaged(path, *blocks):
    """Overwrite blocks, by row and column."""
    with rasterio.open(path) as file:
        spans = [
            tuple(int(file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
            for y, x in blocks
        ]
    with open(path, "r+b") as raw:
        for offset, size in spans:
            raw.seek(offset)
            raw.write(b"\0" * size)
    return path


def failed_tiles(path, seen=None, **options):
    def look(tile):
        if seen is not None:
            seen.append(tile.copy())
        return [], []

    with pytest.warns(UserWarning, match="cannot read rows"):
        report = geotile.detect(path, look, **options).attrs["report"]
    return [failure.tile for failure in report.failures], report


def test_a_block_that_fails_is_not_tried_for_each_of_its_tiles(write_tiff, reads):
    path = write_tiff(np.random.default_rng(0).integers(0, 9, (1, 2048, 2048), np.uint8), blockxsize=1024, blockysize=1024, compress="deflate")  # fmt: skip
    damaged(path, (0, 0), (1, 1))
    grid = geotile.plan(path, tile_size=32, overlap=8).grid
    hit = [n for n, w in grid.tiles() if (w.y0 < 1024 and w.x0 < 1024) or (w.y1 > 1024 and w.x1 > 1024)]
    for region in ("auto", 1024, 2048):
        reads.clear()
        failed, report = failed_tiles(path, tile_size=32, overlap=8, region_size=region)
        assert failed == hit
        assert len(hit) > 3000
        assert len(reads) < 60, len(reads)
        assert len(report.failures) < report.tiles
        assert len(_failed) == 0  # forgotten with the run


def test_the_rest_of_a_damaged_region_is_read_once_and_right(write_tiff, noise, reads):
    path = damaged(write_tiff(noise, compress="deflate", nodata=7), (2, 2), (0, 6), (4, 0))
    seen = []
    with dask.config.set(scheduler="synchronous"):
        failed, report = failed_tiles(path, seen, tile_size=20, overlap=4, skip_nodata=True)
    grid = geotile.plan(path, tile_size=20, overlap=4).grid
    real = {noise[:, w.y0 : w.y1, w.x0 : w.x1].tobytes() for n, w in grid.tiles() if n not in set(failed)}
    assert {tile.tobytes() for tile in seen} == real
    assert len(seen) + len(failed) == report.tiles
    single = [w for w in reads if w.shape_yx[0] <= 64 and w.shape_yx[1] <= 64]
    assert len(single) <= 35


def test_a_file_of_which_nothing_can_be_read_ends_at_once(tmp_path, reads):
    """A file of 300 bytes that claims 4,096 tiles in one block, which cannot be decoded."""
    path = tiff(tmp_path / "nothing.tif", directory(16_384, 16_384))
    with open(path, "ab") as file:
        file.write(zlib.compress(b"\0" * 5000))
    failed, report = failed_tiles(path, tile_size=256, overlap=0)
    assert len(failed) == report.tiles == 4096
    assert len(reads) < 5
