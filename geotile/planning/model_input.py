"""What a model needs of an image and its tiles, checked against the header before the run: bands, dtype, tile size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from geotile.core.checks import Pair, as_pair
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError
from geotile.imagery.band_names import OTHER_BANDS, RGB
from geotile.imagery.file_array import file_of, source_of
from geotile.options import TilingOptions
from geotile.planning.opened_image import OpenedImage

_DEFAULT_TILE = (1024, 1024)


def fitted_to_model(image: OpenedImage, endpoint: Endpoint | None) -> OpenedImage:
    """Return an image with the bands that a model needs, in its order.

    A model that takes red, green and blue gets them by the names of the bands, where the image has these names and the
    user did not choose the bands. Without names the first three bands are red, green and blue.

    Raises
    ------
    ArgumentError
        If the model cannot take the dtype or the bands of the image.
    """
    if endpoint is None or not endpoint.takes_rgb:
        return image
    array = image.array
    if array.dtype != np.uint8:
        raise ArgumentError(
            f"{endpoint} takes uint8 pixels; the image has {array.dtype}. Scale it with rescale=(low, high) or "
            "stretch=(2, 98), as geotile.rescale and geotile.stretch do"
        )
    if array.sizes["band"] == 2:
        raise ArgumentError(
            f"{endpoint} takes one band (grey) or three (red, green, blue); the image has 2. Choose them with bands="
        )
    names = _band_names(array)
    if image.bands_chosen or array.sizes["band"] == 1 or names is None:
        return image
    return _with_rgb(image, names, endpoint)


def _with_rgb(image: OpenedImage, names: Sequence[str], endpoint: Endpoint) -> OpenedImage:
    """Return the image with red, green and blue first, or refuse an image whose names say that they are others."""
    if tuple(names[:3]) == RGB:
        return image
    if all(names.count(name) == 1 for name in RGB):
        indices = [names.index(name) for name in RGB]
        array = image.array.isel(band=indices)
        note = f"the model gets red, green and blue: bands {', '.join(str(each + 1) for each in indices)} of the image"
        return replace(image, array=array, source=file_of(array), notes=(*image.notes, note))
    known = [each in RGB or each in OTHER_BANDS for each in names[:3]]
    if any(is_known and each != rgb for is_known, each, rgb in zip(known, names, RGB, strict=False)):
        raise ArgumentError(
            f"{endpoint} takes the bands red, green and blue; the first bands of the image are {list(names[:3])}. "
            'Choose them with bands=["red", "green", "blue"], or by number in this order'
        )
    note = f"the model gets the bands {', '.join(names[:3])} as red, green and blue; choose others with bands="
    return replace(image, notes=(*image.notes, note))


def _band_names(array: xr.DataArray) -> list[str] | None:
    """Return the names of the bands in lower case, an empty text for a band without one; None if none has a name."""
    source, count = source_of(array.data), array.sizes["band"]
    common = array.coords.get("common_name")  # of STAC's extension for electro-optical imagery
    if common is not None and common.dims == ("band",):
        names = [str(each) for each in common.values]
    elif "band" in array.coords and array["band"].dtype.kind in "UO":
        names = [str(each) for each in array["band"].values]
    elif source is not None and len(source.bands) == count and source.band_names:
        if list(source.bands) != sorted(source.bands):
            return None  # the user chose them
        names = [source.band_names[number - 1] for number in source.bands]
    else:
        given = array.attrs.get("long_name")
        names = list(map(str, given)) if isinstance(given, tuple | list) and len(given) == count else []
    lower = [each.strip().lower() for each in names]
    return lower if any(lower) else None


def tile_and_overlap(tiling: TilingOptions, endpoint: Endpoint | None) -> tuple[Pair, Pair]:
    """Return the size of a tile and the overlap, (y, x) each, in pixels.

    "auto" is the size of the model's input where it is known, else 1,024; the overlap is then at most half a tile.
    """
    overlap = as_pair(tiling.overlap, "overlap", 0)
    if not isinstance(tiling.tile_size, str):
        return as_pair(tiling.tile_size, "tile_size", 1), overlap
    tile = _DEFAULT_TILE if endpoint is None or endpoint.input_yx is None else endpoint.input_yx
    return tile, (min(overlap[0], tile[0] // 2), min(overlap[1], tile[1] // 2))


def size_notes(tile_yx: Pair, endpoint: Endpoint | None) -> tuple[str, ...]:
    """Return what to know about tiles that a model resizes, nothing if it does not."""
    size = None if endpoint is None or not endpoint.resizes_tiles else endpoint.input_yx
    if size is None or size == tile_yx:
        return ()
    (height, width), (rows, columns) = tile_yx, size
    verb = "shrinks" if height > rows or width > columns else "enlarges"
    return (
        f"tiles have {width} x {height} px, and the model {verb} them to its input of {columns} x {rows} px; "
        'tile_size="auto" is the size of the input',
    )
