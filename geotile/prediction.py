"""The calls for models that answer a raster: open, plan, ask for one tile, regions, blend, write."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import xarray as xr

from geotile.core.checks import Pair, check_path
from geotile.core.option import with_options
from geotile.core.redact import redact
from geotile.endpoints import Endpoint, resolve_endpoint
from geotile.endpoints.raster import RasterAnswer, raster_of
from geotile.errors import ArgumentError
from geotile.imagery.overlap import map_overlap
from geotile.options import ImageOptions
from geotile.options.raster import PredictJobOptions, PredictOptions, PredictToOptions
from geotile.options.raster_keywords import PredictKeywords, PredictToKeywords
from geotile.planning.opened_image import ImageLike, opened_image
from geotile.planning.plan import planned
from geotile.planning.raster_plan import named_classes, raster_plan
from geotile.planning.roi import intersecting_tiles
from geotile.polygons import polygonize
from geotile.public import public
from geotile.results.raster_output import RasterOutput
from geotile.results.raster_store import zarr_module
from geotile.results.report import Report
from geotile.results.sinks import Output, write_or_save
from geotile.running.hooks import RunHooks
from geotile.running.prepare import checkpoint_folder, separate_outputs, with_stored_regions
from geotile.running.progress import run_name
from geotile.running.raster import RasterJob, RasterReader
from geotile.running.raster_array import raster_template
from geotile.running.raster_graph import block_values, raster_blocks
from geotile.running.raster_run import PreparedRaster, RasterRun
from geotile.running.raster_start import first_answer, kept_answer, ready_for_rasters, resumed_job, tile_job
from geotile.running.run import leased, naming_how_to_resume
from geotile.storage.folder import Folder
from geotile.storage.separate import NamedPlace


@public
@with_options(PredictKeywords, build=PredictOptions, prepare=resolve_endpoint(PredictOptions, of_arrays=True))
def predict(image: ImageLike, endpoint: Any, options: PredictOptions) -> xr.DataArray:
    """Run a model that answers a raster over an image of any size, lazily.

    The model is asked for one tile at once, which tells the form of its answers, and for the others when their pixels
    are computed: ``.compute()`` asks for all, a slice only for the tiles that see its regions. The pixels do not depend
    on the regions, the scheduler or the number of workers.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        As for `detect`.
    endpoint : str, callable or Endpoint
        What `geotile.endpoint` takes. Its answer for a tile is an array, a tensor, or in the body of a response a
        GeoTIFF, a PNG or an array as `numpy.save` writes it: class numbers (y, x), integers; or floats
        (class, y, x) or (y, x), scores from 0 to 1 or values. It has the size of the tile, or a whole multiple or
        fraction of it.
    {options}

    Returns
    -------
    xarray.DataArray
        Dims (y, x), or (band, y, x) for scores, values, and classes with thresholds; chunked by regions, with the CRS
        and the transform of the image (scaled where the answer is finer or coarser). Pixels without an answer, and
        those without data in the image, have the value of ``.rio.nodata``. The names of the classes are the attribute
        ``class_names``.

    Raises
    ------
    ArgumentError
        If an argument cannot be used, or the model's answer does not fit the options.
    ImageOpenError, GeoreferenceError, EndpointError, ClusterError
        As for `detect`.
    TileError
        When pixels are computed, if a tile fails.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> bright = predict(write_example(), lambda tile: (tile[0] > 128).astype("uint8"), tile_size=128, overlap=32)
    >>> bright.dims, str(bright.dtype), int((bright == 1).sum())
    (('y', 'x'), 'uint8', 1152)
    """
    run = prepared_raster(image, endpoint, options, errors="raise", watched=False, lazy=True)
    blocks = raster_blocks(run.regions, run.job)
    return raster_template(run.plan, run.raster, block_values(blocks, run.job))


@public
@with_options(PredictToKeywords, build=PredictToOptions, prepare=resolve_endpoint(PredictToOptions, of_arrays=True))
def predict_to(
    image: ImageLike, endpoint: Any, destination: str | os.PathLike[str], options: PredictToOptions
) -> Report:  # fmt: skip
    """Run `predict` and write its result, region by region: whole, or not at all.

    The workers write, so that no process holds more than a few regions. With ``checkpoint=`` the same call resumes
    where it was stopped. Pixels of tiles that failed are those of other tiles that saw them, or nodata. With
    ``polygons=`` the areas of the classes are written as features too.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        As for `detect`.
    endpoint : str, callable or Endpoint
        As for `predict`.
    destination : str or path
        A path or any fsspec URI that ends in ``.tif`` (a Cloud Optimized GeoTIFF with overviews) or ``.zarr`` (a
        Zarr 3 group with the array ``prediction``). A COG is made by this process, of a Zarr store that the workers
        write beside it; for outputs of many gigabytes Zarr is faster.
    {options}

    Returns
    -------
    Report

    Raises
    ------
    OutputError
        If the output cannot be written or exists, or another run is writing there; before the run where possible.
    ArgumentError, ImageOpenError, GeoreferenceError, EndpointError, ClusterError, TileError
        As for `predict`.

    Examples
    --------
    >>> from geotile.testing import write_example
    >>> import tempfile
    >>> out = tempfile.mkdtemp() + "/bright.tif"
    >>> predict_to(write_example(), lambda tile: (tile[0] > 128).astype("uint8"), out, tile_size=128, overlap=32).status
    'SUCCESS'
    """
    named = [("destination", check_path(destination, "output"))]
    if options.polygons is not None:
        named.append(("polygons", check_path(options.polygons, "polygons")))
    outputs = separate_outputs(named, options)
    sink = RasterOutput.reserve(destination, overwrite=options.overwrite, options=options.output_options)
    features = _reserved(options)
    return predict_into([sink], image, endpoint, options, RunHooks(), features=features, outputs=outputs)


def predict_into(
    sinks: Sequence[RasterOutput], image: ImageLike, endpoint: Endpoint, options: PredictToOptions, hooks: RunHooks,
    *, features: Output | None = None, outputs: Sequence[NamedPlace] = (),
) -> Report:  # fmt: skip
    """Run `predict` and write its result to an output, or with a checkpoint to several.

    Parameters
    ----------
    sinks : sequence of RasterOutput
    image, endpoint, options
        As for `predict_to`.
    hooks : RunHooks
        What a service adds.
    features : Output, optional
        File of the polygons.
    outputs : sequence of NamedPlace, optional
        Places that the image must not be in, nor hold.
    """
    checkpoint = checkpoint_folder(options)
    zarr_module()
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink.leased())
        if features is not None:
            stack.enter_context(features.leased())
        stack.enter_context(naming_how_to_resume(checkpoint))
        stack.enter_context(leased(checkpoint))
        for sink in sinks:
            sink.begin()
        prepared = prepared_raster(
            image, endpoint, options, errors=options.errors, watched=bool(options.progress or checkpoint),
            folders=[checkpoint or sinks[0].drafts], checkpoint=checkpoint, hooks=hooks,
            outputs=outputs,
        )  # fmt: skip
        run = RasterRun.of(prepared, endpoint, options, sinks, checkpoint).with_notes()
        if features is not None:
            features.try_out(_sample(run.template, options, features))
        try:
            report = run.compute(options, hooks)
        except BaseException:
            run.discard()
            raise
        computed = time.perf_counter()
        run.end(report)
        try:
            if features is not None and report.status != "FAILED":
                found = polygonize(run.stored(), crs=options.crs, **options.of_polygons)
                write_or_save(found, features)
                report["notes"] = [*report.notes, f"{len(found):,} polygons were written to {redact(features.uri)}"]
        finally:
            run.discard()
    report["seconds"] += time.perf_counter() - computed
    return report


def _reserved(options: PredictToOptions) -> Output | None:
    """Return the file of the polygons, if they are wanted."""
    if options.polygons is None:
        return None
    file = Output.reserve(
        options.polygons, overwrite=options.overwrite, options=options.output_options, owner="polygons"
    )
    if options.crs is not None and file.in_wgs84:
        raise ArgumentError("crs has no effect on GeoJSON, which is in WGS 84 longitude and latitude; leave it out")
    return file


def _sample(template: xr.DataArray, options: PredictToOptions, file: Output) -> gpd.GeoDataFrame:
    """Return the polygon of a pixel, to try out what the polygons will be put into."""
    pixel = template.isel(x=slice(1), y=slice(1))
    try:
        sample = polygonize(pixel.copy(data=np.zeros(pixel.shape, pixel.dtype)), crs=options.crs, **options.of_polygons)
    except ArgumentError as error:
        raise ArgumentError(f"polygons: {re.sub('^classes', 'polygon_classes', str(error))}") from None
    if sample.crs is None and file.in_wgs84:
        raise ArgumentError(
            "polygons cannot be GeoJSON, since the image has no CRS and GeoJSON needs one; give a file that ends in "
            ".parquet, .fgb or .gpkg"
        )
    return sample


def prepared_raster(
    uri: ImageLike, endpoint: Endpoint, options: PredictJobOptions, *, errors: str, watched: bool, lazy: bool = False,
    folders: Sequence[Folder] = (), checkpoint: Folder | None = None, hooks: RunHooks | None = None,
    outputs: Sequence[NamedPlace] = (),
) -> PreparedRaster:  # fmt: skip
    """Open and plan, wait for the model, and ask it for one tile, if no checkpoint knows what it answers."""
    hooks, options = hooks or RunHooks(), replace(options, classes=named_classes(options))
    opened = opened_image(uri, options.part(ImageOptions), options)
    opened.check_apart(outputs)
    rasters = endpoint.for_rasters()
    plan = planned(opened, options, options, rasters)
    ready, traffic = ready_for_rasters(rasters, options, plan.source, folders, hooks)
    tiles = replace(tile_job(plan, ready, traffic, options, run_name(watched), errors), stops_run=not lazy)
    stored = resumed_job(checkpoint, plan, endpoint, options, "answer")

    def named(answer: RasterAnswer) -> RasterAnswer:
        return replace(answer, classes=answer.classes or ready.class_names)

    def read(answer: Any, sent_yx: Pair) -> RasterAnswer:
        found = raster_of(answer)
        raster_plan(plan.grid, named(found), sent_yx, options).form.check_first(
            found.values
        )  # else another tile is asked
        return found

    first = kept_answer(stored) or first_answer(plan, tiles, read, hooks)
    auto = options.region_size == "auto"
    raster = raster_plan(plan.grid, named(first.content), first.sent_yx, options, auto=auto)
    if stored is not None and auto:
        raster = raster.with_grid(with_stored_regions(raster.grid, stored))
    selected = None if plan.roi is None else intersecting_tiles(raster.grid, plan.roi)  # its tiles may be other ones
    plan = replace(plan, grid=raster.grid, selected=selected)
    if raster.out.down > 1 and tiles.pad_value is None:
        tiles = replace(tiles, pad_value=plan.encoder.nodata or 0.0)
    reader = RasterReader(form=raster.form, grid=raster.out, first=first.content.without_values())
    job = RasterJob(
        run=tiles.run, grid=raster.grid, out=raster.out, form=raster.form, selected=plan.selected,
        tiles=replace(tiles, reader=reader), roi=plan.roi,
    )  # fmt: skip
    regions = map_overlap(plan.image, plan.source, raster.grid, tiles.run, in_groups=lazy)
    return PreparedRaster(plan=plan, first=first, raster=raster, job=job, regions=regions)
