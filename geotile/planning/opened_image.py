"""The image of a run: opened from a URI, or given as an array."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.geometry.grid_mapping import crs_notes
from geotile.imagery.array_check import check_array
from geotile.imagery.file_array import file_of
from geotile.imagery.open import opened
from geotile.imagery.scaling import rescale, stretch
from geotile.imagery.source import Source
from geotile.imagery.stac import is_stac
from geotile.options import ImageOptions, ScalingOptions
from geotile.storage.separate import NamedPlace, check_apart

ImageLike = Any  # str, path, STAC item, xarray.DataArray
BlockEdges = tuple[NDArray[np.int64], NDArray[np.int64]]
_AS_IT_IS = ScalingOptions()
_MEMORY_BLOCK = 256  # an array in memory has no blocks; regions may end at every 256th pixel


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedImage:
    """An image that was given as a URI or as an array."""

    name: str
    """URI of the image, without secrets, or name of the array."""
    array: xr.DataArray
    """Image with dims (band, y, x)."""
    source: Source | None
    """File that the image is read from; None for a computed array."""
    block_edges: BlockEdges
    """Inner edges on y and x, in pixels, on which regions may end."""
    bands_chosen: bool = False
    """Whether the user chose the bands with ``bands=``."""
    notes: tuple[str, ...] = ()
    """What to know about its bands and its CRS."""
    places: tuple[NamedPlace, ...] = field(default=(), repr=False)
    """Places that the image is read from, as far as they are known; they may contain secrets."""

    def check_apart(self, outputs: Iterable[NamedPlace]) -> None:
        """Check that no output would replace the image or lie in it.

        Raises
        ------
        ArgumentError
            If one would.
        """
        check_apart(self.places, outputs)


def opened_image(image: ImageLike, options: ImageOptions, scaling: ScalingOptions = _AS_IT_IS) -> OpenedImage:
    """Return an image, opened from a URI or given as an array, with its pixels scaled.

    Raises
    ------
    ArgumentError
        If it is neither a URI nor an array with the dims of an image, if its pixels are not integers or floats, or if
        options of a URI are given for an array.
    """
    array = image if isinstance(image, xr.DataArray) else _opened(image, options)
    if array is image and options.changed():
        names = sorted(options.changed())
        verb, them = ("applies", "it") if len(names) == 1 else ("apply", "them")
        raise ArgumentError(
            f"{', '.join(names)} {verb} only to a URI, and an array was given. Pass {them} to geotile.open_image"
        )
    check_array(array)
    if 0 in array.shape:
        raise ArgumentError(f"image must have at least one pixel; got the shape {dict(array.sizes)}")
    if array.dtype.kind not in "buif":
        raise ArgumentError(
            f"image must have integer or float pixels; got dtype {array.dtype}. Convert it, for example with abs(image)"
        )
    name = array.encoding.get("source") or array.name or "DataArray"
    flat = array if "band" in array.dims else array.expand_dims("band")
    flat = _scaled(flat.transpose("band", "y", "x"), scaling)
    source = file_of(flat)
    edges = source.block_edges if source is not None and array is not image else _block_edges(flat)
    return OpenedImage(
        name=redact(str(name)), array=flat, source=source, block_edges=edges, bands_chosen=options.bands is not None,
        notes=crs_notes(array), places=tuple(_places(image, array, source)),
    )  # fmt: skip


def _places(image: ImageLike, array: xr.DataArray, source: Source | None) -> Iterator[NamedPlace]:
    """Yield what an image is read from: as it was given, as the array says, and the file."""
    names = [image if isinstance(image, str | os.PathLike) else None, array.encoding.get("source")]
    names.append(None if source is None else source.location.file_path)
    for name in names:
        if name is not None:
            yield NamedPlace("image", os.fspath(name))


def _opened(image: ImageLike, options: ImageOptions) -> xr.DataArray:
    if isinstance(image, xr.Dataset):
        raise ArgumentError(
            f"image must be one array, and a Dataset holds several, {list(map(str, image.data_vars))}; choose one, as "
            "in dataset['name'], or join bands with dataset.to_dataarray('band')"
        )
    if not (isinstance(image, str | os.PathLike) or is_stac(image, None)):
        raise ArgumentError(
            f"image must be a path, a URI, a STAC item or an xarray.DataArray; got {type(image).__name__}"
        )
    return opened(image, options, argument="image")


def _scaled(image: xr.DataArray, scaling: ScalingOptions) -> xr.DataArray:
    """Return the image with the range of values that the user chose."""
    if scaling.rescale is not None:
        return rescale(image, *scaling.rescale)
    return image if scaling.stretch is None else stretch(image, scaling.stretch)


def _block_edges(image: xr.DataArray) -> BlockEdges:
    """Return the edges on which regions of an array may end: those of its chunks, or every 256 pixels in memory."""
    if image.chunks is not None:
        return np.cumsum(image.chunks[-2])[:-1], np.cumsum(image.chunks[-1])[:-1]
    return tuple(np.arange(_MEMORY_BLOCK, n, _MEMORY_BLOCK) for n in (image.sizes["y"], image.sizes["x"]))  # type: ignore[return-value]  # two axes
