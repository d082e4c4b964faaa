"""The merging tree: `dask.array.reduction` over the regions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from geotile.core.timing import sum_timings, take_timings, timed
from geotile.grid.regions import MERGED_YX
from geotile.grid.tile_grid import TileGrid
from geotile.merging.detections import concat
from geotile.merging.merge import Merge
from geotile.merging.seams import count_at_seams
from geotile.results.dataset import PartWriter
from geotile.results.failures import Flaws
from geotile.running.region import Node

_SPLIT_EVERY = {0: 2, 1: MERGED_YX[0], 2: MERGED_YX[1]}  # the first axis has one node


def reduction(nodes: da.Array, grid: TileGrid, merge: Merge, writer: PartWriter | None) -> da.Array:
    """Merge the nodes of all regions into one that covers the image.

    Parameters
    ----------
    nodes : dask.array.Array
        (1, regions down, regions across) of `Node`, one per chunk.
    grid : TileGrid
    merge : Merge
    writer : PartWriter or None
        Writer of settled detections.

    Returns
    -------
    dask.array.Array
        0-d, one `Node` with nothing open.
    """
    combine = partial(_combine, grid=grid, merge=merge, writer=writer)
    return da.reduction(
        nodes,
        chunk=_unchanged,
        combine=combine,
        aggregate=combine,
        axis=(0, 1, 2),
        concatenate=False,
        split_every=_SPLIT_EVERY,
        dtype=object,
        meta=np.empty((), object),
        name="detect-region",  # name of a region's whole task on Dask's dashboard; merging is "-partial"
    )


def _unchanged(node: Node, axis: Any, keepdims: bool) -> Node:
    return node


def _combine(nodes: Any, axis: Any, keepdims: bool, *, grid: TileGrid, merge: Merge, writer: PartWriter | None) -> Node:
    parts = list(_flat(nodes))
    rows = min(part.rows[0] for part in parts), max(part.rows[1] for part in parts)
    columns = min(part.columns[0] for part in parts), max(part.columns[1] for part in parts)
    with timed("merge"):
        settled, still_open = merge.settle(concat(part.open for part in parts), grid.interior(rows, columns), grid)
    return Node(
        rows=rows, columns=columns,
        settled=(*(each for part in parts for each in part.settled if len(each)), settled),
        parts=tuple(written for part in parts for written in part.parts),
        open=still_open,
        failures=tuple(failure for part in parts for failure in part.failures),
        requests=sum(part.requests for part in parts),
        retries=sum(part.retries for part in parts),
        before=sum(part.before for part in parts),
        without_data=sum(part.without_data for part in parts),
        resumed=sum(part.resumed for part in parts),
        rejected=Flaws.joined(part.rejected for part in parts),
        repaired=Flaws.joined(part.repaired for part in parts),
        at_seams=sum(part.at_seams for part in parts) + count_at_seams(settled, grid),
        without_area=sum(part.without_area for part in parts),
        timing=sum_timings(*(part.timing for part in parts), take_timings()),
    ).written(writer, last=(rows, columns) == tuple((0, n) for n in grid.regions_yx))  # fmt: skip


def _flat(nodes: Any) -> Iterator[Node]:
    """Yield the nodes of nested lists, or the one node."""
    if isinstance(nodes, Node):
        yield nodes
    else:
        for each in nodes:
            yield from _flat(each)
