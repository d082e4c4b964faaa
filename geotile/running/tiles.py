"""A region's tiles through the model: cut, encoded, asked, decoded, placed.

A process has a pool of tile threads for each run that asks an endpoint elsewhere, and one for each
number of them for the rest; the region tasks that Dask runs in that process share it. A region task
cuts tiles (views, no copies), the pool's threads encode, send and decode them, the task waits for its
own. Requests that wait elsewhere pass the run's `Gate`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geotile.core.cancellation import cancel_reason, cancel_run
from geotile.core.dask_info import waiting_elsewhere
from geotile.core.timing import Timing, take_timings, timed
from geotile.encoding.encoder import Encoder
from geotile.endpoints.base import Endpoint, as_detections, invoke_endpoint
from geotile.errors import EndpointError, EndpointUnreachable, GeotileError, ImageReadError, ResponseError, TileError
from geotile.grid.tile_grid import Tile, TileGrid
from geotile.merging.detections import Detections, concat
from geotile.merging.merge import Merge
from geotile.results.dataset import PartWriter
from geotile.results.report import TileFailure, tile_failure
from geotile.running.progress import Counts, Reporter, tile_reporter
from geotile.running.region_pixels import Reading, RegionPixels
from geotile.traffic import Gate, RequestOutcome, TrafficSettings, gate_of, send_with_retries

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TileJob:
    """All that a region task needs besides pixels. Pickles."""

    reading: Reading
    endpoint: Endpoint
    encoder: Encoder
    merge: Merge
    score_threshold: float
    threads: int
    """That tiles have in a process."""
    rules: TrafficSettings | None
    """Of the requests; None where the model runs in the process."""
    errors: Literal["record", "raise"]
    pad_value: float | None
    """What fills a tile shorter than the tile size; None leaves it short."""
    least_data: float | None = None
    """Least share of valid pixels of a tile that is sent; 0 for any at all, None sends every tile."""
    writer: PartWriter | None = None
    """Of settled detections; None has them travel to the root of the tree."""

    @property
    def grid(self) -> TileGrid:
        """Tiles and regions."""
        return self.reading.grid

    @property
    def run(self) -> str:
        """Names the run, for progress."""
        return self.reading.run

    def sent_shape_xy(self, tile: Tile) -> tuple[int, int]:
        """Return width and height of a tile as the model sees it."""
        height, width = tile.window.shape_yx
        if self.pad_value is None:
            return width, height
        return max(width, self.grid.axes[1].tile), max(height, self.grid.axes[0].tile)


@dataclass(frozen=True)
class TileResult:
    """What came of a tile."""

    found: Detections = field(default_factory=lambda: concat([]))
    attempts: int = 0
    """Requests; those of a batch count for its first tile."""
    retries: int = 0
    failure: TileFailure | None = None
    without_data: bool = False
    given_up: bool = False
    """Whether the run ended before it was answered."""
    timing: Timing = field(default_factory=dict)


def ask_model(region: RegionPixels, job: TileJob, tiles: list[Tile]) -> Iterator[TileResult]:
    """Put a region's tiles through the model; return what came of each."""
    report = tile_reporter(job.run)
    gate = gate_of(job.run, job.rules, job.endpoint.ready) if job.rules else None
    batches = list(_batches(region, job, tiles))
    with gate.expecting(len(batches)) if gate else nullcontext(_nothing) as passed:
        pool = gate.thread_pool(job.threads) if gate else _pool(job.threads)
        futures = [pool.submit(_run_batch, region, batch, job, gate, passed, report) for batch in batches]
        try:
            with waiting_elsewhere() if gate else nullcontext():
                for future in futures:
                    yield from future.result()
        except BaseException:
            if gate:
                gate.stop("the run was stopped")
            cancel_run(job.run, "the run was stopped")  # so that what is queued here and in other regions is not sent
            raise
        finally:
            report.flush()


def _nothing() -> None:
    """Do nothing."""


def _batches(region: RegionPixels, job: TileJob, tiles: list[Tile]) -> Iterator[tuple[Tile, ...]]:
    """Put tiles together that go in one request: neighbours alike in shape, and to be sent at all."""
    if job.endpoint.batch_size == 1:
        yield from ((tile,) for tile in tiles)
        return
    sent = [tile for tile in tiles if tile.number not in region.unreadable and _has_data(region, tile, job.least_data)]
    numbers = {tile.number for tile in sent}
    yield from ((tile,) for tile in tiles if tile.number not in numbers)
    size = job.endpoint.batch_size
    for _, group in groupby(sorted(sent, key=_shape), key=_shape):
        alike = tuple(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _shape(tile: Tile) -> tuple[int, int]:
    return tile.window.shape_yx


def _run_batch(
    region: RegionPixels, tiles: tuple[Tile, ...], job: TileJob, gate: Gate | None,
    passed: Callable[[], None], report: Reporter,
) -> list[TileResult]:  # fmt: skip
    take_timings()  # of a run that ended in this thread
    try:
        results = list(_results(region, tiles, job, gate))
    finally:
        passed()
    results[0] = replace(results[0], timing=take_timings())
    report(
        Counts(
            tiles=len(tiles),
            requests=sum(each.attempts for each in results),
            detections=sum(len(each.found) for each in results),
            failures=sum(each.failure is not None for each in results),
        )
    )
    return results


def _results(
    region: RegionPixels, tiles: tuple[Tile, ...], job: TileJob, gate: Gate | None
) -> Iterator[TileResult]:  # fmt: skip
    """Ask about tiles together; one by one where that fails, so that a tile fails alone."""
    first = tiles[0]
    if reason := cancel_reason(job.run):
        yield from (_failed(tile, job, EndpointUnreachable(reason), first=False) for tile in tiles)
        return
    if first.number in region.unreadable:
        yield _failed(first, job, ImageReadError(region.unreadable[first.number]))
        return
    if not _has_data(region, first, job.least_data):
        yield TileResult(without_data=True)
        return
    try:
        asked = _ask(region, tiles, job, gate)
    except GeotileError as error:
        if len(tiles) == 1 or (gate and gate.stop_reason):
            yield from (_failed(tile, job, error, first=tile is first) for tile in tiles)
            return
        spent = error.attempts if isinstance(error, EndpointError) else 0
        for tile in tiles:
            for result in _results(region, (tile,), job, gate):
                yield replace(result, attempts=result.attempts + spent, retries=result.retries + spent)
                spent = 0
        return
    for tile, answer in zip(tiles, asked.answers, strict=True):
        yield _placed(tile, answer, region, job, asked.attempts if tile is first else 0)


def _ask(region: RegionPixels, tiles: tuple[Tile, ...], job: TileJob, gate: Gate | None) -> RequestOutcome:
    def prepare() -> list[Any]:
        with timed("cut"):
            pixels = [_cut(region, tile, job) for tile in tiles]
        if not job.endpoint.wants_bytes:
            return pixels
        with timed("encode"):
            return [job.encoder.encode(each, tile.window) for each, tile in zip(pixels, tiles, strict=True)]

    with timed("send" if gate else "model"):
        if gate:
            return send_with_retries(job.endpoint, gate, prepare, job.encoder.content_type)
        return RequestOutcome(invoke_endpoint(job.endpoint, prepare(), job.encoder.content_type), 1)


def _placed(tile: Tile, answer: Any, region: RegionPixels, job: TileJob, attempts: int) -> TileResult:
    """Put an answer in its place in the image."""
    width, height = job.sent_shape_xy(tile)
    try:
        with timed("parse"):
            found = as_detections(answer)
            _must_touch(found, width, height)
            found = found.placed(tile.number, tile.window.x0, tile.window.y0, width, height)
            return TileResult(found.above(job.score_threshold), attempts, max(0, attempts - 1))
    except EndpointError as error:
        error.attempts = attempts
        return _failed(tile, job, error)


def _failed(tile: Tile, job: TileJob, error: GeotileError, first: bool = True) -> TileResult:
    if job.errors == "raise":
        y0, y1, x0, x1 = tile.window
        raise TileError(f"tile {tile.number} (rows {y0}:{y1}, columns {x0}:{x1}) failed: {error}") from None
    attempts = error.attempts if isinstance(error, EndpointError) and first else 0
    gone = cancel_reason(job.run) is not None
    _log.info("tile %d failed: %s", tile.number, error, extra={"run": job.run, "tile": tile.number})
    return TileResult(
        attempts=attempts, retries=max(0, attempts - 1), failure=tile_failure(tile, str(error)), given_up=gone
    )


def _has_data(region: RegionPixels, tile: Tile, least: float | None) -> bool:
    if least is None:
        return True
    if tile.number in region.blank:
        return False
    if region.valid is None:
        return True
    valid = region.valid[tile.window.within(region.window).slices]
    return bool(valid.any() and valid.mean() >= least)


def _cut(region: RegionPixels, tile: Tile, job: TileJob) -> NDArray[Any]:
    pixels = region.pixels[:, *tile.window.within(region.window).slices]
    width, height = job.sent_shape_xy(tile)
    short = height - pixels.shape[1], width - pixels.shape[2]
    if not any(short):
        return pixels
    return np.pad(pixels, ((0, 0), (0, short[0]), (0, short[1])), constant_values=job.pad_value or 0)


def _must_touch(found: Detections, width: int, height: int) -> None:
    """Refuse boxes that lie wholly outside their tile: merging relies on what the tile shows."""
    far = (found.boxes[:, 2:] < 0).any(axis=1) | (found.boxes[:, :2] > [width, height]).any(axis=1)
    if far.any():
        box = found.boxes[int(np.flatnonzero(far)[0])].tolist()
        raise ResponseError(f"box {box} lies outside the tile of {width} x {height} pixels that was sent")


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="geotile-tile")
