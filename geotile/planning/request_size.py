"""Whether a tile fits into a request."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from geotile.encoding.encoder import Encoder
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Window
from geotile.options import TileFormat

_BY_CONTENT = ("PNG", "JPEG")  # the size of all others is known without pixels


def must_fit(endpoint: Endpoint, encoder: Encoder, shape: tuple[int, int, int], dtype: np.dtype[np.generic]) -> None:
    """Refuse tiles that are larger than the endpoint takes, and name what fits.

    What PNG and JPEG come to depends on the pixels: they are refused only when a tile is sent.

    Parameters
    ----------
    endpoint : Endpoint
    encoder : Encoder
    shape : tuple of int
        (band, y, x) of a tile.
    dtype : numpy.dtype

    Raises
    ------
    ArgumentError
        If they are.
    """
    limit = endpoint.max_request_bytes
    if limit is None or not endpoint.wants_bytes or encoder.format in _BY_CONTENT or encoder.compression != "NONE":
        return
    size = _encoded(encoder, np.zeros(shape, dtype))
    if size <= limit:
        return
    side = math.isqrt(int(0.98 * limit) // (shape[0] * dtype.itemsize))
    raise ArgumentError(
        f"a tile of {shape[1]} x {shape[2]} pixels is {size:,} bytes as {encoder.format}, more than the {limit:,} that "
        f"{endpoint} takes (max_request_bytes=); {_what_fits(encoder, shape, dtype, limit)}tile_size={side} fits"
    )


def _what_fits(encoder: Encoder, shape: tuple[int, int, int], dtype: np.dtype[np.generic], limit: int) -> str:
    """Say which formats hold the tile within the limit: the worst of all pixels are noise."""
    top = 255 if dtype.itemsize == 1 else 65535
    noise = np.random.default_rng(0).integers(0, top, shape).astype(dtype)
    fit, may = [], []
    for name in get_args(TileFormat):
        other = replace(encoder, format=name, compression="NONE")
        try:
            other.check(dtype.name, shape[0])
        except ArgumentError:
            continue
        if _encoded(other, noise) <= limit:
            fit.append(name)
        elif name in _BY_CONTENT:
            may.append(name)
    said = [f"tile_format={name!r} fits" for name in fit] + [
        f"tile_format={name!r} may fit, by content" for name in may
    ]
    return "".join(f"{each}; " for each in said)


def _encoded(encoder: Encoder, pixels: NDArray[np.generic]) -> int:
    return len(encoder.encode(pixels, Window(0, pixels.shape[1], 0, pixels.shape[2])))
