"""A run that writes a raster: the blocks that are missing are computed and stored, then the output is made of all."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.checkpoints.checkpoint import open_checkpoint, stored_job
from geotile.checkpoints.identity import identity_of
from geotile.core.checks import Pair
from geotile.core.dask_info import compute_options
from geotile.core.timing import sum_timings
from geotile.endpoints import Endpoint
from geotile.endpoints.raster import RasterAnswer
from geotile.grid.tile_grid import TileGrid, Window
from geotile.options.raster import PredictToOptions
from geotile.planning.plan import Plan
from geotile.planning.raster_plan import RasterPlan, describe
from geotile.results.failures import TileFailure
from geotile.results.raster_output import RasterOutput
from geotile.results.raster_store import RasterStore, store_files
from geotile.results.report import Report
from geotile.running.cluster import checking_late_workers
from geotile.running.hooks import RunHooks
from geotile.running.progress import Counts, progress_reporter
from geotile.running.raster import Block, RasterJob
from geotile.running.raster_array import notes_of_place, raster_template
from geotile.running.raster_graph import asked_tiles, listed_blocks, raster_blocks
from geotile.running.raster_report import raster_report
from geotile.running.raster_start import FirstAnswer, tile_settings
from geotile.running.run import cancelling, task_priority
from geotile.running.watching import watched
from geotile.storage.folder import Folder
from geotile.storage.free_space import note_of_space
from geotile.traffic import begin_run


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRaster:
    """A run whose model is ready and has answered one tile, now or in an earlier run."""

    plan: Plan
    first: FirstAnswer[RasterAnswer]
    raster: RasterPlan
    job: RasterJob
    regions: Any
    """(1, regions down, regions across) dask array of `Region`."""


@dataclass(frozen=True)
class BlockWriter:
    """Writes blocks where they are computed. Pickles."""

    store: RasterStore
    earlier: Mapping[Pair, dict[str, Any]] = field(default_factory=dict)
    """Reports of blocks of an earlier run that are computed again, since tiles had failed, by row and column."""

    def __call__(self, block: Block) -> Block:
        """Write a block and what its report needs; return what is stored then: the earlier one, if it is better."""
        assert block.values is not None
        earlier = self.earlier.get((block.row, block.column))
        if earlier is not None:
            was = earlier["missing"], len(earlier["failures"])
            if block.cancelled or was < (block.missing, len(block.failures)):
                failures = tuple(TileFailure(**each) for each in earlier["failures"])
                return replace(block, failures=failures, missing=earlier["missing"])
        report = {
            "failures": list(block.failures), "tiles": block.tiles, "without_data": block.without_data,
            "is_touched": block.is_touched, "missing": block.missing, "unfinished": block.cancelled,
        }  # fmt: skip
        self.store.write(block.window, block.values, block.row, block.column, report)
        return block


@dataclass(frozen=True, kw_only=True, eq=False)
class RasterRun:
    """A run that writes a raster."""

    prepared: PreparedRaster
    sinks: Sequence[RasterOutput]
    store: RasterStore
    files: dict[str, bytes]
    template: xr.DataArray
    checkpoint: Folder | None
    """Folder of the checkpoint that the store is; None without one."""

    @classmethod
    def of(
        cls, prepared: PreparedRaster, endpoint: Endpoint, options: PredictToOptions, sinks: Sequence[RasterOutput],
        checkpoint: Folder | None,
    ) -> RasterRun:  # fmt: skip
        """Return the run of a prepared raster, with its store. Without a checkpoint it has one output."""
        raster = prepared.raster
        shape = raster.out.shape_yx if raster.form.bands is None else (raster.form.bands, *raster.out.shape_yx)
        values = dask.array.zeros(shape, dtype=raster.form.dtype, chunks=-1)
        template = raster_template(prepared.plan, raster, values)
        files = store_files(template, raster.chunk)
        folder, is_new = sinks[0].drafts, True
        if checkpoint is not None:
            is_new = stored_job(checkpoint) is None
            own = {"raster": describe(raster.form), "chunk": raster.chunk}
            identity = identity_of(prepared.plan, endpoint, tile_settings(prepared.plan, options) | own)
            answer = {**prepared.first.content.form(), "sent": list(prepared.first.sent_yx)}
            regions = list(prepared.plan.grid.regions_yx)
            folder = open_checkpoint(
                checkpoint, identity, options.retry_failed, regions=regions, answer=answer
            ).parts  # fmt: skip
        store = RasterStore(folder=folder, array=files["prediction/zarr.json"], is_new=is_new)
        return cls(prepared=prepared, sinks=sinks, store=store, files=files, template=template, checkpoint=checkpoint)

    def with_notes(self) -> RasterRun:
        """Return the run with notes in its report: what outputs cannot hold, and whether the disk may be too small."""
        notes = notes_of_place(self.prepared.plan.encoder.georeference, [sink.uri for sink in self.sinks])
        if (note := note_of_space(self.store.folder, self.template.nbytes)) is not None:
            warnings.warn(note, UserWarning, stacklevel=2)
            notes.append(note)
        plan = replace(self.prepared.plan, notes=(*self.prepared.plan.notes, *notes))
        return replace(self, prepared=replace(self.prepared, plan=plan))

    def compute(self, options: PredictToOptions, hooks: RunHooks) -> Report:
        """Compute the blocks that are missing, and store them."""
        started = time.perf_counter()
        self.store.begin(self.files)
        stored = self._stored()
        again = {place: each for place, each in stored.items() if options.retry_failed and each["is_touched"]}
        kept = {place: each for place, each in stored.items() if place not in again}
        job = replace(self.prepared.job, store=BlockWriter(self.store, again))
        with hooks.around(job.run, self.prepared.plan):
            blocks = self._computed(job, kept, options)
        return self._report(job, blocks, list(kept.values()), started)

    def stored(self) -> xr.DataArray:
        """Return the result, which is read lazily from where its blocks are once the run has ended."""
        chunks = self.prepared.job.out.chunks
        moved = self.checkpoint is None and self.sinks[0].is_zarr
        store = replace(self.store, folder=self.sinks[0].folder) if moved else self.store

        def read(block_info: Any = None) -> NDArray[Any]:
            (y0, y1), (x0, x1) = block_info[None]["array-location"][-2:]
            return store.read(Window(y0, y1, x0, x1))

        bands = () if self.template.ndim == 2 else ((len(self.template),),)
        data = dask.array.map_blocks(read, chunks=(*bands, *chunks), dtype=self.template.dtype)
        return self.template.copy(data=data)

    def end(self, report: Report) -> None:
        """Make the outputs of the blocks; nothing of a run whose tiles have all failed."""
        if report.status != "FAILED":
            for sink in self.sinks:
                sink.end(
                    self.store, self.files, self.template, self.prepared.raster.chunk, self.checkpoint is not None,
                    self._grid.regions_yx,
                )  # fmt: skip

    def discard(self) -> None:
        """Remove the blocks that the outputs were made of, but those of a checkpoint."""
        if self.checkpoint is None:
            self.sinks[0].discard()

    def _stored(self) -> dict[Pair, dict[str, Any]]:
        """Return what an earlier run has kept with each of its blocks, but those that it left unfinished."""
        reports = self.store.reports(self._grid.regions_yx)
        return {place: report for place, report in reports.items() if not report.get("unfinished")}

    @property
    def _grid(self) -> TileGrid:
        return self.prepared.job.grid

    def _computed(self, job: RasterJob, kept: Mapping[Pair, dict[str, Any]], options: PredictToOptions) -> list[Block]:
        done = np.zeros(job.grid.regions_yx, bool)
        for row, column in np.ndindex(done.shape):
            done[row, column] = (row, column) in kept
        if done.all():
            return []
        listed = listed_blocks(raster_blocks(self.prepared.regions, job, ~done), job, ~done)
        tiles = self.prepared.plan.requests
        annotations: dict[str, Any] = {"geotile": {"run": job.run, "image": self.prepared.plan.name}}
        if (priority := task_priority(self.prepared.plan.source)) is not None:
            annotations["priority"] = priority
        with (
            watched(job.run, options.progress, tiles, tiles - asked_tiles(job, ~done), self.checkpoint),
            cancelling(job.run),
            checking_late_workers(job.run, job.tiles.endpoint, self.prepared.plan.source),
        ):
            progress_reporter(job.run)(Counts(failures=sum(len(each["failures"]) for each in kept.values())))
            begin_run(job.run)
            own = compute_options(ahead=job.tiles.traffic is not None)
            try:
                with dask.annotate(**annotations):
                    found: list[Block] = listed.compute(**own)
                return found
            finally:
                if (pool := own.get("pool")) is not None:
                    pool.shutdown(wait=False)

    def _report(
        self, job: RasterJob, blocks: list[Block], resumed: list[dict[str, Any]], started: float
    ) -> Report:  # fmt: skip
        plan = self.prepared.plan
        failures = [failure for block in blocks for failure in block.failures]
        failures += [TileFailure(**each) for kept in resumed for each in kept["failures"]]
        return raster_report(
            plan, job.tiles, job.run,
            requests=self.prepared.first.requests + sum(block.requests for block in blocks),
            retries=sum(block.retries for block in blocks),
            failures=failures,
            without_data=sum(block.without_data for block in blocks) + sum(kept["without_data"] for kept in resumed),
            timing=sum_timings(*(block.timing for block in blocks)), started=started,
            missing=sum(block.missing for block in blocks) + sum(kept["missing"] for kept in resumed),
            resumed=sum(kept["tiles"] for kept in resumed),
        )  # fmt: skip
