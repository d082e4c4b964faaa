"""Settled detections as the table that users get."""

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
class Placing:
    """How detections in pixels of the image that was run become rows. Pickles."""

    georeference: Georeference
    crs: str | None
    """WKT of the CRS wanted; None where the image has none."""
    scale_yx: tuple[float, float] = (1.0, 1.0)
    """Pixels of the full resolution that a pixel covers."""
    roi: Any = None
    """Region of interest, a shapely geometry in image pixels; None for the whole image."""
    outside_roi: Literal["drop", "keep"] = "drop"

    def table(self, found: Detections) -> gpd.GeoDataFrame:
        """Return detections by rank, with their places; boxes in pixels of the full resolution."""
        found = found.sorted_by_rank()
        if self.roi is not None and self.outside_roi == "drop":
            found = found.select(shapely.intersects(self.roi, found.image_geometries))
        shapes = found.image_geometries
        xmin, ymin, xmax, ymax = found.boxes.T * np.array([self.scale_yx[1], self.scale_yx[0]] * 2)[:, None]
        columns = {
            "score": found.scores,
            "label": found.labels,
            "classes": _classes(found),
            "xmin": xmin,
            "ymin": ymin,
            "xmax": xmax,
            "ymax": ymax,
            "image_geometry": gpd.GeoSeries(self._scaled(shapes)),
            "properties": found.properties,
        }
        placed = gpd.GeoSeries(self.georeference.to_world(shapes, self.crs), crs=self.crs)
        return gpd.GeoDataFrame(columns, geometry=placed)

    def _scaled(self, shapes: NDArray[np.object_]) -> NDArray[np.object_]:
        """Return geometries in pixels of the full resolution."""
        if self.scale_yx == (1.0, 1.0):
            return shapes
        y, x = self.scale_yx
        scaled: NDArray[np.object_] = shapely.transform(shapes, lambda xy: xy * [x, y])
        return scaled


def _classes(found: Detections) -> np.ndarray[tuple[int, ...], np.dtype[np.object_]]:
    column = found.classes.copy()
    for i in np.flatnonzero(column == None):  # noqa: E711 - element by element
        column[i] = [{"iri": found.labels[i], "score": float(found.scores[i])}]
    return column


def write_parquet(detections: gpd.GeoDataFrame, where: Any) -> None:
    """Write a table as GeoParquet 1.1 to a path or a file."""
    table = with_text(detections, ["classes", "properties"])
    if "report" in table.attrs:
        table.attrs = {**table.attrs, "report": lasting(table.attrs["report"])}
    table.to_parquet(where, schema_version="1.1.0", write_covering_bbox=True, compression="zstd")


def parquet_bytes(detections: gpd.GeoDataFrame) -> io.BytesIO:
    """Return a table as GeoParquet."""
    out = io.BytesIO()
    write_parquet(detections, out)
    out.seek(0)
    return out


def with_text(detections: gpd.GeoDataFrame, columns: list[str]) -> gpd.GeoDataFrame:
    """Return the table with nested columns as JSON text, which every format holds."""
    table = detections.copy()
    for column in columns:
        table[column] = [None if value is None else json.dumps(value, allow_nan=False) for value in detections[column]]
        table[column] = table[column].astype("string")
    return table.astype({"label": "string"}) if table.empty else table  # nothing tells Arrow what it would hold


def from_text(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return a table that was stored with `with_text` as it was: nested columns as objects."""
    for column in ("classes", "properties"):
        values = [json.loads(value) if isinstance(value, str) else None for value in table[column]]
        table[column] = np.fromiter(values, object, len(values))
    return table
