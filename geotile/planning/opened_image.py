"""The image of a run: opened from a URI, or given as an array."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.imagery.file_array import file_of
from geotile.imagery.open import opened
from geotile.imagery.source import Source
from geotile.options import ImageOptions

ImageLike = Any  # str, path, STAC item, xarray.DataArray
BlockEdges = tuple[NDArray[np.int64], NDArray[np.int64]]
_MEMORY_BLOCK = 256  # an array in memory has no blocks; regions may end at every 256th pixel


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedImage:
    """An image that was given as a URI or as an array."""

    name: str
    """URI of the image, without secrets, or name of the array."""
    array: xr.DataArray
    """Image with dims (band, y, x)."""
    source: Source | None
    """File that the image is read from; None for a computed array."""
    block_edges: BlockEdges
    """Inner edges on y and x, in pixels, on which regions may end."""


def opened_image(image: ImageLike, options: ImageOptions) -> OpenedImage:
    """Return an image, opened from a URI or given as an array.

    Raises
    ------
    ArgumentError
        If it is neither a URI nor an array with the dims of an image, if its pixels are not integers or floats, or if
        options of a URI are given for an array.
    """
    array = image if isinstance(image, xr.DataArray) else _opened(image, options)
    if array is image and options.changed():
        names = sorted(options.changed())
        verb, them = ("applies", "it") if len(names) == 1 else ("apply", "them")
        raise ArgumentError(
            f"{', '.join(names)} {verb} only to a URI, and an array was given. Pass {them} to geotile.open_image"
        )
    if set(array.dims) not in ({"y", "x"}, {"band", "y", "x"}):
        raise ArgumentError(f"image must have dims (band, y, x) or (y, x); got {array.dims}. Rename its dims")
    if 0 in array.shape:
        raise ArgumentError(f"image must have at least one pixel; got the shape {dict(array.sizes)}")
    if array.dtype.kind not in "buif":
        raise ArgumentError(
            f"image must have integer or float pixels; got dtype {array.dtype}. Convert it, for example with abs(image)"
        )
    name = array.encoding.get("source") or array.name or "DataArray"
    flat = array if "band" in array.dims else array.expand_dims("band")
    flat = flat.transpose("band", "y", "x")
    source = file_of(flat)
    edges = source.block_edges if source is not None and array is not image else _block_edges(flat)
    return OpenedImage(name=redact(str(name)), array=flat, source=source, block_edges=edges)


def _opened(image: ImageLike, options: ImageOptions) -> xr.DataArray:
    if not (isinstance(image, str | os.PathLike | Mapping) or hasattr(image, "assets")):
        raise ArgumentError(f"image must be a path, a URI or an xarray.DataArray; got {type(image).__name__}")
    return opened(image, options)


def _block_edges(image: xr.DataArray) -> BlockEdges:
    """Return the edges on which regions of an array may end: those of its chunks, or every 256 pixels in memory."""
    if image.chunks is not None:
        return np.cumsum(image.chunks[-2])[:-1], np.cumsum(image.chunks[-1])[:-1]
    return tuple(np.arange(_MEMORY_BLOCK, n, _MEMORY_BLOCK) for n in (image.sizes["y"], image.sizes["x"]))  # type: ignore[return-value]  # two axes
