"""A small picture of an image, without reading the image in full."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.imagery.file_array import source_of

_MAX_READ_PX = 2**25  # pixels of a band that are read for a picture at most, as of 5,793 x 5,793


def overview(image: xr.DataArray, max_side: int) -> NDArray[Any] | None:
    """Return an image with about `max_side` pixels a side, (band, y, x).

    Parameters
    ----------
    image : xarray.DataArray
        Image with dims (band, y, x).
    max_side : int

    Returns
    -------
    numpy.ndarray or None
        None if it would have to be computed, or is a large file without overviews that are small.

    Raises
    ------
    ImageReadError
        If the file cannot be read.
    """
    source = source_of(image.data)
    if source is not None:
        read = prod(image.shape[1:]) * prod(source.scale_yx) / max((1, *source.overviews)) ** 2
        return source.thumbnail(max_side).values if read <= _MAX_READ_PX else None
    if not isinstance(image.data, np.ndarray):
        return None
    step = -(-max(image.shape[1:]) // max_side)
    return np.asarray(image.data[:, ::step, ::step])
