"""What GDAL decodes at once, as the header of a file says, held below a limit before a pixel is read.

The header is all that a decompression bomb needs: a TIFF of a kilobyte can claim one block of gigabytes, and a
JPEG 2000 a tile whose code-blocks take more memory than its pixels. Drivers that guard themselves (JPEG, PNG, GIF and
BMP decode by rows, or compare with the size of the file) need no rule here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import rasterio
from rasterio.enums import Interleaving, MaskFlags

from geotile.core.rasterio_env import READ_ERRORS
from geotile.errors import ImageOpenError
from geotile.imagery.jpeg2000 import decoder_bytes
from geotile.imagery.open_files import open_file
from geotile.storage.location import Location

MAX_BLOCK_BYTES = 2**29
_DECODED_WHOLE = ("WEBP", "GRIB", "USGSDEM")  # whatever blocks GDAL presents
_MAX_DIRECTORIES = 100


def check_blocks(location: Location, file: rasterio.DatasetReader, allow_vrt: bool, limit: int) -> None:
    """Raise ImageOpenError if decoding a block of a file may take more than a limit in bytes."""
    claims = {"a block": _block_bytes(file)}
    if file.driver in ("GTiff", "COG"):
        claims |= _further_directories(location, file, allow_vrt)
    elif file.driver in ("JP2OpenJPEG", "NITF"):
        claims["a tile of its JPEG 2000"] = decoder_bytes(location, file)
    what, size = max(claims.items(), key=lambda claim: claim[1])
    if size > limit:
        raise ImageOpenError(
            f"the header of {location.display_name} claims that {what} takes {size / 2**20:,.0f} MiB in memory, and "
            f"the maximum is {limit / 2**20:,.0f} MiB (max_block_bytes={limit}). If you trust the image, raise "
            f"max_block_bytes to {size} or more, or convert it to a COG with blocks of 512 pixels"
        )


def _block_bytes(file: rasterio.DatasetReader) -> int:
    """Return the size of the largest block, all the bands that are decoded with it included."""
    together = file.interleaving is Interleaving.pixel
    sizes = []
    for (height, width), dtype in zip(file.block_shapes, file.dtypes, strict=True):
        pixels = file.height * file.width if file.driver in _DECODED_WHOLE else height * width
        sizes.append(pixels * max(_itemsize(dtype), 8 if file.driver == "GRIB" else 1))
    return sum(sizes) if together or file.driver == "WEBP" else max(sizes)


def _further_directories(location: Location, file: rasterio.DatasetReader, allow_vrt: bool) -> dict[str, int]:
    """Return what blocks of overviews and of masks take: each directory of a TIFF has blocks of its own size."""
    claims = {}
    for level in range(min(len(file.overviews(1)), _MAX_DIRECTORIES)):
        with suppress(*READ_ERRORS), open_file(location, allow_vrt, overview_level=level) as overview:
            claims[f"a block of overview {level}"] = _block_bytes(overview)
    if any(MaskFlags.per_dataset in flags for flags in file.mask_flag_enums):
        for path in _mask_paths(location.file_path):
            try:
                with open_file(replace(location, path=path), allow_vrt=False) as mask:
                    claims["a block of its mask"] = max(_block_bytes(mask), claims.get("a block of its mask", 0))
            except READ_ERRORS:
                break  # there are no more
    return claims


def _mask_paths(path: str) -> Iterator[str]:
    """Yield the names of the places where GDAL may find a mask: a file beside a TIFF, or a directory in it."""
    if os.path.exists(f"{path}.msk"):
        yield f"{path}.msk"
    yield from (f"GTIFF_DIR:{number}:{path}" for number in range(1, _MAX_DIRECTORIES))


def _itemsize(dtype: str) -> int:
    """Return the size of a value of a dtype that rasterio names, in bytes."""
    return np.dtype(dtype.replace("complex_int16", "int32")).itemsize
