"""``geotile demo``: a scene, a model server on 127.0.0.1, `detect` over real HTTP, a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

from geotile.errors import ArgumentError
from geotile.grid.tile_grid import Window
from geotile.imagery.open import open_image
from geotile.pipeline import detect
from geotile.planning.plan import Plan, plan
from geotile.results.report import Report
from geotile.results.sinks import write
from geotile.testing import ModelServer, make_scene, match, scene_detector


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a demo leaves."""

    detections: gpd.GeoDataFrame
    plan: Plan
    files: list[Path]
    precision: float | None
    """Against the scene's truth; None for the user's own image."""
    recall: float | None

    @property
    def report(self) -> Report:
        """What the run did."""
        report: Report = self.detections.attrs["report"]
        return report


def run_demo(
    folder: str | Path = "geotile-demo",
    image: str | Path | None = None,
    model: str | Path | None = None,
    *,
    size: int = 4096,
    tile_size: int | None = None,
    overlap: int | None = None,
    progress: bool = False,
) -> DemoResult:
    """Run `detect` end to end and leave its answer and a picture.

    Parameters
    ----------
    folder : str or path
        Where ``detections.geojson``, ``detections.parquet`` and ``detections.png`` go.
    image : str or path, optional
        The user's image; by default a scene is painted.
    model : str or path, optional
        An ONNX model for it.
    size : int
        Side of the painted scene in pixels.
    tile_size, overlap : int, optional
        In pixels; by default 512 and 128 for the scene, 256 and 64 for an image of one's own.
    progress : bool
        Draw a bar in a terminal.

    Returns
    -------
    DemoResult

    Raises
    ------
    ArgumentError
        If an image comes without a model, or a model without an image.
    """
    if (image is None) != (model is None):
        raise ArgumentError("give an image and --model MODEL.onnx for it, or neither")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    truth = None
    detector: Callable[[Any], Any] = scene_detector
    if image is None:
        scene = make_scene(place / "scene.tif", size)
        image, truth = scene.path, scene.truth
    else:
        from geotile.detectors import OnnxDetector

        detector = OnnxDetector(str(model))
    tiles: dict[str, Any] = {
        "tile_size": tile_size or (256 if truth is None else 512),
        "overlap": (64 if truth is None else 128) if overlap is None else overlap,
    }
    with ModelServer(detector) as server:
        found = detect(image, server.url, overlap_metric="ios", class_agnostic=True, progress=progress, **tiles)
    work = plan(image, **tiles)
    files = _leave(found, work, place)
    precision, recall = match(truth, found) if truth is not None else (None, None)
    return DemoResult(detections=found, plan=work, files=files, precision=precision, recall=recall)


def _leave(found: gpd.GeoDataFrame, work: Plan, folder: Path) -> list[Path]:
    files = [folder / f"detections.{suffix}" for suffix in ("geojson", "parquet", "png")]
    for path in files[:2]:
        write(found, path, overwrite=True)
    _picture(found, work, files[2])
    return files


def _picture(found: gpd.GeoDataFrame, work: Plan, path: Path) -> None:
    """Draw the whole image with its grid, and beside it the busiest part at full size."""
    from matplotlib.figure import Figure

    from geotile.results.plotting import plot_detections

    image = open_image(work.image.encoding["source"])
    figure = Figure(figsize=(17, 8.6), layout="constrained")
    whole, part = figure.subplots(1, 2)
    plot_detections(image, found, grid=work.grid, ax=whole)
    whole.set_title(f"{len(found)} detections, {work.tiles} tiles (thin), {work.regions} regions (bold)")
    view = _busiest(found, work)
    plot_detections(image, _inside(found, view), grid=work.grid, window=view, ax=part)
    part.set_title(f"rows {view.y0} to {view.y1}, columns {view.x0} to {view.x1}")
    figure.savefig(path, dpi=110)


def _inside(found: gpd.GeoDataFrame, view: Window) -> gpd.GeoDataFrame:
    boxes = shapely.box(*found[["xmin", "ymin", "xmax", "ymax"]].to_numpy().T)
    return found[shapely.intersects(boxes, shapely.box(view.x0, view.y0, view.x1, view.y1))]


def _busiest(found: gpd.GeoDataFrame, work: Plan) -> Window:
    """Return the square of a fifth of the image (at least 400 pixels) that holds most detections."""
    height, width = work.grid.shape_yx
    side = min(max(height // 5, 400), height, width)
    centres = np.stack([(found["ymin"] + found["ymax"]) / 2, (found["xmin"] + found["xmax"]) / 2], axis=1)
    best, most = Window(0, side, 0, side), -1
    for y in range(0, height - side + 1, max(side // 2, 1)):
        for x in range(0, width - side + 1, max(side // 2, 1)):
            count = int(((centres >= [y, x]) & (centres < [y + side, x + side])).all(axis=1).sum())
            if count > most:
                best, most = Window(y, y + side, x, x + side), count
    return best
