"""Where pixels are data: nodata, NaN, masks, blocks that are not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags

from geotile.core.checks import Pair
from geotile.grid.tile_grid import Window


def has_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where any band is neither nodata nor NaN, (y, x) bool; None where that is everywhere."""
    floating = values.dtype.kind == "f"
    if nodata is None and not floating:
        return None
    found = np.zeros(values.shape[1:], bool)
    for band in values:
        data = ~np.isnan(band) if floating else np.ones(band.shape, bool)
        if nodata is not None and not np.isnan(nodata):
            data &= band != (band.dtype.type(nodata) if floating else nodata)
        found |= data
    return found


def has_mask(file: rasterio.DatasetReader) -> bool:
    """Tell whether a file has a mask of its own, or an alpha band."""
    flags = file.mask_flag_enums[0] if file.count else []
    return MaskFlags.per_dataset in flags or MaskFlags.alpha in flags


def spread_blocks(blocks: NDArray[np.bool_], window: Window, block_yx: Pair) -> NDArray[np.bool_]:
    """Blow a value a block up to a value a pixel of a window."""
    y0, x0 = window.y0 % block_yx[0], window.x0 % block_yx[1]
    height, width = window.shape_yx
    rows = (np.arange(y0, y0 + height) // block_yx[0])[:, None]
    columns = (np.arange(x0, x0 + width) // block_yx[1])[None, :]
    return np.asarray(blocks[rows, columns])
