"""The main calls, as one story: image → grid → tiles → model → merge → world."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, Literal

import geopandas as gpd

from geotile.core.checks import Pair
from geotile.encoding.encoder import TileCompression, TileFormat
from geotile.errors import ArgumentError
from geotile.merging.detections import concat
from geotile.merging.merge import Merge
from geotile.merging.nms import OverlapMetric
from geotile.planning.plan import ImageLike
from geotile.results.dataset import DatasetOutput
from geotile.results.report import Report
from geotile.results.sinks import Output, write
from geotile.running.prepare import prepared
from geotile.running.progress import ProgressCallback
from geotile.running.run import Run
from geotile.storage.folder import Folder


def detect(
    image: ImageLike,
    endpoint: Any,
    *,
    tile_size: int | Pair = 1024,
    overlap: int | Pair = 128,
    region_size: int | Pair | str = "auto",
    tile_format: TileFormat = "GTIFF",
    tile_compression: TileCompression = "NONE",
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
    checkpoint: str | os.PathLike[str] | None = None,
    retry_failed: bool = False,
    output_options: Mapping[str, Any] | None = None,
    compute: bool = True,
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
    tile_compression : {"NONE", "LZW", "JPEG", "J2K"}
        Of GTIFF (LZW, JPEG) and NITF tiles (JPEG, J2K). JPEG is lossy. NONE is fastest; the others send fewer bytes.
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
        True for a bar in a terminal or a notebook, or a callable that is given a `Progress` ten times a second at most.
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
    checkpoint : str or path, optional
        Folder, local or of any fsspec uri, in which finished regions are kept. The same call goes on from there and
        asks the model only for what is missing; merging may be changed, and so may the cluster. With
        ``region_size="auto"`` the regions are those of the checkpoint.
    retry_failed : bool
        Ask again about tiles that failed in an earlier run of the checkpoint.
    output_options : mapping, optional
        How to reach the checkpoint, and the output of `detect_to`, in the words of fsspec; shown nowhere.
    compute : bool
        False returns a `dask.delayed.Delayed` of the answer, after the model has been waited for. It takes neither
        `progress` nor `checkpoint`.
    **options
        For a uri, those of `open_image` (``storage_options``, ``bands``, ``resolution`` ...); for
        an endpoint, those of its kind (``auth``, ``headers``, ``verify``, ``timeout_s`` of
        `HttpEndpoint`, ``batch_size`` of a callable ...) and of `RetryPolicy` (``retries``,
        ``ready_timeout_s``, ``outage_timeout_s`` ...).

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
    OutputError
        If the checkpoint cannot be written, or another run is writing there.
    ClusterError
        If the Dask cluster is lost under way.
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
    given = {name: value for name, value in locals().items() if name not in ("image", "endpoint")}
    with prepared(image, endpoint, None, given) as run:
        if not compute:
            return run.lazy()
        root = run.compute(progress)
        table = run.placing.table(concat(root.settled))
        table.attrs["report"] = run.finish(root, len(table))
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
        ``.geojsonl``, ``.parquet`` (GeoParquet 1.1 with a bbox column), ``.fgb`` or ``.gpkg``; or a folder,
        ending in ``/``: a GeoParquet dataset whose parts are written by the workers, so that no process holds
        all detections. Its ``_metadata`` is written last and makes it whole.
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
        If the output cannot be written or exists, or another run is writing there; before the run wherever it can be
        known.

    Examples
    --------
    >>> from geotile.testing import bright_objects, write_example
    >>> import tempfile
    >>> out = tempfile.mkdtemp() + "/found.geojson"
    >>> detect_to(write_example(), bright_objects, out, tile_size=128, overlap=32).detections_after
    3
    """
    if options.get("compute") is False:
        raise ArgumentError("compute=False gives an answer that nobody writes; call detect, or leave it out")
    if str(os.fspath(output)).endswith("/"):
        folder = Folder.at(output, options.get("output_options"))
        return run_to_dataset(image, endpoint, folder, overwrite=overwrite, **options)
    sink = Output.reserve(output, overwrite=overwrite, options=options.get("output_options"), owner="run")
    with sink.leased():
        detections = detect(image, endpoint, **options)
        write(detections, sink)
    report: Report = detections.attrs["report"]
    return report


def run_to_dataset(
    image: ImageLike, endpoint: Any, folder: Folder, *, overwrite: bool, group: str | None = None,
    around: Callable[[Run], AbstractContextManager[None]] | None = None, **options: Any,
) -> Report:  # fmt: skip
    """Run `detect` with its rows written by the workers that settle them.

    Parameters
    ----------
    image, endpoint, **options
        As for `detect`.
    folder : Folder
        Of the dataset.
    overwrite : bool
        Replace a dataset that exists.
    group : str, optional
        Runs of one group share one number of requests in flight.
    around : callable, optional
        ``around(run)`` is entered while the run is computed; what it raises at its end keeps the dataset away.
    """
    sink = DatasetOutput.reserve(folder, overwrite=overwrite)
    known = {
        name: each.default for name, each in signature(detect).parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    given = known | {name: options.pop(name) for name in known if name in options}
    with sink.leased():
        sink.begin()
        with prepared(image, endpoint, sink.drafts, given | {"options": options, "group": group}) as run:
            with around(run) if around else nullcontext():
                root = run.compute(given["progress"])
            sink.commit(root.parts)
            return run.finish(root)
