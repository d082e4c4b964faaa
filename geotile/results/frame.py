"""The table of detections that users get, and its text form for files."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.geometry.georeference import Georeference
from geotile.merging.detections import Detections
from geotile.results.report import lasting


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
        """Return a table of detections, by rank, with geometries in the CRS and boxes in full-resolution pixels."""
        ranked = detections.sorted_by_rank()
        if self.roi is not None and self.outside_roi == "drop":
            ranked = ranked.select(shapely.intersects(self.roi, ranked.image_geometries))
        shapes = ranked.image_geometries
        xmin, ymin, xmax, ymax = ranked.boxes.T * np.array([self.scale_yx[1], self.scale_yx[0]] * 2)[:, None]
        columns = {
            "score": ranked.scores,
            "label": ranked.labels,
            "classes": _classes(ranked),
            "xmin": xmin,
            "ymin": ymin,
            "xmax": xmax,
            "ymax": ymax,
            "image_geometry": gpd.GeoSeries(self._scaled(shapes)),
            "properties": ranked.properties,
        }
        geometry = gpd.GeoSeries(self.georeference.to_world(shapes, self.crs), crs=self.crs)
        return gpd.GeoDataFrame(columns, geometry=geometry)

    def _scaled(self, shapes: NDArray[np.object_]) -> NDArray[np.object_]:
        """Return geometries in pixels of the full resolution."""
        if self.scale_yx == (1.0, 1.0):
            return shapes
        y, x = self.scale_yx
        scaled: NDArray[np.object_] = shapely.transform(shapes, lambda xy: xy * [x, y])
        return scaled


def _classes(detections: Detections) -> NDArray[np.object_]:
    """Return the class lists of detections; those without one get a list of their label and score."""
    column: NDArray[np.object_] = detections.classes.copy()
    for i in np.flatnonzero(column == None):  # noqa: E711 - element by element
        column[i] = [{"iri": detections.labels[i], "score": float(detections.scores[i])}]
    return column


def write_parquet(detections: gpd.GeoDataFrame, target: Any) -> None:
    """Write a table as GeoParquet 1.1 to a path or a file object."""
    table = with_text(detections, ["classes", "properties"])
    if "report" in table.attrs:
        table.attrs = {**table.attrs, "report": lasting(table.attrs["report"])}
    table.to_parquet(target, schema_version="1.1.0", write_covering_bbox=True, compression="zstd")


def parquet_bytes(detections: gpd.GeoDataFrame) -> io.BytesIO:
    """Return a table as a GeoParquet file in memory."""
    out = io.BytesIO()
    write_parquet(detections, out)
    out.seek(0)
    return out


def with_text(detections: gpd.GeoDataFrame, columns: list[str]) -> gpd.GeoDataFrame:
    """Return a table whose nested columns are JSON text, which every format can store."""
    table = detections.copy()
    for column in columns:
        table[column] = [None if value is None else json.dumps(value, allow_nan=False) for value in detections[column]]
        table[column] = table[column].astype("string")
    return (
        table.astype({"label": "string"}) if table.empty else table
    )  # Arrow cannot infer the dtype of an empty column


def from_text(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return a table that was stored with `with_text` with its nested columns as objects again."""
    for column in ("classes", "properties"):
        values = [json.loads(value) if isinstance(value, str) else None for value in table[column]]
        table[column] = np.fromiter(values, object, len(values))
    return table
