"""Plots of the grid, of detections on the image, and of maps of classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray

from geotile.errors import ArgumentError
from geotile.grid.tile_grid import TileGrid, Window
from geotile.imagery.array_check import check_array
from geotile.public import public
from geotile.results.class_legend import as_hex, class_names, colour, frame_colours
from geotile.results.frame import image_geometry
from geotile.results.overview import overview

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REGION, _TILE, _ROI = "#ffd23f", "#ffffff", "#ff3864"  # colours of the grid
_MAX_TILES = 10_000  # that are drawn
_SIDE_PX = 1600  # approximate size of a drawn image


def draw_grid(grid: TileGrid, ax: Axes, selected: NDArray[np.bool_] | None = None, tile_alpha: float = 0.6) -> None:
    """Draw tiles (thin) and regions (bold) in image pixels.

    Of more than 10,000 tiles none is drawn. `selected`, (tiles down, tiles across) bool, are the tiles to draw.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    height, width = grid.shape_yx
    if _has_tiles_to_draw(grid):
        wanted = np.ones(grid.tiles_yx, bool) if selected is None else selected
        windows = [window for (_, window), is_wanted in zip(grid.tiles(), wanted.flat, strict=True) if is_wanted]
        tiles = [Rectangle((w.x0, w.y0), w.x1 - w.x0, w.y1 - w.y0) for w in windows]
        ax.add_collection(PatchCollection(tiles, facecolor="none", edgecolor=_TILE, linewidth=0.5, alpha=tile_alpha))
    for y in grid.axes[0].edges:
        ax.axhline(y, color=_REGION, linewidth=1.6)
    for x in grid.axes[1].edges:
        ax.axvline(x, color=_REGION, linewidth=1.6)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")


def draw_plan(
    image: xr.DataArray, grid: TileGrid, selected: NDArray[np.bool_] | None, outlines: Iterable[NDArray[np.float64]],
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw a grid, and the outlines of a region of interest, over a small picture of the image."""
    ax = ax if ax is not None else _new_axes()
    height, width = grid.shape_yx
    picture = overview(image, _SIDE_PX)
    if picture is None:
        ax.set_facecolor("#33475b")
    else:
        ax.imshow(rgb(picture), extent=(0, width, height, 0), interpolation="nearest")
    draw_grid(grid, ax, selected)
    for line in outlines:
        ax.plot(*line.T, color=_ROI, linewidth=2)
    wanted = "" if selected is None else f"{int(selected.sum()):,} of "
    left_out = "" if _has_tiles_to_draw(grid) else ", too many to draw"
    ax.set_title(f"{wanted}{grid.n_tiles:,} tiles{left_out}, {grid.n_regions:,} regions")
    ax.tick_params(labelsize=7)
    return ax


def _has_tiles_to_draw(grid: TileGrid) -> bool:
    return grid.n_tiles <= _MAX_TILES


@public
def plot_detections(
    image: xr.DataArray,
    detections: gpd.GeoDataFrame,
    *,
    grid: TileGrid | None = None,
    window: Window | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw detections on their image.

    Parameters
    ----------
    image : xarray.DataArray
        Image with dims (band, y, x). It is drawn with about 1,600 pixels a side.
    detections : geopandas.GeoDataFrame
        Detections, as `detect` returns them, or read back from a file of `write`.
    grid : TileGrid, optional
        Grid that is drawn too: tiles thin, regions bold.
    window : Window, optional
        Part of the image to show, in pixels. The legend counts the detections that intersect it.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on. By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If the image is not an array, the detections do not have the columns of `detect`, or the grid or the window
        is of another type.
    """
    check_array(image)
    if not isinstance(detections, gpd.GeoDataFrame) or not _has_shapes(detections):
        raise ArgumentError(
            f"detections must have the columns that geotile.detect returns; got {_columns(detections)}. Pass its result"
        )
    for name, value, kind in (("grid", grid, TileGrid), ("window", window, Window)):
        if value is not None and not isinstance(value, kind):
            raise ArgumentError(f"{name} must be a geotile.{kind.__name__}; got {type(value).__name__}")
    ax = ax if ax is not None else _new_axes()
    height, width = image.shape[-2:]
    view = window or Window(0, height, 0, width)
    step = max(1, max(view.shape_yx) // _SIDE_PX)
    thinned = image.isel(y=slice(view.y0, view.y1, step), x=slice(view.x0, view.x1, step))
    ax.imshow(rgb(thinned), extent=(view.x0, view.x1, view.y1, view.y0), interpolation="nearest")
    if grid is not None:
        draw_grid(grid, ax, tile_alpha=0.35)
    _draw_shapes(detections, view, ax)
    ax.set(xlim=(view.x0, view.x1), ylim=(view.y1, view.y0), aspect="equal")
    ax.tick_params(labelsize=7)
    return ax


@public
def plot_classes(
    raster: xr.DataArray, *, polygons: gpd.GeoDataFrame | None = None, ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Draw a map of classes with its legend.

    Parameters
    ----------
    raster : xarray.DataArray
        Class numbers with dims (y, x), as `predict` returns them. It is drawn with about 1,600 pixels a side; a lazy
        array asks the model for all tiles that these pixels need.
    polygons : geopandas.GeoDataFrame, optional
        Polygons of the same raster, as `polygonize` returns them. Their outlines are drawn over it.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on. By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        In the CRS of the raster, or in pixels without one.

    Raises
    ------
    ArgumentError
        If the raster does not hold class numbers with dims (y, x).
    """
    if not isinstance(raster, xr.DataArray) or raster.dims != ("y", "x") or raster.dtype.kind not in "bui":
        what = f"dims {raster.dims}, {raster.dtype}" if isinstance(raster, xr.DataArray) else type(raster).__name__
        raise ArgumentError(f"raster must hold class numbers, integers with dims (y, x); got {what}")
    from matplotlib.patches import Patch

    ax = ax if ax is not None else _new_axes()
    step = max(1, max(raster.shape) // _SIDE_PX)
    numbers = np.asarray(raster[::step, ::step]).astype(np.int64)
    known = numbers != (-1 if raster.rio.nodata is None else raster.rio.nodata)
    present = np.unique(numbers[known])
    pixels = np.zeros((*numbers.shape, 4), np.uint8)
    for number in present:
        pixels[known & (numbers == number)] = (*colour(int(number)), 255)
    ax.imshow(pixels, extent=_extent(raster), interpolation="nearest")
    names = class_names(raster)
    patches = [Patch(color=as_hex(colour(n)), label=names[n] if n < len(names) else str(n)) for n in map(int, present)]
    ax.legend(handles=patches, loc="upper right", framealpha=0.9)
    if polygons is not None:
        polygons.boundary.plot(ax=ax, color="black", linewidth=0.8)
    ax.tick_params(labelsize=7)
    return ax


def _extent(raster: xr.DataArray) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of a raster, in its CRS or in pixels."""
    height, width = raster.shape
    if "x" not in raster.coords:
        return 0.0, float(width), float(height), 0.0
    left, bottom, right, top = raster.rio.bounds()
    return left, right, bottom, top


def _has_shapes(detections: gpd.GeoDataFrame) -> bool:
    return "label" in detections and ("xmin" in detections or "imageGeometry" in detections)


def _draw_shapes(detections: gpd.GeoDataFrame, view: Window, ax: Axes) -> None:
    """Draw the outlines of detections, and points, with one colour and one entry of the legend per label in view.

    The colour of a label is the same in all views of the same detections.
    """
    from matplotlib.collections import LineCollection

    colours = frame_colours(detections)
    shapes, labels = image_geometry(detections).to_numpy(), detections["label"].astype(str).to_numpy()
    visible = shapely.intersects(shapes, shapely.box(view.x0, view.y0, view.x1, view.y1))
    for label in sorted(set(labels[visible])):
        mine = shapes[visible & (labels == label)]
        name, parts = f"{label or 'detection'} ({len(mine)})", shapely.get_parts(mine)
        outlines = shapely.boundary(parts[shapely.get_dimensions(parts) == 2])
        lines = [*shapely.get_parts(outlines), *parts[shapely.get_dimensions(parts) == 1]]
        rings = [shapely.get_coordinates(line) for line in lines]
        points = shapely.get_coordinates(parts[shapely.get_dimensions(parts) == 0])
        ax.add_collection(LineCollection(rings, colors=colours[label], linewidths=1.2, label=name if rings else None))
        if len(points):
            ax.plot(*points.T, ".", color=colours[label], markersize=5, label=None if rings else name)
    if visible.any():
        ax.legend(loc="upper right", framealpha=0.9)


def _new_axes() -> Axes:
    import matplotlib.pyplot as plt

    axes: Axes = plt.subplots(figsize=(9, 9), layout="constrained")[1]
    return axes


def rgb(image: Any) -> NDArray[np.uint8]:
    """Return the first three bands as (y, x, 3), stretched between percentiles if they are not 8-bit."""
    pixels = np.asarray(image, np.float64)[:3]
    pixels = np.repeat(pixels[:1], 3, 0) if len(pixels) < 3 else pixels
    if image.dtype != np.uint8:
        low, high = np.nanpercentile(pixels, (2, 98))
        pixels = (pixels - low) / max(high - low, 1e-12) * 255
    return np.clip(np.nan_to_num(np.moveaxis(pixels, 0, -1)), 0, 255).astype(np.uint8)


def _columns(detections: object) -> str:
    return str(list(detections)) if isinstance(detections, gpd.GeoDataFrame) else type(detections).__name__
