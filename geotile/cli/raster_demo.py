"""What ``geotile demo`` shows of rasters and vectors: a map of classes, polygons, and tiles that look alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rioxarray

from geotile.embedding import embed
from geotile.grid.tile_grid import Window
from geotile.planning.plan import Plan
from geotile.prediction import predict_to
from geotile.testing import SCENE_CLASSES, scene_classifier, scene_embedder

RASTER_RESULTS = ("classes.tif", "classes.parquet", "classes.png")
_TILE, _OVERLAP = 512, 128
_PATCH = 256  # side of the tiles that are compared
_SHOWN = 8


def run_raster_demo(work: Plan, folder: Path, polygon_classes: tuple[str, ...] = ("water", "beach")) -> list[Path]:
    """Write the land cover of the scene and its polygons, and draw them beside tiles that look alike.

    Parameters
    ----------
    work : Plan
        Plan of the scene.
    folder : Path
    polygon_classes : tuple of str
        Classes that become polygons.

    Returns
    -------
    list of Path
        The files.
    """
    files = [folder / name for name in RASTER_RESULTS]
    predict_to(
        work.name, scene_classifier, files[0], tile_size=_TILE, overlap=_OVERLAP, blend="hann", classes=SCENE_CLASSES,
        polygons=files[1], polygon_classes=polygon_classes, min_area_px=400, min_hole_px=5000, overwrite=True,
    )  # fmt: skip
    vectors = embed(work.name, scene_embedder, tile_size=_PATCH, overlap=0)
    _save_plot(work, files[0], gpd.read_parquet(files[1]), vectors, files[2])
    return files


def _save_plot(work: Plan, raster: Path, polygons: gpd.GeoDataFrame, vectors: gpd.GeoDataFrame, path: Path) -> None:
    """Draw the map of classes with its polygons, and the tiles most like the one with the most colours."""
    from matplotlib.figure import Figure

    from geotile.results.plotting import plot_classes

    figure = Figure(figsize=(17, 9), layout="constrained")
    halves = figure.subfigures(1, 2, squeeze=False)
    left, right = halves[0]
    ax = left.subplots()
    with rioxarray.open_rasterio(raster) as file:
        plot_classes(file.squeeze("band", drop=True), polygons=polygons, ax=ax)
    ax.set_title(f"land cover, and {len(polygons)} polygons of {' and '.join(sorted(set(polygons['label'])))}")
    matrix = np.stack(vectors["embedding"])
    query = int(np.argmin(matrix.max(axis=1)))
    likeness = matrix @ matrix[query]
    axes = right.subplots(3, 3).ravel()
    for ax, row in zip(axes, [query, *_most_like(likeness, query)], strict=False):
        ax.imshow(_pixels(work, vectors.iloc[row]))
        ax.set_title("looked for" if row == query else f"likeness {likeness[row]:.2f}", fontsize=9)
    for ax in axes:
        ax.set_axis_off()
    right.suptitle("tiles that look alike")
    figure.savefig(path, dpi=110)


def _most_like(likeness: Any, query: int) -> list[int]:
    return [int(row) for row in np.argsort(-likeness, kind="stable") if row != query][:_SHOWN]


def _pixels(work: Plan, row: Any) -> Any:
    window = Window(int(row.ymin), int(row.ymax), int(row.xmin), int(row.xmax))
    y, x = window.slices
    return np.moveaxis(np.asarray(work.image[:, y, x]), 0, -1)
