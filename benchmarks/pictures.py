"""Merges on real pictures with real models, called by `merging.py pictures`. Precision, recall and F1 at IoU 0.5.

Of the planes only the number is known, so they are counted: detections beyond two are wrong.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray

from geotile.detectors import OnnxDetector
from geotile.grid.tile_grid import TileGrid
from geotile.merging.detections import Detections, concat, detections

SCORE = 0.3
Contestants = dict[str, Callable[[Detections, TileGrid], Any]]


@dataclass(frozen=True)
class Picture:
    """A picture, a model, and what is in the picture."""

    name: str
    image: str
    model: str
    label: str
    tilings: tuple[tuple[int, int], ...]
    """Tile size and overlap in pixels."""
    truth: str | int
    """File with COCO boxes, or the number of objects."""


PICTURES = [
    Picture(
        "terrain, YOLOX", "sahi_terrain1.jpg", "yolox_nano.onnx", "person",
        ((256, 64), (320, 64), (416, 96), (200, 40)), "sahi_terrain1_coco.json",
    ),
    Picture("planes, NanoDet", "2_planes.tiff", "nanodet_m.onnx", "aeroplane", ((224, 96), (192, 64), (256, 64)), 2),
    Picture("planes, YOLOX", "2_planes.tiff", "yolox_nano.onnx", "aeroplane", ((224, 96), (192, 64), (256, 64)), 2),
]  # fmt: skip


def compare(data: Path, contestants: Contestants) -> None:
    """Print a row for each picture and tiling: precision, recall and F1 of each contestant."""
    print(f"{'':30}" + "".join(f"{name:>17.16}" for name in contestants), flush=True)
    for picture in PICTURES:
        names = ["imagery/" + picture.image, "models/" + picture.model, "models/coco.names"]
        names += ["imagery/" + picture.truth] if isinstance(picture.truth, str) else []
        if missing := [name for name in names if not (data / name).exists()]:
            print(f"{picture.name:18} skipped: {', '.join(missing)} not in {data.name}/")
            continue
        for tiling, found, grid in seen(picture, data):
            figures = []
            for run in contestants.values():
                shapes, labels, scores = run(found, grid)
                figures.append(
                    accuracy(picture, data, shapes[labels == picture.label], scores[labels == picture.label])
                )
            best = max(f1 for *_, f1 in figures)
            rows = (f"{p:6.2f}{r:5.2f}{f1:5.2f}{'*' if f1 >= best - 0.0005 else ' '}" for p, r, f1 in figures)
            print(f"{picture.name:18}{tiling[0]:6}/{tiling[1]:<5}" + "".join(rows), flush=True)
    print("small-vehicles1.jpeg is left out: its objects are not known")


def seen(picture: Picture, data: Path) -> Iterator[tuple[tuple[int, int], Detections, TileGrid]]:
    """Yield what a model finds in the tiles of a picture, for each tiling."""
    model = OnnxDetector(
        data / "models" / picture.model, labels=data / "models" / "coco.names", score_threshold=SCORE, threads=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(data / "imagery" / picture.image) as file:
            pixels = file.read()
    for tile_size, overlap in picture.tilings:
        grid, parts = TileGrid(pixels.shape[1:], tile_size, overlap), []
        for tile in grid.tiles():
            y0, y1, x0, x1 = tile.window
            boxes, scores, labels = model(pixels[:, y0:y1, x0:x1])[:3]
            found = detections(boxes, scores, labels)
            parts.append(found.moved_to_image(tile.number, x0, y0, x1 - x0, y1 - y0))
        yield (tile_size, overlap), concat(parts), grid


def accuracy(picture: Picture, data: Path, shapes: Any, scores: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of the detections of the picture's label."""
    if isinstance(picture.truth, int):
        hits, count = min(len(shapes), picture.truth), picture.truth
    else:
        boxes = [each["bbox"] for each in json.loads((data / "imagery" / picture.truth).read_text())["annotations"]]
        count, hits = len(boxes), found_boxes([shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes], shapes, scores)
    return hits / max(len(shapes), 1), hits / count, 2 * hits / (len(shapes) + count)


def found_boxes(truth: list[Any], shapes: Any, scores: NDArray[np.float64]) -> int:
    """Return the number of true boxes that are found, each by one detection."""
    free, hits = list(truth), 0
    for k in np.argsort(-scores, kind="stable"):
        ious = [shapes[k].intersection(box).area / shapes[k].union(box).area for box in free]
        if ious and max(ious) >= 0.5:
            del free[int(np.argmax(ious))]
            hits += 1
    return hits
