"""One axis of the tile grid: tiles and regions of a line of pixels.

Tiles of 8, overlap 2, two regions of 12 and 10::

    pixels   0         10        20 22
    tile 0   [------)
    tile 1        [------)                 starts at round(i (L - tile) / (n - 1)):
    tile 2             [------)            evenly spread, the last one ends at the last pixel
    tile 3                   [------)
    region   |----------- r0 -|-------- r1 ---|
    halo                      |....|       as deep as the tiles that r0 owns extend beyond it

A tile belongs to the region that contains its first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Axis:
    """Tiles and regions of one axis; all lengths in pixels."""

    length: int
    tile: int
    overlap: int
    chunks: tuple[int, ...]
    """Lengths of the regions."""
    align: int = 1
    """Tiles start at multiples of this, which divides the tile. The last one can reach beyond the last pixel."""

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First pixel of every tile, (n,) int64."""
        length, tile, overlap = (-(-each // self.align) for each in (self.length, self.tile, self.overlap))
        if length <= tile:
            return np.zeros(1, np.int64)
        n = -(-(length - overlap) // (tile - overlap))
        i = np.arange(n, dtype=np.int64)
        return (2 * i * (length - tile) + (n - 1)) // (2 * (n - 1)) * self.align  # round half up, in integers

    def stop(self, i: int) -> int:
        """Return one past the last pixel of tile `i`."""
        return min(int(self.starts[i]) + self.tile, self.length)

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """Edges of the regions, (regions + 1,) int64, from 0 to the length."""
        return np.concatenate([[0], np.cumsum(self.chunks, dtype=np.int64)])

    @cached_property
    def first_tile(self) -> NDArray[np.int64]:
        """Number of the first tile at or after each region edge, (regions + 1,) int64."""
        return np.searchsorted(self.starts, self.edges, side="left")

    def reach(self, edge: int) -> int:
        """Return how far the tiles that start before `edge` extend beyond it, in pixels."""
        if self.tile == 1:  # a grid without real tiles: avoid an array with one entry per pixel
            return 0
        before = int(np.searchsorted(self.starts, edge, side="left"))
        return max(0, self.stop(before - 1) - edge) if before else 0

    @cached_property
    def depth(self) -> int:
        """Maximum reach of the tiles of any region beyond its trailing edge, in pixels."""
        return max((self.reach(int(edge)) for edge in self.edges[1:-1]), default=0)

    def interior(self, first: int, stop: int) -> tuple[float, float]:
        """Return the open interval that no tile outside the regions ``first:stop`` reaches."""
        i, j = int(self.first_tile[first]), int(self.first_tile[stop])
        low = -np.inf if i == 0 else float(self.stop(i - 1))
        high = np.inf if j == len(self.starts) else float(self.starts[j])
        return low, high


def join_thin_regions(axis: Axis) -> tuple[int, ...]:
    """Return the lengths of the regions after joining those without tiles, or thinner than the depth, to a neighbour.

    A halo comes from the next chunk only, so no chunk may be thinner than the depth. A region without tiles lies
    completely in the halo of its neighbour.
    """
    if axis.tile == 1:
        return axis.chunks
    owns_tiles = np.diff(axis.first_tile) > 0
    chunks = [int(n) for n in np.diff([*axis.edges[:-1][owns_tiles], axis.length])]
    while len(chunks) > 1:
        depth = replace(axis, chunks=tuple(chunks)).depth
        if min(chunks) >= depth:
            break
        chunks = _joined(chunks, depth)
    return tuple(chunks)


def _joined(chunks: list[int], depth: int) -> list[int]:
    """Return the chunks after joining each one that is thinner than the depth to the one before it."""
    joined = [chunks[0]]
    for size in chunks[1:]:
        if size < depth or joined[-1] < depth:
            joined[-1] += size
        else:
            joined.append(size)
    return joined
