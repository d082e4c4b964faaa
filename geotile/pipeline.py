"""The top level of a run: open, plan, reserve, regions, tree, frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import geopandas as gpd

from geotile.core.checks import check_path
from geotile.core.option import with_options
from geotile.endpoints import Endpoint, resolve_endpoint
from geotile.errors import ArgumentError, ClusterError
from geotile.imagery.overlap import map_overlap
from geotile.options import DetectKeywords, DetectOptions, DetectToKeywords, DetectToOptions, ImageOptions, JobOptions
from geotile.planning.opened_image import ImageLike, opened_image
from geotile.planning.plan import planned
from geotile.public import public
from geotile.results.dataset import DatasetOutput
from geotile.results.report import Report
from geotile.results.run_report import after_writing
from geotile.results.sinks import Output, write_or_save
from geotile.results.written_table import write_table
from geotile.running.hooks import RunHooks
from geotile.running.prepare import checkpoint_folder, prepare, region_job, separate_outputs
from geotile.running.region import map_regions
from geotile.running.run import Run, leased, naming_how_to_resume
from geotile.running.start import ready_endpoint
from geotile.running.tree import reduction
from geotile.storage.folder import Folder
from geotile.storage.separate import NamedPlace


@public
@with_options(DetectKeywords, build=DetectOptions, prepare=resolve_endpoint(DetectOptions))
def detect(image: ImageLike, endpoint: Any, options: DetectOptions) -> gpd.GeoDataFrame:
    """Run a detection model over an image of any size.

    The result is that of merging the detections of all tiles at once. It does not depend on the regions, the
    scheduler or the number of workers.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        What `open_image` opens, or an array with dims (band, y, x) in any order, or (y, x).
    endpoint : str, callable or Endpoint
        What `geotile.endpoint` takes: an http(s) URL that implements the OversightML contract; or ``model(tile)``,
        where tile is an ndarray (band, y, x), that returns ``(boxes, scores)``, ``(boxes, scores, labels)``, a
        FeatureCollection, or what Ultralytics, torchvision, transformers, supervision or DeepForest return. Boxes
        are (n, 4) xyxy in pixels of the tile.
    {options}

    Returns
    -------
    geopandas.GeoDataFrame
        One row per detection, by decreasing score, then by content. Columns ``geometry`` (in the CRS, or in pixels
        where the image has no georeference; None for a detection that is not on Earth), ``score`` (float64),
        ``label`` (str), ``classes`` (list of {"iri", "score"}), ``xmin``, ``ymin``, ``xmax``, ``ymax`` (float64,
        pixels of the full resolution, clipped to the tile: the box that merging compared), ``image_geometry`` (WKT
        in the same pixels, where the model returned another shape than the box; `geotile.image_geometry` returns all
        as geometries), ``angle_deg`` (of an oriented box's longer side, clockwise from the image's x axis, in
        [0, 180)), on the ground ``heading_deg`` (clockwise from north, in [0, 180)), ``length_m``, ``width_m`` and
        ``area_m2`` (of polygons too; all five are NaN for boxes), ``properties`` (everything else that the model sent,
        or None).
        ``geotile.report(detections)`` returns the `Report`.

    Raises
    ------
    ArgumentError
        If an argument cannot be used, or an option is unknown.
    ImageOpenError
        If the image cannot be opened.
    GeoreferenceError
        If the georeference cannot be read, or there is none and a region of interest is given.
    EndpointUnreachable, EndpointError
        If the endpoint does not answer at all.
    OutputError
        If the checkpoint cannot be written, or another run is writing there.
    ClusterError
        If the Dask cluster is lost during the run.
    TileError
        If a tile fails and `errors` is "raise".

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> detections = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    >>> detections["label"].tolist(), geotile.report(detections).status
    (['object', 'object', 'object'], 'SUCCESS')
    """
    with _run(image, endpoint, options) as run:
        return run.frame(run.compute(options.progress)) if options.compute else run.lazy()


@public
@with_options(DetectToKeywords, build=DetectToOptions, prepare=resolve_endpoint(DetectToOptions))
def detect_to(
    image: ImageLike, endpoint: Any, output: str | os.PathLike[str], options: DetectToOptions
) -> Report:  # fmt: skip
    """Run `detect` and write its result: whole, or not at all.

    If every tile that was sent failed (the report's status is ``"FAILED"``), there is no result: nothing is written,
    and an output that exists is left as it is, also with ``overwrite=True``.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        As for `detect`.
    endpoint : str, callable or Endpoint
        As for `detect`.
    output : str or path
        A path or any fsspec URI that ends in ``.geojson`` (RFC 7946, with OversightML's properties), ``.geojsonl``,
        ``.parquet`` (GeoParquet 1.1 with a bbox column), ``.fgb`` or ``.gpkg``; or a folder, which ends in ``/``: a
        GeoParquet dataset whose parts are written by the workers, so that no process holds all detections. Its
        ``_metadata`` is written last and makes it whole.
    {options}

    Returns
    -------
    Report

    Raises
    ------
    OutputError
        If the output cannot be written or exists, or another run is writing there; before the run where possible.
    ArgumentError, ImageOpenError, GeoreferenceError, EndpointError, ClusterError, TileError
        As for `detect`.

    Examples
    --------
    >>> from geotile.testing import bright_objects, write_example
    >>> import tempfile
    >>> out = tempfile.mkdtemp() + "/found.geojson"
    >>> detect_to(write_example(), bright_objects, out, tile_size=128, overlap=32).detections_after
    3
    """
    if check_path(output, "output").endswith("/"):
        return detect_to_dataset(image, endpoint, Folder.at(output, options.output_options), options)
    sink = Output.reserve(output, overwrite=options.overwrite, options=options.output_options, owner="run")
    if options.crs is not None and sink.in_wgs84:
        raise ArgumentError("crs has no effect on GeoJSON, which is in WGS 84 longitude and latitude; leave it out")
    outputs = separate_outputs([("output", sink.uri)], options)
    with sink.leased():
        with _run(image, endpoint, options, outputs=outputs, try_out=sink.try_out) as run:
            root = run.compute(options.progress)
            if sink.is_parquet:
                rows, report = run.table(root)
            else:
                rows = run.frame(root)
                report = rows.attrs["report"]
        if report.status != "FAILED":
            report = after_writing(report, lambda: write_or_save(rows, sink, write_table if sink.is_parquet else None))
    return report


def detect_to_dataset(
    image: ImageLike, endpoint: Endpoint, folder: Folder, options: DetectToOptions, hooks: RunHooks | None = None
) -> Report:  # fmt: skip
    """Run `detect` and have the workers that settle rows write them as a GeoParquet dataset.

    Parameters
    ----------
    image, endpoint, options
        As for `detect_to`.
    folder : Folder
        Folder of the dataset.
    hooks : RunHooks, optional
        What a service adds.
    """
    hooks = hooks or RunHooks()
    outputs = separate_outputs([("output", folder.uri)], options)
    sink = DatasetOutput.reserve(folder, overwrite=options.overwrite)
    with sink.leased():
        sink.begin()
        with _run(image, endpoint, options, parts=sink.drafts, outputs=outputs, hooks=hooks) as run:
            with hooks.around(run.job.run, run.plan):
                root = run.compute(options.progress)
            report = run.finish(root)
        sink.end(root.parts, write=report.status != "FAILED")
    return report


@contextmanager
def _run(
    uri: ImageLike,
    endpoint: Endpoint,
    options: JobOptions,
    *,
    parts: Folder | None = None,
    outputs: Sequence[NamedPlace] = (),
    hooks: RunHooks | None = None,
    try_out: Callable[[gpd.GeoDataFrame], None] | None = None,
) -> Iterator[Run]:
    """Prepare a run whose graph is built and whose model is ready; hold its checkpoint while the block runs.

    ``try_out(sample)`` gets a result with one row, before the model is asked.
    """
    with naming_how_to_resume(checkpoint_folder(options), ClusterError):  # the size of regions depends on the cluster
        opened = opened_image(uri, options.part(ImageOptions), options)
        opened.check_apart(outputs)
        prepared = prepare(planned(opened, options, options, endpoint), options)
    hooks, plan = hooks or RunHooks(), prepared.work
    if try_out is not None:
        try_out(prepared.sample())
    with naming_how_to_resume(prepared.folder):
        ready, traffic = ready_endpoint(endpoint, options, plan.source, [prepared.folder, parts], hooks)
        with leased(prepared.folder):
            job, summary = region_job(prepared, endpoint, ready, traffic, options, parts)
            regions = map_overlap(plan.image, plan.source, job.grid, job.run)
            nodes = map_regions(regions, job, from_file=plan.source is not None)
            tree = reduction(nodes, job.grid, job.merge, job.writer)
            yield Run(summary=summary, job=job, tree=tree, builder=prepared.builder, plan=plan)
