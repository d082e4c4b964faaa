"""The calls for models that answer vectors: open, plan, ask for one tile, regions, rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import dask
import geopandas as gpd

from geotile.checkpoints.identity import identity_of
from geotile.core.checks import check_path
from geotile.core.dask_info import compute_options
from geotile.core.digest import digest
from geotile.core.option import with_options
from geotile.core.redact import redact
from geotile.endpoints import Endpoint, resolve_endpoint
from geotile.errors import ArgumentError
from geotile.imagery.overlap import map_overlap
from geotile.options import ImageOptions
from geotile.options.raster import EmbedOptions, EmbedToOptions
from geotile.options.raster_keywords import EmbedKeywords, EmbedToKeywords
from geotile.planning.opened_image import ImageLike, opened_image
from geotile.planning.plan import Plan, planned, result_crs
from geotile.public import public
from geotile.results.dataset import DatasetOutput
from geotile.results.report import Report
from geotile.results.run_report import after_writing
from geotile.results.sinks import Output, write_or_save
from geotile.running.cluster import checking_late_workers
from geotile.running.embedding import EmbeddingJob, EmbeddingNode, EmbeddingReader, embedding_tree
from geotile.running.embedding_checkpoint import EmbeddingCheckpoint, embedding_settings
from geotile.running.embedding_table import EmbeddingTable, write_vectors
from geotile.running.hooks import RunHooks
from geotile.running.prepare import checkpoint_folder, separate_outputs, with_stored_regions
from geotile.running.progress import run_name
from geotile.running.raster_report import raster_report
from geotile.running.raster_start import first_answer, ready_for_rasters, resumed_job, tile_job
from geotile.running.run import cancelling, leased, naming_how_to_resume, task_priority
from geotile.running.tile_job import TileJob
from geotile.running.watching import watched
from geotile.storage.folder import Folder
from geotile.storage.separate import NamedPlace
from geotile.traffic import begin_run


@public
@with_options(EmbedKeywords, build=EmbedOptions, prepare=resolve_endpoint(EmbedOptions, of_arrays=True))
def embed(image: ImageLike, endpoint: Any, options: EmbedOptions) -> gpd.GeoDataFrame:
    """Run a model that answers vectors over an image of any size, such as a foundation model.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        As for `detect`.
    endpoint : str, callable or Endpoint
        What `geotile.endpoint` takes. Its answer for a tile is an array or a tensor: a vector (length,), or vectors
        (token, length), which `tokens` explains; over HTTP, application/x-npy as `numpy.save` writes it.
    {options}

    Returns
    -------
    geopandas.GeoDataFrame
        One row per tile, or per patch, by tile number. Columns ``geometry`` (the footprint), ``tile``, ``xmin``,
        ``ymin``, ``xmax``, ``ymax`` (pixels), ``embedding`` (numpy arrays; ``numpy.stack`` makes a matrix of them),
        ``image`` and ``datetime`` (of a STAC item). ``geotile.report(frame)`` returns the `Report`.

    Raises
    ------
    ArgumentError, ImageOpenError, GeoreferenceError, EndpointError, ClusterError, TileError
        As for `detect`.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> found = embed(write_example(), lambda tile: tile.mean(axis=(1, 2)), tile_size=128, overlap=0)
    >>> import numpy as np
    >>> np.stack(found["embedding"]).shape
    (4, 3)
    """
    with _run(image, endpoint, options, None, RunHooks()) as run:
        root = run.compute(options, RunHooks())
    table = run.job.table.build(root.tiles, root.boxes, root.vectors)
    table.attrs["report"] = run.report(root)
    return table


@public
@with_options(EmbedToKeywords, build=EmbedToOptions, prepare=resolve_endpoint(EmbedToOptions, of_arrays=True))
def embed_to(
    image: ImageLike, endpoint: Any, output: str | os.PathLike[str], options: EmbedToOptions
) -> Report:  # fmt: skip
    """Run `embed` and write its rows as GeoParquet: whole, or not at all.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        As for `detect`.
    endpoint : str, callable or Endpoint
        As for `embed`.
    output : str or path
        A path or any fsspec URI that ends in ``.parquet``, or a folder, which ends in ``/``: a dataset whose parts the
        workers write, so that no process holds all vectors.
    {options}

    Returns
    -------
    Report

    Raises
    ------
    OutputError
        If the output cannot be written or exists; before the run where possible.
    ArgumentError, ImageOpenError, GeoreferenceError, EndpointError, ClusterError, TileError
        As for `embed`.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> import tempfile
    >>> out = tempfile.mkdtemp() + "/vectors.parquet"
    >>> embed_to(write_example(), lambda tile: tile.mean(axis=(1, 2)), out, tile_size=128, overlap=0).tiles
    4
    """
    path = check_path(output, "output")
    if not path.endswith(("/", ".parquet")):
        raise ArgumentError(f"output must end in .parquet, or in / for a dataset; got {redact(path)!r}")
    if path.endswith("/"):
        return embed_to_dataset(image, endpoint, Folder.at(output, options.output_options), options, RunHooks())
    outputs = separate_outputs([("output", path)], options)
    file = Output.reserve(output, overwrite=options.overwrite, options=options.output_options, owner="run")
    with file.leased():
        with _run(image, endpoint, options, None, RunHooks(), outputs, file.try_out) as run:
            root = run.compute(options, RunHooks())
            report = run.report(root)
            table = run.job.table.build(root.tiles, root.boxes, root.vectors)
        if report.status != "FAILED":
            fill = partial(write_vectors, like=root.vectors)
            report = after_writing(report, lambda: write_or_save(table, file, fill))
    return report


def embed_to_dataset(
    image: ImageLike, endpoint: Endpoint, folder: Folder, options: EmbedToOptions, hooks: RunHooks
) -> Report:
    """Run `embed` and have the workers write the rows as a GeoParquet dataset.

    Parameters
    ----------
    image, endpoint, options
        As for `embed_to`.
    folder : Folder
        Folder of the dataset.
    hooks : RunHooks
        What a service adds.
    """
    outputs = separate_outputs([("output", folder.uri)], options)
    sink = DatasetOutput.reserve(folder, overwrite=options.overwrite)
    with sink.leased():
        sink.begin()
        with _run(image, endpoint, options, sink.drafts, hooks, outputs) as run:
            root = run.compute(options, hooks)
            report = run.report(root)
            sink.end(root.parts, write=report.status != "FAILED")
    return report


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    plan: Plan
    job: EmbeddingJob
    tree: Any
    started: float
    first_requests: int
    """Number of requests for the first tile."""

    def compute(self, options: EmbedOptions, hooks: RunHooks) -> EmbeddingNode:
        """Compute all rows."""
        annotations: dict[str, Any] = {"geotile": {"run": self.job.run, "image": self.plan.name}}
        if (priority := task_priority(self.plan.source)) is not None:
            annotations["priority"] = priority
        own = compute_options(ahead=self.job.tiles.traffic is not None)
        kept = 0 if self.job.checkpoint is None else self.job.checkpoint.stored_tiles(self.job)
        with (
            hooks.around(self.job.run, self.plan),
            watched(self.job.run, options.progress, self.plan.requests, kept, checkpoint_folder(options)),
            cancelling(self.job.run),
            checking_late_workers(self.job.run, self.job.tiles.endpoint, self.plan.source),
            own.get("pool") or nullcontext(),
        ):
            begin_run(self.job.run)
            with dask.annotate(**annotations):
                root: EmbeddingNode = self.tree.compute(**own)
        return root

    def report(self, root: EmbeddingNode) -> Report:
        """Return the report, and warn if tiles failed."""
        return raster_report(
            self.plan, self.job.tiles, self.job.run, requests=self.first_requests + root.requests, retries=root.retries,
            failures=root.failures, without_data=root.without_data, timing=root.timing, started=self.started,
            resumed=root.resumed,
        )  # fmt: skip


@contextmanager
def _run(
    image: ImageLike, endpoint: Endpoint, options: EmbedOptions, parts: Folder | None, hooks: RunHooks,
    outputs: Sequence[NamedPlace] = (), try_out: Callable[[gpd.GeoDataFrame], None] = lambda sample: None,
) -> Iterator[_Run]:  # fmt: skip
    """Prepare a run, and hold its checkpoint while the block runs.

    ``try_out(sample)`` gets a result with one row, before the model is asked.
    """
    started, moment = time.perf_counter(), getattr(image, "datetime", None)
    folder = checkpoint_folder(options)
    with naming_how_to_resume(folder), leased(folder):
        opened = opened_image(image, options.part(ImageOptions), options)
        opened.check_apart(outputs)
        endpoint = endpoint.for_embeddings()
        plan = planned(opened, options, options, endpoint)
        table = embedding_table(plan, options, moment.isoformat() if isinstance(moment, datetime) else None)
        try_out(table.sample(plan.grid.shape_yx))
        folders = [each for each in (parts, folder) if each is not None]
        ready, traffic = ready_for_rasters(endpoint, options, plan.source, folders, hooks)
        stored = resumed_job(folder, plan, endpoint, options, "length")
        if stored is not None and options.region_size == "auto":
            plan = replace(plan, grid=with_stored_regions(plan.grid, stored))
        run = run_name(bool(options.progress or folder))
        tiles = tile_job(plan, ready, traffic, options, run, options.errors)
        reader, requests = _reader(plan, tiles, options, stored, hooks)
        checkpoint = None
        if folder is not None:
            checkpoint = EmbeddingCheckpoint.of(folder, plan, endpoint, options, reader.length or 0)
        job = EmbeddingJob(
            run=run, grid=plan.grid, selected=plan.selected, tiles=replace(tiles, reader=reader), folder=parts,
            table=table, checkpoint=checkpoint,
            prefix="" if parts is None else _prefix(plan, endpoint, options, reader.length or 0, table),
        )  # fmt: skip
        tree = embedding_tree(map_overlap(plan.image, plan.source, plan.grid, run), job)
        yield _Run(plan=plan, job=job, tree=tree, started=started, first_requests=requests)


def _prefix(plan: Plan, endpoint: Endpoint, options: EmbedOptions, length: int, table: EmbeddingTable) -> str:
    """Return a digest of all that the rows depend on, which distinguishes the parts of runs."""
    identity = identity_of(plan, endpoint, embedding_settings(plan, options, length), strict=False)
    georeference = digest(repr(table.georeference).encode())
    return digest(repr((identity, table.crs, georeference, table.image, table.datetime)).encode(), 8)


def _reader(
    plan: Plan, tiles: TileJob, options: EmbedOptions, stored: Mapping[str, Any] | None, hooks: RunHooks
) -> tuple[EmbeddingReader, int]:
    """Return the reader of the answers, and how many requests it took to learn the length of a vector."""
    reader = EmbeddingReader(options.tokens, options.prefix_tokens, options.dtype)
    length = EmbeddingCheckpoint.kept_length(stored)
    if length is not None:
        return replace(reader, length=length), 0
    first = first_answer(plan, tiles, reader.vectors, hooks)
    return replace(reader, length=first.content.shape[-1]), first.requests


def embedding_table(plan: Plan, options: EmbedOptions, moment: str | None = None) -> EmbeddingTable:
    """Return the builder of the rows of an image, which may have been taken at a moment.

    Raises
    ------
    ArgumentError
        If the CRS of the result cannot be used.
    """
    georeference = plan.encoder.georeference
    return EmbeddingTable(
        georeference=georeference, crs=result_crs(options.crs, georeference), image=plan.name, datetime=moment,
        roi=plan.roi,
    )  # fmt: skip
