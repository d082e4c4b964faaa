"""The beginning of a run whose model answers rasters: it is ready, and answers one tile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from geotile.core.checks import Pair
from geotile.endpoints import Endpoint
from geotile.endpoints.base import invoke_endpoint
from geotile.errors import EndpointError
from geotile.grid.tile_grid import Tile
from geotile.imagery.region_pixels import FileRegion, RegionPixels
from geotile.imagery.source import Source
from geotile.options.raster import EmbedOptions, PredictJobOptions
from geotile.options.run import RequestOptions
from geotile.planning.plan import Plan
from geotile.running.cluster import check_cluster
from geotile.running.tile_job import TileContent, TileJob
from geotile.running.tiles import cut
from geotile.storage.folder import Folder
from geotile.traffic import TrafficSettings, as_concurrency, threads_for, traffic_settings, wait_until_ready

Answered = TypeVar("Answered")
_MAX_PAUSE_S = 30.0
_TRIED = 4  # tiles, until one is answered


class NoReader:
    """Reader of a run that has not seen an answer yet."""

    def read(self, tile: Tile, answer: Any, sent_yx: Pair) -> TileContent:
        """Return the answer."""
        return TileContent(found=answer)


def ready_for_rasters(
    endpoint: Endpoint, options: RequestOptions, source: Source | None, folders: Sequence[Folder]
) -> tuple[Endpoint, TrafficSettings | None]:
    """Check the cluster and wait for the model; return it and the limits of its requests."""
    check_cluster(endpoint, source, folders)
    traffic = traffic_settings(endpoint, as_concurrency(options.concurrency))
    return wait_until_ready(endpoint), traffic


def tile_job(
    plan: Plan, ready: Endpoint, traffic: TrafficSettings | None, options: PredictJobOptions | EmbedOptions, run: str,
    errors: Any,
) -> TileJob:  # fmt: skip
    """Return how tiles are sent."""
    return TileJob(
        run=run, endpoint=ready, encoder=plan.encoder, tile_yx=(plan.grid.axes[0].tile, plan.grid.axes[1].tile),
        reader=NoReader(), threads=threads_for(ready, options.concurrency), traffic=traffic, errors=errors,
        pad_value=(plan.encoder.nodata or 0.0) if options.pad else None, min_valid_share=options.min_valid_share,
    )  # fmt: skip


def first_answer(
    plan: Plan, job: TileJob, read: Callable[[Any, Pair], Answered]
) -> tuple[Answered, Pair]:  # fmt: skip
    """Ask the model for the tile in the middle of what is wanted, and for others if it fails for that one.

    Parameters
    ----------
    plan : Plan
    job : TileJob
    read : callable
        ``read(answer, sent_yx)`` returns what the answer says.

    Returns
    -------
    tuple
        What it says, and height and width of what was sent.

    Raises
    ------
    EndpointError
        If the model does not answer, or not with what `read` reads.
    ImageReadError
        If the tile cannot be read.
    """
    failed: EndpointError | None = None
    for tile in _some_tiles(plan):
        try:
            return _ask(plan, job, tile, read), job.sent_shape_yx(tile)
        except EndpointError as error:
            if error.retryable:  # it was retried, so the model does not answer at all
                raise
            failed = failed or error
    assert failed is not None
    raise failed


def _ask(plan: Plan, job: TileJob, tile: Tile, read: Callable[[Any, Pair], Answered]) -> Answered:
    pixels = cut(_read(plan, tile, job.run), tile, job)
    body = job.encoder.encode(pixels, tile.window) if job.endpoint.wants_bytes else pixels
    policy, pause = job.endpoint.retry_policy, job.endpoint.retry_policy.backoff_s
    for attempt in range(policy.retries + 1):
        try:
            answers = invoke_endpoint(job.endpoint, [body], job.encoder.content_type)
            return read(answers[0], job.sent_shape_yx(tile))
        except EndpointError as error:
            if not error.retryable or attempt == policy.retries:
                raise
        time.sleep(min(pause, _MAX_PAUSE_S))
        pause *= 2
    raise AssertionError("unreachable")


def _some_tiles(plan: Plan) -> list[Tile]:
    """Return a few of the wanted tiles, the one in the middle first: the model may fail for one of them."""
    wanted = np.arange(plan.grid.n_tiles) if plan.selected is None else np.flatnonzero(plan.selected)
    rows, columns = np.divmod(wanted, plan.grid.tiles_yx[1])
    nearest = wanted[np.argsort(np.abs(rows - rows.mean()) + np.abs(columns - columns.mean()), kind="stable")]
    chosen = dict.fromkeys(nearest[np.linspace(0, len(nearest) - 1, min(_TRIED, len(nearest))).astype(int)].tolist())
    return [Tile(number, plan.grid.tile_window(*divmod(number, plan.grid.tiles_yx[1]))) for number in chosen]


def _read(plan: Plan, tile: Tile, run: str) -> RegionPixels:
    if plan.source is None:
        y, x = tile.window.slices
        return RegionPixels(np.asarray(plan.image[:, y, x].data), tile.window)
    row, column = plan.grid.region_of(*divmod(tile.number, plan.grid.tiles_yx[1]))
    return FileRegion(plan.source, plan.grid, run, row, column).read([tile], False)
