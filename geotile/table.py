"""Settled detections as the GeoDataFrame that users get."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.detections import Detections
from geotile.georef import scale_yx
from geotile.plan import Plan


def as_table(found: Detections, work: Plan, crs: str | None) -> gpd.GeoDataFrame:
    """Return detections with their places, boxes in pixels of the full resolution.

    Parameters
    ----------
    found : Detections
        In pixels of the image that was run.
    work : Plan
    crs : str or None
        WKT of the CRS wanted; None where the image has none.
    """
    shapes = found.image_geometries
    full = scale_yx(work.image)
    xmin, ymin, xmax, ymax = found.boxes.T * np.array([full[1], full[0]] * 2)[:, None]
    columns = {
        "score": found.scores,
        "label": found.labels,
        "classes": _classes(found),
        "xmin": xmin,
        "ymin": ymin,
        "xmax": xmax,
        "ymax": ymax,
        "image_geometry": gpd.GeoSeries(_scaled(shapes, full)),
        "properties": found.properties,
    }
    placed = gpd.GeoSeries(work.encoder.georeference.to_world(shapes, crs), crs=crs)
    return gpd.GeoDataFrame(columns, geometry=placed)


def _scaled(shapes: NDArray[np.object_], full: tuple[float, float]) -> NDArray[np.object_]:
    """Return geometries in pixels of the full resolution."""
    if full == (1.0, 1.0):
        return shapes
    scaled: NDArray[np.object_] = shapely.transform(shapes, lambda xy: xy * [full[1], full[0]])
    return scaled


def _classes(found: Detections) -> np.ndarray[tuple[int, ...], np.dtype[np.object_]]:
    column = found.classes.copy()
    for i in np.flatnonzero(column == None):  # noqa: E711 - element by element
        column[i] = [{"iri": found.labels[i], "score": float(found.scores[i])}]
    return column
