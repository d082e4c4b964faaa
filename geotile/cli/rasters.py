"""The commands ``geotile predict`` and ``geotile embed``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import geotile
from geotile.cli.call import stored_call
from geotile.cli.completion import file_named
from geotile.cli.ending import end, interruptible
from geotile.cli.flags import with_flags
from geotile.cli.options import EndpointHeaders, EndpointOption, Scheduler, client_at, endpoint_options
from geotile.core.option import option_names
from geotile.options.raster import EmbedToOptions, PredictToOptions

_ENDPOINTS = "http(s) URL, sagemaker://NAME, oip+http(s) URL or onnx:FILE"


@with_flags(PredictToOptions)
def predict(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="Path or URI of the image: anything that GDAL reads.")],
    endpoint: Annotated[str, typer.Argument(help=f"Model that answers rasters: {_ENDPOINTS}.")],
    destination: Annotated[
        str,
        typer.Option(
            "--output", "-o",
            rich_help_panel="Output",
            help="Output: .tif (a Cloud Optimized GeoTIFF) or .zarr (Zarr 3).",
            autocompletion=file_named(".tif", ".zarr"),
        ),
    ],
    options: Mapping[str, Any],
    headers: EndpointHeaders = None,
    option: EndpointOption = None,
    scheduler: Scheduler = None,
) -> None:  # fmt: skip
    """Run the model behind ENDPOINT over IMAGE and write what it says of each pixel: classes, scores or values.

    With --checkpoint, `geotile resume` continues a run that was stopped. Exit status as of `geotile detect`.
    """
    checkpoint = options.get("checkpoint")
    of_endpoint = endpoint_options(option, headers, option_names(PredictToOptions))
    with stored_call("predict", context, checkpoint), interruptible(checkpoint), client_at(scheduler):
        report = geotile.predict_to(image, endpoint, destination, progress=True, **options, **of_endpoint)
    end(report, destination)


@with_flags(EmbedToOptions)
def embed(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="Path or URI of the image: anything that GDAL reads.")],
    endpoint: Annotated[str, typer.Argument(help=f"Model that answers vectors: {_ENDPOINTS}.")],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o",
            rich_help_panel="Output",
            help="Output: .parquet (GeoParquet), or a folder/ of parts.",
            autocompletion=file_named(".parquet"),
        ),
    ],
    options: Mapping[str, Any],
    headers: EndpointHeaders = None,
    option: EndpointOption = None,
    scheduler: Scheduler = None,
) -> None:  # fmt: skip
    """Run the model behind ENDPOINT over IMAGE and write a vector for each tile or patch.

    With --checkpoint, `geotile resume` continues a run that was stopped. Exit status as of `geotile detect`.
    """
    checkpoint = options.get("checkpoint")
    of_endpoint = endpoint_options(option, headers, option_names(EmbedToOptions))
    with stored_call("embed", context, checkpoint), interruptible(checkpoint), client_at(scheduler):
        report = geotile.embed_to(image, endpoint, output, progress=True, **options, **of_endpoint)
    end(report, output)
