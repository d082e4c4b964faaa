"""Detections as GeoJSON, with OversightML's properties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pydantic_core import from_json, to_json  # several times as fast as json

from geotile.core.values import as_json, as_text, is_missing
from geotile.errors import ArgumentError
from geotile.geometry.georeference import WGS84, Georeference
from geotile.geometry.placement import AffinePlacement
from geotile.results.frame import BOX_COLUMNS, from_text, image_geometry
from geotile.results.measures import MEASURES

_PORTION = 16_384  # rows
_COLUMNS = ("score", "label", "classes", *BOX_COLUMNS, "image_geometry", "properties")
_LONGITUDE_DIGITS = 7  # about 1 cm; RFC 7946, 11.2 discourages digits beyond the real precision


def features(detections: gpd.GeoDataFrame, *, exact: bool = False) -> Iterator[dict[str, Any]]:
    """Yield GeoJSON features with OSML's properties and WGS 84 longitude and latitude.

    If the image has no CRS, ``geometry`` is null (RFC 7946, 3.2). Geometries are cut at the antimeridian.

    Parameters
    ----------
    detections : geopandas.GeoDataFrame
    exact : bool
        Whether coordinates keep all digits and have an elevation of 0, and rings are wound as the model returned them,
        as in OversightML's outputs. By default coordinates have seven decimals (about 1 cm), and rings are wound as RFC
        7946, 3.1.6 requires.
    """
    detections = detections.copy()
    detections.attrs = {}  # pandas copies the report with every column that is taken out
    placed = _on_earth(detections)
    if exact:
        placed = shapely.force_3d(placed, 0.0)
    else:
        rounded = shapely.transform(placed, lambda xy: xy.round(_LONGITUDE_DIGITS))
        placed = np.asarray(shapely.orient_polygons(rounded), object)
    rows = zip(_geometries(placed), _bounds(placed), _properties(from_text(detections)), strict=True)
    for geometry, bounds, properties in rows:
        feature: dict[str, Any] = {"type": "Feature", "geometry": None}
        if "id" in properties:
            feature["id"] = properties["id"]
        if geometry is not None:
            feature |= {"geometry": geometry, "bbox": bounds}
        yield feature | {"properties": properties}


def _geometries(shapes: NDArray[np.object_]) -> Iterator[dict[str, Any] | None]:
    """Yield the GeoJSON objects of geometries; None for None."""
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        yield from (None if shape is None else as_json(shapely.geometry.mapping(shape), "geometry") for shape in shapes)
        return
    has_empty = shapely.is_empty(shapely.get_parts(shapes)).any() or shapely.is_empty(shapes).any()
    for text in shapely.to_geojson(shapes):
        geometry = None if text is None else from_json(text)
        yield _without_empty_rings(geometry) if has_empty and geometry is not None else geometry


def _without_empty_rings(geometry: dict[str, Any]) -> dict[str, Any]:
    """Return a GeoJSON object in which empty polygons have no ring: one of no points is not valid (RFC 7946, 3.1.6).

    >>> _without_empty_rings({"type": "Polygon", "coordinates": [[]]})
    {'type': 'Polygon', 'coordinates': []}
    """
    if geometry["type"] == "GeometryCollection":
        return geometry | {"geometries": [_without_empty_rings(each) for each in geometry["geometries"]]}
    if geometry["type"] == "Polygon":
        return geometry | {"coordinates": [ring for ring in geometry["coordinates"] if ring]}
    if geometry["type"] == "MultiPolygon":
        return geometry | {"coordinates": [each for each in geometry["coordinates"] if any(each)]}
    return geometry


def _on_earth(detections: gpd.GeoDataFrame) -> NDArray[np.object_]:
    """Return geometries in longitude and latitude, None for those without a place."""
    if detections.crs is None:
        return np.full(len(detections), None, object)
    shapes = detections.geometry.to_numpy(object)
    known = np.flatnonzero([shape is not None and not shape.is_empty for shape in shapes])
    placed = np.full(len(shapes), None, object)
    own = Georeference(AffinePlacement(Affine.identity()), detections.crs.to_wkt())
    placed[known] = own.to_world(shapes[known], WGS84)
    return placed


def _bounds(shapes: NDArray[np.object_]) -> list[list[float]]:
    """Return the bounds of geometries; west is greater than east across the antimeridian (RFC 7946, 5.2)."""
    bounds = shapely.bounds(shapes)
    for row in np.flatnonzero((bounds[:, 0] == -180) & (bounds[:, 2] == 180)):
        parts = [part.bounds for part in getattr(shapes[row], "geoms", ())]
        eastern = [each[0] for each in parts if each[2] == 180 and each[0] > -180]
        western = [each[2] for each in parts if each[0] == -180 and each[2] < 180]
        if eastern and western:
            bounds[row, [0, 2]] = min(eastern), max(western)
    found: list[list[float]] = bounds.tolist()
    return found


def _properties(detections: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    """Yield the GeoJSON properties of detections: those of the model, then columns of the user, then OSML's.

    Columns that the table lacks are left out.
    """
    names = set(detections.columns)
    others = [name for name in detections.columns if name not in {*_COLUMNS, detections.geometry.name}]
    in_pixels = _in_pixels(detections) if set(BOX_COLUMNS) <= names else repeat({}, len(detections))
    for row, place in zip(detections.to_dict("records"), in_pixels, strict=True):
        own = {} if is_missing(row.get("properties")) else row["properties"]
        if not isinstance(own, dict | Mapping):
            raise ArgumentError(f"the column properties must hold mappings; got {own!r}")
        properties: dict[str, Any] = {name: row[name] for name in ("label", "score") if name in names}
        properties |= dict.fromkeys(place)  # in their place among the others
        if row.get("classes") is not None:
            properties["featureClasses"] = row["classes"]
        elif {"label", "score"} <= names and "featureClasses" not in names:  # a table that was read from GeoJSON has it
            properties["featureClasses"] = [{"iri": row["label"], "score": row["score"]}]
        added = {str(name): row[name] for name in others if name not in MEASURES or row[name] == row[name]}
        named = {as_text(name, "property's name"): value for name, value in {**own, **added, **properties}.items()}
        yield {name: as_json(value, name) for name, value in named.items()} | place


def _in_pixels(detections: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    """Yield the shapes and boxes of detections in pixels of the image."""
    values = detections[list(BOX_COLUMNS)].to_numpy(np.float64)
    boxes = values.tolist() if np.isfinite(values).all() else as_json(values, "imageBBox")
    for geometry, box in zip(_geometries(image_geometry(detections).to_numpy(object)), boxes, strict=True):
        yield {"imageGeometry": geometry, "imageBBox": box}


def write_geojson(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a table as a GeoJSON FeatureCollection, RFC 7946."""
    with open(path, "wb") as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        for i, feature in enumerate(_features_in_portions(detections)):
            file.write(b",\n" if i else b"\n")
            file.write(to_json(feature))
        file.write(b"\n]}\n")


def write_geojson_lines(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a table as GeoJSON features, one per line."""
    with open(path, "wb") as file:
        for feature in _features_in_portions(detections):
            file.write(to_json(feature))
            file.write(b"\n")


def _features_in_portions(detections: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    """Yield features as `features` does, without the memory for the objects of all rows at once."""
    for start in range(0, len(detections), _PORTION):
        yield from features(detections.iloc[start : start + _PORTION])
