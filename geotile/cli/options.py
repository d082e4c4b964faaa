"""Options of the command line: what they are called, and what they mean."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import geopandas as gpd
import typer

import geotile
from geotile.encoding.encoder import TileCompression, TileFormat
from geotile.imagery.open import OpenOptions
from geotile.imagery.sar import SarRemap

TileSize = Annotated[int, typer.Option(help="Side of a tile in pixels: what the model sees.")]
Overlap = Annotated[int, typer.Option(help="Least strip that neighbouring tiles share, in pixels.")]
RegionSize = Annotated[
    int | None,
    typer.Option(help="Side of a region (one task) in pixels, rounded to the file's blocks. Default: chosen."),
]
Bands = Annotated[
    list[str] | None,
    typer.Option("--band", help="Band by number or name; give it again for more. Default: all but alpha."),
]
Subdataset = Annotated[str | None, typer.Option(help="Number, from 0, or end of the name of an image inside the file.")]
Asset = Annotated[str | None, typer.Option(help="IMAGE is a STAC item: the key of its asset.")]
Resolution = Annotated[float | None, typer.Option(help="Ground size of a pixel in metres to resample to.")]
Roi = Annotated[
    str | None,
    typer.Option(help="Region of interest: WKT or GeoJSON, longitude and latitude; or a file that geopandas reads."),
]
Storage = Annotated[
    list[str] | None,
    typer.Option("--storage", help="'name=value' of fsspec's storage options (anon=true, profile=X); may be repeated."),
]
Dem = Annotated[str | None, typer.Option(help="Elevation model (metres) for an image placed by RPCs.")]
Height = Annotated[float | None, typer.Option(help="Metres above the ellipsoid, for images placed by RPCs and SICDs.")]
Sar = Annotated[SarRemap | None, typer.Option(help="Turn complex pixels into magnitudes.")]
AllowVrt = Annotated[bool, typer.Option("--allow-vrt", help="Open VRTs and others that name further files or hosts.")]
Headers = Annotated[
    list[str] | None, typer.Option("--header", help="'Name: value', sent with every request; may be given again.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-O", help="'name=value' of the endpoint (family=yolov8, retries=2); may be repeated."),
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler. Default: threads here.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Ask again about tiles that failed before.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Compression = Annotated[TileCompression, typer.Option(help="Of GTIFF tiles (LZW, JPEG) and NITF tiles (JPEG, J2K).")]
Format = Annotated[TileFormat, typer.Option(help="How tiles are encoded for a url. JPEG is lossy.")]


def as_concurrency(text: str) -> int | Literal["auto"]:
    """Return a number of requests, or "auto"."""
    if text == "auto":
        return "auto"
    if not text.isdigit():
        raise typer.BadParameter("give a number of requests, or auto", param_hint="--concurrency")
    return int(text)


def endpoint_options(options: list[str] | None, header: list[str] | None) -> dict[str, Any]:
    """Return what was said of the endpoint."""
    said = dict(named_value(each, "--option") for each in options or [])
    return said | ({"headers": dict(_header(each) for each in header)} if header else {})


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter("a header reads 'Name: value'", param_hint="--header")
    return name.strip(), value.strip()


def opening_options(
    band: list[str] | None, subdataset: str | None, asset: str | None, resolution: float | None,
    storage: list[str] | None, dem: str | None, height: float | None, sar: SarRemap | None, allow_vrt: bool,
) -> OpenOptions:  # fmt: skip
    """Return what was said of how to open the image."""
    number = int(subdataset) if subdataset is not None and subdataset.isdigit() else subdataset
    said: OpenOptions = {
        "bands": [int(each) if each.isdigit() else each for each in band] if band else None,
        "subdataset": number, "asset": asset, "resolution": resolution, "dem": dem, "height": height, "sar": sar,
        "allow_vrt": allow_vrt,
        "storage_options": dict(named_value(each, "--storage") for each in storage) if storage else None,
    }  # fmt: skip
    return said


def named_value(text: str, hint: str) -> tuple[str, Any]:
    """Split ``name=value``; the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter("an option reads 'name=value'", param_hint=hint)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def as_roi(text: str | None) -> Any:
    """Return a region of interest: text as it is, or what a file holds."""
    if text is None or not Path(text).is_file():
        return text
    try:
        return gpd.read_file(text)
    except Exception as error:  # GDAL has an error for each way a file can be wrong
        raise geotile.ArgumentError(f"--roi {text} is no file of areas: {error}") from None


def client_at(address: str | None) -> Any:
    """Return the active client for a scheduler's address, or a block that does nothing."""
    if address is None:
        return nullcontext()
    from distributed import Client

    try:
        return Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise geotile.ArgumentError(f"no Dask scheduler at {address}: {error}") from None
