"""Detections as GeoJSON, with OversightML's properties."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

import geopandas as gpd
import numpy as np
import shapely

from geotile.core.values import as_json
from geotile.results.frame import BOX_COLUMNS, from_text, image_geometry

_COLUMNS = ("score", "label", "classes", *BOX_COLUMNS, "image_geometry", "properties")
_LONGITUDE_DIGITS = 7  # about 1 cm; RFC 7946, 11.2 discourages digits beyond the real precision


def features(detections: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    """Yield GeoJSON features with OSML's properties and WGS 84 longitude and latitude.

    If the image has no CRS, ``geometry`` is null (RFC 7946, 3.2).
    """
    placed = detections.geometry.to_crs("OGC:CRS84") if detections.crs is not None else None
    rows = _properties(from_text(detections.copy()))
    for i, properties in enumerate(rows):
        shape = None if placed is None or placed.iloc[i] is None else _rounded(placed.iloc[i])
        feature: dict[str, Any] = {"type": "Feature", "geometry": None}
        if shape is not None:
            feature |= {"geometry": shapely.geometry.mapping(shape), "bbox": list(shape.bounds)}
        yield feature | {"properties": properties}


def _properties(detections: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    """Yield the GeoJSON properties of detections: those of the model, then columns of the user, then OSML's.

    Columns that the table lacks are left out.
    """
    names = set(detections.columns)
    others = [name for name in detections.columns if name not in {*_COLUMNS, detections.geometry.name}]
    in_pixels = image_geometry(detections) if set(BOX_COLUMNS) <= names else None
    boxes = None if in_pixels is None else detections[list(BOX_COLUMNS)].to_numpy(np.float64)
    for i, row in enumerate(detections.to_dict("records")):
        own = row.get("properties") or {}
        properties: dict[str, Any] = {name: row[name] for name in ("label", "score") if name in names}
        if in_pixels is not None and boxes is not None:
            shape = shapely.geometry.mapping(in_pixels.iloc[i])
            properties |= {"imageGeometry": own.get("imageGeometry", shape), "imageBBox": boxes[i].tolist()}
        if row.get("classes") is not None:
            properties["featureClasses"] = row["classes"]
        elif {"label", "score"} <= names:
            properties["featureClasses"] = [{"iri": row["label"], "score": row["score"]}]
        added = {str(name): row[name] for name in others}
        yield {name: as_json(value, name) for name, value in (own | added | properties).items()}


def _rounded(shape: Any) -> Any:
    """Round to the digits that matter, and orient polygons as RFC 7946, 3.1.6 requires."""
    return shapely.orient_polygons(shapely.transform(shape, lambda xy: xy.round(_LONGITUDE_DIGITS)))


def write_geojson(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a table as a GeoJSON FeatureCollection, RFC 7946."""
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, feature in enumerate(features(detections)):
            file.write(",\n" if i else "\n")
            _dump(feature, file)
        file.write("\n]}\n")


def write_geojson_lines(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a table as GeoJSON features, one per line."""
    with open(path, "w", encoding="utf-8") as file:
        for feature in features(detections):
            _dump(feature, file)
            file.write("\n")


def _dump(feature: dict[str, Any], file: TextIO) -> None:
    file.write(json.dumps(feature, allow_nan=False, ensure_ascii=False))
