"""Which merge finds the objects that tile borders cut? Simulated worlds with a known truth, and real pictures.

    python benchmarks/merging.py worlds     # F1 of each merge in each world
    python benchmarks/merging.py pictures   # the same on pictures of ../shared/data, with real models
    python benchmarks/merging.py crowd      # memory and time of a parking lot of overlapping oriented boxes

A detector sees a world tile by tile: what is inside the tile. It misses some fragments, gives fragments a lower score
and at times another label, and places its boxes with some noise. The figures are F1 against the truth (IoU 0.5, same
label), the mean of the seeds. The contestants are the packages themselves (`pip install '.[bench]'`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

os.environ.setdefault("EAGER_IMPORT", "1")

import crowd
import pictures

import geotile
from geotile.grid.tile_grid import Interior, TileGrid
from geotile.merging.detections import Detections, concat, detections

SIDE = 4096
EVERYWHERE = Interior(-np.inf, -np.inf, np.inf, np.inf)
LABELS = np.array(["small", "middle", "large"], object)


@dataclass
class World:
    """Objects on the ground."""

    shapes: NDArray[np.object_]
    """(n,) shapely polygons in pixels."""
    labels: NDArray[np.int64]
    """(n,) int64, numbers in `LABELS`."""
    oriented: bool = False
    """Whether the detector gives oriented boxes instead of upright ones."""


# --- worlds -----------------------------------------------------------------------------------------------------------


def without_clashes(shapes: list[Any], labels: list[int], oriented: bool = False) -> World:
    """Drop objects that cover more than 0.3 (IoU) of an earlier one, or leave the image."""
    every, numbers = np.array(shapes, object), np.array(labels)
    inside = shapely.within(every, shapely.box(0, 0, SIDE, SIDE))
    every, numbers = every[inside], numbers[inside]
    one, other = shapely.STRtree(every).query(every)
    ahead = one < other
    one, other = one[ahead], other[ahead]
    shared = shapely.area(shapely.intersection(every[one], every[other]))
    clash = shared / (shapely.area(every[one]) + shapely.area(every[other]) - shared) > 0.3
    ok = np.ones(len(every), bool)
    for i, j in zip(one[clash], other[clash], strict=True):
        if ok[i]:
            ok[j] = False
    return World(every[ok], numbers[ok], oriented)


def rectangle(centre: Any, size: Any, angle: float = 0.0) -> Any:
    half = np.asarray(size) / 2
    return shapely.affinity.rotate(shapely.box(*(centre - half), *(centre + half)), angle)


def mixed(rng: np.random.Generator, large: float = 200, n: int = 500) -> World:
    """Objects of three sizes, 30 % of the large ones carrying three small ones."""
    shapes, labels = [], []
    for _ in range(n):
        label = int(rng.integers(0, 3))
        centre, size = rng.uniform(0, SIDE, 2), np.array([18, 45, large])[label] * rng.uniform(0.7, 1.3, 2)
        shapes.append(rectangle(centre, size)), labels.append(label)
        if label == 2 and rng.random() < 0.3:
            for _ in range(3):
                shapes.append(rectangle(centre + rng.uniform(-0.4, 0.4, 2) * size, 18 * rng.uniform(0.7, 1.3, 2)))
                labels.append(0)
    return without_clashes(shapes, labels)


def larger_than_tiles(rng: np.random.Generator) -> World:
    """Few objects of 300 to 1,500 pixels among small ones."""
    world = mixed(rng, n=300)
    shapes = [rectangle(rng.uniform(0, SIDE, 2), rng.uniform(300, 1500, 2)) for _ in range(60)]
    small = world.labels < 2
    return without_clashes(shapes + list(world.shapes[small]), [2] * 60 + list(world.labels[small]))


def ships(rng: np.random.Generator) -> World:
    """Oriented boxes of 15 to 250 pixels, three times as long as wide, some moored side by side."""
    shapes, labels = [], []
    for _ in range(350):
        label = int(rng.integers(0, 3))
        length = np.array([25, 70, 220])[label] * rng.uniform(0.7, 1.2)
        centre, angle = rng.uniform(0, SIDE, 2), rng.uniform(0, 180)
        across = np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle))])
        for berth in range(3 if rng.random() < 0.25 else 1):
            shapes.append(rectangle(centre + berth * across * (length / 3 + 3), [length, length / 3], angle))
            labels.append(label)
    return without_clashes(shapes, labels, oriented=True)


def car_park(rng: np.random.Generator, oriented: bool = False) -> World:
    """Rows of cars, 18 x 40 pixels with 2 to 5 pixels between them, at one angle for each row."""
    shapes, labels = [], []
    for _ in range(90):
        angle = rng.uniform(0, 180) if oriented else float(rng.choice([0, 90]))
        along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        place = rng.uniform(0, SIDE, 2)
        for _ in range(int(rng.integers(5, 30))):
            shapes.append(rectangle(place, [18 * rng.uniform(0.9, 1.1), 40 * rng.uniform(0.9, 1.1)], angle))
            labels.append(int(rng.random() < 0.1))
            place = place + along * (18 + rng.uniform(2.5, 5))
    return without_clashes(shapes, labels, oriented)


WORLDS: dict[str, Callable[[np.random.Generator], World]] = {
    "mixed sizes": mixed,
    "larger than tiles": larger_than_tiles,
    "car parks": car_park,
    "ships (oriented)": ships,
    "car parks (oriented)": lambda rng: car_park(rng, oriented=True),
}


def seen(world: World, grid: TileGrid, noise: float, rng: np.random.Generator) -> Detections:
    """Return what a detector sees of a world, tile by tile."""
    base, parts = rng.uniform(0.6, 0.95, len(world.shapes)), []
    tree = shapely.STRtree(world.shapes)
    for tile in grid.tiles():
        window = shapely.box(tile.window.x0, tile.window.y0, tile.window.x1, tile.window.y1)
        rows = np.sort(tree.query(window))
        visible = shapely.intersection(world.shapes[rows], window)
        share = shapely.area(visible) / shapely.area(world.shapes[rows])
        thickness = np.diff(shapely.bounds(visible).reshape(-1, 2, 2), axis=1)[:, 0].min(axis=1, initial=np.inf)
        noticed = (share > 0.1) & (thickness > 4) & (rng.random(len(rows)) <= share * 2)
        rows, visible, share = rows[noticed], visible[noticed], share[noticed]
        shapes = placed(visible, world.oriented, noise, window, rng)
        confused = (share < 0.6) & (rng.random(len(rows)) < 0.5)
        labels = np.where(confused, np.maximum(world.labels[rows] - 1, 0), world.labels[rows])
        scores = np.clip(base[rows] * (0.5 + 0.5 * share) + rng.normal(0, 0.08, len(rows)), 0.01, 0.999)
        good = np.flatnonzero(shapely.area(shapes) > 4)
        found = detections(
            shapely.bounds(shapes[good]).reshape(-1, 4), scores[good], LABELS[labels[good]],
            shapes[good] if world.oriented else None, oriented=[world.oriented] * len(good),
        )  # fmt: skip
        moved = found.moved_to_image(tile.number, 0, 0, SIDE, SIDE)
        boxes = np.clip(moved.boxes, np.tile(shapely.bounds(window)[:2], 2), np.tile(shapely.bounds(window)[2:], 2))
        parts.append(Detections(**{**vars(moved), "boxes": boxes}))
    return concat(parts)


def placed(visible: Any, oriented: bool, noise: float, window: Any, rng: np.random.Generator) -> NDArray[np.object_]:
    """Return the shapes that the detector gives for what it sees."""
    if oriented:
        boxes = np.asarray(shapely.minimum_rotated_rectangle(visible), object).reshape(-1)
        turns, moves = rng.normal(0, noise, len(boxes)), rng.normal(0, noise, (len(boxes), 2))
        turned = [shapely.affinity.rotate(each, turn) for each, turn in zip(boxes, turns, strict=True)]
        moved = [shapely.affinity.translate(each, *move) for each, move in zip(turned, moves, strict=True)]
        return np.array([*moved, None], object)[:-1]
    x0, y0, x1, y1 = shapely.bounds(window)
    bounds = shapely.bounds(visible).reshape(-1, 4) + rng.normal(0, noise, (len(visible), 4))
    bounds = np.clip(bounds, [x0, y0, x0, y0], [x1, y1, x1, y1])
    bounds[:, 2:] = np.maximum(bounds[:, 2:], bounds[:, :2])
    return np.asarray(shapely.box(*bounds.T), object).reshape(-1)


# --- contestants ------------------------------------------------------------------------------------------------------

Result = tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.float64]]  # shapes, labels, scores


def by_geotile(merge: geotile.Merge) -> Callable[[Detections, TileGrid], Result]:
    def run(found: Detections, grid: TileGrid) -> Result:
        settled, _ = merge.settle(found, EVERYWHERE, grid)
        return settled.image_geometries, settled.labels, settled.scores

    return run


def by_sahi(found: Detections, grid: TileGrid) -> Result:
    """SAHI's default: GREEDYNMM, IoS 0.5, by label; masks are joined."""
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction

    numbers = {label: k for k, label in enumerate(sorted(set(found.labels)))}
    given = [
        ObjectPrediction(
            bbox=box, score=score, category_id=numbers[label], category_name=label, full_shape=list(grid.shape_yx),
            segmentation=None if shape is None else [np.array(shape.exterior.coords[:-1]).ravel().tolist()],
        )
        for box, score, label, shape in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels, found.geometries, strict=True
        )
    ]  # fmt: skip
    merged = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(given)
    shapes = [sahi_shape(each) for each in merged]
    return (
        np.array([*shapes, None], object)[:-1], np.array([each.category.name for each in merged], object),
        np.array([each.score.value for each in merged]),
    )  # fmt: skip


def sahi_shape(prediction: Any) -> Any:
    if prediction.mask is None:
        return shapely.box(*prediction.bbox.to_xyxy())
    rings = [np.reshape(ring, (-1, 2)) for ring in prediction.mask.segmentation]
    return shapely.union_all([shapely.Polygon(ring).buffer(0) for ring in rings if len(ring) > 2])


def by_supervision(found: Detections, grid: TileGrid) -> Result:
    """The default of supervision's InferenceSlicer: NMS, IoU 0.5, by label."""
    import supervision as sv

    numbers = np.unique(found.labels.astype(str), return_inverse=True)[1]
    data = {"row": np.arange(len(found))}
    if found.oriented.any():
        data["xyxyxyxy"] = np.array([np.array(shape.exterior.coords[:-1]) for shape in found.geometries])
    given = sv.Detections(xyxy=found.boxes, confidence=found.scores, class_id=numbers, data=data)
    kept = found.select(given.with_nms(threshold=0.5).data["row"])
    return kept.image_geometries, kept.labels, kept.scores


CONTESTANTS: dict[str, Callable[[Detections, TileGrid], Result]] = {
    "geotile, seam": by_geotile(geotile.SeamNms()),
    "NMS, IoU 0.5": by_geotile(geotile.Nms()),
    "NMS, IoS 0.5": by_geotile(geotile.Nms(metric="ios")),
    "OversightML": by_geotile(geotile.Nms(0.75, geometry="box")),
    "SAHI": by_sahi,
    "supervision": by_supervision,
}


# --- figures ----------------------------------------------------------------------------------------------------------


def f1(world: World, result: Result) -> float:
    """Return the F1 of a result: each object is found once, by the best of the highest scores."""
    shapes, labels, scores = result
    tree, free, hits = shapely.STRtree(world.shapes), np.ones(len(world.shapes), bool), 0
    for k in np.argsort(-scores, kind="stable"):
        near = tree.query(shapes[k])
        near = near[free[near] & (LABELS[world.labels[near]] == labels[k])]
        if not len(near):
            continue
        shared = shapely.area(shapely.intersection(world.shapes[near], shapes[k]))
        iou = shared / (shapely.area(world.shapes[near]) + shapes[k].area - shared)
        if iou.max() >= 0.5:
            free[near[iou.argmax()]] = False
            hits += 1
    return 2 * hits / (len(shapes) + len(world.shapes))


def compare(seeds: int, contestants: dict[str, Any], names: list[str] | None = None) -> list[tuple[Any, ...]]:
    """Return a row for each world, overlap and noise: the F1 of each contestant."""
    rows = []
    for name, make in WORLDS.items():
        if names and name not in names:
            continue
        for overlap in (256, 128, 64, 0):
            for noise in (1.0, 3.0):
                figures = []
                for seed in range(seeds):
                    world = make(np.random.default_rng(seed))
                    grid = TileGrid((SIDE, SIDE), 512, overlap)
                    found = seen(world, grid, noise, np.random.default_rng(seed + 100))
                    figures.append([f1(world, run(found, grid)) for run in contestants.values()])
                rows.append((name, overlap, noise, *np.mean(figures, axis=0)))
                print_row(rows[-1])
    return rows


def print_row(row: tuple[Any, ...]) -> None:
    name, overlap, noise, *figures = row
    best = max(figures)
    marks = "".join(f"{figure:9.3f}{'*' if figure >= best - 0.0005 else ' '}" for figure in figures)
    print(f"{name:22}{overlap:8}{noise:7.0f}{marks}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["worlds", "pictures", "crowd"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--worlds", nargs="*")
    parser.add_argument("--boxes", type=int, default=1_000_000, help="oriented boxes of the parking lot")
    arguments = parser.parse_args()
    contestants = {k: v for k, v in CONTESTANTS.items() if not arguments.only or k in arguments.only}
    if arguments.what == "crowd":
        crowd.main(arguments.boxes)
    elif arguments.what == "pictures":
        pictures.compare(arguments.data, contestants)
    else:
        print(f"{'':37}" + "".join(f"{name:>10.9}" for name in contestants))
        compare(arguments.seeds, contestants, arguments.worlds)


if __name__ == "__main__":
    main()
