"""The size of a tile in a request, compared with the maximum of the endpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from geotile.core.choices import TileFormat
from geotile.encoding.encoder import Encoder
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Window

_CONTENT_DEPENDENT = ("PNG", "JPEG")  # the size in all other formats is known without pixels


def check_request_size(
    endpoint: Endpoint, encoder: Encoder, shape: tuple[int, int, int], dtype: np.dtype[np.generic]
) -> None:
    """Check that tiles are not larger than the maximum request size of the endpoint.

    The size of PNG and JPEG tiles depends on the pixels, so these are only checked when a tile is sent.

    Parameters
    ----------
    endpoint : Endpoint
    encoder : Encoder
    shape : tuple of int
        (band, y, x) of a tile.
    dtype : numpy.dtype
        Dtype of the pixels.

    Raises
    ------
    ArgumentError
        If the tiles are too large; the message names tile sizes and formats that fit.
    """
    limit = endpoint.max_request_bytes
    if (
        limit is None
        or not endpoint.wants_bytes
        or encoder.format in _CONTENT_DEPENDENT
        or encoder.compression != "NONE"
    ):
        return
    size = _encoded_bytes(encoder, np.zeros(shape, dtype))
    if size <= limit:
        return
    side = math.isqrt(int(0.98 * limit) // (shape[0] * dtype.itemsize))
    raise ArgumentError(
        f"a tile of {shape[1]} x {shape[2]} pixels takes {size:,} bytes as {encoder.format}; {endpoint} accepts at "
        f"most {limit:,} (max_request_bytes=). Use {_suggestions(encoder, shape, dtype, limit)}tile_size={side}"
    )


def _suggestions(encoder: Encoder, shape: tuple[int, int, int], dtype: np.dtype[np.generic], limit: int) -> str:
    """Return the formats that fit the limit as text; noise is the worst case of compression."""
    high = 255 if dtype.itemsize == 1 else 65535
    noise = np.random.default_rng(0).integers(0, high, shape).astype(dtype)
    fits, may_fit = "", ""
    for name in get_args(TileFormat):
        other = replace(encoder, format=name, compression="NONE")
        try:
            other.check(dtype.name, shape[0])
        except ArgumentError:
            continue
        if _encoded_bytes(other, noise) <= limit:
            fits += f"tile_format={name!r}, "
        elif name in _CONTENT_DEPENDENT:
            may_fit += f"tile_format={name!r} (fits only if the pixels compress well), "
    text = fits + may_fit
    return f"{text[:-2]} or " if text else ""


def _encoded_bytes(encoder: Encoder, pixels: NDArray[np.generic]) -> int:
    return len(encoder.encode(pixels, Window(0, pixels.shape[1], 0, pixels.shape[2])))
