"""The beginning of a run whose model answers rasters: it is ready, and answers one tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import shapely

from geotile.checkpoints.checkpoint import check_same_job, stored_job
from geotile.checkpoints.identity import identity_of
from geotile.core.cancellation import working_for
from geotile.core.checks import Pair
from geotile.core.dask_info import active_client, waiting_elsewhere
from geotile.core.digest import digest
from geotile.endpoints import Endpoint
from geotile.endpoints.base import invoke_endpoint
from geotile.endpoints.raster import RasterAnswer
from geotile.errors import EndpointError, ImageReadError
from geotile.grid.tile_grid import Tile
from geotile.imagery.region_pixels import ArrayRegion, FileRegion, RegionPixels
from geotile.imagery.source import Source
from geotile.options.raster import EmbedOptions, PredictJobOptions
from geotile.options.run import RequestOptions
from geotile.planning.plan import Plan
from geotile.running.cluster import check_cluster
from geotile.running.hooks import RunHooks
from geotile.running.run import cancelling
from geotile.running.tile_job import TileContent, TileJob
from geotile.running.tiles import cut, gate_of_job, has_data
from geotile.storage.folder import Folder
from geotile.traffic import (
    RequestOutcome,
    TrafficSettings,
    as_concurrency,
    begin_run,
    send_with_retries,
    threads_for,
    traffic_settings,
    wait_until_ready,
)

Answered = TypeVar("Answered")
_TRIED = 4  # tiles, until one is answered
_LOOKED_AT = 256  # tiles, until one holds data


class NoReader:
    """Reader of a run that has not seen an answer yet."""

    def read(self, tile: Tile, answer: Any, sent_yx: Pair) -> TileContent:
        """Return the answer."""
        return TileContent(found=answer)


@dataclass(frozen=True)
class FirstAnswer(Generic[Answered]):
    """What a model says of the first tile of a run."""

    content: Answered
    sent_yx: Pair
    """Height and width in pixels of the tile as the model saw it."""
    requests: int
    """Number of requests that it took; 0 for an answer of an earlier run."""


def ready_for_rasters(
    endpoint: Endpoint, options: RequestOptions, source: Source | None, folders: Sequence[Folder], hooks: RunHooks
) -> tuple[Endpoint, TrafficSettings | None]:
    """Check the cluster and wait for the model; return it and the limits of its requests."""
    check_cluster(endpoint, source, folders)
    traffic = traffic_settings(endpoint, as_concurrency(options.concurrency), hooks.group)
    return wait_until_ready(endpoint, hooks.waiting), traffic


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


def tile_settings(plan: Plan, options: PredictJobOptions | EmbedOptions) -> dict[str, Any]:
    """Return how tiles are chosen and sent, as JSON: what a checkpoint depends on besides the image and the model."""
    return {
        "format": options.tile_format, "pad": bool(options.pad), "min_valid_share": options.min_valid_share,
        "roi": None if plan.roi is None else digest(shapely.to_wkb(plan.roi)),
        "selected": None if plan.selected is None else digest(np.packbits(plan.selected).tobytes()),
    }  # fmt: skip


def first_answer(
    plan: Plan, job: TileJob, read: Callable[[Any, Pair], Answered], hooks: RunHooks
) -> FirstAnswer[Answered]:  # fmt: skip
    """Ask the model for the tile in the middle of what is wanted, and for others if it fails for that one.

    Each is asked once, and if the model answers none of them, with retries: a model that always fails for one tile
    answers another one at once, and a model that is overloaded or restarts answers later.

    Parameters
    ----------
    plan : Plan
    job : TileJob
    read : callable
        ``read(answer, sent_yx)`` returns what the answer says.
    hooks : RunHooks
        What a service adds.

    Raises
    ------
    EndpointError
        If the model does not answer, or not with what `read` reads.
    ImageReadError
        If the tile cannot be read.
    """
    failed: list[EndpointError] = []
    worth_retrying: list[tuple[Tile, RegionPixels]] = []

    def ask(tile: Tile, pixels: RegionPixels, retries: int | None) -> FirstAnswer[Answered] | None:
        try:
            outcome, sent_yx = _ask(job, tile, pixels, retries), job.sent_shape_yx(tile)
            content = read(outcome.answers[0], sent_yx)
            return FirstAnswer(content, sent_yx, outcome.attempts + sum(each.attempts for each in failed))
        except EndpointError as error:
            failed.append(error)
            return None

    with hooks.around(job.run, plan), cancelling(job.run):
        begin_run(job.run)
        for tile, pixels in _some_tiles(plan, job):
            if answer := ask(tile, pixels, 0):
                return answer
            if failed[-1].retryable:
                worth_retrying.append((tile, pixels))
        for number, (tile, pixels) in enumerate(worth_retrying):  # the first with retries, then the others once more
            if answer := ask(tile, pixels, 0 if number else None):
                return answer
        raise failed[-len(worth_retrying)]  # the one after retries; the first one if none is worth a retry


def resumed_job(
    folder: Folder | None, plan: Plan, endpoint: Endpoint, options: PredictJobOptions | EmbedOptions, answer: str
) -> dict[str, Any] | None:
    """Return the `stored_job` of a checkpoint that this run may resume; None without one.

    Call it before the first request: a checkpoint of another job is refused without asking the model.

    Parameters
    ----------
    folder : Folder or None
        Folder of the checkpoint.
    plan : Plan
    endpoint : Endpoint
        Endpoint as it is named in the identity.
    options : PredictJobOptions or EmbedOptions
    answer : str
        Name under which `job.json` keeps what the first answer told.

    Raises
    ------
    ArgumentError
        If the folder is the checkpoint of another job, or contains something else.
    OutputError
        If it cannot be read.
    """
    job = None if folder is None else stored_job(folder)
    if folder is not None and job is not None:
        known = identity_of(plan, endpoint, tile_settings(plan, options))
        del known["grid"]["chunks"], known["tiles"]["selected"]  # the grid may depend on the answer
        check_same_job(folder, job, known, answer)
    return job


def kept_answer(job: Mapping[str, Any] | None) -> FirstAnswer[RasterAnswer] | None:
    """Return the form of the model's answers that a checkpoint holds, whose `stored_job` is given; None without one."""
    form = None if job is None else job.get("answer")
    return None if form is None else FirstAnswer(RasterAnswer.of_form(form), tuple(form["sent"]), 0)


def _ask(job: TileJob, tile: Tile, region: RegionPixels, retries: int | None) -> RequestOutcome:
    pixels = cut(region, tile, job)
    body = job.encoder.encode(pixels, tile.window) if job.endpoint.wants_bytes else pixels
    if job.traffic is None:
        return RequestOutcome(invoke_endpoint(job.endpoint, [body], job.encoder.content_type), 1)
    if (client := active_client()) is None:
        return send_one(job, body, retries)
    outcome: RequestOutcome = client.submit(send_one, job, body, retries, pure=False).result()
    return outcome


def send_one(job: TileJob, body: Any, retries: int | None = None) -> RequestOutcome:
    """Send one tile, within the limit of its run and of the group. Call it where the run asks the model."""
    gate = gate_of_job(job)
    assert gate is not None
    with gate.expecting(1), working_for(job.run), waiting_elsewhere():
        return send_with_retries(job.endpoint, gate, lambda: [body], job.encoder.content_type, retries)


def _some_tiles(plan: Plan, job: TileJob) -> Iterator[tuple[Tile, RegionPixels]]:
    """Yield a few of the wanted tiles with their pixels, the one in the middle first: the model may fail for one.

    Tiles that hold too little data to be sent are left out, unless no other one is found.
    """
    wanted = np.arange(plan.grid.n_tiles) if plan.selected is None else np.flatnonzero(plan.selected)
    rows, columns = np.divmod(wanted, plan.grid.tiles_yx[1])
    nearest = wanted[np.argsort(np.abs(rows - rows.mean()) + np.abs(columns - columns.mean()), kind="stable")]
    spread = nearest[np.linspace(0, len(nearest) - 1, min(_LOOKED_AT, len(nearest))).astype(int)]
    first = spread[np.linspace(0, len(spread) - 1, min(_TRIED, len(spread))).astype(int)]
    order = dict.fromkeys([*first.tolist(), *spread.tolist()])
    found, spare, unreadable = 0, None, ""
    for number in order:
        tile = Tile(number, plan.grid.tile_window(*divmod(number, plan.grid.tiles_yx[1])))
        pixels = _read(plan, tile, job.run, job.need_valid)
        if tile.number in pixels.unreadable:  # its pixels are zeros
            unreadable = unreadable or pixels.unreadable[tile.number]
            continue
        if has_data(pixels, tile, job):
            found += 1
            yield tile, pixels
        spare = spare or tile
        if found == _TRIED:
            return
    if not found and spare is not None:
        yield spare, _read(plan, spare, job.run, False)
    elif not found and unreadable:
        raise ImageReadError(unreadable)


def _read(plan: Plan, tile: Tile, run: str, need_valid: bool) -> RegionPixels:
    if plan.source is None:
        y, x = tile.window.slices
        region = ArrayRegion(np.asarray(plan.image[:, y, x].data), tile.window, plan.encoder.nodata)
        return region.read([tile], need_valid)
    row, column = plan.grid.region_of(*divmod(tile.number, plan.grid.tiles_yx[1]))
    return FileRegion(plan.source, plan.grid, run, row, column).read([tile], need_valid)
