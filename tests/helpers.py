"""Oracles, and a model whose answer depends on every pixel of the tile."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess
from unittest.mock import patch

import dask
import numpy as np

from geotile.cli.main import main
from geotile.imagery.file_array import source_of
from geotile.imagery.overlap import map_overlap
from geotile.merging.nms import overlap


def cli(*words, status=0) -> CompletedProcess:
    """Run the command line in this process: starting one takes two seconds."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["geotile", *map(str, words)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    assert code == status, (code, err.getvalue())
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())


def flat_nms(boxes, scores, labels, threshold, metric="iou", class_agnostic=False) -> list[int]:
    """Greedy NMS by definition: all pairs, no index. Rank: score, label, box, position."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], labels[i], *boxes[i], i))
    kept: list[int] = []
    for i in order:
        rivals = [k for k in kept if class_agnostic or labels[k] == labels[i]]
        if not any(overlap(boxes[i][None], boxes[k][None], metric)[0] > threshold for k in rivals):
            kept.append(i)
    return kept


def crowd(tile: np.ndarray):
    """Dense pseudo-random boxes, a pure function of the tile's pixels; scores and labels tie often."""
    seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(tile)).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 12))
    height, width = tile.shape[1:]
    corner = rng.uniform(-4, [width, height], (n, 2)).round()
    boxes = np.hstack([corner, corner + rng.integers(0, 24, (n, 2))])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0)
    return boxes, rng.integers(1, 5, n) / 4, [["a", "b"][k] for k in rng.integers(0, 2, n)]


def region_values(image, grid, run="run") -> dict:
    """Pixels of every region with its halo, (band, y, x), by row and column: as a region's task reads them."""
    regions = map_overlap(image, source_of(image.data), grid, run)
    read = dask.compute(*regions.to_delayed().ravel())
    return {
        (row, column): region.read(grid.region_tiles(row, column), False).values
        for region, (row, column) in zip(read, np.ndindex(grid.regions_yx), strict=True)
    }


class Heavy:
    """A model that does not pickle, and says which process built it. (Here, as workers import no test module.)"""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, tile: np.ndarray):
        with self.lock:
            return [[0, 0, 2, 2]], [0.5], [f"{os.getpid()}-{id(self)}"]


class Slow:
    """A model of a second a tile."""

    def __call__(self, tile: np.ndarray):
        time.sleep(1.0)
        return [], []


class Counting:
    """A model that knows how many are in it."""

    def __init__(self, latency_s=0.02, model=lambda tile: ([], [])):
        self.now = self.most = 0
        self.lock, self.latency_s, self.model = threading.Lock(), latency_s, model

    def __call__(self, tile):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.latency_s)
        with self.lock:
            self.now -= 1
        return self.model(tile)
