"""How large a compressed chunk of a Zarr store becomes, known before it is decoded.

A decoder allocates what the compressed bytes claim, or grows without an end: a megabyte of gzip holds a gigabyte.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geotile.errors import ImageReadError

_STEP = 2**20
_CHECKSUM_BYTES = 64  # what filters add
_MAX_DEFLATE_RATIO = 1032
_ZSTD_BLOCK_BYTES = 2**17
_ZSTD_MAGIC, _BLOSC_HEAD = b"\x28\xb5\x2f\xfd", 16


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How the chunks of an array are coded."""

    compressor: str = ""
    """Name of the compressor, as numcodecs names it; "" without one."""
    growth: int = 1
    """How many times larger than what is decompressed the filters can make it."""
    chunks: int = 0
    """Number of chunks in a shard; 0 without shards."""
    index_bytes: int = 0
    """Size of the index of a shard."""
    index_first: bool = False
    """Whether a shard begins with its index, not ends with it."""


def check_stored(data: Any, coding: Coding, limit: int, whole: bool = True) -> None:
    """Raise ImageReadError if a chunk, or one of a shard, becomes larger than a limit in bytes.

    Parameters
    ----------
    data : buffer
        What the store holds, or the part of a shard that is one of its chunks.
    coding : Coding
    limit : int
    whole : bool
        Whether the data are the whole of what is stored.
    """
    view = memoryview(data).cast("B")
    if not (coding.chunks and whole):
        check_chunk(view, coding, limit)
    elif len(view) >= coding.index_bytes:  # otherwise it is cut off, and zarr says so
        start = 0 if coding.index_first else len(view) - coding.index_bytes
        index = struct.unpack_from(f"<{2 * coding.chunks}Q", view, start)
        for first, length in zip(index[::2], index[1::2], strict=True):
            check_chunk(view[first : first + length], coding, limit)  # empty, where there is no such chunk


def check_chunk(view: memoryview, coding: Coding, limit: int) -> None:
    """Raise ImageReadError if a compressed chunk becomes larger than a limit in bytes.

    Parameters
    ----------
    view : memoryview
        Compressed bytes.
    coding : Coding
    limit : int
    """
    if not len(view):
        return
    room = limit // coding.growth + (0 if coding.growth == 1 else _CHECKSUM_BYTES)
    if _decompressed_bytes(view, coding, room) > room:
        raise ImageReadError(
            f"a chunk of {len(view):,} bytes becomes more than {limit:,} (max_block_bytes) when it is decompressed"
        )


def _decompressed_bytes(view: memoryview, coding: Coding, limit: int) -> int:
    """Return the size of what a chunk becomes, or a number above the limit; 0 where that is below it for sure."""
    compressor = coding.compressor
    if compressor == "blosc":
        stored = int.from_bytes(view[12:16], "little")
        if len(view) < max(stored, _BLOSC_HEAD):  # c-blosc would read beyond the end
            raise ImageReadError(f"a chunk of {len(view):,} bytes is cut off: its header says {stored:,}")
        return int.from_bytes(view[4:8], "little")
    if compressor == "lz4":
        return int.from_bytes(view[:4], "little")
    if compressor == "zstd":
        return _zstd_bytes(view)
    if compressor in ("zlib", "gzip"):
        few = len(view) * _MAX_DEFLATE_RATIO <= limit
        return 0 if few else _counted(lambda: zlib.decompressobj(47), view, limit)
    if compressor == "bz2":
        return _counted(bz2.BZ2Decompressor, view, limit)
    if compressor == "lzma":
        return _counted(lzma.LZMADecompressor, view, limit)
    return 0 if coding.growth == 1 else len(view)


def _counted(start: Callable[[], Any], view: memoryview, limit: int) -> int:
    """Return the size of what is decompressed, or a number above the limit; keeps a step of it at a time."""
    size, rest, decompressor = 0, bytes(view), start()
    try:
        while size <= limit:
            size += (step := len(decompressor.decompress(rest, _STEP)))
            rest = getattr(decompressor, "unconsumed_tail", b"")
            if decompressor.eof:
                if not (rest := decompressor.unused_data):
                    break
                decompressor = start()  # several streams may follow one another
            elif not step and not rest:
                break
    except (zlib.error, OSError, EOFError, lzma.LZMAError):
        pass  # it is damaged or padded, and the decoder says so
    return size


def _zstd_bytes(view: memoryview) -> int:
    """Return the most that the blocks of the frames can hold (RFC 8878, 3.1.1), or what the first frame claims."""
    size = at = 0
    while bytes(view[at : at + 4]) == _ZSTD_MAGIC and at + 6 <= len(view):
        flags = view[at + 4]
        single, id_bytes = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
        size_bytes = (single, 2, 4, 8)[flags >> 6]
        at += 5 + (not single) + id_bytes
        claimed = int.from_bytes(view[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)
        at += size_bytes
        blocks = last = 0
        while not last and at + 3 <= len(view):
            head = int.from_bytes(view[at : at + 3], "little")
            last, kind, length = head & 1, head >> 1 & 3, head >> 3
            at += 3 + (1 if kind == 1 else length)
            blocks += 1
        at += 4 * (flags >> 2 & 1)
        size += max(claimed, blocks * _ZSTD_BLOCK_BYTES if not size_bytes else 0)
    return size
