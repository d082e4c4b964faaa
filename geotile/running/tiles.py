"""The way of a region's tiles through the model: they are cut, encoded, sent, decoded and moved to image pixels.

A process has one thread pool for each run that asks a remote endpoint, and one for each number of threads otherwise;
the region tasks that Dask runs in that process share it. A region's task cuts its tiles (views, no copies), the
pool's threads encode, send and decode them, and the task waits for its own tiles. Requests to a remote endpoint
pass the run's `Gate`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.cancellation import cancel_reason, cancel_run
from geotile.core.checks import Pair
from geotile.core.dask_info import waiting_elsewhere
from geotile.core.thresholds import Threshold
from geotile.core.timing import Timing, take_timings, timed
from geotile.encoding.encoder import Encoder
from geotile.endpoints.answer import Answer
from geotile.endpoints.base import Endpoint, as_answer, invoke_endpoint
from geotile.errors import EndpointError, EndpointUnreachable, GeotileError, ImageReadError, TileError
from geotile.grid.tile_grid import Tile
from geotile.imagery.region_pixels import RegionPixels
from geotile.merging.detections import Detections, concat
from geotile.results.failures import NO_FLAWS, Flaws, TileFailure, failure_text, tile_failure
from geotile.running.pools import tile_threads
from geotile.running.progress import Counts, Reporter, progress_reporter
from geotile.traffic import Gate, RequestOutcome, TrafficSettings, gate_of, send_with_retries

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TileJob:
    """How tiles are sent to the model and how its answers are read. Pickles."""

    run: str
    """Name of the run."""
    endpoint: Endpoint
    encoder: Encoder
    tile_yx: Pair
    """Height and width of a full tile in pixels."""
    score_threshold: Threshold
    """Minimum score of a detection."""
    threads: int
    """Number of tile threads per process."""
    traffic: TrafficSettings | None
    """Limits of the requests; None where the model runs in the process."""
    errors: Literal["record", "raise"]
    pad_value: float | None
    """Value that fills a tile smaller than the tile size; None leaves it small."""
    min_valid_share: float | None = None
    """Minimum share of valid pixels of a tile that is sent; 0 for any pixel at all, None to send every tile."""

    @property
    def need_valid(self) -> bool:
        """Whether the validity of pixels is needed."""
        return self.min_valid_share is not None

    def sent_shape_yx(self, tile: Tile) -> Pair:
        """Return height and width in pixels of a tile as the model sees it."""
        height, width = tile.window.shape_yx
        if self.pad_value is None:
            return height, width
        return max(height, self.tile_yx[0]), max(width, self.tile_yx[1])


@dataclass(frozen=True)
class TileResult:
    """Result of a tile."""

    found: Detections = field(default_factory=lambda: concat([]))
    """Detections in image pixels."""
    attempts: int = 0
    """Number of requests; those of a batch count for its first tile."""
    retries: int = 0
    failure: TileFailure | None = None
    rejected: Flaws = NO_FLAWS
    """Boxes that are not valid."""
    repaired: Flaws = NO_FLAWS
    """Shapes that were not valid and were made so."""
    without_data: bool = False
    """Whether the tile was not sent because it holds too little data."""
    cancelled: bool = False
    """Whether the run was cancelled before the tile was answered."""
    timing: Timing = field(default_factory=dict)
    """CPU time of the tile's thread by stage, in seconds."""


def ask_model(region: RegionPixels, job: TileJob, tiles: list[Tile]) -> Iterator[TileResult]:
    """Send a region's tiles to the model; yield the result of each tile."""
    reporter = progress_reporter(job.run)
    gate = gate_of(job.run, job.traffic, job.endpoint.ready) if job.traffic else None
    batches = list(_batches(region, job, tiles))
    with (
        gate.expecting(len(batches)) if gate else nullcontext(_nothing) as finished,
        nullcontext(gate.thread_pool(job.threads)) if gate else tile_threads(job.threads) as pool,
    ):
        futures = [pool.submit(_run_batch, region, batch, job, gate, finished, reporter) for batch in batches]
        try:
            with waiting_elsewhere() if gate else nullcontext():
                yield from _finished(futures)
        except BaseException as error:
            # Tiles that wait here, also those of other regions, fail with this reason, and one of them may be reported.
            reason = f"the run was stopped: {error}" if isinstance(error, TileError) else "the run was stopped"
            if gate:
                gate.stop(reason)
            cancel_run(job.run, reason)
            raise
        finally:
            reporter.flush()


def _finished(futures: Sequence[Future[list[TileResult]]]) -> Iterator[TileResult]:
    """Yield the results of all tiles. An error is raised when it occurs, even if other tiles wait for a retry."""
    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
        future.result()
    for future in futures:
        yield from future.result()


def _nothing() -> None:
    """Do nothing."""


def _batches(region: RegionPixels, job: TileJob, tiles: list[Tile]) -> Iterator[tuple[Tile, ...]]:
    """Yield the tiles of each request: neighbours of the same shape that are to be sent at all."""
    if job.endpoint.batch_size == 1:
        yield from ((tile,) for tile in tiles)
        return
    sent = [tile for tile in tiles if tile.number not in region.unreadable and _has_data(region, tile, job)]
    numbers = {tile.number for tile in sent}
    yield from ((tile,) for tile in tiles if tile.number not in numbers)
    size = job.endpoint.batch_size
    for _, group in groupby(sorted(sent, key=_shape), key=_shape):
        same = tuple(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _shape(tile: Tile) -> Pair:
    return tile.window.shape_yx


def _run_batch(
    region: RegionPixels, tiles: tuple[Tile, ...], job: TileJob, gate: Gate | None,
    finished: Callable[[], None], reporter: Reporter,
) -> list[TileResult]:  # fmt: skip
    take_timings()  # drop those of a run that ended in this thread
    try:
        results = list(_results(region, tiles, job, gate))
    finally:
        finished()
    results[0] = replace(results[0], timing=take_timings())
    reporter(
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
    """Send tiles in one request, and one by one if it fails, so that only the tiles at fault fail."""
    first = tiles[0]
    if reason := cancel_reason(job.run):
        yield from (_failed(tile, job, EndpointUnreachable(reason), first=False) for tile in tiles)
        return
    if first.number in region.unreadable:
        yield _failed(first, job, ImageReadError(region.unreadable[first.number]))
        return
    if not _has_data(region, first, job):
        yield TileResult(without_data=True)
        return
    try:
        asked = _ask(region, tiles, job, gate)
    except GeotileError as error:
        if len(tiles) == 1 or (gate and gate.stop_reason):
            yield from (_failed(tile, job, error, first=tile is first) for tile in tiles)
        else:
            yield from _one_by_one(region, tiles, job, gate, error)
        return
    for tile, answer in zip(tiles, asked.answers, strict=True):
        yield _placed(tile, answer, job, asked.attempts if tile is first else 0)


def _one_by_one(
    region: RegionPixels, tiles: tuple[Tile, ...], job: TileJob, gate: Gate | None, error: GeotileError
) -> Iterator[TileResult]:
    """Send the tiles of a failed batch one by one; the first one also counts the requests of the batch."""
    spent = error.attempts if isinstance(error, EndpointError) else 0
    for tile in tiles:
        for result in _results(region, (tile,), job, gate):
            yield replace(result, attempts=result.attempts + spent, retries=result.retries + spent)
            spent = 0


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


def _placed(tile: Tile, answer: Any, job: TileJob, attempts: int) -> TileResult:
    """Return the detections of an answer in image pixels."""
    height, width = job.sent_shape_yx(tile)
    try:
        with timed("parse"):
            read = _touching(as_answer(answer, (height, width)), width, height)
            found = read.detections.moved_to_image(tile.number, tile.window.x0, tile.window.y0, width, height)
            return TileResult(
                found.with_min_score(job.score_threshold), attempts, max(0, attempts - 1),
                rejected=Flaws(read.rejected, tile.number, read.reason or ""),
                repaired=Flaws(read.repaired, tile.number, read.flaw or ""),
            )  # fmt: skip
    except EndpointError as error:
        error.attempts = attempts
        return _failed(tile, job, error)


def _failed(tile: Tile, job: TileJob, error: GeotileError, first: bool = True) -> TileResult:
    if job.errors == "raise":
        raise TileError(failure_text(tile.number, tile.window, str(error), " failed")) from None
    attempts = error.attempts if isinstance(error, EndpointError) and first else 0
    _log.info("tile %d failed: %s", tile.number, error, extra={"run": job.run, "tile": tile.number})
    return TileResult(
        attempts=attempts, retries=max(0, attempts - 1), failure=tile_failure(tile, str(error)),
        cancelled=cancel_reason(job.run) is not None,
    )  # fmt: skip


def _has_data(region: RegionPixels, tile: Tile, job: TileJob) -> bool:
    """Return whether a tile holds enough valid pixels to be sent."""
    if job.min_valid_share is None:
        return True
    if tile.number in region.blank:
        return False
    if region.valid is None:
        return True
    valid = region.valid[tile.window.within(region.window).slices]
    return bool(valid.any() and valid.mean() >= job.min_valid_share)


def _cut(region: RegionPixels, tile: Tile, job: TileJob) -> NDArray[Any]:
    """Return the pixels of a tile, (band, y, x), padded if the job says so: a copy where user code may write to it."""
    pixels = region.values[:, *tile.window.within(region.window).slices]
    height, width = job.sent_shape_yx(tile)
    missing = height - pixels.shape[1], width - pixels.shape[2]
    if not any(missing):
        return pixels if job.endpoint.wants_bytes else pixels.copy()
    return np.pad(pixels, ((0, 0), (0, missing[0]), (0, missing[1])), constant_values=job.pad_value or 0)


def _touching(answer: Answer, width: int, height: int) -> Answer:
    """Return an answer without what lies completely outside its tile: merging needs boxes and shapes that touch it."""
    boxes, shapes = answer.detections.boxes, answer.detections.geometries
    outside = np.asarray((boxes[:, 2:] < 0).any(axis=1) | (boxes[:, :2] > [width, height]).any(axis=1))
    given = shapes != None  # noqa: E711 - element by element
    outside[given] |= ~shapely.intersects(shapes[given], shapely.box(0, 0, width, height))
    return answer.without(
        outside,
        lambda row: (
            f"box {boxes[row].tolist()}, or its shape, lies outside the tile of {width} x {height} pixels that was "
            "sent; both must touch it"
        ),
    )
