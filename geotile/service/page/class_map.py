"""The class map that a job has written, as a picture over that of its image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geotile.imagery.source import Source
from geotile.results.class_legend import as_hex, class_names, colour
from geotile.results.written_raster import raster_at

Legend = tuple[tuple[str, str], ...]
"""Name and colour ``#rrggbb`` of each class."""
_OPACITY = 0.6
_NOTHING = 255  # grey level where there is neither a picture nor a class


def with_classes(
    pixels: NDArray[np.uint8] | None, source: Source, uri: str, side_px: int
) -> tuple[NDArray[np.uint8], Legend] | None:  # fmt: skip
    """Return a picture with a class map over it, and its legend; None if the file has no colours of classes.

    Parameters
    ----------
    pixels : numpy.ndarray or None
        (y, x, 3) uint8, the picture of the image; None without one.
    source : Source
        The map.
    uri : str
        Its file, a GeoTIFF.
    side_px : int
        Maximum length of the longer side of a picture of the map alone, in pixels.

    Raises
    ------
    GeotileError
        If the map cannot be read.
    """
    if not source.indexed:
        return None
    seen = source.thumbnail(side_px)
    colours, valid = np.moveaxis(seen.values, 0, -1), seen.valid
    if pixels is None:
        pixels = np.full(colours.shape, _NOTHING, np.uint8)
    (height, width), (down, across) = pixels.shape[:2], colours.shape[:2]
    rows, columns = np.arange(height) * down // height, np.arange(width) * across // width
    over, shown = colours[rows][:, columns], None if valid is None else valid[rows][:, columns]
    mixed = (pixels * (1 - _OPACITY) + over * _OPACITY).astype(np.uint8)
    if shown is not None:
        mixed[~shown] = pixels[~shown]
    return mixed, tuple((name, as_hex(colour(number))) for number, name in enumerate(class_names(raster_at(uri))))
