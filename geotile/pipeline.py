"""The main calls, as one story: image → grid → tiles → model → merge → world."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, Literal
from uuid import uuid4

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.checks import Pair, check_unit
from geotile.detections import concat
from geotile.encode import TileFormat
from geotile.endpoints import Endpoint
from geotile.endpoints import endpoint as as_endpoint
from geotile.errors import ArgumentError
from geotile.halo import forget
from geotile.map_tiles import Node, map_tiles
from geotile.merge import KeepAll, Merge, Nms
from geotile.nms import OverlapMetric
from geotile.plan import ImageLike, Plan, footprint_crs, plan
from geotile.progress import ProgressCallback, listening
from geotile.raster import OpenOptions, source_of
from geotile.reading import Reading
from geotile.report import Report, Traffic, make_report
from geotile.scheduler import threads_ahead
from geotile.sinks import Output, write
from geotile.survey import empty_tiles
from geotile.table import as_table
from geotile.tiles import TileJob
from geotile.traffic import as_concurrency, end_traffic, rules_for, threads_for, wait_until_ready
from geotile.tree import tree_reduce


def detect(
    image: ImageLike,
    endpoint: Any,
    *,
    tile_size: int | Pair = 1024,
    overlap: int | Pair = 128,
    region_size: int | Pair | str = "auto",
    tile_format: TileFormat = "GTIFF",
    pad: bool = False,
    score_threshold: float = 0.0,
    merge: Literal["nms"] | Merge | None = "nms",
    iou_threshold: float = 0.5,
    overlap_metric: OverlapMetric = "iou",
    class_agnostic: bool = False,
    concurrency: int | Literal["auto"] = "auto",
    errors: Literal["record", "raise"] = "record",
    progress: bool | ProgressCallback | None = None,
    crs: Any = None,
    roi: Any = None,
    outside_roi: Literal["drop", "keep"] = "drop",
    skip_nodata: bool | float = True,
    **options: Any,
) -> gpd.GeoDataFrame:
    """Run a detection model over an image of any size.

    The answer is that of flat NMS over the detections of all tiles, whatever the regions, the
    scheduler and the number of workers.

    Parameters
    ----------
    image : str, path, pystac.Item or xarray.DataArray
        What `open_image` opens, or an array with dims (band, y, x) in any order, or (y, x).
    endpoint : str, callable or Endpoint
        What `geotile.endpoint` takes: an http(s) url that speaks the OSML contract; or ``model(tile)``, tile an ndarray
        (band, y, x), returning ``(boxes, scores)``, ``(boxes, scores, labels)``, a
        FeatureCollection, or an object with ``xyxy``, ``confidence`` and ``class_id``; boxes
        (n, 4) xyxy in pixels of the tile.
    tile_size, overlap : int or tuple of int
        In pixels, or (y, x). Neighbouring tiles share at least `overlap`.
    region_size : "auto", int or tuple of int
        Size of a task in pixels, or (y, x), rounded to the file's blocks.
    tile_format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
        What a url is sent. Callables get the array.
    pad : bool
        Fill a tile of an image smaller than the tile with nodata (or 0) to full size.
    score_threshold : float
        Detections with a lower score are left out, before merging. 0 to 1.
    merge : {"nms"}, Merge or None
        None returns the detections of all tiles.
    iou_threshold : float
        Two detections that overlap by more are one, 0 to 1.
    overlap_metric : {"iou", "ios"}
        Intersection over union, or over the smaller area (a cut half against the whole object).
    class_agnostic : bool
        Let detections of different labels suppress each other.
    concurrency : int or "auto"
        Requests in flight at most, over the whole cluster. "auto" finds the number that keeps the
        endpoint busy without drowning it (`geotile.traffic.limit` says how). A model in the process
        has no more than there are threads.
    errors : {"record", "raise"}
        List failed tiles in the report and go on, or stop at the first.
    progress : bool or callable, optional
        True for a bar in a terminal, or ``progress(done_tiles, all_tiles)``.
    crs : optional
        CRS of the answer, as pyproj takes it; by default the image's own, or WGS 84 where RPCs
        place it.
    roi : str, mapping, shapely geometry or GeoDataFrame, optional
        Region of interest: WKT, GeoJSON, a geometry, in WGS 84 longitude and latitude unless it
        names its CRS. Only tiles that share pixels with it are read and sent.
    outside_roi : {"drop", "keep"}
        What becomes of detections of those tiles that do not meet the region of interest.
    skip_nodata : bool or float
        Least share of valid pixels, 0 to 1, of a tile that is sent; True for any at all, False
        to send every tile. Valid is what the file's mask, alpha, nodata, NaN and empty blocks
        leave.
    **options
        For a uri, those of `open_image` (``storage_options``, ``bands``, ``resolution`` ...); for
        an endpoint, those of its kind (``auth``, ``headers``, ``verify``, ``timeout_s`` of
        `HttpEndpoint`, ``batch_size`` of a callable ...) and of `Patience` (``retries``,
        ``ready_timeout``, ``outage_timeout`` ...).

    Returns
    -------
    geopandas.GeoDataFrame
        A row a detection, by falling score, then content. Columns ``geometry`` (world, or pixels
        where the image has no georeference; None off the Earth), ``score`` (float64), ``label`` (str), ``classes``
        (list of {"iri", "score"}), ``xmin``, ``ymin``, ``xmax``, ``ymax`` (float64, pixels of
        the full resolution, clipped to the tile: the box that merging looked at),
        ``image_geometry`` (the same pixels, as the model gave it), ``properties`` (what else the model sent, or None).
        ``attrs["report"]`` is the `Report`.

    Raises
    ------
    ArgumentError
        If an argument cannot be used.
    ImageOpenError
        If the image cannot be opened.
    GeoreferenceError
        If the image's place cannot be made out, or a region of interest is given and it has none.
    EndpointUnreachable, EndpointError
        If the endpoint does not answer at all.
    TileError
        If a tile fails and `errors` is "raise".

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> detections = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    >>> detections["label"].tolist(), detections.attrs["report"].status
    (['object', 'object', 'object'], 'SUCCESS')
    """
    began = time.perf_counter()
    if errors not in ("record", "raise"):
        raise ArgumentError(f"errors={errors!r} is unknown; choose 'record' or 'raise'")
    if outside_roi not in ("drop", "keep"):
        raise ArgumentError(f"outside_roi={outside_roi!r} is unknown; choose 'drop' or 'keep'")
    least_data = _least_data(skip_nodata)
    opening = {name: options.pop(name) for name in OpenOptions.__annotations__ if name in options}
    how = _merge(merge, iou_threshold, overlap_metric, class_agnostic)
    model = as_endpoint(endpoint, **options)
    most = as_concurrency(concurrency)
    work = plan(
        image, tile_size=tile_size, overlap=overlap, region_size=region_size, tile_format=tile_format, roi=roi,
        endpoint=model, **opening,
    )  # fmt: skip
    wanted_crs = footprint_crs(crs, work.encoder.georeference)
    selected, empty = _selection(work, least_data is not None)
    reading = Reading(
        grid=work.grid, selected=selected, look_for_data=least_data is not None,
        run=f"{'watched' if progress else 'run'}-{uuid4().hex}",
    )  # fmt: skip
    least_score, rules = check_unit(score_threshold, "score_threshold"), rules_for(model, most)
    model = wait_until_ready(model)
    job = TileJob(
        reading=reading, endpoint=model, encoder=work.encoder, merge=how, score_threshold=least_score,
        rules=rules, threads=threads_for(model, most),
        errors=errors, pad_value=(work.encoder.nodata or 0.0) if pad else None,
        least_data=least_data,
    )  # fmt: skip
    tree = tree_reduce(map_tiles(work.image, job), work.grid, how)
    try:
        with listening(job.run, progress, work.requests - empty):
            root: Node = tree.compute(**(threads_ahead() if model.remote else {}))
    finally:
        forget(job.run)
        traffic = end_traffic(job.run) if job.rules else None
    found = concat(root.settled).in_order()
    if work.roi is not None and outside_roi == "drop":
        found = found.take(shapely.intersects(work.roi, found.image_geometries))
    table = as_table(found, work, wanted_crs)
    table.attrs["report"] = _report(root, work, model, traffic, len(found), empty, time.perf_counter() - began)
    return table


def detect_to(
    image: ImageLike, endpoint: Any, output: str | os.PathLike[str], *, overwrite: bool = False, **options: Any
) -> Report:
    """Run `detect` and write its answer: whole, or not at all.

    Parameters
    ----------
    image : str, path or xarray.DataArray
        As for `detect`.
    endpoint : str, callable or Endpoint
        As for `detect`.
    output : str or path
        A path or any fsspec uri, ending in ``.geojson`` (RFC 7946, OSML's properties),
        ``.geojsonl``, ``.parquet`` (GeoParquet 1.1 with a bbox column), ``.fgb`` or ``.gpkg``.
    overwrite : bool
        Replace an output that exists.
    **options
        Those of `detect`.

    Returns
    -------
    Report

    Raises
    ------
    OutputError
        If the output cannot be written or exists; before the run wherever it can be known.

    Examples
    --------
    >>> from geotile.testing import bright_objects, write_example
    >>> import tempfile
    >>> out = tempfile.mkdtemp() + "/found.geojson"
    >>> detect_to(write_example(), bright_objects, out, tile_size=128, overlap=32).detections_after
    3
    """
    sink = Output.reserve(output, overwrite=overwrite)
    detections = detect(image, endpoint, **options)
    write(detections, sink)
    report: Report = detections.attrs["report"]
    return report


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


def _report(
    root: Node, work: Plan, model: Endpoint, traffic: Traffic | None, after: int, empty: int, seconds: float
) -> Report:  # fmt: skip
    report = make_report(
        image=work.name, endpoint=str(model), tiles=work.tiles, regions=work.regions,
        requests=root.requests, retries=root.retries, before=root.before, after=after,
        seconds=seconds, failures=root.failures,
        outside_roi=work.tiles - work.requests, without_data=root.without_data + empty,
        traffic=traffic, steps=root.steps,
    )  # fmt: skip
    if report.failures:
        first = report.failures[0]
        warnings.warn(
            f"{len(report.failures)} of {report.tiles} tiles failed (status {report.status}); the first, "
            f"tile {first.tile}: {first.reason}. All are in attrs['report'].failures",
            stacklevel=3,
        )
    return report
