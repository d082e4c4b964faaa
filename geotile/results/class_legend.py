"""Names and colours of classes and labels, in files, plots and maps."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import geopandas as gpd
import xarray as xr

_LABELS = ("#ff3864", "#00d1ff", "#b6ff00", "#ff9f1c", "#c77dff", "#2ec4b6")


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


def as_hex(rgb: tuple[int, int, int]) -> str:
    """Return a colour as text, ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def label_colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each label, ``#rrggbb``; the first six are those that stand out on imagery.

    Examples
    --------
    >>> label_colours(["car", "ship"])
    {'car': '#ff3864', 'ship': '#00d1ff'}
    """
    return {label: _LABELS[i] if i < len(_LABELS) else as_hex(colour(i)) for i, label in enumerate(labels)}


def frame_colours(found: gpd.GeoDataFrame) -> dict[str, str]:
    """Return a colour for each label of detections or polygons, ``#rrggbb``, by label in alphabetical order.

    Polygons of a map of classes, which have the column ``class``, have the colours of the map.
    """
    labels = sorted(set(found["label"].astype(str)))
    pairs = _class_of_each(found)
    if pairs is None:
        return label_colours(labels)
    return {label: as_hex(colour(pairs[label])) for label in labels}


def _class_of_each(found: gpd.GeoDataFrame) -> dict[str, int] | None:
    """Return the class number of each label; None if the frame is not one of polygons of a map of classes."""
    if "class" not in found or found["class"].dtype.kind not in "iu":
        return None
    pairs = set(zip(found["label"].astype(str), found["class"].astype(int), strict=True))
    numbers = {number for _, number in pairs}
    is_map = len(pairs) == len(dict(pairs)) == len(numbers) and min(numbers, default=0) >= 0
    return dict(pairs) if is_map else None
