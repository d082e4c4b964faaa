"""From what a user gave to a run that is ready to go: everything checked, the model there, the graph built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from geotile.checkpoints.checkpoint import open_checkpoint, stored_job
from geotile.checkpoints.identity import identity_of
from geotile.core.checks import check_unit
from geotile.core.digest import digest
from geotile.endpoints import Endpoint
from geotile.endpoints import endpoint as as_endpoint
from geotile.errors import ArgumentError
from geotile.geometry.georeference import scale_yx
from geotile.grid.tile_grid import TileGrid
from geotile.imagery.open import OpenOptions, source_of
from geotile.imagery.overlap import halo_first
from geotile.merging.merge import KeepAll, Merge, Nms
from geotile.merging.nms import OverlapMetric
from geotile.planning.empty_tiles import empty_tiles
from geotile.planning.plan import ImageLike, Plan, footprint_crs, plan
from geotile.results.dataset import PartWriter
from geotile.results.frame import Placing
from geotile.running.cluster import check_cluster
from geotile.running.progress import check_progress
from geotile.running.region import map_tiles
from geotile.running.region_pixels import Reading
from geotile.running.run import About, Run, claimed, saying_how_to_go_on
from geotile.running.tiles import TileJob
from geotile.running.tree import tree_reduce
from geotile.storage.folder import Folder
from geotile.traffic import Rules, as_concurrency, rules_for, threads_for, wait_until_ready


@contextmanager
def prepared(image: ImageLike, endpoint: Any, parts: Folder | None, given: Mapping[str, Any]) -> Iterator[Run]:
    """Prepare a run; hold its checkpoint while the block runs.

    Parameters
    ----------
    image, endpoint
        As for `detect`.
    parts : Folder or None
        Where workers write what they settle; None has it travel to the root.
    given : mapping
        All other arguments of `detect`, and its `options`. `group` names runs that share one number of requests.
    """
    _check_words(given)
    options: dict[str, Any] = dict(given["options"])
    opening = {name: options.pop(name) for name in OpenOptions.__annotations__ if name in options}
    how = _merge(given["merge"], given["iou_threshold"], given["overlap_metric"], given["class_agnostic"])
    _least_data(given["skip_nodata"]), check_unit(given["score_threshold"], "score_threshold")
    model, most = as_endpoint(endpoint, **options), as_concurrency(given["concurrency"])
    cutting = {
        name: given[name] for name in ("tile_size", "overlap", "region_size", "tile_format", "tile_compression", "roi")
    }
    work = plan(image, endpoint=model, **cutting, **opening)
    placing = Placing(
        georeference=work.encoder.georeference, crs=footprint_crs(given["crs"], work.encoder.georeference),
        scale_yx=scale_yx(work.image), roi=work.roi, outside_roi=given["outside_roi"],
    )  # fmt: skip
    place = None if given["checkpoint"] is None else Folder.at(given["checkpoint"], given["output_options"])
    if place is not None and given["region_size"] == "auto":
        work = _as_before(work, place)
    with saying_how_to_go_on(place):
        check_cluster(model, source_of(work.image), [each for each in (place, parts) if each is not None])
        rules = rules_for(model, most, given.get("group"))
        ready = wait_until_ready(model)
        with claimed(place):
            yield _run(work, placing, model, ready, rules, how, place, parts, given)


def _run(
    work: Plan, placing: Placing, model: Endpoint, ready: Endpoint, rules: Rules | None, how: Merge,
    place: Folder | None, parts: Folder | None, given: Mapping[str, Any],
) -> Run:  # fmt: skip
    """Build the graph of a run whose arguments were checked and whose model is there."""
    least_data, least_score = _least_data(given["skip_nodata"]), float(given["score_threshold"])
    selected, empty = _selection(work, least_data is not None)
    asked = {
        "format": _format(work) if model.wants_bytes else "array", "pad": bool(given["pad"]),
        "score_threshold": least_score, "least_data": least_data,
        "selected": None if selected is None else digest(np.packbits(selected).tobytes()),
    }  # fmt: skip
    checkpoint = writer = None
    if place is not None:
        identity = identity_of(work, model, asked)
        checkpoint = open_checkpoint(place, identity, given["retry_failed"], regions=list(work.grid.regions_yx))
    if parts is not None:
        name = repr((identity_of(work, model, asked, strict=False), how))
        writer = PartWriter(folder=parts, placing=placing, prefix=digest(name.encode(), 8))
    reading = Reading(
        grid=work.grid, selected=selected, look_for_data=least_data is not None, checkpoint=checkpoint,
        run=f"{'watched' if given['progress'] or checkpoint else 'run'}-{uuid4().hex}",
    )  # fmt: skip
    job = TileJob(
        reading=reading, endpoint=ready, encoder=work.encoder, merge=how, score_threshold=least_score,
        rules=rules, threads=threads_for(ready, as_concurrency(given["concurrency"])), errors=given["errors"],
        pad_value=(work.encoder.nodata or 0.0) if given["pad"] else None, least_data=least_data, writer=writer,
    )  # fmt: skip
    about = About(
        image=work.name, endpoint=str(ready), tiles=work.tiles, regions=work.regions,
        outside_roi=work.tiles - work.requests, empty=empty,
    )  # fmt: skip
    return Run(
        about=about, job=job, tree=tree_reduce(map_tiles(work.image, job), job), placing=placing,
        priority=halo_first if source_of(work.image) is None else None,
    )  # fmt: skip


def _format(work: Plan) -> str:
    kind, compression = work.encoder.format, work.encoder.compression
    return kind if compression == "NONE" else f"{kind}, {compression}"


def _check_words(given: Mapping[str, Any]) -> None:
    for name, known in (("errors", ("record", "raise")), ("outside_roi", ("drop", "keep"))):
        if given[name] not in known:
            raise ArgumentError(f"{name}={given[name]!r} is unknown; choose {known[0]!r} or {known[1]!r}")
    check_progress(given["progress"])
    if given["checkpoint"] is None and given["retry_failed"]:
        raise ArgumentError("retry_failed=True asks again about tiles that a checkpoint holds; give checkpoint= too")
    if not given["compute"] and (given["checkpoint"] is not None or given["progress"]):
        raise ArgumentError(
            "compute=False takes neither checkpoint nor progress: nobody holds them while it is computed"
        )


def _as_before(work: Plan, place: Folder) -> Plan:
    """Return the plan with the regions of a checkpoint, where it is of the same tiles."""
    job = stored_job(place)
    said = {} if job is None else job["identity"].get("grid", {})
    grid = work.grid
    alike = {
        "shape": list(grid.shape_yx),
        "tile": [a.tile for a in grid.axes],
        "overlap": [a.overlap for a in grid.axes],
    }
    if not said or any(said.get(name) != value for name, value in alike.items()):
        return work  # the checkpoint will be refused, and say why
    y, x = said["chunks"]
    (tile_y, tile_x), (overlap_y, overlap_x) = alike["tile"], alike["overlap"]
    return replace(work, grid=TileGrid(grid.shape_yx, (tile_y, tile_x), (overlap_y, overlap_x), (tuple(y), tuple(x))))


def _merge(merge: Any, iou_threshold: float, metric: OverlapMetric, class_agnostic: bool) -> Merge:
    nms = Nms(iou_threshold, metric, class_agnostic)  # checks them, used or not
    if merge is None:
        return KeepAll()
    if merge == "nms":
        return nms
    if hasattr(merge, "settle"):
        how: Merge = merge
        return how
    raise ArgumentError(f"merge={merge!r} is unknown; choose 'nms' or None")


def _least_data(skip_nodata: bool | float) -> float | None:
    if isinstance(skip_nodata, bool):
        return 0.0 if skip_nodata else None
    return check_unit(skip_nodata, "skip_nodata")


def _selection(work: Plan, look_for_data: bool) -> tuple[NDArray[np.bool_] | None, int]:
    """Return the tiles to read, None for all, and how many more are known to be empty without reading."""
    source = source_of(work.image)
    if not look_for_data or source is None or work.grid.shape_yx != source.shape[1:]:
        return work.selected, 0
    empty = empty_tiles(source, work.grid)
    if empty is None or not empty.any():
        return work.selected, 0
    wanted = np.ones_like(empty) if work.selected is None else work.selected
    return wanted & ~empty, int((wanted & empty).sum())
