"""A region of interest: a geometry in any CRS, and the tiles that it intersects."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from geotile.core import from_text
from geotile.core.regular_file import special_kind
from geotile.errors import ArgumentError
from geotile.geometry.georeference import WGS84, Georeference, is_degrees, wkt_of
from geotile.grid.tile_grid import TileGrid

_EDGE_PARTS = 64  # of the longer side of the image, whose projection may be curved
_DRAWN_POINTS = 1_000
_MARGIN = 0.05  # around the image, in shares of its size


def roi_in_pixels(roi: Any, georeference: Georeference, shape_yx: tuple[int, int]) -> Any:
    """Return a region of interest in image pixels.

    Parameters
    ----------
    roi : str, path, mapping, shapely geometry, geopandas.GeoSeries or geopandas.GeoDataFrame
        WKT (also ``SRID=...;WKT``) or GeoJSON as text; the path of a file of areas; GeoJSON as a mapping; or a
        geometry. Its coordinates are longitude and latitude in WGS 84 unless it names its CRS.
    georeference : Georeference
        Georeference of the image.
    shape_yx : tuple of int
        Height and width of the image in pixels.

    Returns
    -------
    shapely geometry
        Valid, not empty, in image pixels.

    Raises
    ------
    ArgumentError
        If it is not a geometry, is empty, or does not intersect the image.
    GeoreferenceError
        If the image has no georeference.
    """
    whole, crs = geometry_of(roi)
    image = shapely.box(0, 0, shape_yx[1], shape_yx[0])
    try:
        shape = _near_image(_once_around(shapely.make_valid(whole), crs), crs, georeference, shape_yx)
        if shape.is_empty:
            raise ArgumentError(f"roi must intersect the image; got {_short(roi)}, which lies elsewhere. Check its CRS")
        turns = [shapely.make_valid(each) for each in georeference.to_pixels(shape, crs)]
        pixels = shapely.union_all([each for each in turns if shapely.intersects(each, image)] or turns[:1])
    except shapely.errors.ShapelyError as error:
        raise ArgumentError(f"roi must be a geometry that can be made valid; got {_short(roi)} ({error})") from None
    if not shapely.intersects(pixels, image):
        raise ArgumentError(
            f"roi must intersect the image, which has {shape_yx[1]} x {shape_yx[0]} pixels; got {_short(roi)}, which "
            f"spans {[round(v) for v in pixels.bounds]} in image pixels (xyxy). Check its CRS: without one, "
            "coordinates are longitude and latitude"
        )
    return pixels


def _once_around(shape: Any, crs: str) -> Any:
    """Return a geometry with longitudes in -180 to 180, as footprints have them."""
    west, _, east, _ = shape.bounds
    if not is_degrees(crs) or (west >= -180 and east <= 180):
        return shape
    turns = range(math.floor((west + 180) / 360), math.ceil((east - 180) / 360) + 1)
    world = shapely.box(-180, -90, 180, 90)
    return shapely.union_all([shapely.affinity.translate(shape, -360 * turn).intersection(world) for turn in turns])


def _near_image(shape: Any, crs: str, georeference: Georeference, shape_yx: tuple[int, int]) -> Any:
    """Return the part of a geometry around an image, since far parts may have no position in its CRS."""
    edge = shapely.segmentize(shapely.box(0, 0, shape_yx[1], shape_yx[0]), max(shape_yx) / _EDGE_PARTS)
    footprint = georeference.to_world(np.array([edge], object), crs)[0] if georeference.crs is not None else None
    if footprint is None:
        return shape
    x0, y0, x1, y1 = footprint.bounds
    around = footprint.buffer(_MARGIN * max(x1 - x0, y1 - y0))
    return shape if around.contains(shape) else shape.intersection(around)


def geometry_of(roi: Any) -> tuple[Any, str]:
    """Return the geometry of a region of interest, which has finite coordinates and is not empty, and its CRS.

    Raises
    ------
    ArgumentError
        If it is none.
    """
    try:
        shape, crs = _geometry(roi)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:  # a mapping of another structure
        raise ArgumentError(f"roi must be valid GeoJSON; got {_short(roi)} ({type(error).__name__}: {error})") from None
    if shape is not None and not np.isfinite(shapely.get_coordinates(shape)).all():
        raise ArgumentError(f"roi must be a geometry with finite coordinates; got {_short(roi)}")
    if shape is None or shape.is_empty:
        raise ArgumentError(f"roi must not be empty; got {_short(roi)}. Leave it out for the whole image")
    return shape, crs


def intersecting_tiles(grid: TileGrid, shape: Any) -> NDArray[np.bool_]:
    """Return which tiles share pixels with a geometry.

    Parameters
    ----------
    grid : TileGrid
    shape : shapely geometry
        Geometry in image pixels.

    Returns
    -------
    numpy.ndarray
        (tiles down, tiles across) bool.

    Examples
    --------
    >>> intersecting_tiles(TileGrid((100, 100), 50, 0), shapely.box(10, 10, 50, 20)).tolist()
    [[True, False], [False, False]]
    """
    y, x = grid.axes
    tops, lefts = y.starts, x.starts
    bottoms, rights = np.minimum(tops + y.tile, y.length), np.minimum(lefts + x.tile, x.length)
    x0, y0, x1, y1 = shape.bounds
    rows = np.flatnonzero((tops <= y1) & (bottoms >= y0))
    columns = np.flatnonzero((lefts <= x1) & (rights >= x0))
    selected = np.zeros(grid.tiles_yx, bool)
    boxes = shapely.box(lefts[columns], tops[rows][:, None], rights[columns], bottoms[rows][:, None])
    shapely.prepare(shape)
    intersects = shapely.intersects(shape, boxes)
    if shape.area > 0:
        intersects &= ~shapely.touches(shape, boxes)
    selected[np.ix_(rows, columns)] = intersects
    return selected


def roi_outlines(roi: Any, shape_yx: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Return the outlines of a region of interest in an image, simplified for a small drawing.

    Parameters
    ----------
    roi : shapely geometry
        In image pixels. Of more than 1,000 points the convex hull is drawn.
    shape_yx : tuple of int
        Height and width of the image in pixels.

    Returns
    -------
    list of numpy.ndarray
        Each (n, 2) float64, xy in image pixels.
    """
    inside = shapely.intersection(roi, shapely.box(0, 0, shape_yx[1], shape_yx[0]))
    drawn = shapely.simplify(inside, max(shape_yx) / 500)
    if shapely.get_num_coordinates(drawn) > _DRAWN_POINTS:
        drawn = shapely.simplify(shapely.convex_hull(inside), max(shape_yx) / 500)
    rings = [shapely.boundary(part) if shapely.get_dimensions(part) == 2 else part for part in shapely.get_parts(drawn)]
    return [shapely.get_coordinates(line) for line in shapely.get_parts(rings)]


def _geometry(roi: Any) -> tuple[Any, str]:
    """Return one geometry and its CRS."""
    if isinstance(roi, os.PathLike) or (isinstance(roi, str) and (os.path.isfile(roi) or special_kind(roi))):
        roi = from_text.area(os.fspath(roi))
    if isinstance(roi, gpd.GeoDataFrame | gpd.GeoSeries):
        return roi.geometry.union_all(), WGS84 if roi.crs is None else str(roi.crs.to_wkt())
    if isinstance(roi, Mapping):
        return _geojson(roi)
    if isinstance(roi, str) and roi.lstrip().startswith("{"):
        try:
            return _geojson(json.loads(roi))
        except ValueError as error:
            raise ArgumentError(f"roi must be valid GeoJSON; got {_short(roi)} ({error})") from None
    if isinstance(roi, str):
        return _wkt(roi)
    if hasattr(roi, "__geo_interface__") and not isinstance(roi, shapely.Geometry):
        return _geojson(roi.__geo_interface__)
    if isinstance(roi, shapely.Geometry):
        srid = int(shapely.get_srid(roi))
        return shapely.force_2d(roi), wkt_of(srid) if srid else WGS84
    raise ArgumentError(f"roi must be WKT, GeoJSON, a shapely geometry or a GeoDataFrame; got {type(roi).__name__}")


def _wkt(text: str) -> tuple[Any, str]:
    """Return the geometry of WKT, with or without ``SRID=...;``, and its CRS."""
    head, _, rest = text.partition(";")
    srid = head.upper().removeprefix("SRID=") if rest else ""
    try:
        shape = shapely.force_2d(shapely.from_wkt(rest or text))
    except shapely.errors.ShapelyError as error:
        hint = "" if "(" in text else ". Read a file with geopandas.read_file, and pass the frame"
        raise ArgumentError(f"roi must be WKT or GeoJSON; got {_short(text)} ({error}){hint}") from None
    return shape, wkt_of(srid.strip()) if srid else WGS84


def _geojson(value: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the geometry of a GeoJSON object and its CRS."""
    member = value.get("crs")
    crs = wkt_of(member["properties"]["name"]) if isinstance(member, Mapping) else WGS84
    if value.get("type") == "FeatureCollection":
        parts = [_geojson(each)[0] for each in value.get("features") or []]
        return shapely.union_all([part for part in parts if part is not None]), crs
    if value.get("type") == "Feature":
        return (_geojson(value["geometry"])[0] if value.get("geometry") else None), crs
    try:
        return shapely.force_2d(shapely.from_geojson(json.dumps(value))), crs
    except (shapely.errors.ShapelyError, TypeError, ValueError) as error:
        raise ArgumentError(f"roi must be a GeoJSON geometry; got {_short(value)} ({error})") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
