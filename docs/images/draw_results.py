"""Draw the pictures of the pages about results."""

from __future__ import annotations

import geopandas as gpd
from drawing import Names, around, detected, of, panels, show
from matplotlib.figure import Figure

import geotile
from geotile.testing import scene_detector


@of("results")
def results(names: Names) -> Figure:
    figure, (ax,) = panels(1, 5.8, 5.6)
    detected(ax, names["image"], names["confident"], "plot_detections(image, confident)")
    return figure


@of("merging-and-shapes")
def merging(names: Names) -> Figure:
    figure, axes = panels(3, 10.4, 3.9)
    buildings = names["found"]["seam"].query("label == 'building'")
    building = buildings.loc[(buildings.xmax - buildings.xmin).idxmin()]
    for ax, (name, found) in zip(axes, names["found"].items(), strict=True):
        view = around(building, geotile.open_image(names["scene"].path).shape[1:])
        detected(ax, names["scene"].path, found, f"merge={name!r}", window=view)
    return figure


@of("object-sizes")
def object_sizes(names: Names) -> Figure:
    figure, axes = panels(3, 10.4, 3.9)
    parts = geotile.detect(names["scene"].path, scene_detector, tile_size=256, overlap=64, merge="nms")
    large = names["large"].assign(width=names["large"].xmax - names["large"].xmin).sort_values("width").iloc[-1]
    view = around(large, (1536, 1536))
    for ax, title, found in zip(
        axes, ("0.3 m, merge='nms'", "0.3 m, merge='seam'", "buildings from 0.6 m, others from 0.3 m"),
        (parts, names["fine"], names["both"]), strict=True,
    ):  # fmt: skip
        detected(ax, names["scene"].path, found, title, window=view)
    return figure


@of("shapes")
def shapes(names: Names) -> Figure:
    figure, (ax,) = panels(1, 6, 5.4)
    detected(ax, names["image"], names["ships"], "xyxyxyxy", window=geotile.Window(0, 600, 0, 660))
    for row in names["ships"].itertuples():
        if row.xmax < 660 and row.ymax < 600:
            ax.text(row.xmax + 4, row.ymin, f"{row.length_m:.0f} m\n{row.heading_deg:.0f}°", color="white", fontsize=8)
    return figure


@of("rasters-and-embeddings")
def rasters(names: Names) -> Figure:
    figure, (left, right) = panels(2)
    show(left, geotile.open_image(names["image"]), "image")
    geotile.plot_classes(names["classes"].compute(), polygons=names["water"], ax=right)
    right.set(title="class map, and polygons of the water", xticks=[], yticks=[])
    return figure


@of("embeddings")
def embeddings(names: Names) -> Figure:
    figure, axes = panels(4, 9.6, 2.9)
    image, found, unit = geotile.open_image(names["image"]), names["found"], names["unit"]
    for k, (ax, tile) in enumerate(zip(axes, names["alike"], strict=True)):
        row = found.loc[tile]
        pixels = image[:, int(row.ymin) : int(row.ymax), int(row.xmin) : int(row.xmax)]
        show(ax, pixels, f"tile {tile}" if k == 0 else f"tile {tile}: {unit[tile] @ unit[20]:.3f}")
    return figure


@of("gis")
def gis(names: Names) -> Figure:
    figure, (ax,) = panels(1, 6.4, 5.6)
    layer = gpd.read_file("found.gpkg")
    layer.plot(ax=ax, column="label", cmap="tab10", legend=True, linewidth=0.4, edgecolor="black")
    ax.set(title="found.gpkg")
    return figure
