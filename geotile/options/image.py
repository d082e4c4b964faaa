"""Options of an image: how it is reached, and what of it is read."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from geotile.core import from_text
from geotile.core.checks import as_int, check_finite, check_positive
from geotile.core.choices import SarRemap
from geotile.core.option import Options, option
from geotile.errors import ArgumentError
from geotile.options.storage import check_storage, storage_values

_NUMBERS = re.compile(r"\s*\d+(\s*[,;]\s*\d+)+\s*")  # several band numbers in one text


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ImageOptions(Options):
    """How the image is opened."""

    storage_options: Mapping[str, Any] | None = option(
        None, "How to reach the image, as fsspec, s3fs, gcsfs and adlfs take it: ``key``, ``secret``, ``token``, "
        "``profile``, ``role_arn``, ``anon``, ``endpoint_url``, ``requester_pays``, ``client_kwargs``, ``headers``, "
        "``timeout`` (seconds without a byte, 20), ``total_timeout`` (seconds for a whole answer, 300; a run gives up "
        "a host that has not answered for so long) ... It travels to every worker and is not shown anywhere.",
        type="mapping", from_text=storage_values, repeatable=True, metavar="NAME=VALUE", in_requests=False,
        secret=True,
    )  # fmt: skip
    bands: Sequence[int | str] | int | str | None = option(
        None, "Bands by number, from 1, or by name, in the wanted order. By default all bands except alpha.",
        type="int, str or sequence", from_text=from_text.bands, repeatable=True, metavar="BAND,...",
    )  # fmt: skip
    subdataset: int | str | None = option(
        None, "Number, from 0, or end of the name of an image inside the file (such as a NITF image segment); in a "
        "Zarr group, the name of the variable.", type="int or str", from_text=from_text.int_or_text,
        metavar="NUMBER|NAME",
    )  # fmt: skip
    asset: str | None = option(None, "Key of the asset, if the image is a STAC item.", type="str", metavar="KEY")
    resolution: float | None = option(
        None, "Ground size of a pixel in metres to resample to, from the nearest overview. Detections come back in "
        "pixels of the full resolution; rasters have this one.", type="float", metavar="METRES",
    )  # fmt: skip
    georeference: bool = option(
        True, "Whether the image's georeference is used; without it, results are in pixels.", type="bool",
    )  # fmt: skip
    dem: str | os.PathLike[str] | None = option(
        None, "Elevation model (metres) for an image that RPCs place.", type="str or path", metavar="FILE",
    )  # fmt: skip
    height: float | None = option(
        None, "Height above the ellipsoid in metres for an image that RPCs place, or a SICD. By default the file's own "
        "reference height.", type="float", metavar="METRES",
    )  # fmt: skip
    sar: SarRemap | None = option(
        None, "Convert complex pixels to their magnitude, or to its square root.",
        type='{"amplitude", "quarter_power"}', choices=(None, *get_args(SarRemap)),
    )  # fmt: skip
    palette: Literal["expand", "index"] = option(
        "expand", "Whether a palette image is read as red, green and blue, or as the numbers of its colours.",
        type='{"expand", "index"}', choices=("expand", "index"),
    )  # fmt: skip
    scaled: bool = option(
        False, "Apply the scale and the offset that the header gives, with NaN for nodata. By default the values are "
        "those that are stored.", type="bool",
    )  # fmt: skip
    allow_vrt: bool = option(
        False, "Also open formats that name other files or hosts (VRT, DIMAP, SAFE, WMS ...). What they name is read "
        "with your rights: allow it only for images that you trust.", type="bool", in_requests=False,
    )  # fmt: skip
    max_block_bytes: int = option(
        2**29, "Maximum size in bytes of what is decoded at once: a block of a file as its header says, a chunk of a "
        "Zarr store. A file of a kilobyte can claim blocks of gigabytes; raise it only for images that you trust.",
        type="int", in_requests=False,
    )  # fmt: skip
    sidecars: bool | None = option(
        None, "Look for files beside a remote image (``_RPB.TXT``, ``.ovr``, ``.msk``, ``.aux.xml``), which costs a "
        "few requests. By default only where the image has no georeference of its own.", type="bool",
    )  # fmt: skip

    def _check(self) -> None:
        check_storage("storage_options", self.storage_options)
        if self.height is not None:
            check_finite(self.height, "height", "metres above the ellipsoid")
        if self.subdataset is not None and not isinstance(self.subdataset, str):
            as_int(self.subdataset, "subdataset", 0, unit="images")
        as_int(self.max_block_bytes, "max_block_bytes", 1, unit="bytes")
        if self.resolution is not None:
            check_positive(self.resolution, "resolution", "metres")
        several = isinstance(self.bands, Iterable) and not isinstance(self.bands, str)
        bands: Any = self.bands if several else (self.bands,)
        for band in bands:
            if band is not None and not isinstance(band, str) and (isinstance(band, bool) or operator.index(band) < 1):
                raise ArgumentError(f"bands must be numbers, from 1, or names; got {band!r}")
            if isinstance(band, str) and _NUMBERS.fullmatch(band):
                raise ArgumentError(f"bands must be a list of numbers or names, such as [3, 2, 1]; got {band!r}")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ScalingOptions(Options):
    """Conversion of the image's pixels to 8 bits."""

    rescale: tuple[float, float] | None = option(
        None, "Values of the image that become 0 and 255, as `geotile.rescale` takes them: for an image of more than "
        "8 bits and a model that takes 8 bits.", type="(float, float)", from_text=from_text.two_numbers,
        metavar="LOW,HIGH",
        flag_doc="Values of the image that become 0 and 255: for an image of more than 8 bits and a model that takes "
        "8 bits.",
    )  # fmt: skip
    stretch: tuple[float, float] | None = option(
        None, "Percentiles of each band that become 0 and 255, such as (2, 98), as `geotile.stretch` takes them. They "
        "are computed when the image is opened, from an overview, or from the whole file if it has none.",
        type="(float, float)", from_text=from_text.two_numbers, metavar="LOW,HIGH",
        flag_doc="Percentiles of each band that become 0 and 255, such as 2,98. They are computed when the image is "
        "opened, from an overview, or from the whole file if it has none.",
    )  # fmt: skip

    def _check(self) -> None:
        if self.rescale is not None and not self.rescale[0] < self.rescale[1]:
            raise ArgumentError(f"rescale must be two ascending values of the image; got {self.rescale!r}")
        if self.stretch is not None and not 0 <= self.stretch[0] < self.stretch[1] <= 100:
            raise ArgumentError(f"stretch must be two ascending percentiles from 0 to 100; got {self.stretch!r}")
        if self.rescale is not None and self.stretch is not None:
            raise ArgumentError("rescale must be given without stretch, since both set the range of values; got both")
