"""What OpenJPEG takes to decode a tile of a JPEG 2000, from the main header of its codestream (ISO/IEC 15444-1, A).

OpenJPEG decodes only the code-blocks of a window, but first makes a record of each code-block and precinct of the
tile. A file of 300 bytes may claim a tile of 30,000 x 30,000 pixels in code-blocks of 4 x 4: 14 GB of records.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import rasterio

from geotile.errors import ImageOpenError
from geotile.imagery.open_files import read_bytes
from geotile.storage.location import Location

_RECORD_BYTES = 280  # of a code-block or a precinct, measured with OpenJPEG 2.5: 212 to 265
_MAX_BOXES, _MAX_MARKERS = 1000, 1000
_SIZE, _STYLE, _COMPONENT_STYLE, _TILE_DATA = 0xFF51, 0xFF52, 0xFF53, 0xFF93  # markers
_FIRST_BYTES = b"\xff\x4f\xff\x51"
_SAFE_SAMPLES = 2**22  # a tile of so many takes at most 300 MB, however it is coded


def decoder_bytes(location: Location, file: rasterio.DatasetReader) -> int:
    """Return the most that the decoder of a JPEG 2000 takes for a tile of a file, in bytes; 0 for another codec.

    Raises
    ------
    ImageOpenError
        If the file has a JPEG 2000 whose header cannot be followed.
    OSError
        If the file cannot be read.
    """
    if file.driver == "NITF" and file.tags().get("NITF_IC") not in ("C8", "M8"):
        return 0
    path = location.file_path
    try:
        starts = _nitf_segments(path) if file.driver == "NITF" else [_codestream(path)]
        return max(_tile_bytes(path, start) for start in starts if read_bytes(path, start, 4) == _FIRST_BYTES)
    except (struct.error, ValueError, IndexError):  # it is cut off, or there is none
        raise ImageOpenError(
            f"the JPEG 2000 in {location.display_name} has a header that cannot be followed. Convert it to a COG"
        ) from None


def _codestream(path: str) -> int:
    """Return where the codestream of a JP2 file begins."""
    if read_bytes(path, 0, 4)[:2] == b"\xff\x4f":
        return 0
    offset = 0
    for _ in range(_MAX_BOXES):
        length, kind = struct.unpack(">I4s", read_bytes(path, offset, 8))
        head = 8
        if length == 1:
            head, length = 16, struct.unpack(">Q", read_bytes(path, offset + 8, 8))[0]
        if kind == b"jp2c":
            return offset + head
        if length < head:
            break
        offset += length
    raise OSError("the JP2 has no codestream where its boxes say")


def _nitf_segments(path: str) -> list[int]:
    """Return where the pixels of the image segments of a NITF 2.1 begin."""
    head = read_bytes(path, 354, 9)
    offset, count = int(head[:6]), int(head[6:])
    lengths = read_bytes(path, 363, 16 * count)
    starts = []
    for pair in re.findall(rb"(\d{6})(\d{10})", lengths):
        starts.append(offset + int(pair[0]))
        offset += int(pair[0]) + int(pair[1])
    return starts


def _segments(path: str, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield the marker segments of the main header and of the first tile-part."""
    for _ in range(_MAX_MARKERS):
        marker, length = struct.unpack(">HH", read_bytes(path, offset, 4))
        if marker == _TILE_DATA:
            return
        yield marker, read_bytes(path, offset + 4, length - 2) if length > 2 else b""
        offset += 2 + length
    raise OSError(f"the JPEG 2000 has more than {_MAX_MARKERS} segments in its header")


def _tile_bytes(path: str, start: int) -> int:
    """Return the most that decoding a tile takes, in bytes."""
    tile_yx, components = (0, 0), 1
    styles: list[tuple[bool, int, bytes]] = []
    for marker, body in _segments(path, start + 2):
        if marker == _SIZE:
            width, height, x0, y0, tile_x, tile_y = struct.unpack_from(">6I", body, 2)
            tile_yx = min(tile_y, height - y0), min(tile_x, width - x0)
            components = int(struct.unpack_from(">H", body, 34)[0])
            if tile_yx[0] * tile_yx[1] * components <= _SAFE_SAMPLES:
                return 4 * tile_yx[0] * tile_yx[1] * components
        elif marker == _STYLE:
            styles.append((bool(body[0] & 1), struct.unpack_from(">H", body, 2)[0], body[5:]))
        elif marker == _COMPONENT_STYLE:
            wide = components > 256
            styles.append((bool(body[1 + wide] & 1), 1, body[2 + wide :]))
    records = max((_records(tile_yx, *style) for style in styles), default=0)
    return components * max(4 * min(tile_yx[0] * tile_yx[1], 2**20), _RECORD_BYTES * records)


def _records(tile_yx: tuple[int, int], has_precincts: bool, layers: int, style: bytes) -> int:
    """Return the number of code-blocks and precincts of one component of a tile."""
    levels, block_x, block_y = style[0], (style[1] & 15) + 2, (style[2] & 15) + 2
    records = 0
    for level in range(min(levels, 32) + 1):
        precinct = style[5 + level] if has_precincts and len(style) > 5 + level else 0xFF
        exponents = precinct & 15, precinct >> 4
        size = [-(-n >> (levels - level)) if n else 0 for n in tile_yx]
        inner = level > 0
        cells = [
            -(-n >> max(0, min(block, exponent - inner)))
            for n, block, exponent in zip(size, (block_y, block_x), exponents[::-1], strict=True)
        ]
        precincts = [-(-n >> exponent) for n, exponent in zip(size, exponents[::-1], strict=True)]
        records += cells[0] * cells[1] + precincts[0] * precincts[1] * (1 + layers // 64)
    return records
