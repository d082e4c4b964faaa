"""Draw the pictures of the pages about images and models."""

from __future__ import annotations

import json
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import requests
import shapely
import shapely.affinity
from drawing import BLUE, RED, Names, calls, detected, draw_calls, of, panels, show
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import geotile


@of("images")
def images(names: Names) -> Figure:
    figure, (left, right) = panels(2)
    show(left, names["coarse"], "resolution=1.2")
    y, x = 600 / 4, 900 / 4
    left.add_patch(Rectangle((x, y), 128, 128, fill=False, edgecolor="white", linewidth=1.5))
    show(right, names["part"], "image[:, 600:1112, 900:1412]")
    return figure


@of("object-storage")
def object_storage(names: Names) -> Figure:
    figure, (ax,) = panels(1, 5.4, 5.2)
    detected(ax, names["part"], names["detections"], "s3://bucket/scene.tif, [:, :512, :512]")
    return figure


@of("nitf-and-sar")
def nitf_and_sar(names: Names) -> Figure:
    figure, (ax,) = panels(1, 6.4, 5.4)
    with rasterio.open("dem.tif") as file:
        b = file.bounds
        shade = ax.imshow(file.read(1), extent=(b.left, b.right, b.bottom, b.top), cmap="Greys", alpha=0.6)
    figure.colorbar(shade, ax=ax, label="height of the ground, m", shrink=0.8)
    for label, colour in (("flat", BLUE), ("placed", RED)):
        names[label].boundary.plot(ax=ax, color=colour, linewidth=1.2)
        ax.plot([], [], color=colour, label={"flat": "without dem", "placed": 'dem="dem.tif"'}[label])
    left, bottom, right, top = names["placed"].total_bounds
    ax.set(
        xlim=(left - 0.0004, right + 0.0006), ylim=(bottom - 0.0003, top + 0.0003), aspect=1 / np.cos(np.radians(51.9))
    )
    ax.set(xticks=[], yticks=[], title="The ground under a camera that looks 25 degrees off the vertical")
    ax.legend(loc="upper left")
    return figure


@of("bit-depth")
def bit_depth(names: Names) -> Figure:
    figure, axes = panels(3, 9.6, 3.5)
    image = names["image"][:, 300:812, 300:812]
    show(axes[0], np.asarray(image) >> 3, "all of 11 bits: 0 to 2,047")
    show(axes[1], names["known"][:, 300:812, 300:812], "rescale=(200, 965)")
    show(axes[2], geotile.stretch(names["image"], (0.5, 99.5))[:, 300:812, 300:812], "stretch=(0.5, 99.5)")
    return figure


@of("region-of-interest")
def region_of_interest(names: Names) -> Figure:
    figure, (ax,) = panels(1, 6.0, 5.8)
    image, report = geotile.open_image(names["path"]), names["report"]
    detected(ax, image, names["found"], f"roi=area: {report.requests} of {report.tiles} tiles are read")
    a = ~image.rio.transform()
    area = shapely.affinity.affine_transform(names["area"].iloc[0], [a.a, a.b, a.d, a.e, a.c, a.f])
    ax.plot(*area.exterior.xy, color="white", linewidth=2)
    for _, window in geotile.plan(names["path"], **names["tiles"]).grid.tiles():
        if area.intersects(shapely.box(window.x0, window.y0, window.x1, window.y1)):
            tile = Rectangle((window.x0, window.y0), 256, 256, fill=False, edgecolor="#ffd54f", linewidth=0.6)
            ax.add_patch(tile)
    return figure


@of("many-images")
def many_images(names: Names) -> Figure:
    figure, axes = panels(4, 10, 2.9)
    for ax, path in zip(axes, names["paths"], strict=True):
        found = gpd.read_parquet(path)
        detected(ax, f"images/{path.stem}.tif", found, f"{path.stem}.tif: {len(found)}")
        ax.get_legend().remove()
    return figure


@of("models")
def models(names: Names) -> Figure:
    figure, (left, right) = panels(2)
    image = geotile.open_image(names["image"])
    tile = np.asarray(image[:, 384:640, 0:256])
    show(left, tile, "model(tile) -> boxes, scores, labels")
    for x0, y0, x1, y1 in names["model"](tile)[0]:
        left.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#4fc3f7", linewidth=1.5))
    detected(right, image, names["detections"], "geotile.detect(image, model)")
    return figure


@of("container")
def container(names: Names) -> Figure:
    features = json.loads(_answer(names))["features"]
    box, (kind,) = features[0]["properties"]["imageBBox"], features[0]["properties"]["featureClasses"]
    first = f'{{"imageBBox": {box},\n"featureClasses": [{{"iri": "{kind["iri"]}", "score": {kind["score"]:.2f}}}]}}'
    return calls(
        "geotile", "your container", [
            ("GET /ping", "200: the model is ready"),
            ("POST /invocations: a tile as GeoTIFF", f"200: FeatureCollection of {len(features)} features\n{first}"),
        ],
    )  # fmt: skip


def _answer(names: Names) -> bytes:
    """Return what the contract of the page answers to a part of its image."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), names["Contract"])
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    tile = geotile.open_image(names["image"])[:, :256, 600:856]
    tile.rio.to_raster("tile.tif")
    url = f"http://127.0.0.1:{server.server_port}/invocations"
    answer = requests.post(url, data=Path("tile.tif").read_bytes(), timeout=30).content
    server.shutdown()
    server.server_close()
    return answer


@of("inference-servers")
def inference_servers(names: Names) -> Figure:
    figure = Figure(figsize=(9.6, 4.4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    draw_calls(
        left, "geotile", "model server", [
            ("GET /v2/models/vehicles", "images FP32 (-1, 3, 256, 256)\nboxes, scores, labels"),
            ("POST .../infer\nimages (4, 3, 256, 256)", "boxes (4, n, 4)\nscores (4, n), labels (4, n)"),
        ],
    )  # fmt: skip
    detected(right, names["image"], names["detections"], "score_threshold=0.9")
    return figure


@of("sagemaker")
def sagemaker(names: Names) -> Figure:
    tiles = names["report"].requests
    return calls(
        "geotile", "SageMaker, endpoint planes", [
            ("DescribeEndpoint", "InService; variants and their weights"),
            (f"InvokeEndpoint, signed: tile 1 of {tiles}", "FeatureCollection"),
            (f"InvokeEndpoint, signed: tile {tiles} of {tiles}", "FeatureCollection"),
        ],
    )  # fmt: skip


@of("onnx")
def onnx(names: Names) -> Figure:
    figure, (ax,) = panels(1, 5.6, 5.4)
    detected(ax, names["image"], names["detections"], "onnx:vehicles.onnx", window=geotile.Window(300, 812, 500, 1012))
    return figure
