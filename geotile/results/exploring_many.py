"""A map of very many shapes, which the graphics card of the browser draws (lonboard, deck.gl)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from geotile.encoding.encoder import Encoder
from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Window

if TYPE_CHECKING:
    import lonboard

Picture = tuple[NDArray[np.uint8], tuple[float, float, float, float]]
"""Pixels, (y, x, 4) uint8, and the bounds in degrees: west, south, east, north."""
_FILL_ALPHA = 26  # of 255, as a tenth in folium's maps
_KINDS = {"Polygon": "PolygonLayer", "Point": "ScatterplotLayer", "LineString": "PathLayer"}


def map_of_many(
    drawn: gpd.GeoDataFrame, colours: dict[str, str], names: Any, picture: Picture | None
) -> lonboard.Map:  # fmt: skip
    """Return a map of shapes, with a layer for each label and kind of geometry.

    A click on a shape shows its columns.

    Parameters
    ----------
    drawn : geopandas.GeoDataFrame
        Shapes in longitude and latitude.
    colours : dict of str to str
        Colour ``#rrggbb`` of each label.
    names : pandas.Series of str
        Label of each shape.
    picture : (numpy.ndarray, tuple of float) or None
        Picture of the image in Web Mercator, (y, x, 4) uint8 with alpha, and its bounds in degrees: west, south, east,
        north; None without an image.

    Raises
    ------
    ArgumentError
        If lonboard is not installed.
    """
    try:
        import lonboard
    except ImportError:
        raise ArgumentError(
            f"maps of so many rows, {len(drawn):,}, are drawn by lonboard, which is not installed. Install it with pip "
            "install lonboard, or filter the rows"
        ) from None
    layers: list[Any] = []
    if picture is not None:
        pixels, bounds = picture
        layers.append(lonboard.BitmapLayer(image=_as_uri(pixels), bounds=bounds))
    for name in sorted(set(names)):
        colour = [int(colours[name][k : k + 2], 16) for k in (1, 3, 5)]
        for kind, rows in _by_kind(drawn[names == name]):
            layers.append(getattr(lonboard, _KINDS[kind]).from_geopandas(rows, **_look(kind, colour), pickable=True))
    return lonboard.Map(layers)


def _by_kind(rows: gpd.GeoDataFrame) -> Iterator[tuple[str, gpd.GeoDataFrame]]:
    kinds = rows.geometry.geom_type.str.removeprefix("Multi")
    for kind in _KINDS:
        if (mine := kinds == kind).any():
            yield kind, rows[mine]


def _look(kind: str, colour: list[int]) -> dict[str, Any]:
    """Return how shapes of a kind are drawn."""
    if kind == "Point":
        return {"get_fill_color": [*colour, 255], "radius_min_pixels": 3, "radius_max_pixels": 6}
    if kind == "LineString":
        return {"get_color": [*colour, 255], "width_min_pixels": 2}
    return {"get_line_color": [*colour, 255], "get_fill_color": [*colour, _FILL_ALPHA], "line_width_min_pixels": 1.5}


def _as_uri(pixels: NDArray[np.uint8]) -> str:
    """Return a picture, (y, x, 4) uint8, as a PNG in a URL."""
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    png = Encoder(format="PNG").encode(planes, Window(0, planes.shape[1], 0, planes.shape[2]))
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
