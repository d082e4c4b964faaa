"""Preparation of a run: the job that the regions' tasks need, made from a plan and the user's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from geotile.checkpoints.checkpoint import open_checkpoint, stored_job
from geotile.checkpoints.identity import identity_of
from geotile.core.digest import digest
from geotile.endpoints import Endpoint
from geotile.geometry.georeference import scale_yx
from geotile.grid.tile_grid import TileGrid
from geotile.merging.merge import Merge
from geotile.merging.names import resolve_merge
from geotile.options import JobOptions, RunOptions
from geotile.planning.empty_tiles import empty_tiles
from geotile.planning.model_input import size_notes
from geotile.planning.plan import Plan, result_crs
from geotile.results.dataset import PartWriter
from geotile.results.frame import FrameBuilder
from geotile.running.detection_reader import DetectionReader
from geotile.running.progress import run_name
from geotile.running.region import RegionJob
from geotile.running.run import RunSummary
from geotile.running.tile_job import TileJob
from geotile.storage.folder import Folder
from geotile.storage.separate import NamedPlace, check_separate
from geotile.traffic import TrafficSettings, threads_for


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan whose checkpoint and result CRS have been checked, before the model is used."""

    work: Plan
    folder: Folder | None
    """Folder of the checkpoint, None without one."""
    builder: FrameBuilder
    """Builder of the result's rows."""
    merge: Merge

    def sample(self) -> gpd.GeoDataFrame:
        """Return a result with one row, to try out what the result of the run will be put into."""
        return self.builder.sample(self.work.grid.shape_yx)


def checkpoint_folder(options: RunOptions) -> Folder | None:
    """Return the folder of the checkpoint, None without one."""
    return None if options.checkpoint is None else Folder.at(options.checkpoint, options.output_options)


def separate_outputs(outputs: Sequence[tuple[str, str]], options: RunOptions) -> list[NamedPlace]:
    """Return the outputs of a run, of which none is another one or the checkpoint, holds one or lies in one.

    Parameters
    ----------
    outputs : sequence of (str, str)
        Name of the argument, and URI, of each output.
    options : RunOptions

    Raises
    ------
    ArgumentError
        If two of the places are not separate.
    """
    places = [NamedPlace(role, uri) for role, uri in outputs]
    folder = checkpoint_folder(options)
    check_separate(places if folder is None else [*places, NamedPlace("checkpoint", folder.uri)])
    return places


def prepare(work: Plan, options: JobOptions) -> Prepared:
    """Choose the regions and the form of the result.

    Raises
    ------
    ArgumentError
        If the CRS or the merge cannot be used, or the checkpoint's folder holds something else.
    GeoreferenceError
        If coordinates cannot be converted from the CRS of the image to the CRS of the result.
    OutputError
        If the checkpoint cannot be read.
    """
    folder = checkpoint_folder(options)
    georeference = work.encoder.georeference
    builder = FrameBuilder(
        georeference=georeference, crs=result_crs(options.crs, georeference), scale_yx=scale_yx(work.image),
        roi=work.roi, outside_roi=options.outside_roi,
    )  # fmt: skip
    middle = np.array([work.grid.shape_yx[::-1]]) / 2
    georeference.boxes_to_world(np.hstack([middle - 0.5, middle + 0.5]), builder.crs)  # there may be no way to the CRS
    job = None if folder is None else stored_job(folder)
    if job is not None and options.region_size == "auto":
        work = replace(work, grid=with_stored_regions(work.grid, job))
    merge = resolve_merge(options.merge, options.of_merge).for_image(georeference, work.grid.shape_yx)
    return Prepared(work=work, folder=folder, builder=builder, merge=merge)


def region_job(
    prepared: Prepared, endpoint: Endpoint, ready: Endpoint, traffic: TrafficSettings | None, options: JobOptions,
    parts: Folder | None,
) -> tuple[RegionJob, RunSummary]:  # fmt: skip
    """Return what the regions' tasks need, and what the report says about the run before it begins.

    Parameters
    ----------
    prepared : Prepared
    endpoint, ready : Endpoint
        Endpoint as the user gave it, and as the run asks it.
    traffic : TrafficSettings or None
        Limits of the requests; None where the model runs in the process.
    options : JobOptions
    parts : Folder or None
        Folder in which workers write settled rows; None to carry them to the root of the tree.
    """
    work, folder = prepared.work, prepared.folder
    selected, empty = _selection(work, options.min_valid_share is not None)
    settings, merge = _tile_identity(work, endpoint, options, selected), prepared.merge
    checkpoint = writer = None
    if folder is not None:
        identity = identity_of(work, endpoint, settings)
        checkpoint = open_checkpoint(folder, identity, options.retry_failed, regions=list(work.grid.regions_yx))
    if parts is not None:
        name = repr((identity_of(work, endpoint, settings, strict=False), merge))
        writer = PartWriter(folder=parts, builder=prepared.builder, prefix=digest(name.encode(), 8))
    run = run_name(bool(options.progress or checkpoint))
    tiles = _tile_job(work, ready, traffic, options, run)
    job = RegionJob(
        run=run, grid=work.grid, selected=selected, tiles=tiles, merge=merge, checkpoint=checkpoint, writer=writer
    )
    summary = RunSummary(
        image=work.name, endpoint=str(ready), tiles=work.tiles, regions=work.regions,
        outside_roi=work.tiles - work.requests, empty=empty,
        notes=tuple(dict.fromkeys([*work.notes, *size_notes(tiles.tile_yx, ready)])),
    )  # fmt: skip
    return job, summary


def with_stored_regions(grid: TileGrid, job: Mapping[str, Any]) -> TileGrid:
    """Return a grid with the regions of a checkpoint, whose `stored_job` is given, if that has the same tiles."""
    stored = job["identity"].get("grid", {})
    tile, overlap = (grid.axes[0].tile, grid.axes[1].tile), (grid.axes[0].overlap, grid.axes[1].overlap)
    same = {"shape": list(grid.shape_yx), "tile": list(tile), "overlap": list(overlap)}
    if not stored or any(stored.get(name) != value for name, value in same.items()):
        return grid  # a checkpoint of other tiles is refused later, with the differences
    y, x = stored["chunks"]
    return TileGrid(grid.shape_yx, tile, overlap, (tuple(y), tuple(x)), grid.align)


def _tile_job(work: Plan, ready: Endpoint, traffic: TrafficSettings | None, options: JobOptions, run: str) -> TileJob:
    return TileJob(
        run=run, endpoint=ready, encoder=work.encoder, tile_yx=(work.grid.axes[0].tile, work.grid.axes[1].tile),
        reader=DetectionReader(options.score_threshold or 0.0), threads=threads_for(ready, options.concurrency),
        traffic=traffic, errors=options.errors, pad_value=(work.encoder.nodata or 0.0) if options.pad else None,
        min_valid_share=options.min_valid_share,
    )  # fmt: skip


def _tile_identity(
    work: Plan, endpoint: Endpoint, options: JobOptions, selected: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """Return, as JSON, how tiles are made and answers are read."""
    encoder = work.encoder
    encoding = encoder.format if encoder.compression == "NONE" else f"{encoder.format}, {encoder.compression}"
    threshold = options.score_threshold
    if threshold is not None and not isinstance(threshold, Mapping):
        threshold = float(threshold)
    return {
        "format": encoding if endpoint.wants_bytes else "array", "pad": bool(options.pad),
        "score_threshold": dict(threshold) if isinstance(threshold, Mapping) else threshold,
        "min_valid_share": options.min_valid_share,
        "selected": None if selected is None else digest(np.packbits(selected).tobytes()),
    }  # fmt: skip


def _selection(work: Plan, need_valid: bool) -> tuple[NDArray[np.bool_] | None, int]:
    """Return the tiles to read, None for all, and the number of tiles that are known to be empty without reading."""
    source = work.source
    if not need_valid or source is None:
        return work.selected, 0
    empty = empty_tiles(source, work.grid)
    if empty is None or not empty.any():
        return work.selected, 0
    wanted = np.ones_like(empty) if work.selected is None else work.selected
    return wanted & ~empty, int((wanted & empty).sum())
