"""What a file's header says: a `Source` to read, and the place of its pixels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from geotile.core.redact import redact
from geotile.errors import ArgumentError, ImageOpenError
from geotile.imagery.file_version import has_changed, note_change, version_of
from geotile.imagery.masks import has_mask
from geotile.imagery.source import DRIVERS, Source, forget, open_file
from geotile.storage.location import Location

BandNames = Sequence[int | str] | int | str | None
_PASSING = re.compile(  # what GDAL says where the host is at fault
    r"HTTP (response|error) code ?:? ?(429|5\d\d)|CURL error|[Tt]imed? ?out|too slow|resolve host|refused|connect"
    r"|SlowDown|reduce your request rate|Service ?Unavailable|[Ii]nternal ?[Ee]rror|[Tt]ry again|Throttl"  # S3's words
)
_LARGEST_SIDE = 2**24  # pixels; at 0.3 m this is 5,000 km


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a header says that the pixels lie."""

    transform: Affine | None = None
    crs: Any = None
    gcps: tuple[Any, ...] = ()
    rpcs: dict[str, str] | None = None
    """GDAL's RPC metadata."""
    sar_xml: bytes | None = None
    """The XML of a SICD or SIDD."""
    segment: int = 0
    """Number of the image inside a NITF."""

    @property
    def known(self) -> bool:
        """Whether there is any."""
        return self.transform is not None or bool(self.gcps) or self.rpcs is not None or self.sar_xml is not None


NO_PLACE = Place()


@dataclass(frozen=True, kw_only=True)
class Header:
    """An opened file: how to read it, where it lies, what its bands are called."""

    source: Source
    place: Place
    band_names: tuple[str, ...]


def read_header(
    location: Location,
    *,
    subdataset: int | str | None = None,
    bands: BandNames = None,
    allow_vrt: bool = False,
    sidecars: bool | None = None,
) -> Header:
    """Open a file and read its header.

    A remote file is opened without a look at what lies beside it, and with one where it has no
    place of its own.

    Raises
    ------
    ImageOpenError
        If it is missing, denied, no image, or of a kind geotile does not take.
    ArgumentError
        If it has no such band or subdataset.
    """
    _must_be_there(location)
    if not location.is_remote:
        return _header(location, subdataset, bands, allow_vrt)
    alone = location.with_settings(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
    if not sidecars:
        found = _header(alone, subdataset, bands, allow_vrt)
        if found.place.known or sidecars is False:
            return found
    probing = "YES" if location.path.startswith("/vsicurl/") else "FALSE"  # a web server lists no folder
    return _header(location.with_settings(GDAL_DISABLE_READDIR_ON_OPEN=probing), subdataset, bands, allow_vrt)


def _header(location: Location, subdataset: int | str | None, bands: BandNames, trusted: bool) -> Header:
    try:
        with location.environment():
            with open_file(location, trusted) as file:
                inside = _inside(location, file, subdataset)
                if inside is None:
                    return _described(location, file, bands, trusted)
            with open_file(inside, trusted) as file:
                return _described(inside, file, bands, trusted)
    except (RasterioError, OSError) as error:
        failed = ImageOpenError(_why(location, error, trusted))
        failed.retryable = location.is_remote and _PASSING.search(str(failed)) is not None
        if location.is_remote:
            forget(location, trusted)  # or it would stay missing for the life of the process
        raise failed from None


def _described(location: Location, file: rasterio.DatasetReader, bands: BandNames, trusted: bool) -> Header:
    shown = location.display_name
    if file.count == 0:
        inside = ", ".join(redact(name) for name in file.subdatasets) or "nothing"
        raise ImageOpenError(f"{shown} has no bands; it holds {inside}: choose one with subdataset=")
    if max(file.shape) > _LARGEST_SIDE or 0 in file.shape:
        raise ImageOpenError(
            f"{shown} claims {file.width} x {file.height} pixels; from 1 to {_LARGEST_SIDE:,} a side are opened: "
            "its header is wrong"
        )
    names = _names(file)
    numbers = _numbers(file, names, bands, shown)
    version = version_of(location)
    if has_changed(location, version):  # what GDAL has read of it is of its old state
        file.close()
        forget(location, trusted)
        note_change(location, version)
        with open_file(location, trusted) as anew:
            return _described(location, anew, bands, trusted)
    dtypes = {file.dtypes[number - 1] for number in numbers}
    if len(dtypes) > 1:
        raise ImageOpenError(f"{shown} mixes dtypes {sorted(dtypes)}; choose bands= of one")
    source = Source(
        location=location, shape=(len(numbers), file.height, file.width), file_dtype=dtypes.pop(),
        block_yx=file.block_shapes[numbers[0] - 1], version=version, bands=numbers, driver=file.driver,
        interleave=str(file.interleaving.value if file.interleaving else "band").lower(),
        overviews=tuple(file.overviews(numbers[0])), nodata=None if file.nodata is None else float(file.nodata),
        masked=has_mask(file), trusted=trusted, file_shape_yx=(file.height, file.width),
        whole_yx=(file.height, file.width),
        file_bands=file.count, one_codestream=_one_codestream(file), from_the_top=_from_the_top(file),
    )  # fmt: skip
    return Header(source=source, place=_place(file), band_names=tuple(names[number - 1] for number in numbers))


def _place(file: rasterio.DatasetReader) -> Place:
    """Return the best place that the file gives: in a NITF its corners (IGEOLO) are the last resort."""
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
    """Tell whether a JPEG 2000 has a single tile; GDAL then cuts it into blocks of its own making."""
    return bool(file.driver.startswith("JP2") and max(file.block_shapes[0]) <= 1024 < max(file.shape))


def _from_the_top(file: rasterio.DatasetReader) -> bool:
    """Tell whether rows are decoded one after the other: by format, or in a TIFF of one long strip."""
    if file.driver != "GTiff":
        return file.driver in ("JPEG", "PNG", "GIF", "WEBP")
    if file.block_shapes[0][0] > 1 or file.height == 1:
        return False
    first, second = (file.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1) for row in (0, 1))
    return first is not None and second is None  # GDAL shows a strip too long for it as rows


def _sar_xml(file: rasterio.DatasetReader) -> bytes | None:
    """Return the XML of a SICD or SIDD, out of the data extension segments that GDAL lists."""
    listed = file.tags(ns="xml:DES").get("xml:DES", "")
    for kind in ("SIDD", "SICD"):  # a SIDD may carry the SICD that it was made from
        if found := re.search(rf"<((?:\w+:)?{kind})\b.*?</\1>", listed, re.DOTALL):
            return found[0].encode()
    return None


def _names(file: rasterio.DatasetReader) -> list[str]:
    """Names of the bands: what the file calls them, else their colour, else nothing."""
    plain = {ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette}
    return [
        said or ("" if colour in plain else colour.name)
        for said, colour in zip(file.descriptions, file.colorinterp, strict=True)
    ]


def _numbers(file: rasterio.DatasetReader, names: list[str], bands: BandNames, shown: str) -> tuple[int, ...]:
    if bands is None:
        seen = [i + 1 for i, colour in enumerate(file.colorinterp) if colour is not ColorInterp.alpha]
        return tuple(seen or range(1, file.count + 1))
    listed = [bands] if isinstance(bands, int | str) else list(bands)
    if not listed:
        raise ArgumentError("bands=[] selects nothing; leave it out for all")
    lower = [name.lower() for name in names]
    numbers = []
    for band in listed:
        if isinstance(band, str) and band.lower() in lower:
            numbers.append(lower.index(band.lower()) + 1)
        elif not isinstance(band, str | bool) and 1 <= int(band) <= file.count:
            numbers.append(int(band))
        else:
            called = f", named {[name for name in names if name]}" if any(names) else ""
            raise ArgumentError(f"bands={band!r}: {shown} has bands 1 to {file.count}{called}")
    return tuple(numbers)


def _inside(location: Location, file: rasterio.DatasetReader, subdataset: int | str | None) -> Location | None:
    """Return where a subdataset lies; None for the file itself."""
    if subdataset is None:
        return None
    held = file.subdatasets
    if isinstance(subdataset, int) and 0 <= subdataset < len(held):
        path = held[subdataset]
    elif isinstance(subdataset, int) and subdataset == 0 and file.count:
        return None
    else:
        matching = [name for name in held if isinstance(subdataset, str) and name.endswith(subdataset)]
        if len(matching) != 1:
            inside = [redact(name) for name in held] or "one image and no subdatasets"
            raise ArgumentError(f"subdataset={subdataset!r}: {location.display_name} holds {inside}")
        path = matching[0]
    return Location(
        path=path, display_name=f"{location.display_name} [{subdataset}]", settings=location.settings,
        credentials=location.credentials,
    )  # fmt: skip


def _must_be_there(location: Location) -> None:
    path = Path(location.path)
    if "://" in location.path or location.path.startswith("/vsi"):
        return
    if ":" in location.path and not path.exists():
        return  # a subdataset (NITF_IM:0:file), which GDAL alone can resolve
    if not path.exists():
        raise ImageOpenError(f"no such image: {path} (in {Path.cwd()})")
    if path.is_file() and not os.access(path, os.R_OK):
        raise ImageOpenError(f"no permission to read {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageOpenError(f"{path} is empty (0 bytes)")


def _why(location: Location, error: Exception, trusted: bool) -> str:
    """Say why a file does not open, and what to do."""
    said = f"cannot open {location.display_name} as an image: {redact(str(error))}"
    if location.credentials is not None:
        for secret in (location.credentials.secret, location.credentials.token, location.credentials.key):
            said = said.replace(secret, "***") if secret else said
    if "not recognized" in said and not trusted:
        said += (
            f" (of the formats that hold their whole image: {', '.join(DRIVERS[:8])} ...; "
            "allow_vrt=True opens VRTs and others that name further files, where you trust the image)"
        )
    return said
