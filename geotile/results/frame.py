"""The table of detections that users get, and its text form for files."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geotile.core.values import as_json, as_text, is_missing
from geotile.errors import ArgumentError
from geotile.geometry.georeference import Georeference
from geotile.merging.detections import Detections, box_geometries, detections
from geotile.public import public
from geotile.results.measures import shape_measures
from geotile.results.report import lasting

BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


@dataclass(frozen=True, kw_only=True)
class FrameBuilder:
    """Builder of the rows of the result from detections in image pixels. Pickles."""

    georeference: Georeference
    """Georeference of the image."""
    crs: str | None
    """WKT of the CRS of the result; None if the image has no CRS."""
    scale_yx: tuple[float, float] = (1.0, 1.0)
    """Pixels of the full resolution per pixel of the image, down and across."""
    roi: Any = None
    """Region of interest, a shapely geometry in image pixels; None for the whole image."""
    outside_roi: Literal["drop", "keep"] = "drop"
    """What happens to detections that do not intersect the region of interest."""

    def build(self, detections: Detections) -> gpd.GeoDataFrame:
        """Return a table of detections, by rank, with geometries in the CRS and boxes in full-resolution pixels.

        Parameters
        ----------
        detections : Detections
            In pixels of the image.
        """
        ranked = self.ranked(detections)
        columns = self.columns(ranked, _classes(ranked))
        return gpd.GeoDataFrame(columns, geometry=gpd.GeoSeries(self.geometries(ranked), crs=self.crs))

    def ranked(self, detections: Detections) -> Detections:
        """Return the detections of the result, by rank: outside the region of interest they may be dropped."""
        ranked = detections.sorted_by_rank()
        if self.roi is None or self.outside_roi == "keep":
            return ranked
        return ranked.select(shapely.intersects(self.roi, ranked.image_geometries))

    def columns(self, ranked: Detections, classes: Any) -> dict[str, Any]:
        """Return the columns of the table but its geometry, with the class lists as given."""
        xmin, ymin, xmax, ymax = ranked.boxes.T * np.array([self.scale_yx[1], self.scale_yx[0]] * 2)[:, None]
        return {
            "score": ranked.scores,
            "label": ranked.labels,
            "classes": classes,
            "xmin": xmin,
            "ymin": ymin,
            "xmax": xmax,
            "ymax": ymax,
            "image_geometry": self._image_geometry(ranked),
            **shape_measures(ranked, self.georeference, self.scale_yx),
            "properties": ranked.properties_with_keypoints(self.scale_yx[::-1]),
        }

    def sample(self, shape_yx: tuple[int, int]) -> gpd.GeoDataFrame:
        """Return a table with one row, a box in the middle of the image: what can fail with the rows fails with it.

        Raises
        ------
        GeoreferenceError
            If coordinates cannot be converted from the CRS of the image to the CRS of the result.
        """
        y, x = shape_yx[0] / 2, shape_yx[1] / 2
        single = detections(np.array([[x - 0.5, y - 0.5, x + 0.5, y + 0.5]]), np.array([1.0]))
        return replace(self, roi=None).build(single)

    def geometries(self, ranked: Detections) -> NDArray[np.object_]:
        """Return the geometries in the CRS of the result."""
        plain = ranked.plain_boxes
        shapes = np.empty(len(ranked), object)
        shapes[plain] = self.georeference.boxes_to_world(ranked.boxes[plain], self.crs)
        shapes[~plain] = self.georeference.to_world(ranked.select(~plain).image_geometries, self.crs)
        return shapes

    def _image_geometry(self, ranked: Detections) -> NDArray[np.object_]:
        """Return WKT in pixels of the full resolution; None where the geometry is the box."""
        y, x = self.scale_yx
        shapes = ranked.geometries
        if (y, x) != (1.0, 1.0):
            shapes = shapely.transform(shapes, lambda xy: xy * [x, y])
        column: NDArray[np.object_] = np.asarray(shapely.to_wkt(shapes, rounding_precision=-1), object)
        return column


def _classes(detections: Detections) -> NDArray[np.object_]:
    """Return the class lists of detections; those without one get a list of their label and score."""
    column: NDArray[np.object_] = detections.classes.copy()
    for i in np.flatnonzero(column == None):  # noqa: E711 - element by element
        column[i] = [{"iri": detections.labels[i], "score": float(detections.scores[i])}]
    return column


@public
def image_geometry(detections: gpd.GeoDataFrame) -> gpd.GeoSeries:
    """Return the geometries of detections in pixels of the image.

    Parameters
    ----------
    detections : geopandas.GeoDataFrame
        Detections as `detect` returns them, or read back from a file of `write`.

    Returns
    -------
    geopandas.GeoSeries
        Geometries in pixels of the full resolution, without a CRS: the column ``image_geometry``, and the box of the
        columns ``xmin``, ``ymin``, ``xmax`` and ``ymax`` where it is empty; of GeoJSON the property ``imageGeometry``.

    Raises
    ------
    ArgumentError
        If the frame has none of these columns, or a value is not a geometry.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> detections = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    >>> geotile.image_geometry(detections).area.tolist()
    [384.0, 384.0, 384.0]
    """
    if not isinstance(detections, gpd.GeoDataFrame):
        raise ArgumentError(f"detections must be a GeoDataFrame; got {type(detections).__name__}")
    if "imageGeometry" in detections and not set(BOX_COLUMNS) & set(detections.columns):
        return gpd.GeoSeries([_from_geojson(each) for each in detections["imageGeometry"]], index=detections.index)
    if missing := [name for name in BOX_COLUMNS if name not in detections]:
        raise ArgumentError(f"detections must have the columns {', '.join(BOX_COLUMNS)}; {missing} are missing")
    shapes = box_geometries(detections[list(BOX_COLUMNS)].to_numpy(np.float64))
    if "image_geometry" in detections:
        column = detections["image_geometry"].to_numpy(object)
        given = np.flatnonzero(np.array([isinstance(each, str) for each in column], bool))
        shapes[given] = shapely.from_wkt(column[given])
    return gpd.GeoSeries(shapes, index=detections.index)


def _from_geojson(geometry: Any) -> Any:
    """Return the geometry of a GeoJSON object, which some readers leave as text."""
    try:
        return shapely.from_geojson(geometry if isinstance(geometry, str) else json.dumps(geometry))
    except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise ArgumentError(
            f"imageGeometry must be a geometry of GeoJSON; got {str(geometry)[:80]} ({error})"
        ) from None


def write_parquet(detections: gpd.GeoDataFrame, target: Any) -> None:
    """Write a table as GeoParquet 1.1 to a path or a file object, with a column of bounds unless a column is `bbox`.

    Parameters
    ----------
    detections : geopandas.GeoDataFrame
    target : path or file object
    """
    table = with_text(detections)
    if "report" in table.attrs:
        table.attrs = {**table.attrs, "report": lasting(table.attrs["report"])}
    covering = "bbox" not in table.columns  # the name of the column of bounds
    table.to_parquet(target, schema_version="1.1.0", write_covering_bbox=covering, compression="zstd")


def parquet_bytes(detections: gpd.GeoDataFrame) -> io.BytesIO:
    """Return a table as a GeoParquet file in memory."""
    out = io.BytesIO()
    write_parquet(detections, out)
    out.seek(0)
    return out


def with_text(detections: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return a table whose columns of objects are text, which every format can store: JSON for nested values.

    Text has neither lone surrogates nor NUL, which formats cannot hold.

    Raises
    ------
    ArgumentError
        If a value cannot be written as JSON.
    """
    table = detections.copy()
    for name in [name for name, dtype in table.dtypes.items() if _may_need_text(dtype)]:
        table[name] = pd.array(text_column(table[name].to_numpy(object), str(name)), dtype="string")
    return table


def _may_need_text(dtype: Any) -> bool:
    """Return whether values of a dtype are objects, or text that was not checked."""
    if isinstance(dtype, pd.CategoricalDtype):
        texts = [each for each in dtype.categories if isinstance(each, str)]
        return any(as_text(each, "category") != each for each in texts)
    return dtype == np.dtype(object) or isinstance(dtype, pd.StringDtype)


def text_column(values: NDArray[np.object_], name: str) -> list[str | None]:
    """Return a column of objects as text; None for missing values.

    Raises
    ------
    ArgumentError
        If a value cannot be written as JSON.
    """
    try:
        if pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty"):
            return [_as_text(value, name) for value in values]
        texts = {text: as_text(text, name) for text in set(values.tolist()) if isinstance(text, str)}
        return [texts.get(value) for value in values.tolist()]
    except ValueError as error:
        raise ArgumentError(f"column {name!r} cannot be written: {error}") from None


def _as_text(value: Any, name: str) -> str | None:
    if isinstance(value, str):
        return as_text(value, name)
    plain = as_json(value, name)
    return plain if plain is None or isinstance(plain, str) else _JSON(plain)


def from_text(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return a table that was stored with `with_text` with its nested columns as objects again."""
    for column in {"classes", "properties"} & set(table.columns):
        values = [json.loads(value) if isinstance(value, str) else value for value in table[column]]
        table[column] = np.fromiter((None if is_missing(each) else each for each in values), object, len(values))
    return table
