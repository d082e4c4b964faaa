"""A run whose model answers rasters: tiles are asked in groups, and the regions are blended from groups and strips.

::

    tiles that reach to the right             ─ part ─ crop ─▶ region to the right  │
    tiles that reach below                    ─ part ─ crop ─▶ region below         ├─▶ block of the output
    tiles that reach both                     ─ part ─ crops ─▶ all three           │
    crops of the parts of the left, upper and upper left regions ───────────────────┘

This is the halo exchange backwards: what a tile says beyond its own region goes to the neighbour as a strip. Tiles are
asked in groups, so that a block needs only the tiles that see it. Most tiles end in their region: the block itself asks
for them, and holds nothing of them but its own sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask

from geotile.blending.canvas import Answer, Canvas, shared
from geotile.blending.form import RasterForm
from geotile.blending.output_grid import OutputGrid
from geotile.core.cancellation import is_abandoned
from geotile.core.checks import Pair
from geotile.core.memory import Measured
from geotile.core.timing import Timing, sum_timings, take_timings, timed
from geotile.core.warning_filter import filters_kept
from geotile.endpoints.raster import RasterAnswer, raster_of
from geotile.errors import ResponseError
from geotile.grid.tile_grid import Tile, TileGrid, Window
from geotile.imagery.region_pixels import Region, RegionPixels
from geotile.results.failures import TileFailure
from geotile.running.tile_job import TileContent, TileJob
from geotile.running.tiles import ask_model

ALL = None
"""The group of all tiles of a region."""
INNER = (0, 0)
"""The group of the tiles that end in their region."""
OUTER = ((0, 1), (1, 0), (1, 1))
"""Whether the tiles of the other groups reach below their region, and whether they reach to the right of it."""


@dataclass(frozen=True, kw_only=True)
class RasterReader:
    """Reader of rasters."""

    form: RasterForm
    grid: OutputGrid
    first: RasterAnswer
    """The first answer, whose values do not matter: all others must be of its form."""

    def read(self, tile: Tile, answer: Any, sent_yx: Pair) -> TileContent:
        """Return the planes of an answer, and which of its pixels have a value."""
        raster = raster_of(answer)
        if raster.scale(sent_yx) != (self.grid.up, self.grid.down) or len(raster.values) != self.form.planes:
            raise ResponseError(
                f"the answer must have the form of the first one, {self.form.planes} planes of {self.grid.up} / "
                f"{self.grid.down} times the tile's pixels; got the shape {raster.values.shape}"
            )
        first = self.first.values.dtype
        if self.form.output != "values" and (first.kind == "f") != (raster.values.dtype.kind == "f"):
            held = "scores" if first.kind == "f" else "class numbers"
            raise ResponseError(f"the first answer held {held} of {first}; got an answer of {raster.values.dtype}")
        if raster.classes != self.first.classes:
            raise ResponseError(
                f"the classes must be those of the first answer, {self.first.classes}; got {raster.classes}"
            )
        planes, valid = self.form.planes_of(raster.values)
        if raster.valid is not None:
            valid = raster.valid if valid is None else raster.valid & valid
        return TileContent(found=(planes, valid))


@dataclass(frozen=True, kw_only=True)
class RasterJob:
    """Everything that the tasks of a run need besides the pixels. Pickles."""

    run: str
    grid: TileGrid
    out: OutputGrid
    form: RasterForm
    selected: NDArray[np.bool_] | None
    """(tiles down, tiles across) bool, the tiles to read; None for all."""
    tiles: TileJob
    roi: Any = None
    """Region of interest, a shapely geometry in image pixels: pixels whose centre lies outside have no value."""
    store: Callable[[Block], Block] | None = None
    """Where blocks are kept, which returns the block that it holds then; None to return them."""

    def group(self, row: int, column: int, reach: Pair | None) -> list[Tile]:
        """Return the tiles of a group of a region that are to be read."""
        window = self.grid.region_window(row, column)
        return [
            tile
            for tile in self.grid.region_tiles(row, column)
            if reach in (ALL, (tile.window.y1 > window.y1, tile.window.x1 > window.x1))
            and (self.selected is None or self.selected.flat[tile.number])
        ]


Failed = tuple[Window, NDArray[np.bool_] | None]
"""Pixels of the output of a tile that failed, and which of them have data in the image, (y, x) bool; None for all."""


@dataclass(frozen=True, kw_only=True)
class RasterPart(Measured):
    """What the tiles of a group say."""

    canvas: Canvas
    failures: tuple[TileFailure, ...]
    failed: tuple[Failed, ...]
    tiles: int
    requests: int
    retries: int
    without_data: int
    cancelled: bool
    """Whether tiles were not asked, since the run had ended."""
    timing: Timing


@dataclass(frozen=True)
class Strip(Measured):
    """What a part says of a neighbouring region."""

    canvas: Canvas
    cancelled: bool
    """Whether tiles of the part were not asked, since the run had ended."""
    failed: tuple[Failed, ...]
    """Tiles of the part that failed."""


Strips = dict[Pair, Strip]
"""The strips of a part by the row and the column of the region that they belong to."""


@dataclass(frozen=True, kw_only=True)
class Block(Measured):
    """A region of the output."""

    row: int
    column: int
    window: Window
    """Its pixels in the output."""
    values: NDArray[Any] | None
    """(y, x) or (band, y, x); None once they are stored."""
    failures: tuple[TileFailure, ...] = ()
    tiles: int = 0
    requests: int = 0
    retries: int = 0
    without_data: int = 0
    is_touched: bool = False
    """Whether a tile that sees the block failed."""
    missing: int = 0
    """Number of pixels of failed tiles that no other tile has answered."""
    cancelled: bool = False
    """Whether tiles that see the block were not asked, since the run had ended."""
    timing: Timing = field(default_factory=dict)


def ask_tiles(
    region: Region, job: RasterJob, row: int, column: int, reach: Pair | None, canvas: Canvas | None = None
) -> RasterPart:  # fmt: skip
    """Ask the model for the tiles of a group, and add up its answers, on a canvas of their own if none is given."""
    tiles = job.group(row, column, reach)
    if canvas is None:
        y0, y1, x0, x1 = np.array([tile.window for tile in tiles]).T
        bounds = Window(int(y0.min()), int(y1.max()), int(x0.min()), int(x1.max()))
        canvas = job.form.canvas(job.out.window(bounds), job.out)
    pixels = region.read(tiles, job.tiles.need_valid)
    results, answers, failed = [], [], []
    for tile, result in ask_model(pixels, job.tiles, tiles):
        results.append(result)
        window = job.out.window(tile.window)
        if result.failure is not None:
            data = None if tile.number in pixels.unreadable else _valid(pixels, tile, None, job.out, window)
            failed.append((window, None if data is None else data.copy()))
        if result.content is not None:
            planes, valid = result.content.found
            answers.append(Answer(tile.number, window, planes, _valid(pixels, tile, valid, job.out, window)))
    with timed("merge"):
        canvas.add(answers)
    return RasterPart(
        canvas=canvas, failures=tuple(result.failure for result in results if result.failure), failed=tuple(failed),
        tiles=len(tiles), requests=sum(result.attempts for result in results),
        retries=sum(result.retries for result in results),
        without_data=sum(result.without_data for result in results),
        cancelled=any(result.cancelled for result in results),
        timing=sum_timings({"decode": pixels.read_s}, take_timings(), *(result.timing for result in results)),
    )  # fmt: skip


def _valid(
    pixels: RegionPixels, tile: Tile, answered: NDArray[np.bool_] | None, out: OutputGrid, window: Window
) -> NDArray[np.bool_] | None:
    """Return the pixels of a tile that have data in the image and a value in the answer; None for all."""
    height, width = window.shape_yx
    known = None if answered is None else answered[:height, :width]
    if pixels.valid is None:
        return known
    of_image = pixels.valid[tile.window.within(pixels.window).slices]
    if out.up > 1:
        of_image = of_image.repeat(out.up, axis=0).repeat(out.up, axis=1)
    if out.down > 1:
        padded = np.pad(of_image, [(0, -n % out.down) for n in of_image.shape])
        of_image = np.asarray(padded.reshape(height, out.down, width, out.down).any(axis=(1, 3)))
    return of_image if known is None else of_image & known


def crop_part(part: RasterPart, job: RasterJob, row: int, column: int) -> Strips:
    """Return what a part of a region says of its neighbours, as copies, so that keeping them does not keep the part."""
    strips = {}
    for down, across in OUTER:
        place = row + down, column + across
        if place[0] < job.grid.regions_yx[0] and place[1] < job.grid.regions_yx[1]:
            window = shared(job.out.region_window(*place), part.canvas.window)
            if window is not None:
                strips[place] = Strip(part.canvas.cropped(window), part.cancelled, part.failed)
    return strips


def _outside(job: RasterJob, window: Window) -> NDArray[np.bool_]:
    """Return the pixels of a window of the output that lie outside the region of interest."""
    scale = job.out.down / job.out.up
    to_image = Affine.translation(window.x0 * scale, window.y0 * scale) @ Affine.scale(scale)
    with filters_kept():
        return np.asarray(geometry_mask([job.roi], window.shape_yx, to_image))


def _missing(
    seen: NDArray[np.bool_] | None, outside: NDArray[np.bool_] | None, window: Window, failed: Sequence[Failed]
) -> int:  # fmt: skip
    """Return the number of pixels with data of failed tiles that no tile has answered and that are wanted."""
    if seen is None or not failed:
        return 0
    missing = np.zeros(seen.shape, bool)
    for each, data in failed:
        inside = shared(window, each)
        if inside is not None:
            missing[inside.within(window).slices] |= True if data is None else data[inside.within(each).slices]
    missing &= ~seen
    if outside is not None:
        missing &= ~outside
    return int(missing.sum())


def asked_again(block: Block, part: RasterPart) -> Block:
    """Return a block that exists already, with the requests for those of its tiles that other blocks see as well."""
    return replace(block, requests=part.requests, retries=part.retries, timing=part.timing)


def blend_block(
    region: Region | None, job: RasterJob, row: int, column: int, asked: Sequence[RasterPart],
    strips: Sequence[Strips], cropped: Sequence[Strips],
) -> Block:  # fmt: skip
    """Blend the tiles of a region and the strips of its neighbours.

    `asked` are the parts of its tiles; with a region, those of the tiles that reach beyond it, and the others are asked
    here. `cropped` are the strips that the parts give to others. They are not used here: that they are there means
    that nobody needs the parts any more.
    """
    window = job.out.region_window(row, column)
    canvas = job.form.canvas(window, job.out)
    parts = list(asked)
    if region is not None and job.group(row, column, INNER):
        parts.append(ask_tiles(region, job, row, column, INNER, canvas))
    started = time.thread_time()
    given = [each[row, column] for each in strips if (row, column) in each]
    for each in (*(part.canvas for part in asked), *(strip.canvas for strip in given)):
        canvas.include(each)
    blended = canvas.blended()
    values, outside = job.form.finish(blended), None if job.roi is None else _outside(job, window)
    if outside is not None:
        values[..., outside] = job.form.nodata
    failed = [each for part in parts for each in part.failed]
    failed += [each for strip in given for each in strip.failed if shared(window, each[0])]
    block = Block(
        row=row, column=column, window=window, values=values,
        failures=tuple(failure for part in parts for failure in part.failures),
        tiles=sum(part.tiles for part in parts),
        requests=sum(part.requests for part in parts), retries=sum(part.retries for part in parts),
        without_data=sum(part.without_data for part in parts),
        cancelled=any(part.cancelled for part in parts) or any(strip.cancelled for strip in given),
        is_touched=bool(failed),
        missing=_missing(blended.seen, outside, window, failed),
        timing=sum_timings(*(part.timing for part in parts), {"merge": time.thread_time() - started}),
    )  # fmt: skip
    if job.store is None:
        return block
    if not (block.cancelled and is_abandoned(job.run)):  # nobody wants half of the block of a run that was stopped
        block = job.store(block)
    return replace(block, values=None)
