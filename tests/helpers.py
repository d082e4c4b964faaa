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
from geotile.merging.overlaps import overlap


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


def save_onnx(path, outputs, shape, *, more_inputs=(), metadata=None, dtype=np.float32, declared=None) -> str:
    """Write an ONNX model that returns constant outputs.

    `declared` gives shapes of outputs as the file declares them, where they differ from those of the values.
    """
    import onnx
    from onnx import helper, numpy_helper

    given = [helper.make_tensor_value_info("images", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)]
    given += [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, (1, *shape[-2:])) for name in more_inputs]
    nodes, weights, said = [], [], []
    for name, value in outputs.items():
        array = np.asarray(value)
        array = array.astype({"i": np.int64}.get(array.dtype.kind, np.float16 if array.dtype == np.float16 else "f4"))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        weights.append(numpy_helper.from_array(array, f"{name}_is"))
        nodes.append(helper.make_node("Identity", [f"{name}_is"], [name]))
        said.append(helper.make_tensor_value_info(name, kind, (declared or {}).get(name, array.shape)))
    graph = helper.make_graph(nodes, "constant", given, said, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(made, dict(metadata or {}))
    onnx.save(made, path)
    return str(path)
