"""Polygons of the areas of a raster, the same however the raster is chunked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray

from geotile.core.checks import check_not_negative
from geotile.core.thresholds import Threshold, by_name
from geotile.errors import ArgumentError
from geotile.geometry.georeference import Georeference, georeference_of
from geotile.planning.plan import result_crs
from geotile.public import public
from geotile.results.class_legend import class_names
from geotile.results.measures import polygon_areas
from geotile.results.written_raster import raster_at
from geotile.running.tracing import trace


@public
def polygonize(
    raster: xr.DataArray | str | os.PathLike[str],
    *,
    classes: Sequence[str | int] | None = None,
    threshold: float | Mapping[str, float] | None = None,
    min_area_px: float = 0.0,
    min_hole_px: float = 0.0,
    simplify_px: float = 0.0,
    crs: Any = None,
) -> gpd.GeoDataFrame:
    """Return the areas of a raster as polygons: pixels of one class that share a side are one polygon.

    Parameters
    ----------
    raster : xarray.DataArray, str or path
        As `predict` returns it: (y, x) class numbers, integers; or (band, y, x), of which each band is a class. Its
        chunks are traced one by one. Or the path or URI of a GeoTIFF or a Zarr store, as `predict_to` writes it.
    classes : sequence of str or int, optional
        Classes to trace, by name or by number. By default all.
    threshold : float or mapping of str to float, optional
        Score above which a pixel is of the class of its band, 0 to 1; needed for scores. By class as in
        ``{"road": 0.3, "*": 0.5}``.
    min_area_px : float
        Polygons of fewer pixels are left out, their holes not counted.
    min_hole_px : float
        Holes of fewer pixels are filled.
    simplify_px : float
        Tolerance of a simplification (Douglas-Peucker) that keeps the topology of each polygon, in pixels.
    crs : CRS, optional
        CRS of the result, as pyproj takes it. By default that of the raster.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per polygon, by class, then from top to bottom. Columns ``geometry`` (in the units of the raster's
        transform if it has no CRS, in pixels if it has neither), ``class`` (number, from 0), ``label`` (name, or the
        number as text), ``area_m2`` (NaN without a CRS).

    Raises
    ------
    ArgumentError
        If the raster has other dims or values, or an option cannot be used.
    ImageOpenError
        If the raster is a path, and what is there cannot be opened.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> import geotile
    >>> model = lambda tile: (tile[0] > 128).astype("uint8")
    >>> bright = geotile.predict(write_example(), model, tile_size=128, overlap=32)
    >>> polygonize(bright, classes=[1]).geometry.area.round(2).tolist()
    [34.56, 34.56, 34.56]
    """
    for name, value in (("min_area_px", min_area_px), ("min_hole_px", min_hole_px), ("simplify_px", simplify_px)):
        check_not_negative(value, name, "pixels")
    raster = raster_at(raster)
    layers = list(_layers(raster, threshold))
    wanted = _wanted(classes, {number: name for number, name, _ in layers}, raster)
    georeference = georeference_of(_with_band(raster))
    target = result_crs(crs, georeference)
    nodata = raster.rio.nodata
    found: list[tuple[int, str, Any]] = []
    for number, name, data in layers:
        only = None if number is None else [1]
        if number is not None and wanted is not None and number not in wanted:
            continue
        keep = wanted if number is None else only
        polygons, values = trace(data, keep, None if number is not None else nodata)
        for shape, value in zip(polygons, values, strict=True):
            owner = int(value) if number is None else number
            found.append((owner, name if number is not None else _name(raster, owner), shape))
    return _table(found, georeference, target, min_area_px, min_hole_px, simplify_px)


def _layers(raster: xr.DataArray, threshold: Threshold | None) -> Iterator[tuple[int | None, str, da.Array]]:
    """Yield the number and the name of each layer, and its values; the number is None for class numbers."""
    if raster.dims not in (("y", "x"), ("band", "y", "x")):
        raise ArgumentError(f"raster must be a DataArray with dims (y, x) or (band, y, x); got {raster.dims}")
    if 0 in raster.shape:
        raise ArgumentError(f"raster must have at least one pixel; got the shape {raster.shape}")
    scale = _scale(raster)
    raster = _as_class_map(raster)
    scores = raster.dtype.kind == "f" or scale != 1.0
    if scores != (threshold is not None):
        if scores:
            raise ArgumentError(
                "the raster holds scores; give threshold=, from 0 to 1. For a class map whose integers were read as "
                "floats, give the path of its file instead"
            )
        raise ArgumentError("threshold would have no effect: the raster holds no scores; leave it out")
    data = raster.data if isinstance(raster.data, da.Array) else da.from_array(raster.data, chunks=(-1,) * raster.ndim)
    if raster.ndim == 2:
        if scores:
            raise ArgumentError("scores must have the dims (band, y, x)")
        if raster.dtype.kind not in "bui":
            raise ArgumentError(f"class numbers must be integers; got {raster.dtype}")
        yield None, "", data
        return
    names = _band_names(raster)
    limits = [0.0] * len(names) if threshold is None else by_name(threshold, names, "threshold")
    nodata = raster.rio.nodata
    for number, name in enumerate(names):
        band = data[number]
        if not scores:
            band = band.map_blocks(_checked_label, nodata=nodata, dtype=band.dtype)
        yes = band > limits[number] / scale
        if nodata is not None and not np.isnan(nodata):
            yes &= band != nodata
        yield number, name, yes.astype(np.uint8)


def _checked_label(values: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """Return the values of a band of a map of several labels, which are 0, 1 and nodata."""
    strange = values[(values != 0) & (values != 1) & (values != (0 if nodata is None else nodata))]
    if strange.size:
        raise ArgumentError(
            f"each band of integers must hold 0 and 1, whether a pixel is of its class; got {strange[0]}. Photographs "
            "cannot be traced, nor class maps to which their colours were applied: give the path of the file"
        )
    return values


def _scale(raster: xr.DataArray) -> float:
    given = raster.attrs.get("scale_factor", 1.0)
    number = float(given) if isinstance(given, Real | np.number) else np.nan
    if not 0 < number < np.inf:
        raise ArgumentError(f"the attribute scale_factor of the raster must be a number above 0; got {given!r}")
    return number


def _as_class_map(raster: xr.DataArray) -> xr.DataArray:
    """Return a raster of one band that holds class numbers, as a GeoTIFF has them, without its band."""
    if raster.ndim == 2 or len(raster) > 1 or raster.dtype.kind == "f":
        return raster
    if raster.attrs.get("long_name") in ("class", ("class",), ["class"]):
        return raster.isel(band=0, drop=True)
    if _scale(raster) == 1.0:
        raise ArgumentError(
            "a raster of one band can hold class numbers, or one class, and this one does not say which. For class "
            "numbers give an array without the band: rioxarray.open_rasterio(path).squeeze('band', drop=True)"
        )
    return raster


def _band_names(raster: xr.DataArray) -> list[str]:
    described = raster.attrs.get("long_name")
    if isinstance(described, tuple | list) and len(described) == raster.sizes["band"]:
        return list(map(str, described))
    return list(map(str, raster.indexes["band"] if "band" in raster.indexes else range(raster.sizes["band"])))


def _wanted(classes: Any, layers: dict[Any, str], raster: xr.DataArray) -> list[int] | None:
    if classes is None:
        return None
    names = class_names(raster) if None in layers else list(layers.values())
    given = [classes] if isinstance(classes, str) or not isinstance(classes, Iterable) else list(classes)
    numbers = []
    for each in given:
        is_number = isinstance(each, Integral) and not isinstance(each, bool)
        if not (each in names if isinstance(each, str) else is_number and 0 <= each < (len(names) or 2**31)):
            raise ArgumentError(f"classes must be of {names}, or their numbers from 0; got {each!r}")
        numbers.append(names.index(each) if isinstance(each, str) else int(each))
    return numbers


def _name(raster: xr.DataArray, number: int) -> str:
    names = class_names(raster)
    return str(names[number]) if number < len(names) else str(number)


def _with_band(raster: xr.DataArray) -> xr.DataArray:
    return raster if "band" in raster.dims else raster.expand_dims("band")


def _table(
    found: list[tuple[int, str, Any]], georeference: Georeference, crs: str | None, min_area: float, min_hole: float,
    tolerance: float,
) -> gpd.GeoDataFrame:  # fmt: skip
    shapes = np.array([shape for _, _, shape in found] + [None], object)[:-1]
    if len(shapes):
        shapes = shapely.normalize(shapes)  # rings begin at a corner, so that what follows does not depend on the seams
        shapes = shapely.simplify(shapes, 0, preserve_topology=True)  # the seams leave vertices
        shapes = np.asarray(shapely.normalize(shapes), object)  # and with them another order of the holes
        shapes = np.array([_without_holes(shape, min_hole) for shape in shapes] + [None], object)[:-1]
    large = shapely.area(shapes) >= min_area
    shapes = np.asarray(shapely.simplify(shapes[large], tolerance), object) if tolerance else shapes[large]
    numbers = np.array([number for number, _, _ in found], np.int64)[large]
    names = np.array([name for _, name, _ in found], object)[large]
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    order = np.lexsort([bounds[:, 3], bounds[:, 2], bounds[:, 0], bounds[:, 1], numbers])
    shapes = shapes[order]
    world = georeference.to_world(shapes, crs)
    columns = {"class": numbers[order], "label": names[order], "area_m2": polygon_areas(shapes, georeference)}
    return gpd.GeoDataFrame(columns, geometry=world, crs=crs)


def _without_holes(shape: Any, min_hole: float) -> Any:
    """Return a polygon without the holes that are too small."""
    if not min_hole or not shape.interiors:
        return shape
    return shapely.Polygon(shape.exterior, [ring for ring in shape.interiors if shapely.Polygon(ring).area >= min_hole])
