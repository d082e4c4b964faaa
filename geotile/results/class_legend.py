"""Names and colours of classes, in files and in plots."""

from __future__ import annotations

import colorsys

import xarray as xr


def colour(number: int) -> tuple[int, int, int]:
    """Return a colour for a class number; neighbouring numbers differ in hue by the golden angle.

    Examples
    --------
    >>> colour(0), colour(1)
    ((46, 94, 184), (184, 46, 54))
    """
    hue = (0.6083 + number * 0.381966) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45 + 0.15 * (number // 8 % 2), 0.6)
    return round(red * 255), round(green * 255), round(blue * 255)


def class_names(raster: xr.DataArray) -> list[str]:
    """Return the names of the classes, also as rioxarray reads them from the tags of a GeoTIFF."""
    if "class_names" in raster.attrs:
        return list(map(str, raster.attrs["class_names"]))
    names: list[str] = []
    while (name := raster.attrs.get(f"CLASS_{len(names)}")) is not None:
        names.append(str(name))
    return names
