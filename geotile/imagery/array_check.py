"""Check of the arrays that users pass as images."""

from __future__ import annotations

import xarray as xr

from geotile.errors import ArgumentError


def check_array(image: object) -> xr.DataArray:
    """Return an image that is an array with dims (band, y, x) or (y, x), in any order.

    Raises
    ------
    ArgumentError
        If it is none.
    """
    if not isinstance(image, xr.DataArray):
        raise ArgumentError(
            f"image must be an xarray.DataArray, as geotile.open_image returns it; got {type(image).__name__}"
        )
    if set(image.dims) not in ({"y", "x"}, {"band", "y", "x"}):
        raise ArgumentError(f"image must have dims (band, y, x) or (y, x); got {image.dims}. Rename its dims")
    return image
