"""What the pictures of the pages share: how they are noted, saved and laid out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import geotile

Names = dict[str, Any]
PICTURES: dict[str, Callable[[Names], Figure]] = {}
RED, BLUE = "#d62728", "#6c8ebf"


def save(page: str, names: Names, folder: Path, dots_per_inch: int) -> Path:
    """Draw the picture of a page; return its path."""
    style = {"font.size": 9, "axes.titlesize": 10, "savefig.dpi": dots_per_inch, "figure.constrained_layout.use": True}
    with mpl.rc_context(style):
        figure = PICTURES[page](names)
        path = folder / f"{page}.jpg"
        figure.savefig(path, bbox_inches="tight", pad_inches=0.08, pil_kwargs={"quality": 80, "optimize": True})
    return path


def of(page: str) -> Callable[[Callable[[Names], Figure]], Callable[[Names], Figure]]:
    """Note a function as the one that draws the picture of a page."""

    def noted(draw: Callable[[Names], Figure]) -> Callable[[Names], Figure]:
        PICTURES[page] = draw
        return draw

    return noted


def panels(count: int, width: float = 9.0, height: float = 4.4) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes side by side, without ticks."""
    figure = Figure(figsize=(width, height))
    axes = list(np.atleast_1d(figure.subplots(1, count)).ravel())
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    return figure, axes


def show(ax: Axes, image: Any, title: str) -> None:
    """Show an image (band, y, x) of 8 bits."""
    ax.imshow(np.moveaxis(np.asarray(image), 0, -1))
    ax.set_title(title)


def detected(ax: Axes, image: Any, detections: gpd.GeoDataFrame, title: str, **more: Any) -> None:
    """Draw detections on their image."""
    geotile.plot_detections(
        geotile.open_image(image) if isinstance(image, str | Path) else image, detections, ax=ax, **more
    )
    ax.set(title=title, xticks=[], yticks=[])
    if (legend := ax.get_legend()) is not None:
        legend.set_loc("lower right")


def calls(left: str, right: str, exchanges: list[tuple[str, str]]) -> Figure:
    """Draw requests and answers between two programs, from the top down."""
    figure = Figure(figsize=(7.6, 0.9 + 1.15 * len(exchanges)))
    draw_calls(figure.subplots(), left, right, exchanges)
    return figure


def draw_calls(ax: Axes, left: str, right: str, exchanges: list[tuple[str, str]]) -> None:
    """Draw requests and answers between two programs on some axes."""
    for x, name in ((0, left), (10, right)):
        ax.text(x, 0, name, ha="center", va="bottom", weight="bold")
        ax.plot([x, x], [-0.1, -2 * len(exchanges) - 0.2], color="#999999", linewidth=1)
    for k, (request, answer) in enumerate(exchanges):
        for row, text, colour, (start, end) in ((0, request, BLUE, (0, 10)), (1, answer, "#555555", (10, 0))):
            y = -(2 * k + row) - 0.9
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.4, "linestyle": "--" if row else "-"}
            ax.annotate("", (end, y), (start, y), arrowprops=arrow)
            ax.text(5, y + 0.08, text, ha="center", va="bottom", fontsize=8.5)
    ax.set(xlim=(-2, 12), ylim=(-2 * len(exchanges) - 0.3, 0.4))
    ax.axis("off")


def around(row: Any, shape_yx: tuple[int, ...], margin: int = 90) -> geotile.Window:
    """Return the window around the box of a detection."""
    (y1, x1), m = shape_yx, margin
    return geotile.Window(
        int(max(row.ymin - m, 0)), int(min(row.ymax + m, y1)), int(max(row.xmin - m, 0)), int(min(row.xmax + m, x1))
    )
