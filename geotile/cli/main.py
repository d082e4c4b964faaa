"""The command line: ``geotile detect``, ``resume``, ``status``, ``plan``, ``check`` and ``demo``; and the service's."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import geotile
from geotile.checkpoints.checkpoint import Checkpoint, stored_job
from geotile.cli.call import keep_call, kept_call
from geotile.cli.options import (
    AllowVrt,
    Asset,
    Bands,
    Compression,
    Dem,
    Format,
    Headers,
    Height,
    Options,
    Overlap,
    Overwrite,
    RegionSize,
    Resolution,
    RetryFailed,
    Roi,
    Sar,
    Scheduler,
    Storage,
    Subdataset,
    TileSize,
    as_concurrency,
    as_roi,
    client_at,
    endpoint_options,
    opening_options,
)  # fmt: skip
from geotile.cli.service import jobs, serve, submit
from geotile.cli.show import err, out, report_rows, say_notes, show
from geotile.core.digest import json_digest
from geotile.merging.nms import OverlapMetric
from geotile.running.status import read_status, status_rows
from geotile.storage.folder import Folder

app = typer.Typer(
    help="Run object-detection models over overhead images of any size.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def detect(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="Path or uri of the image: anything GDAL reads.")],
    endpoint: Annotated[
        str, typer.Argument(help="http(s) url of the OSML contract, sagemaker://, oip+http:// or onnx:FILE.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Where to write: .geojson, .geojsonl, .parquet, .fgb, .gpkg, or a folder/ of Parquet.",
        ),
    ],
    tile_size: TileSize = 1024,
    overlap: Overlap = 128,
    region_size: RegionSize = None,
    tile_format: Format = "GTIFF",
    tile_compression: Compression = "NONE",
    band: Bands = None,
    subdataset: Subdataset = None,
    asset: Asset = None,
    resolution: Resolution = None,
    roi: Roi = None,
    storage: Storage = None,
    dem: Dem = None,
    height: Height = None,
    sar: Sar = None,
    allow_vrt: AllowVrt = False,
    all_tiles: Annotated[bool, typer.Option("--all-tiles", help="Send tiles without data too.")] = False,
    score_threshold: Annotated[float, typer.Option(help="Leave out detections below this score.")] = 0.0,
    iou_threshold: Annotated[float, typer.Option(help="Detections that overlap by more are one.")] = 0.5,
    overlap_metric: Annotated[OverlapMetric, typer.Option(help="Over the union, or over the smaller area.")] = "iou",
    class_agnostic: Annotated[bool, typer.Option(help="Merge across labels.")] = False,
    merge: Annotated[bool, typer.Option(help="Merge the duplicates of overlapping tiles.")] = True,
    concurrency: Annotated[
        str, typer.Option(help="Requests in flight at most; auto finds what keeps the endpoint busy.")
    ] = "auto",
    crs: Annotated[str | None, typer.Option(help="CRS of the answer, e.g. EPSG:4326. Default: the image's.")] = None,
    header: Headers = None,
    option: Options = None,
    scheduler: Scheduler = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Folder or uri to keep finished regions in; the same call goes on from there.")
    ] = None,
    retry_failed: RetryFailed = False,
    overwrite: Overwrite = False,
    stop_on_error: Annotated[bool, typer.Option(help="Stop at the first tile that fails.")] = False,
) -> None:
    """Run the model behind ENDPOINT over IMAGE and write what it finds.

    Exit status: 0 all tiles answered, 1 the run could not be made or every tile failed, 2 wrong
    usage, 3 some tiles failed (they are listed), 130 interrupted.
    """
    if checkpoint is not None and context.info_name == "detect":
        keep_call(Folder.at(checkpoint), context.params)
    opening = opening_options(band, subdataset, asset, resolution, storage, dem, height, sar, allow_vrt)
    with _interruptible(checkpoint), client_at(scheduler):
        report = geotile.detect_to(
            image, endpoint, output, overwrite=overwrite, tile_size=tile_size, overlap=overlap,
            region_size=region_size or "auto", tile_format=tile_format,
            tile_compression=tile_compression, score_threshold=score_threshold,
            merge="nms" if merge else None, iou_threshold=iou_threshold, overlap_metric=overlap_metric,
            class_agnostic=class_agnostic, concurrency=as_concurrency(concurrency), crs=crs, progress=err.is_terminal,
            checkpoint=checkpoint, retry_failed=retry_failed, errors="raise" if stop_on_error else "record",
            roi=as_roi(roi), skip_nodata=not all_tiles, **opening, **endpoint_options(option, header),
        )  # fmt: skip
    show(report_rows(report) | {"output": output})
    for failure in report.failures[:20]:
        err.print(f"tile {failure.tile} {failure.window}: {failure.reason}", style="red", markup=False)
    if len(report.failures) > 20:
        err.print(f"... and {len(report.failures) - 20} more tiles", style="red")
    raise typer.Exit({"SUCCESS": 0, "PARTIAL": 3, "FAILED": 1}[report.status])


@app.command()
def resume(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="The --checkpoint of a run of `geotile detect`.")],
    image: Annotated[str | None, typer.Option(help="The image, if its uri has a secret in it.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The endpoint, if its url has a secret in it.")] = None,
    storage: Storage = None,
    header: Headers = None,
    option: Options = None,
    scheduler: Scheduler = None,
    retry_failed: RetryFailed = False,
    overwrite: Overwrite = False,
) -> None:
    """Go on with a run that was stopped: the model is asked only for what is missing.

    What was given by --header, --option and --storage is not kept, since it may be secret: give it again.
    Exit status as of `geotile detect`.
    """
    detect(context, **kept_call(Folder.at(checkpoint), context.params))


@app.command()
def status(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint of a run, here or elsewhere.")],
) -> None:
    """Say how far a run with a checkpoint is."""
    folder = Folder.at(checkpoint)
    job, said = stored_job(folder), read_status(folder)
    if job is None:
        raise geotile.ArgumentError(f"{folder.display_name} is no checkpoint: it holds no job.json")
    identity = job["identity"]
    kept = Checkpoint(folder=folder, digest=json_digest(identity)).finished(tuple(job["regions"]))
    rows = {
        "image": str(identity["image"].get("uri", "an array")),
        "model": str(identity["model"]["model"]),
        "regions kept": f"{int(kept.sum()):,} of {kept.size:,}",
    }
    show(rows | ({} if said is None else status_rows(said)))


@app.command()
def plan(
    image: Annotated[str, typer.Argument(help="Path or uri of the image.")],
    tile_size: TileSize = 1024,
    overlap: Overlap = 128,
    region_size: RegionSize = None,
    tile_format: Format = "GTIFF",
    tile_compression: Compression = "NONE",
    band: Bands = None,
    subdataset: Subdataset = None,
    asset: Asset = None,
    resolution: Resolution = None,
    roi: Roi = None,
    storage: Storage = None,
    dem: Dem = None,
    height: Height = None,
    sar: Sar = None,
    allow_vrt: AllowVrt = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also draw the grid, to a .png or .svg.")
    ] = None,
) -> None:
    """Say what a run over IMAGE would do, without reading a pixel."""
    work = geotile.plan(
        image, tile_size=tile_size, overlap=overlap, region_size=region_size or "auto", tile_format=tile_format,
        tile_compression=tile_compression,
        roi=as_roi(roi), **opening_options(band, subdataset, asset, resolution, storage, dem, height, sar, allow_vrt),
    )  # fmt: skip
    out.print(repr(work), markup=False, highlight=False)
    if output is not None:
        figure: Any = work.plot().figure
        figure.savefig(output, dpi=120)


@app.command()
def check(
    endpoint: Annotated[str, typer.Argument(help="What `geotile detect` takes as ENDPOINT.")],
    tile_format: Format = "GTIFF",
    header: Headers = None,
    option: Options = None,
) -> None:
    """Ask whether the model behind ENDPOINT is there, send it one tile, and say what is wrong.

    Exit status: 0 it answered with detections, 1 it did not.
    """
    found = geotile.endpoint(endpoint, **endpoint_options(option, header)).check(tile_format=tile_format)
    (out if found else err).print(found.message, style="" if found else "bold red", markup=False, highlight=False)
    raise typer.Exit(0 if found else 1)


@app.command()
def demo(
    image: Annotated[str | None, typer.Argument(help="An image of your own. Default: a painted scene.")] = None,
    model: Annotated[str | None, typer.Option(help="ONNX model for it.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the results go.")] = Path("geotile-demo"),
    size: Annotated[int, typer.Option(help="Side of the painted scene in pixels.", min=512)] = 4096,
    tile_size: Annotated[int | None, typer.Option(help="In pixels. Default: 512, or 256 for your own image.")] = None,
    overlap: Annotated[int | None, typer.Option(help="In pixels. Default: 128, or 64 for your own image.")] = None,
) -> None:
    """Show the main job: paint a scene, serve a model on 127.0.0.1, detect, draw.

    Leaves detections.geojson, detections.parquet and detections.png.
    """
    from geotile.cli.demo import run_demo

    began = time.perf_counter()
    with err.status("detecting") if err.is_terminal else err:
        result = run_demo(folder, image, model, size=size, tile_size=tile_size, overlap=overlap)
    rows = report_rows(result.report)
    if result.precision is not None and result.recall is not None:
        rows |= {"precision": f"{result.precision:.3f}", "recall": f"{result.recall:.3f}"}
    rows["seconds in all"] = f"{time.perf_counter() - began:.1f}"
    show(rows)
    for path in result.files:
        typer.echo(path)


for command in (serve, submit, jobs):
    app.command()(command)


def main() -> None:
    """Run the command line; errors of geotile are one line, not a traceback."""
    try:
        app()
    except geotile.GeotileError as error:
        err.print(f"Error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        say_notes(error)
        sys.exit(1)


@contextmanager
def _interruptible(checkpoint: str | None) -> Iterator[None]:
    """Turn Ctrl-C into a sentence and the exit status that shells know."""
    try:
        yield
    except KeyboardInterrupt as error:
        err.print("Stopped.", style="bold", end=" ")
        say_notes(error)
        if checkpoint is not None:
            err.print(f"Go on with: geotile resume {checkpoint}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
