"""``geotile demo``: paint a scene, serve a model on 127.0.0.1, run `detect` over HTTP, map classes, and plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import geopandas as gpd

from geotile.cli.raster_demo import RASTER_RESULTS, run_raster_demo
from geotile.errors import ArgumentError, OutputError
from geotile.grid.tile_grid import Window
from geotile.pipeline import detect
from geotile.planning.plan import Plan, plan
from geotile.results.report import Report
from geotile.results.sinks import write
from geotile.testing import ModelServer, make_scene, match, scene_detector

_RESULTS = ("detections.geojson", "detections.parquet", "detections.png")
_OF_SCENE = ("scene.tif", *RASTER_RESULTS)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Result of a demo."""

    detections: gpd.GeoDataFrame
    plan: Plan
    files: list[Path]
    """Files that were written."""
    precision: float | None
    """Precision against the truth of the scene, 0 to 1; None for the user's own image."""
    recall: float | None
    """Recall against the truth of the scene, 0 to 1; None for the user's own image."""

    @property
    def report(self) -> Report:
        """Report of the run."""
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
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> DemoResult:
    """Run `detect` end to end and write its result and a plot.

    Parameters
    ----------
    folder : str or path
        Folder for ``detections.geojson``, ``detections.parquet`` and ``detections.png``; for the painted scene also for
        ``classes.tif``, ``classes.parquet`` and ``classes.png``.
    image : str or path, optional
        The user's own image. By default a scene is painted.
    model : str or path, optional
        ONNX model for the user's own image.
    size : int
        Side of the painted scene in pixels.
    tile_size, overlap : int, optional
        Tile size and overlap in pixels. By default 512 and 128 for the scene, 256 and 64 for the user's own image.
    options : mapping of str to object, optional
        Options of the user's own model, such as ``family`` and ``labels``.
    overwrite : bool
        Whether results in the folder that exist are replaced.
    progress : bool
        Whether a bar is shown in a terminal.

    Returns
    -------
    DemoResult

    Raises
    ------
    ArgumentError
        If an image is given without a model, or a model or its options without an image, or the folder cannot be
        created.
    OutputError
        If the folder holds results and `overwrite` is not given.
    """
    if (image is None) != (model is None) or (options and model is None):
        raise ArgumentError("the demo needs both an image and a model, or neither; give IMAGE with --model MODEL.onnx")
    missing = [name for name in ("matplotlib", "zarr") if find_spec(name) is None]
    if missing:
        raise ArgumentError(
            f"the demo draws pictures and writes a raster, which needs {' and '.join(missing)}. Install it with pip "
            f"install {' '.join(missing)}"
        )
    target, truth = _made_folder(Path(folder), () if overwrite else _RESULTS if image else _RESULTS + _OF_SCENE), None
    if image is None:
        scene = make_scene(target / "scene.tif", size)
        image, truth = scene.path, scene.truth
    tiling: dict[str, Any] = {
        "tile_size": tile_size or (256 if truth is None else 512),
        "overlap": (64 if truth is None else 128) if overlap is None else overlap,
    }
    try:
        if truth is None:
            file = str(model).removeprefix("onnx:")
            detections = detect(image, f"onnx:{file}", progress=progress, **tiling, **(options or {}))
        else:
            with ModelServer(scene_detector) as server:
                detections = detect(image, server.url, progress=progress, **tiling)
    except BaseException:
        if not any(target.iterdir()):
            target.rmdir()
        raise
    work = plan(image, **tiling)
    files = _write_files(detections, work, target)
    if truth is not None:
        files += run_raster_demo(work, target)
    precision, recall = match(truth, detections) if truth is not None else (None, None)
    return DemoResult(detections=detections, plan=work, files=files, precision=precision, recall=recall)


def _made_folder(folder: Path, results: Iterable[str]) -> Path:
    """Return a folder that exists and holds none of the results."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f"--folder must be a folder that can be written; got '{folder}' ({error.strerror})"
        ) from None
    if held := [name for name in results if (folder / name).exists()]:
        raise OutputError(f"'{folder}' holds {held[0]}; give --overwrite or another --folder")
    return folder


def _write_files(detections: gpd.GeoDataFrame, work: Plan, folder: Path) -> list[Path]:
    files = [folder / name for name in _RESULTS]
    for path in files[:2]:
        write(detections, path, overwrite=True)
    _save_plot(detections, work, files[2])
    return files


def _save_plot(detections: gpd.GeoDataFrame, work: Plan, path: Path) -> None:
    """Draw the whole image with its grid, and beside it a part with many detections of all kinds at full size."""
    from matplotlib.figure import Figure

    from geotile.results.plotting import plot_detections

    figure = Figure(figsize=(17, 9), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_detections(work.image, detections, grid=work.grid, ax=left)
    left.set_title(f"{len(detections)} detections, {work.tiles} tiles (thin), {work.regions} regions (bold)")
    view = _richest_window(detections, work)
    plot_detections(work.image, detections, grid=work.grid, window=view, ax=right)
    right.set_title(f"rows {view.y0} to {view.y1}, columns {view.x0} to {view.x1}")
    for ax in (left, right) if len(detections) else ():
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.03), ncols=6, frameon=False)  # beside the objects
    figure.savefig(path, dpi=110)


def _richest_window(detections: gpd.GeoDataFrame, work: Plan) -> Window:
    """Return the square window with the most labels, and of these the one with the most detections.

    Its side is a fifth of the height, at least 400 pixels.
    """
    height, width = work.grid.shape_yx
    side = min(max(height // 5, 400), height, width)
    x = (detections["xmin"] + detections["xmax"]) / 2
    y = (detections["ymin"] + detections["ymax"]) / 2
    best, most = Window(0, side, 0, side), (0, 0)
    for y0 in range(0, height - side + 1, max(side // 2, 1)):
        for x0 in range(0, width - side + 1, max(side // 2, 1)):
            inside = detections["label"][(x >= x0) & (x < x0 + side) & (y >= y0) & (y < y0 + side)]
            if (rank := (inside.nunique(), len(inside))) > most:
                best, most = Window(y0, y0 + side, x0, x0 + side), rank
    return best
