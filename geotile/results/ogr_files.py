"""Files of detections that GDAL writes: FlatGeobuf, and GeoPackage with a style for QGIS."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import geopandas as gpd

from geotile.core.warning_filter import ignore_warnings
from geotile.errors import ArgumentError
from geotile.results.frame import BOX_COLUMNS, image_geometry, with_text
from geotile.results.qgis_style import add_style


def write_flatgeobuf(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a FlatGeobuf file; without its index if a row has no geometry, since the index holds no nulls."""
    table = _table(detections)
    nowhere = table.geometry.isna() | table.geometry.is_empty
    _write(table, path, "FlatGeobuf", **({"SPATIAL_INDEX": "NO"} if nowhere.any() else {}))


def write_geopackage(detections: gpd.GeoDataFrame, path: str) -> None:
    """Write a GeoPackage, which shows a colour for each label in QGIS."""
    table = _table(detections)
    taken = {name.lower() for name in table.columns if name != table.geometry.name}
    geometry = _free_name("geom", taken)
    _write(table, path, "GPKG", FID=_free_name("fid", taken), GEOMETRY_NAME=geometry)
    if "label" in table and len(table):
        add_style(path, _layer(table), table, geometry)


def check_names(columns: Sequence[str]) -> None:
    """Check that columns have names of their own in a GeoPackage: SQLite does not tell a from A.

    Raises
    ------
    ArgumentError
        If two names differ in nothing but their case.
    """
    first: dict[str, str] = {}
    for name in columns:
        if (other := first.setdefault(name.lower(), name)) != name:
            raise ArgumentError(
                f"the columns of a GeoPackage must have names that differ in more than case; got {other!r} and "
                f"{name!r}. Rename one, or write GeoParquet (.parquet)"
            )


def _table(detections: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    table = with_text(detections)
    if set(BOX_COLUMNS) <= set(table.columns):
        table["image_geometry"] = image_geometry(detections).to_wkt(rounding_precision=-1)
    return table


def _write(table: gpd.GeoDataFrame, path: str, driver: str, **options: str) -> None:
    with ignore_warnings(UserWarning):  # pyogrio warns of a layer without a CRS, which an image may lack
        table.to_file(path, driver=driver, engine="pyogrio", layer=_layer(table), **options)


def _layer(table: gpd.GeoDataFrame) -> str:
    """Return the name of a layer: what its rows are. Those of `polygonize` have classes and no scores."""
    return "polygons" if "class" in table and "score" not in table else "detections"


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name for a column that GDAL adds, such as the row ids of a GeoPackage."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
    return next(each for each in names if each not in taken)
