"""The command line: ``geotile detect``, ``predict``, ``embed``, ``resume``, ``status``, ``plan``, ``check``, ``demo``.

The service's commands are in `geotile.cli.service` and `geotile.cli.jobs`.
"""

from __future__ import annotations

import io
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import geotile
from geotile.cli.call import check_call, kept_call, stored_call
from geotile.cli.completion import file_named, whole_words
from geotile.cli.ending import end, interruptible
from geotile.cli.flags import with_flags
from geotile.cli.help import help_page
from geotile.cli.jobs import jobs, submit
from geotile.cli.options import EndpointHeaders, EndpointOption, Scheduler, SecretValues, client_at, endpoint_options
from geotile.cli.rasters import embed, predict
from geotile.cli.service import serve
from geotile.cli.settings import PREFIX, given_by
from geotile.cli.show import err, in_words, out, print_error, print_text, show, show_notes
from geotile.core.choices import TileFormat
from geotile.core.option import option_names
from geotile.errors import ArgumentError, FailedTilesWarning, GeotileError
from geotile.options import DetectToOptions, PlanOptions

app = typer.Typer(
    help="Run models over satellite and aerial images of any size: detections, class maps, vectors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_UsageError: Any = typer.BadParameter.__base__  # typer's own or click's, as its version has it
_PICTURES = (".png", ".svg", ".pdf", ".jpg")
_RUN, _SERVICE, _LOOK = "Runs", "Service", "Before a run"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"geotile {geotile.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run models over satellite and aerial images of any size: detections, class maps, vectors."""


@app.command(rich_help_panel=_RUN)
@with_flags(DetectToOptions)
def detect(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="Path or URI of the image: anything that GDAL reads.")],
    endpoint: Annotated[
        str,
        typer.Argument(help="http(s) URL of the OversightML contract, sagemaker://, oip+http:// or onnx:FILE."),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o",
            rich_help_panel="Output",
            help="Output: .geojson, .geojsonl, .parquet, .fgb or .gpkg; or a folder/ of GeoParquet parts.",
            autocompletion=file_named(".geojson", ".geojsonl", ".parquet", ".fgb", ".gpkg"),
        ),
    ],
    options: Mapping[str, Any],
    headers: EndpointHeaders = None,
    option: EndpointOption = None,
    scheduler: Scheduler = None,
) -> None:  # fmt: skip
    """Run the model behind ENDPOINT over IMAGE and write the detections; nothing is written if every tile failed.

    Exit status: 0 if all tiles were answered, 1 if the run failed or every tile failed, 2 if an argument
    cannot be used, 3 if some tiles failed (they are listed), 130 if interrupted.
    """
    checkpoint = options.get("checkpoint")
    of_endpoint = endpoint_options(option, headers, option_names(DetectToOptions))  # refused before they are stored
    with stored_call("detect", context, checkpoint), interruptible(checkpoint), client_at(scheduler):
        report = geotile.detect_to(
            image, endpoint, output, progress=True, **options, **of_endpoint,
        )  # fmt: skip
    end(report, output)


@app.command(rich_help_panel=_RUN)
def resume(
    context: typer.Context,
    checkpoint: Annotated[
        str, typer.Argument(help="The --checkpoint of an earlier `geotile detect`, `predict` or `embed`.")
    ],
    image: Annotated[str | None, typer.Option(help="The image, if its URI contains a secret.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The endpoint, if its URL contains a secret.")] = None,
    storage_options: SecretValues = None,
    output_options: SecretValues = None,
    headers: EndpointHeaders = None,
    option: EndpointOption = None,
    scheduler: Scheduler = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again about tiles that failed.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Resume a run that was stopped: the model is asked only for what is missing.

    The values of --headers, --storage-options, --output-options and of endpoint options that may be secret are not
    stored; give them again. Exit status as of `geotile detect`.
    """
    command, params = kept_call(checkpoint, context.params)
    commands: dict[str, Callable[..., None]] = {"detect": detect, "predict": predict, "embed": embed}
    check_call(params, commands[command])
    commands[command](context=context, **params)


@app.command(rich_help_panel=_RUN)
def status(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint of a run, on this machine or elsewhere.")],
) -> None:
    """Show the progress of a run that has a checkpoint."""
    from geotile.running.status import checkpoint_rows

    show(checkpoint_rows(checkpoint).items())


@app.command(rich_help_panel=_LOOK)
@with_flags(PlanOptions)
def plan(
    image: Annotated[str, typer.Argument(help="Path or URI of the image.")],
    options: Mapping[str, Any],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help=f"Also draw the grid over the image, to {', '.join(_PICTURES)}.",
            autocompletion=file_named(*_PICTURES),
        ),
    ] = None,
) -> None:  # fmt: skip
    """Show what a run over IMAGE would do, without reading a pixel."""
    if output is not None:
        _check_picture(output)
    work = geotile.plan(image, **options)
    show((name, in_words(text)) for name, text in work.rows())
    if output is not None:
        figure: Any = work.plot().figure
        figure.savefig(output, dpi=120)


def _check_picture(path: Path) -> None:
    """Check that a picture can be drawn to a path, before the image is opened."""
    if path.suffix.lower() not in _PICTURES:
        raise ArgumentError(f"--output must end in one of {', '.join(_PICTURES)}; got '{path}'")
    if find_spec("matplotlib") is None:
        raise ArgumentError(
            "--output draws with matplotlib, which is not installed. Install it with pip install matplotlib"
        )
    if not path.parent.is_dir():
        raise ArgumentError(f"--output must be in a folder that exists; there is no folder '{path.parent}'. Create it")


@app.command(rich_help_panel=_LOOK)
def check(
    endpoint: Annotated[str, typer.Argument(help="Endpoint, as `geotile detect` takes it.")],
    tile_format: Annotated[TileFormat, typer.Option(help="Format of the encoded tile that a URL is sent.")] = "GTIFF",
    headers: EndpointHeaders = None,
    option: EndpointOption = None,
) -> None:
    """Check that the model behind ENDPOINT is ready, send it one tile, and show what is wrong.

    Exit status: 0 if it answered (also with no detections), 1 if it did not, 2 if an argument cannot be used.
    """
    from geotile.endpoints.create import check_of

    found = check_of(endpoint, endpoint_options(option, headers), tile_format)
    print_text(in_words(found.message), *((out, "") if found else (err, "bold red")))
    raise typer.Exit(0 if found else 1)


@app.command(rich_help_panel=_LOOK)
def demo(
    image: Annotated[str | None, typer.Argument(help="Your own image. Default: a painted scene.")] = None,
    model: Annotated[str | None, typer.Option(help="ONNX model for your own image.")] = None,
    option: EndpointOption = None,
    folder: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("geotile-demo"),
    size: Annotated[int, typer.Option(help="Side of the painted scene in pixels.", min=512)] = 4096,
    tile_size: Annotated[
        int | None, typer.Option(help="In pixels. Default: 512, or 256 for your own image.", min=1)
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="In pixels. Default: 128, or 64 for your own image.", min=0)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results in FOLDER that exist.")] = False,
) -> None:
    """Show whole runs: paint a scene, serve a model on 127.0.0.1, detect, map the land cover, draw.

    Writes detections.geojson, detections.parquet and detections.png; and classes.tif, classes.parquet and classes.png
    of the painted scene.
    """
    from geotile.cli.demo import run_demo

    started, options = time.perf_counter(), endpoint_options(option)
    with err.status("detecting") if err.is_terminal else err:
        result = run_demo(
            folder, image, model, size=size, tile_size=tile_size, overlap=overlap, options=options, overwrite=overwrite,
        )  # fmt: skip
    rows = result.report.rows()
    if result.precision is not None and result.recall is not None:
        rows |= {"precision": f"{result.precision:.3f}", "recall": f"{result.recall:.3f}"}
    rows["seconds in total"] = f"{time.perf_counter() - started:.1f}"
    show(rows.items())
    for path in result.files:
        typer.echo(path)


app.command("help", rich_help_panel=_LOOK)(help_page)
for command in (predict, embed):
    app.command(rich_help_panel=_RUN)(command)
app.command(rich_help_panel=_SERVICE, context_settings={"auto_envvar_prefix": PREFIX})(serve)
for command in (submit, jobs):
    app.command(rich_help_panel=_SERVICE)(command)


def main() -> None:
    """Run the command line; errors of geotile and warnings are one line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the encoding lacks must not end a run
    warnings.showwarning = _show_warning
    warnings.simplefilter("ignore", FailedTilesWarning)  # the failed tiles are listed
    try:
        with whole_words():
            status = app(prog_name="geotile", standalone_mode=False) or 0
    except _UsageError as error:
        text = error.format_message().replace(": Value error, ", ": ")  # a prefix of pydantic's
        print_error(text + given_by(getattr(error, "ctx", None), getattr(error, "param", None)))
        status = 2
    except GeotileError as error:
        print_error(in_words(str(error)))
        show_notes(error)
        status = 2 if isinstance(error, ArgumentError) else 1
    except OSError as error:
        print_error(str(error))
        status = 1
    sys.exit(status)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning without its source line."""
    print_text(f"Warning: {in_words(str(message))}", err, "yellow")
