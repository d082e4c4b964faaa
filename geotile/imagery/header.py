"""The header of a file: a `Source` to read from, and the georeference of its pixels."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from geotile.core.rasterio_env import READ_ERRORS
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ImageOpenError
from geotile.imagery.band_names import names_of_bands
from geotile.imagery.block_limit import MAX_BLOCK_BYTES, check_blocks
from geotile.imagery.file_checks import check_raw, check_readable, check_size
from geotile.imagery.file_version import has_changed, note_change, version_of
from geotile.imagery.masks import alpha_band, has_mask
from geotile.imagery.open_files import DRIVERS, drop_cached_header, is_retryable, late_note, open_file, own_subdatasets
from geotile.imagery.redirects import refuse_headers_elsewhere
from geotile.imagery.source import Source
from geotile.storage.location import Location

BandNames = Sequence[int | str] | int | str | None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Georeference as the header gives it."""

    transform: Affine | None = None
    crs: Any = None
    gcps: tuple[Any, ...] = ()
    """Ground control points, as rasterio returns them."""
    rpcs: dict[str, str] | None = None
    """GDAL's RPC metadata."""
    sar_xml: bytes | None = None
    """XML of a SICD or SIDD."""
    segment: int = 0
    """Number of the image segment inside a NITF, from 0."""

    @property
    def is_known(self) -> bool:
        """Whether the header gives any georeference."""
        return self.transform is not None or bool(self.gcps) or self.rpcs is not None or self.sar_xml is not None


NO_PLACE = Place()
_WITHOUT_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


@dataclass(frozen=True, kw_only=True)
class Header:
    """Header of an opened file: how to read it, its georeference and the names of its bands."""

    source: Source
    place: Place
    band_names: tuple[str, ...]
    scales: tuple[float, ...]
    """Factor from the stored values of each band to physical ones."""
    offsets: tuple[float, ...]
    """What is added to the scaled values of each band."""
    colormap: Mapping[int, tuple[int, ...]] | None
    """Colours of the numbers that the only band holds; None if it holds none."""
    has_sidecars: bool
    """Whether GDAL takes something from files beside it."""


def read_header(
    location: Location,
    *,
    subdataset: int | str | None = None,
    bands: BandNames = None,
    allow_vrt: bool = False,
    sidecars: bool | None = None,
    max_block_bytes: int = MAX_BLOCK_BYTES,
) -> Header:
    """Open a file and return its header.

    A remote file is first opened without looking for files beside it, which costs requests. If it has no georeference
    of its own, it is opened again with them, unless `sidecars` is False.

    Parameters
    ----------
    location : Location
    subdataset : int or str, optional
        Number, from 0, or end of the name of an image inside the file.
    bands : int, str or sequence, optional
        Bands by number, from 1, or by name. By default all bands except alpha.
    allow_vrt : bool
        Whether formats that refer to other files are opened.
    sidecars : bool, optional
        Whether to look for files beside a remote image.
    max_block_bytes : int
        Maximum size of what is decoded at once, in bytes.

    Raises
    ------
    ImageOpenError
        If the file is missing, access is denied, it is not an image, or its kind is not supported.
    ArgumentError
        If the file has no such band or subdataset.
    """
    check_readable(location)
    how = subdataset, bands, allow_vrt, max_block_bytes
    if not location.is_remote:
        return _header(location, *how)
    refuse_headers_elsewhere(location)
    if not sidecars:
        header = _header(location.with_settings(**_WITHOUT_SIDECARS), *how)
        if header.place.is_known or sidecars is False:
            return header
    no_listing = "YES" if location.path.startswith("/vsicurl/") else "FALSE"  # a web server cannot list a folder
    header = _header(location.with_settings(GDAL_DISABLE_READDIR_ON_OPEN=no_listing), *how)
    if header.has_sidecars:
        return header
    # Threads that read pixels need not look again, which rasterio does with the GIL held, for as long as it takes.
    alone = header.source.location.with_settings(**_WITHOUT_SIDECARS)
    return replace(header, source=replace(header.source, location=alone))


def _header(
    location: Location, subdataset: int | str | None, bands: BandNames, allow_vrt: bool, max_block_bytes: int
) -> Header:
    started, opening = time.monotonic(), location.for_opening()
    try:
        with opening.environment():
            with open_file(opening, allow_vrt) as file:
                inside = _inside(location, file, subdataset, allow_vrt)
                if inside is None:
                    return _read(location, file, bands, allow_vrt, max_block_bytes)
            with open_file(inside.for_opening(), allow_vrt) as file:
                return _read(inside, file, bands, allow_vrt, max_block_bytes)
    except READ_ERRORS as error:
        failed = ImageOpenError(_reason(location, error, allow_vrt) + late_note(location, started, location.opening_s))
        failed.retryable = is_retryable(location, str(failed))
        if location.is_remote:
            drop_cached_header(location, allow_vrt)  # GDAL would treat the file as missing as long as the process runs
        raise failed from None


def _read(
    location: Location, file: rasterio.DatasetReader, bands: BandNames, allow_vrt: bool, max_block_bytes: int
) -> Header:
    check_size(location, file)
    check_raw(location, file)
    check_blocks(location, file, allow_vrt, max_block_bytes)
    names = _names(file)
    numbers = _numbers(file, names, bands, location.display_name)
    version = version_of(location)
    if has_changed(location, version):  # what GDAL caches of the file belongs to its old version
        file.close()
        drop_cached_header(location, allow_vrt)
        note_change(location, version)
        with open_file(location.for_opening(), allow_vrt) as reopened:
            return _read(location, reopened, bands, allow_vrt, max_block_bytes)
    dtypes = {file.dtypes[number - 1] for number in numbers}
    if len(dtypes) > 1:
        raise ImageOpenError(
            f"the bands of {location.display_name} must have one dtype; got {sorted(dtypes)}. Choose bands of one "
            "dtype with bands="
        )
    indexed = len(numbers) == 1 and file.colorinterp[numbers[0] - 1] is ColorInterp.palette
    colormap = file.colormap(numbers[0]) if indexed else None
    source = Source(
        location=location, shape=(len(numbers), file.height, file.width), file_dtype=dtypes.pop(),
        block_yx=file.block_shapes[numbers[0] - 1], version=version, bands=numbers, driver=file.driver,
        interleave=str(file.interleaving.value if file.interleaving else "band").lower(),
        overviews=tuple(file.overviews(numbers[0])), nodata=None if file.nodata is None else float(file.nodata),
        masked=has_mask(file), alpha=alpha_band(file), allow_vrt=allow_vrt, file_shape_yx=(file.height, file.width),
        whole_yx=(file.height, file.width),
        file_bands=file.count, one_codestream=_one_codestream(file), sequential_rows=_has_sequential_rows(file),
        indexed=indexed, band_names=names_of_bands(file.descriptions, [colour.name for colour in file.colorinterp]),
    )  # fmt: skip
    return Header(
        source=source, place=_place(file), band_names=tuple(names[number - 1] for number in numbers),
        scales=tuple(file.scales[number - 1] for number in numbers), colormap=colormap,
        offsets=tuple(file.offsets[number - 1] for number in numbers), has_sidecars=len(file.files) > 1,
    )  # fmt: skip


def _place(file: rasterio.DatasetReader) -> Place:
    """Return the most accurate georeference of a file; the corners of a NITF (IGEOLO) are the last choice."""
    transform = None if file.transform.is_identity else file.transform
    rpcs = file.tags(ns="RPC") or None
    if file.driver == "NITF":
        if (xml := _sar_xml(file)) is not None:
            inside = file.name.split(":")
            return Place(sar_xml=xml, segment=int(inside[1]) if inside[0] == "NITF_IM" else 0)
        if rpcs is not None:
            transform = None
    if transform is not None:
        return Place(transform=transform, crs=file.crs)
    if rpcs is not None:
        return Place(rpcs=rpcs)
    gcps, gcp_crs = file.gcps
    return Place(gcps=tuple(gcps), crs=gcp_crs) if gcps else Place(crs=file.crs)


def _one_codestream(file: rasterio.DatasetReader) -> bool:
    """Return whether a file is a JPEG 2000 with a single tile, which GDAL presents as blocks of its own."""
    return bool(file.driver.startswith("JP2") and max(file.block_shapes[0]) <= 1024 < max(file.shape))


def _has_sequential_rows(file: rasterio.DatasetReader) -> bool:
    """Return whether rows are decoded one after the other: by format, or because a TIFF has one long strip."""
    if file.driver != "GTiff":
        return file.driver in ("JPEG", "PNG", "GIF", "WEBP")
    if file.block_shapes[0][0] > 1 or file.height == 1:
        return False
    first, second = (file.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1) for row in (0, 1))
    return first is not None and second is None  # GDAL presents a very long strip as rows


def _sar_xml(file: rasterio.DatasetReader) -> bytes | None:
    """Return the XML of a SICD or SIDD from the data extension segments that GDAL lists, None if there is none."""
    segments = file.tags(ns="xml:DES").get("xml:DES", "")
    for kind in ("SIDD", "SICD"):  # a SIDD may contain the SICD that it was made from
        if found := re.search(rf"<((?:\w+:)?{kind})\b.*?</\1>", segments, re.DOTALL):
            return found[0].encode()
    return None


def _names(file: rasterio.DatasetReader) -> list[str]:
    """Return the names of all bands: their description, else their colour, else an empty text."""
    plain = {ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette}
    return [
        description or ("" if colour in plain else colour.name)
        for description, colour in zip(file.descriptions, file.colorinterp, strict=True)
    ]


def _numbers(file: rasterio.DatasetReader, names: list[str], bands: BandNames, shown: str) -> tuple[int, ...]:
    """Return the numbers of the bands to read, from 1."""
    if bands is None:
        visible = [i + 1 for i, colour in enumerate(file.colorinterp) if colour is not ColorInterp.alpha]
        return tuple(visible or range(1, file.count + 1))
    listed = list(bands) if isinstance(bands, Iterable) and not isinstance(bands, str) else [bands]
    if not listed:
        raise ArgumentError("bands must name at least one band; got []. Leave it out for all bands")
    lower = [name.lower() for name in names]
    numbers = []
    for band in listed:
        if isinstance(band, str) and band.lower() in lower:
            numbers.append(lower.index(band.lower()) + 1)
        elif not isinstance(band, str | bool) and 1 <= int(band) <= file.count:
            numbers.append(int(band))
        else:
            named = f" or the names {', '.join(filter(None, names))}" if any(names) else ""
            raise ArgumentError(f"bands must be numbers from 1 to {file.count}{named}, those of {shown}; got {band!r}")
    return tuple(numbers)


def _inside(
    location: Location, file: rasterio.DatasetReader, subdataset: int | str | None, allow_vrt: bool
) -> Location | None:
    """Return the location of a subdataset, None for the file itself."""
    if subdataset is None:
        return None
    names = own_subdatasets(location, file, allow_vrt)
    if isinstance(subdataset, int) and 0 <= subdataset < len(names):
        path = names[subdataset]
    elif isinstance(subdataset, int) and subdataset == 0 and file.count:
        return None
    else:
        matching = [name for name in names if isinstance(subdataset, str) and name.endswith(subdataset)]
        if len(matching) != 1:
            inside = [redact(name) for name in names] or "one image and no subdatasets"
            raise ArgumentError(
                f"subdataset must be the number or the end of the name of one image in {location.display_name}, which "
                f"contains {inside}; got {subdataset!r}"
            )
        path = matching[0]
    return Location(
        path=path, display_name=f"{location.display_name} [{subdataset}]", settings=location.settings,
        container=location.path, credentials=location.credentials,
    )  # fmt: skip


def _reason(location: Location, error: Exception, allow_vrt: bool) -> str:
    """Return why a file cannot be opened and what to do, without secrets."""
    message = f"cannot open {location.display_name} as an image: {redact(str(error))}"
    if location.credentials is not None:
        for secret in (location.credentials.secret, location.credentials.token, location.credentials.key):
            message = message.replace(secret, "***") if secret else message
    if "not recognized" in message and not allow_vrt:
        message += (
            f" (only formats that contain their whole image are opened: {', '.join(DRIVERS[:8])} ...; allow_vrt=True "
            "also opens VRTs and other formats that refer to further files. Use it only for images that you trust)"
        )
    return message
