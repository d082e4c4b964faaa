"""Tracing of a raster, chunk by chunk.

Each chunk is traced for itself. A polygon that ends at a border of its chunk inside the raster stays open: a node of
the tree unites it with those of the neighbouring chunks, and lets go of what ends at no border of its rectangle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes as traced

from geotile.core.dask_info import compute_options
from geotile.core.memory import Measured
from geotile.core.warning_filter import filters_kept
from geotile.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class _Node(Measured):
    """Polygons of a rectangle of a raster."""

    box: tuple[int, int, int, int]
    """The rectangle, xyxy in pixels."""
    settled: NDArray[np.object_]
    settled_values: NDArray[np.int64]
    open: NDArray[np.object_]
    open_values: NDArray[np.int64]


def trace(
    data: da.Array, wanted: Sequence[int] | None, nodata: float | None
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Return the polygons of class numbers (y, x) in pixels, and the class of each."""
    height, width = data.shape
    edges = tuple(np.cumsum([0, *sizes]) for sizes in data.chunks)
    nodes = data.map_blocks(
        partial(_trace_block, edges=edges, shape=(height, width), wanted=wanted, nodata=nodata), dtype=object,
        meta=np.empty((0, 0), object), chunks=tuple((1,) * len(sizes) for sizes in data.chunks), name=None,
    )  # fmt: skip
    combine = partial(_combine, shape=(height, width))
    root = da.reduction(
        nodes, chunk=_unchanged, combine=combine, aggregate=combine, axis=(0, 1), concatenate=False,
        split_every={0: 2, 1: 2}, dtype=object, meta=np.empty((), object), name="polygonize",
    )  # fmt: skip
    options = compute_options(ahead=False)
    try:
        node: _Node = root.compute(**options)
    finally:
        if (pool := options.get("pool")) is not None:
            pool.shutdown(wait=False)
    return node.settled, node.settled_values


def _trace_block(
    values: NDArray[Any], edges: Any, shape: tuple[int, int], wanted: Sequence[int] | None, nodata: float | None,
    block_id: tuple[int, int],
) -> _Node:  # fmt: skip
    row, column = block_id
    y0, x0 = int(edges[0][row]), int(edges[1][column])
    if values.size and (int(values.min()) < 0 or int(values.max()) >= 2**31):
        raise ArgumentError(f"class numbers must be 0 to {2**31 - 1}; got {values.min()} to {values.max()}")
    mask = np.ones(values.shape, bool) if wanted is None else np.isin(values, wanted)
    if nodata is not None:
        mask &= values != nodata
    pixels = values.astype(np.int32)
    with filters_kept():
        found = list(traced(pixels, mask, connectivity=4))
    rings = [(shapely.geometry.shape(each), int(value)) for each, value in found]
    polygons = np.array([shape for shape, _ in rings] + [None], object)[:-1]
    moved = np.asarray(shapely.transform(polygons, lambda xy: xy + np.array([x0, y0])), object)
    numbers = np.array([value for _, value in rings], np.int64)
    node = _split((x0, y0, x0 + values.shape[1], y0 + values.shape[0]), moved, numbers, shape)
    return replace(node, open=_with_vertices(node.open, node.box))


def _with_vertices(polygons: NDArray[np.object_], box: tuple[int, int, int, int]) -> NDArray[np.object_]:
    """Return polygons with a vertex at each pixel along the borders of a rectangle.

    Polygons on both sides of a seam then have the same edges there, and uniting them is dropping these edges, which
    takes time in proportion to their number: general unions of areas with thousands of holes do not.
    """
    if not len(polygons):
        return polygons
    rings, owner = shapely.get_rings(polygons, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    low, high = np.array(box[:2]), np.array(box[2:])
    step = np.diff(xy, axis=0)
    on_border = ((xy[:-1] == xy[1:]) & ((xy[:-1] == low) | (xy[:-1] == high))).any(axis=1)
    pieces = np.where(on_border & (ring[:-1] == ring[1:]), np.abs(step).max(axis=1, initial=0), 1).astype(np.int64)
    first = np.append(np.repeat(np.arange(len(pieces)), pieces), len(xy) - 1)
    along = np.append(np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces), 0)
    moved = xy[first] + np.sign(np.append(step, [[0, 0]], axis=0))[first] * along[:, None]
    return np.asarray(shapely.polygons(shapely.linearrings(moved, indices=ring[first]), indices=owner), object)


def _split(
    box: tuple[int, int, int, int], polygons: NDArray[np.object_], values: NDArray[np.int64], shape: tuple[int, int]
) -> _Node:
    """Return a node whose open polygons are those that end at a border of its rectangle inside the raster."""
    low, high = np.array(box[:2]), np.array(box[2:])
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    inside_low, inside_high = low > 0, high < np.array(shape[::-1])
    is_open = ((bounds[:, :2] == low) & inside_low).any(axis=1) | ((bounds[:, 2:] == high) & inside_high).any(axis=1)
    return _Node(
        box=box, settled=polygons[~is_open], settled_values=values[~is_open], open=polygons[is_open],
        open_values=values[is_open],
    )  # fmt: skip


def _unchanged(node: _Node, axis: Any, keepdims: bool) -> _Node:
    return node


def _combine(nested: Any, axis: Any, keepdims: bool, *, shape: tuple[int, int]) -> _Node:
    nodes = list(_flat(nested))
    boxes = np.array([node.box for node in nodes])
    x0, y0 = map(int, boxes[:, :2].min(axis=0))
    x1, y1 = map(int, boxes[:, 2:].max(axis=0))
    box = x0, y0, x1, y1
    parts = np.concatenate([node.open for node in nodes])
    numbers = np.concatenate([node.open_values for node in nodes])
    united: list[Any] = []
    values: list[int] = []
    for value in np.unique(numbers):
        whole = shapely.get_parts(shapely.coverage_union_all(parts[numbers == value]))
        united += list(whole)
        values += [int(value)] * len(whole)
    found = _split(box, np.array([*united, None], object)[:-1], np.array(values, np.int64), shape)
    return _Node(
        box=box, settled=np.concatenate([*(node.settled for node in nodes), found.settled]),
        settled_values=np.concatenate([*(node.settled_values for node in nodes), found.settled_values]),
        open=found.open, open_values=found.open_values,
    )  # fmt: skip


def _flat(nested: Any) -> Iterator[_Node]:
    if isinstance(nested, _Node):
        yield nested
    else:
        for each in nested:
            yield from _flat(each)
