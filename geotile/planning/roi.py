"""A region of interest: a geometry in any CRS, as tiles of the grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.errors import ArgumentError
from geotile.geometry.georeference import WGS84, Georeference, wkt_of
from geotile.grid.tile_grid import TileGrid


def roi_in_pixels(roi: Any, georeference: Georeference, shape_yx: tuple[int, int]) -> Any:
    """Return a region of interest in image pixels.

    Parameters
    ----------
    roi : str, mapping, shapely geometry, geopandas.GeoSeries or geopandas.GeoDataFrame
        WKT (also ``SRID=...;WKT``) or GeoJSON as text; GeoJSON as a mapping; a geometry. In WGS 84
        longitude and latitude, unless it names its CRS.
    georeference : Georeference
        Of the image.
    shape_yx : tuple of int
        Height and width of the image in pixels.

    Returns
    -------
    shapely geometry
        In image pixels, valid, not empty.

    Raises
    ------
    ArgumentError
        If it is no geometry, is empty, or lies off the image.
    GeoreferenceError
        If the image has no place.
    """
    shape, crs = _geometry(roi)
    if shape is None or shape.is_empty:
        raise ArgumentError(f"roi={_short(roi)} is empty; leave it out for the whole image")
    pixels = shapely.make_valid(georeference.to_pixels(shape, crs))
    if not shapely.intersects(pixels, shapely.box(0, 0, shape_yx[1], shape_yx[0])):
        raise ArgumentError(
            f"roi={_short(roi)} lies off the image: in its pixels (x, y) it spans "
            f"{[round(v) for v in pixels.bounds]}, the image is {shape_yx[1]} x {shape_yx[0]}; is its CRS right? "
            "Without one it is longitude, latitude"
        )
    return pixels


def tiles_that_meet(grid: TileGrid, shape: Any) -> NDArray[np.bool_]:
    """Tell which tiles share pixels with a geometry in image pixels.

    Returns
    -------
    numpy.ndarray
        (tiles down, tiles across) bool.

    Examples
    --------
    >>> tiles_that_meet(TileGrid((100, 100), 50, 0), shapely.box(10, 10, 50, 20)).tolist()
    [[True, False], [False, False]]
    """
    y, x = grid.axes
    tops, lefts = y.starts, x.starts
    bottoms, rights = np.minimum(tops + y.tile, y.length), np.minimum(lefts + x.tile, x.length)
    x0, y0, x1, y1 = shape.bounds
    rows = np.flatnonzero((tops <= y1) & (bottoms >= y0))
    columns = np.flatnonzero((lefts <= x1) & (rights >= x0))
    met = np.zeros(grid.tiles_yx, bool)
    boxes = shapely.box(lefts[columns], tops[rows][:, None], rights[columns], bottoms[rows][:, None])
    shapely.prepare(shape)
    meets = shapely.intersects(shape, boxes)
    if shape.area > 0:
        meets &= ~shapely.touches(shape, boxes)
    met[np.ix_(rows, columns)] = meets
    return met


def _geometry(roi: Any) -> tuple[Any, str]:
    """Return one geometry and the CRS it is in."""
    if isinstance(roi, gpd.GeoDataFrame | gpd.GeoSeries):
        return roi.geometry.union_all(), WGS84 if roi.crs is None else str(roi.crs.to_wkt())
    if isinstance(roi, Mapping):
        return _geojson(roi)
    if isinstance(roi, str) and roi.lstrip().startswith("{"):
        try:
            return _geojson(json.loads(roi))
        except ValueError as error:
            raise ArgumentError(f"roi={_short(roi)} is no GeoJSON: {error}") from None
    if isinstance(roi, str):
        return _wkt(roi)
    if hasattr(roi, "__geo_interface__") and not isinstance(roi, shapely.Geometry):
        return _geojson(roi.__geo_interface__)
    if isinstance(roi, shapely.Geometry):
        srid = int(shapely.get_srid(roi))
        return shapely.force_2d(roi), wkt_of(srid) if srid else WGS84
    raise ArgumentError(f"roi is {type(roi).__name__}; give WKT, GeoJSON, a shapely geometry or a GeoDataFrame")


def _wkt(text: str) -> tuple[Any, str]:
    head, _, rest = text.partition(";")
    srid = head.upper().removeprefix("SRID=") if rest else ""
    try:
        shape = shapely.force_2d(shapely.from_wkt(rest or text))
    except shapely.errors.ShapelyError as error:
        raise ArgumentError(f"roi={_short(text)} is neither WKT nor GeoJSON: {error}") from None
    return shape, wkt_of(int(srid)) if srid.isdigit() else WGS84


def _geojson(value: Mapping[str, Any]) -> tuple[Any, str]:
    named = value.get("crs")
    crs = wkt_of(named["properties"]["name"]) if isinstance(named, Mapping) else WGS84
    if value.get("type") == "FeatureCollection":
        parts = [_geojson(each)[0] for each in value.get("features") or []]
        return shapely.union_all([part for part in parts if part is not None]), crs
    if value.get("type") == "Feature":
        return (_geojson(value["geometry"])[0] if value.get("geometry") else None), crs
    try:
        return shapely.force_2d(shapely.from_geojson(json.dumps(value))), crs
    except (shapely.errors.ShapelyError, TypeError, ValueError) as error:
        raise ArgumentError(f"roi={_short(value)} is no GeoJSON geometry: {error}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
