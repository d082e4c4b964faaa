"""Files of detections that GDAL writes: FlatGeobuf, and GeoPackage with a style for QGIS."""

from __future__ import annotations

import itertools

import geopandas as gpd

from geotile.core.warning_filter import ignore_warnings
from geotile.results.frame import BOX_COLUMNS, image_geometry, with_text
from geotile.results.qgis_style import add_style

_LAYER = "detections"


def write_flatgeobuf(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a FlatGeobuf file; without its index if a row has no geometry, since the index holds no nulls."""
    table = _table(detections)
    nowhere = table.geometry.isna() | table.geometry.is_empty
    _write(table, path, "FlatGeobuf", **({"SPATIAL_INDEX": "NO"} if nowhere.any() else {}))


def write_geopackage(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a GeoPackage, which shows a colour for each label in QGIS."""
    table = _table(detections)
    _write(table, path, "GPKG", FID=_fid_name({str(name).lower() for name in table.columns}))
    if "label" in table and len(table):
        add_style(path, _LAYER, table)


def _table(detections: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    table = with_text(detections)
    if set(BOX_COLUMNS) <= set(table.columns):
        table["image_geometry"] = image_geometry(detections).to_wkt(rounding_precision=-1)
    return table


def _write(table: gpd.GeoDataFrame, path: str, driver: str, **options: str) -> None:
    with ignore_warnings(UserWarning):  # pyogrio warns of a layer without a CRS, which an image may lack
        table.to_file(path, driver=driver, engine="pyogrio", layer=_LAYER, **options)


def _fid_name(taken: set[str]) -> str:
    """Return a name for the row ids of a GeoPackage, which are not a column of the table."""
    names = itertools.chain(["fid"], (f"fid_{number}" for number in itertools.count(1)))
    return next(name for name in names if name not in taken)
