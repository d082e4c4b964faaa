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
from dataclasses import replace
from functools import partial
from itertools import count, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.cancellation import WorkerLeft, cancel_reason, cancel_run, is_abandoned, working_for
from geotile.core.checks import Pair
from geotile.core.dask_info import waiting_elsewhere
from geotile.core.registry import Registry
from geotile.core.timing import take_timings, timed
from geotile.endpoints.base import invoke_endpoint
from geotile.errors import EndpointError, EndpointUnreachable, GeotileError, ImageReadError, TileError
from geotile.grid.tile_grid import Tile
from geotile.imagery.region_pixels import RegionPixels
from geotile.results.failures import failure_text, tile_failure
from geotile.running.pools import tile_threads
from geotile.running.progress import Counts, Reporter, progress_reporter
from geotile.running.tile_job import TileJob, TileResult
from geotile.traffic import Gate, RequestOutcome, gate_of, send_with_retries

_log = logging.getLogger(__name__)
_LOGGED_FAILURES = 20
_failures = Registry[str, "count[int]"](100)  # number of failures logged, by run
_POLL_S = 0.5  # between two looks whether the run was cancelled
_LAST_S = 1.0  # that the tiles of a cancelled run get to end


def ask_model(region: RegionPixels, job: TileJob, tiles: list[Tile]) -> Iterator[tuple[Tile, TileResult]]:
    """Send a region's tiles to the model; yield each tile with its result, those of a batch together."""
    reporter = progress_reporter(job.run)
    gate = gate_of_job(job)
    batches = list(_batches(region, job, tiles))
    with (
        gate.expecting(len(batches)) if gate else nullcontext(_nothing) as finished,
        nullcontext(gate.thread_pool(job.threads)) if gate else tile_threads(job.threads) as pool,
    ):
        futures = [pool.submit(_run_batch, region, batch, job, gate, finished, reporter) for batch in batches]
        try:
            with waiting_elsewhere() if gate else nullcontext():
                yield from _finished(futures, batches, job)
        except WorkerLeft:
            raise
        except BaseException as error:
            # Tiles that wait here, also those of other regions, fail with this reason, and one of them may be reported.
            if job.stops_run or not isinstance(error, TileError):
                reason = f"the run was stopped: {error}" if isinstance(error, TileError) else "the run was stopped"
                if gate:
                    gate.stop(reason)
                cancel_run(job.run, reason)
            raise
        finally:
            reporter.flush()


def gate_of_job(job: TileJob) -> Gate | None:
    """Return this process's gate of a job's run; None if its model runs in this process."""
    if job.traffic is None:
        return None
    send = partial(invoke_endpoint, job.endpoint, content_type=job.encoder.content_type)
    return gate_of(job.run, job.traffic, job.endpoint.ready, send)


def _finished(
    futures: Sequence[Future[list[TileResult]]], batches: Sequence[tuple[Tile, ...]], job: TileJob
) -> Iterator[tuple[Tile, TileResult]]:  # fmt: skip
    """Yield all tiles with their results.

    An error is raised when it occurs, even if other tiles wait for a retry. The tiles of a cancelled run that do not
    end, since a user's function goes on, are left alone.
    """
    _wait(futures, job.run)
    for future, tiles in zip(futures, batches, strict=True):
        if future.done():
            yield from zip(tiles, future.result(), strict=True)
        else:
            reason = cancel_reason(job.run) or "the run was stopped"
            yield from ((tile, _failed(tile, job, EndpointUnreachable(reason), first=False)) for tile in tiles)


def _wait(futures: Sequence[Future[list[TileResult]]], run: str) -> None:
    """Wait until all futures are done, or one has failed, or the run was cancelled a moment ago."""
    while True:
        done, left = wait(futures, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if not left:
            return
        if cancel_reason(run) is not None:
            wait(futures, timeout=_LAST_S)
            return


def _nothing() -> None:
    """Do nothing."""


def _batches(region: RegionPixels, job: TileJob, tiles: list[Tile]) -> Iterator[tuple[Tile, ...]]:
    """Yield the tiles of each request: neighbours of the same shape that are to be sent at all."""
    if job.endpoint.batch_size == 1:
        yield from ((tile,) for tile in tiles)
        return
    sent = [tile for tile in tiles if tile.number not in region.unreadable and has_data(region, tile, job)]
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
        with working_for(job.run):
            results = list(_results(region, tiles, job, gate))
    finally:
        finished()
    results[0] = replace(results[0], timing=take_timings())
    reporter(
        Counts(
            tiles=len(tiles),
            requests=sum(each.attempts for each in results),
            detections=sum(each.content.count for each in results if each.content),
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
    if not has_data(region, first, job):
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
        yield _read(tile, answer, job, asked.attempts if tile is first else 0)


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
            pixels = [cut(region, tile, job) for tile in tiles]
        if not job.endpoint.wants_bytes:
            return pixels
        with timed("encode"):
            encode = job.encoder.encode_buffer if job.endpoint.takes_buffers else job.encoder.encode
            return [encode(each, tile.window) for each, tile in zip(pixels, tiles, strict=True)]

    with timed("send" if gate else "model"):
        if gate:
            return send_with_retries(job.endpoint, gate, prepare, job.encoder.content_type)
        return RequestOutcome(invoke_endpoint(job.endpoint, prepare(), job.encoder.content_type), 1)


def _read(tile: Tile, answer: Any, job: TileJob, attempts: int) -> TileResult:
    try:
        with timed("parse"):
            content = job.reader.read(tile, answer, job.sent_shape_yx(tile))
        return TileResult(content, attempts, max(0, attempts - 1))
    except EndpointError as error:
        error.attempts = attempts
        return _failed(tile, job, error)


def _failed(tile: Tile, job: TileJob, error: GeotileError, first: bool = True) -> TileResult:
    if job.errors == "raise":
        raise TileError(failure_text(tile.number, tile.window, str(error), " failed")) from None
    attempts = error.attempts if isinstance(error, EndpointError) and first else 0
    cancelled = cancel_reason(job.run) is not None
    if not is_abandoned(job.run):  # else it did not fail
        _log_failure(tile, job.run, error)
    return TileResult(
        attempts=attempts, retries=max(0, attempts - 1), failure=tile_failure(tile, str(error)),
        cancelled=cancelled,
    )  # fmt: skip


def _log_failure(tile: Tile, run: str, error: GeotileError) -> None:
    """Log the first failures of a run in this process; a damaged image can have a hundred thousand."""
    number = next(_failures.get(run, count))
    if number < _LOGGED_FAILURES:
        _log.info("tile %d failed: %s", tile.number, error, extra={"run": run, "tile": tile.number})
    elif number == _LOGGED_FAILURES:
        _log.info("more tiles failed; the lines of their regions count them", extra={"run": run})


def has_data(region: RegionPixels, tile: Tile, job: TileJob) -> bool:
    """Return whether a tile holds enough valid pixels to be sent."""
    if job.min_valid_share is None:
        return True
    if tile.number in region.blank:
        return False
    if region.valid is None:
        return True
    valid = region.valid[tile.window.within(region.window).slices]
    return bool(valid.any() and valid.mean() >= job.min_valid_share)


def cut(region: RegionPixels, tile: Tile, job: TileJob) -> NDArray[Any]:
    """Return the pixels of a tile, (band, y, x), padded if the job says so: a copy where user code may write to it."""
    pixels = region.values[:, *tile.window.within(region.window).slices]
    height, width = job.sent_shape_yx(tile)
    missing = height - pixels.shape[1], width - pixels.shape[2]
    if not any(missing):
        return pixels if job.endpoint.wants_bytes else pixels.copy()
    return np.pad(pixels, ((0, 0), (0, missing[0]), (0, missing[1])), constant_values=job.pad_value or 0)
