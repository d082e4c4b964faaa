"""A run that writes a raster: the blocks that are missing are computed and stored, then the output is made of all."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import dask
import dask.array
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray

from geotile.checkpoints.checkpoint import open_checkpoint
from geotile.checkpoints.identity import identity_of
from geotile.core.dask_info import compute_options
from geotile.core.digest import digest
from geotile.core.timing import sum_timings
from geotile.endpoints import Endpoint
from geotile.grid.tile_grid import Window
from geotile.options.raster import PredictToOptions
from geotile.planning.plan import Plan
from geotile.planning.raster_plan import RasterPlan, describe
from geotile.results.failures import TileFailure
from geotile.results.raster_output import RasterOutput
from geotile.results.raster_store import RasterStore, store_files
from geotile.results.report import Report
from geotile.running.progress import progress_display, progress_listener
from geotile.running.raster import Block, RasterJob
from geotile.running.raster_array import raster_template
from geotile.running.raster_graph import listed_blocks, raster_blocks
from geotile.running.raster_report import raster_report
from geotile.running.run import cancelling, task_priority
from geotile.storage.folder import Folder
from geotile.traffic import begin_run


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRaster:
    """A run whose model is ready and has answered one tile."""

    plan: Plan
    raster: RasterPlan
    job: RasterJob
    regions: Any
    """(1, regions down, regions across) dask array of `Region`."""


@dataclass(frozen=True)
class BlockWriter:
    """Writes blocks where they are computed. Pickles."""

    store: RasterStore

    def __call__(self, block: Block) -> None:
        """Write a block and what its report needs."""
        assert block.values is not None
        report = {
            "failures": list(block.failures), "tiles": block.tiles, "without_data": block.without_data,
            "is_touched": block.is_touched, "missing": block.missing,
        }  # fmt: skip
        self.store.write(block.window, block.values, block.row, block.column, report)


@dataclass(frozen=True, kw_only=True, eq=False)
class RasterRun:
    """A run that writes a raster."""

    prepared: PreparedRaster
    sink: RasterOutput
    store: RasterStore
    files: dict[str, bytes]
    template: xr.DataArray
    kept: bool
    """Whether the store is a checkpoint."""

    @classmethod
    def of(
        cls, prepared: PreparedRaster, endpoint: Endpoint, options: PredictToOptions, sink: RasterOutput,
        checkpoint: Folder | None,
    ) -> RasterRun:  # fmt: skip
        """Return the run of a prepared raster, with its store."""
        raster = prepared.raster
        shape = raster.out.shape_yx if raster.form.bands is None else (raster.form.bands, *raster.out.shape_yx)
        values = dask.array.zeros(shape, dtype=raster.form.dtype, chunks=-1)
        template = raster_template(prepared.plan, raster, values)
        files = store_files(template, raster.chunk)
        folder = sink.drafts
        if checkpoint is not None:
            selected = prepared.plan.selected
            settings = {
                "format": options.tile_format, "pad": bool(options.pad), "min_valid_share": options.min_valid_share,
                "raster": describe(raster.form), "chunk": raster.chunk,
                "roi": None if prepared.plan.roi is None else digest(shapely.to_wkb(prepared.plan.roi)),
                "selected": None if selected is None else digest(np.packbits(selected).tobytes()),
            }  # fmt: skip
            identity = identity_of(prepared.plan, endpoint, settings)
            folder = open_checkpoint(checkpoint, identity, options.retry_failed).parts
        store = RasterStore(folder=folder, array=files["prediction/zarr.json"])
        return cls(
            prepared=prepared, sink=sink, store=store, files=files, template=template, kept=checkpoint is not None
        )

    def compute(self, options: PredictToOptions) -> Report:
        """Compute the blocks that are missing, and store them."""
        started = time.perf_counter()
        job = replace(self.prepared.job, store=BlockWriter(self.store))
        self.store.begin(self.files)
        done = self._done(options.retry_failed)
        blocks = self._computed(job, done, options)
        resumed = [self.store.report(int(row), int(column)) for row, column in np.argwhere(done)]
        return self._report(job, blocks, resumed, started)

    def stored(self) -> xr.DataArray:
        """Return the result, which is read lazily from where its blocks are."""
        chunks = self.prepared.job.out.chunks

        def read(block_info: Any = None) -> NDArray[Any]:
            (y0, y1), (x0, x1) = block_info[None]["array-location"][-2:]
            return self.store.read(Window(y0, y1, x0, x1))

        bands = () if self.template.ndim == 2 else ((len(self.template),),)
        data = dask.array.map_blocks(read, chunks=(*bands, *chunks), dtype=self.template.dtype)
        return self.template.copy(data=data)

    def end(self, report: Report) -> None:
        """Make the output of the blocks; nothing of a run whose tiles have all failed."""
        if report.status != "FAILED":
            self.sink.end(
                self.store, self.files, self.template, self.prepared.raster.chunk, self.kept,
                self.prepared.job.grid.regions_yx,
            )  # fmt: skip
        elif not self.kept:
            self.sink.discard()

    def _done(self, retry_failed: bool) -> NDArray[np.bool_]:
        done = self.store.done(self.prepared.job.grid.regions_yx)
        if retry_failed:
            for row, column in np.argwhere(done):
                done[row, column] = not self.store.report(int(row), int(column))["is_touched"]
        return done

    def _computed(self, job: RasterJob, done: NDArray[np.bool_], options: PredictToOptions) -> list[Block]:
        if done.all():
            return []
        listed = listed_blocks(raster_blocks(self.prepared.regions, job), ~done)
        tiles = self.prepared.plan.requests
        annotations: dict[str, Any] = {"geotile": {"run": job.run, "image": self.prepared.plan.name}}
        if (priority := task_priority(self.prepared.plan.source)) is not None:
            annotations["priority"] = priority
        with (
            progress_display(options.progress) as callbacks,
            progress_listener(job.run, callbacks, tiles, 0),
            cancelling(job.run),
        ):
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
            requests=1 + sum(block.requests for block in blocks), retries=sum(block.retries for block in blocks),
            failures=failures,
            without_data=sum(block.without_data for block in blocks) + sum(kept["without_data"] for kept in resumed),
            timing=sum_timings(*(block.timing for block in blocks)), started=started,
            missing=sum(block.missing for block in blocks) + sum(kept["missing"] for kept in resumed),
            resumed=sum(kept["tiles"] for kept in resumed),
        )  # fmt: skip
