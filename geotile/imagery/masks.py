"""Validity of pixels: nodata values, NaN, masks, and blocks that are missing in the file."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import rasterio
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags

from geotile.core.checks import Pair
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Window

_NODATA_ATTRIBUTES = ("_FillValue", "missing_value", "fill_value", "nodata", "nodatavals")  # rioxarray's, in its order


def has_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return whether any band of a pixel is neither nodata nor NaN.

    Parameters
    ----------
    values : numpy.ndarray
        (band, y, x).
    nodata : float or None

    Returns
    -------
    numpy.ndarray or None
        (y, x) bool; None if all pixels are valid because there is neither a nodata value nor a float dtype.
    """
    floating = values.dtype.kind == "f"
    if nodata is None and not floating:
        return None
    valid = np.zeros(values.shape[1:], bool)
    for band in values:
        data = ~np.isnan(band) if floating else np.ones(band.shape, bool)
        if nodata is not None and not np.isnan(nodata):
            data &= band != (band.dtype.type(nodata) if floating else nodata)
        valid |= data
    return valid


def nodata_of(image: xr.DataArray) -> float | None:
    """Return the nodata value of an image; None if it has none, or one that its dtype cannot hold.

    Raises
    ------
    ArgumentError
        If it is not a number.

    Examples
    --------
    >>> image = xr.DataArray(np.zeros((1, 2, 2), np.uint8), dims=("band", "y", "x"))
    >>> nodata_of(image.assign_attrs(_FillValue=0)), nodata_of(image.assign_attrs(_FillValue=-9999))
    (0.0, None)
    """
    try:
        value = image.rio.nodata
        return None if value is None else float(value)
    except (OverflowError, ValueError, TypeError):  # rioxarray's, of a value that is none of the dtype
        given = next((image.attrs[name] for name in _NODATA_ATTRIBUTES if name in image.attrs), None)
    if given is None or (isinstance(given, Real | np.number) and image.dtype.kind in "iu"):
        return None  # such as that of the dtype before astype, or NaN of values that were masked
    raise ArgumentError(
        f"the nodata value of the image must be a number; got {given!r}. Set it with image.rio.write_nodata"
    )


def has_mask(file: rasterio.DatasetReader) -> bool:
    """Return whether a file has a mask of its own, or an alpha band."""
    flags = {flag for band in file.mask_flag_enums for flag in band}
    return MaskFlags.per_dataset in flags or MaskFlags.alpha in flags


def alpha_band(file: rasterio.DatasetReader) -> int | None:
    """Return the number of an alpha band that GDAL does not take for the mask, None if there is none."""
    if has_mask(file) or file.count < 2 or ColorInterp.alpha not in file.colorinterp:
        return None
    return int(file.colorinterp.index(ColorInterp.alpha)) + 1


def missing_blocks(
    file: rasterio.DatasetReader, bands: Sequence[int], window: Window, block_yx: Pair
) -> NDArray[np.bool_]:
    """Return which blocks on a window of a sparse TIFF are missing in the file.

    rasterio keeps the interpreter's lock while GDAL looks up the offset of a block, so the look-up must not have to
    fetch anything: call this before reading a local file, or after reading the same blocks.

    Parameters
    ----------
    file : rasterio.DatasetReader
    bands : sequence of int
        Numbers of the bands, from 1, of which all must be missing.
    window : Window
        Window of the file in pixels.
    block_yx : tuple of int
        Height and width of a block in pixels.

    Returns
    -------
    numpy.ndarray
        (blocks down, blocks across) bool, from the block that contains the first pixel of the window.
    """
    (y0, y1), (x0, x1) = (
        (start // size, -(-stop // size))
        for start, stop, size in zip(window[::2], window[1::2], block_yx, strict=True)
    )  # fmt: skip
    missing = [
        all(file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band) is None for band in bands)
        for y in range(y0, y1)
        for x in range(x0, x1)
    ]
    return np.array(missing, bool).reshape(y1 - y0, x1 - x0)


def spread_blocks(blocks: NDArray[np.bool_], window: Window, block_yx: Pair) -> NDArray[np.bool_]:
    """Return one value per pixel of a window, (y, x) bool, from one value per block."""
    y0, x0 = window.y0 % block_yx[0], window.x0 % block_yx[1]
    height, width = window.shape_yx
    rows = (np.arange(y0, y0 + height) // block_yx[0])[:, None]
    columns = (np.arange(x0, x0 + width) // block_yx[1])[None, :]
    return np.asarray(blocks[rows, columns])
