"""A parking lot of overlapping oriented boxes: memory and time of merges, called by `merging.py crowd`.

The cars of a row overlap their neighbours by more than the threshold, so rows are chains that cross all regions. The
lot is generated tile by tile, and merged along a tree: the regions of a row, the row, all rows so far. What is settled
is counted and forgotten, so the memory holds one region and what is open. All times are CPU times of one thread.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

import geotile
import geotile.merging.pool as pool_module
from geotile.grid.tile_grid import Interior, Tile, TileGrid
from geotile.merging.detections import Detections, concat, detections

CAR = np.array([18.0, 40.0])  # px, across and along
PITCH = np.array([5.5, 60.0])  # px: neighbours in a row overlap by 0.53 (IoU), rows do not touch
ANGLE_DEG = 10.0
TILE, OVERLAP, REGION = 512, 128, 1152
MERGES = {"SeamNms": geotile.SeamNms(), "Nms": geotile.Nms()}
EVERYWHERE = Interior(-np.inf, -np.inf, np.inf, np.inf)


@dataclass
class Outcome:
    """What a merge of a lot took."""

    given: int
    settled: int
    most_open: int
    """Largest number of detections of a row of regions, or of all rows so far, that were open at the same time."""
    most_carried: int = 0
    """Largest number that was open between two rows of regions."""


def lot_grid(boxes: int, tile: int = TILE, overlap: int = OVERLAP, region: int = REGION) -> TileGrid:
    """Return the grid of a square lot on which tiles find about `boxes` cars, the same ones counted repeatedly."""
    side = int(np.sqrt(boxes * PITCH.prod()) * (tile - overlap) / tile)
    edges = [*range(0, side, region), side]
    chunks = tuple(np.diff(edges).tolist())
    return TileGrid((side, side), tile, overlap, (chunks, chunks))


def cars(tile: Tile) -> Detections:
    """Return what a detector finds in a tile: cars whose centre it shows, moved by up to half a pixel."""
    window = tile.window
    turn = np.radians(ANGLE_DEG)
    across, along = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    corners = np.array([[x, y] for x in (window.x0, window.x1) for y in (window.y0, window.y1)], np.float64)
    ranges = [corners @ axis / pitch for axis, pitch in zip((across, along), PITCH, strict=True)]
    i, j = (each.ravel() for each in np.meshgrid(*(np.arange(np.floor(r.min()), r.max() + 1) for r in ranges)))
    centres = i[:, None] * PITCH[0] * across + j[:, None] * PITCH[1] * along
    shown = (centres > [window.x0, window.y0]).all(axis=1) & (centres < [window.x1, window.y1]).all(axis=1)
    i, j, centres = i[shown], j[shown], centres[shown]
    rng = np.random.default_rng(tile.number)
    centres += rng.uniform(-0.5, 0.5, centres.shape) - [window.x0, window.y0]
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * CAR / 2
    rings = centres[:, None] + signs @ np.stack([across, along])
    scores = 0.2 + 0.7 * (np.sin(i * 12.9898 + j * 78.233) * 43758.5453 % 1) + rng.uniform(-0.05, 0.05, len(i))
    shapes: Any = shapely.polygons(rings)
    found = detections(
        np.hstack([rings.min(axis=1), rings.max(axis=1)]), scores, ["car"] * len(i), shapes, oriented=[True] * len(i)
    )
    return found.moved_to_image(tile.number, window.x0, window.y0, window.x1 - window.x0, window.y1 - window.y0)


def merge_lot(merge: geotile.Merge, grid: TileGrid) -> Outcome:
    """Merge a lot row of regions by row of regions."""
    down, across = grid.regions_yx
    outcome, carried = Outcome(0, 0, 0), concat([])
    for row in range(down):
        opened = []
        for column in range(across):
            found = concat([cars(tile) for tile in grid.region_tiles(row, column)])
            settled, left = merge.settle(found, grid.interior((row, row + 1), (column, column + 1)), grid)
            outcome.given, outcome.settled = outcome.given + len(found), outcome.settled + len(settled)
            opened.append(left)
        of_row, left = merge.settle(concat(opened), grid.interior((row, row + 1), (0, across)), grid)
        settled, carried = merge.settle(concat([carried, left]), grid.interior((0, row + 1), (0, across)), grid)
        outcome.settled += len(of_row) + len(settled)
        outcome.most_carried = max(outcome.most_carried, len(carried))
        outcome.most_open = max(outcome.most_open, len(carried), sum(map(len, opened)))
    assert not len(carried)
    return outcome


def one(name: str, boxes: int) -> None:
    """Merge a lot in this process, and print a row."""
    merge_lot(MERGES[name], lot_grid(2_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    outcome = merge_lot(MERGES[name], lot_grid(boxes))
    took = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{name:8} {outcome.given:10,} {outcome.settled:9,} {outcome.most_open:9,} {took:7.1f}"
        f" {(peak - before) / 1024:9.0f} {peak / 1024:8.0f}", flush=True,
    )  # fmt: skip


def oriented_against_boxes(boxes: int) -> None:
    """Print the time of oriented boxes against that of their envelopes, and the time of the geometry alone."""
    grid = lot_grid(boxes)
    found = concat([cars(tile) for tile in grid.tiles()])
    inside = 0.0

    def timed(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            nonlocal inside
            began = time.process_time()
            result = function(*arguments)
            inside += time.process_time() - began
            return result

        return run

    for name in ("shape_overlap", "clipped", "are_boxes"):
        setattr(pool_module, name, timed(getattr(pool_module, name)))
    seconds = []
    for geometry in ("box", "auto"):
        began = time.process_time()
        geotile.Nms(geometry=geometry).settle(found, EVERYWHERE, grid)
        seconds.append(time.process_time() - began)
    upright, oriented = seconds
    print(
        f"{len(found):,} oriented boxes, NMS: {oriented:.2f} s, {inside:.2f} s of it geometry; upright {upright:.2f} s; "
        f"without the geometry {(oriented - inside) / upright:.2f} x"
    )


def against_lsnms(boxes: int) -> None:
    """Print the time of NMS of upright boxes against lsnms, the best of three, in turns."""
    try:
        import lsnms
    except ImportError:
        print("lsnms is not installed; NMS is not compared with it")
        return
    rng, own = np.random.default_rng(0), boxes * 3 // 4
    centre, half = rng.uniform(100, 80 * np.sqrt(boxes), (own, 2)), rng.uniform(10, 30, (own, 2))
    xyxy = np.c_[centre - half, centre + half]
    xyxy = np.r_[xyxy, xyxy[: boxes - own] + rng.normal(0, 2, (boxes - own, 4))]
    xyxy[:, 2:] = np.maximum(xyxy[:, 2:], xyxy[:, :2] + 1)
    scores, times, kept = rng.random(boxes), ([], []), []
    lsnms.nms(xyxy[:100], scores[:100], 0.5)  # compiles
    for _ in range(3):
        for function, seconds in zip((geotile.nms, lsnms.nms), times, strict=True):
            began = time.process_time()
            result = (
                function(xyxy, scores, iou_threshold=0.5) if function is geotile.nms else function(xyxy, scores, 0.5)
            )
            seconds.append(time.process_time() - began)
            kept.append(set(np.asarray(result).tolist()))
    ours, theirs = map(min, times)
    print(
        f"{boxes:,} upright boxes, NMS: geotile {ours:.2f} s, lsnms {theirs:.2f} s, {ours / theirs:.2f} x; "
        f"the same boxes: {kept[0] == kept[1]}"
    )


def main(boxes: int) -> None:
    """Print memory and time of lots of a quarter of the boxes and of all, each in a process of its own."""
    print(
        f"{'merge':8} {'boxes':>10} {'settled':>9} {'open':>9} {'CPU s':>7} {'more MB':>9} {'peak MB':>8}", flush=True
    )
    for name in MERGES:
        for size in (boxes // 4, boxes):
            subprocess.run([sys.executable, str(Path(__file__)), name, str(size)], check=True)
    oriented_against_boxes(boxes // 5)
    against_lsnms(boxes)


if __name__ == "__main__":
    one(sys.argv[1], int(sys.argv[2]))
