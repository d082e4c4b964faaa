"""Answers that are a raster: an array, a tensor or an image file, with one value or several for each pixel."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.endpoints.raster_file import read_raster_file
from geotile.errors import EndpointError, ResponseError

_SHAPES = "(y, x) or (class, y, x)"
_DRIVERS = {"image/tiff": "GTiff", "image/tif": "GTiff", "image/png": "PNG"}
_LARGEST_FACTOR = 32
_NPY = ("application/x-npy", "application/octet-stream", "application/npy")


@dataclass(frozen=True, kw_only=True, eq=False)
class RasterAnswer:
    """A model's raster for a tile."""

    values: NDArray[Any]
    """(plane, y, x), integers or floats."""
    is_flat: bool
    """Whether the model returned (y, x)."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, where a file carries them."""
    valid: NDArray[np.bool_] | None = None
    """(y, x) bool, the pixels that are not nodata in a file; None for all."""

    def form(self) -> dict[str, Any]:
        """Return what there is to know of the answer but its values, as JSON."""
        classes = None if self.classes is None else list(self.classes)
        return {
            "shape": list(self.values.shape), "dtype": str(self.values.dtype), "flat": self.is_flat, "classes": classes,
        }  # fmt: skip

    @classmethod
    def of_form(cls, form: Mapping[str, Any]) -> RasterAnswer:
        """Return an answer of a form, whose values are 0."""
        classes = None if form["classes"] is None else tuple(form["classes"])
        return cls(values=np.zeros(form["shape"], form["dtype"]), is_flat=form["flat"], classes=classes)

    def without_values(self) -> RasterAnswer:
        """Return an answer of the same form that is small."""
        return RasterAnswer(values=self.values[:0, :0, :0].copy(), is_flat=self.is_flat, classes=self.classes)

    def scale(self, tile_yx: Pair) -> tuple[int, int]:
        """Return the pixels of the answer per pixel of the tile, and the other way round; one of them is 1.

        Raises
        ------
        ResponseError
            If neither is a whole number.
        """
        height, width = self.values.shape[1:]
        if max(height // tile_yx[0], width // tile_yx[1]) > _LARGEST_FACTOR:
            raise ResponseError(
                f"the answer must have at most {_LARGEST_FACTOR} times the pixels of the tile along each axis; got "
                f"{height} x {width} for {tile_yx[0]} x {tile_yx[1]}"
            )
        for up, down in ((height // tile_yx[0], 1), (1, tile_yx[0] // max(height, 1))):
            if up and down and (height * down, width * down) == (tile_yx[0] * up, tile_yx[1] * up):
                return up, down
        raise ResponseError(
            f"the answer must have the size of the tile, {tile_yx[0]} x {tile_yx[1]} pixels, or a whole multiple or "
            f"fraction of it; got {height} x {width}. Give a tile_size that the model's factor divides, and pad=True "
            "for images that are smaller than a tile"
        )


def raster_of(answer: Any) -> RasterAnswer:
    """Return the raster in what an endpoint returned for a tile.

    Parameters
    ----------
    answer : object
        A numpy array, an xarray.DataArray with dims y and x, or a tensor of PyTorch, TensorFlow or JAX, (y, x) or
        (class, y, x), with or without a leading axis of one; a mapping with such a value under ``"out"``, as
        torchvision's; an object with ``logits``, as those of transformers; or a `RasterAnswer`.

    Raises
    ------
    EndpointError
        If the endpoint returned an error for the tile.
    ResponseError
        If the answer is something else.
    """
    if isinstance(answer, EndpointError):
        raise answer
    if isinstance(answer, RasterAnswer):
        return answer
    if isinstance(answer, Mapping) and "out" in answer:
        answer = answer["out"]
    elif hasattr(answer, "logits"):
        answer = answer.logits
    values, valid = _with_validity(answer)
    if values.dtype.kind not in "buif":
        raise ResponseError(f"the model must return numbers for the pixels of the tile; got {_named(answer, values)}")
    while values.ndim > 3 and values.shape[0] == 1:
        values, valid = values[0], None if valid is None else valid[0]
    if values.ndim not in (2, 3) or 0 in values.shape:
        vector = ". If it answers a vector, use geotile.embed" if values.ndim == 1 else ""
        raise ResponseError(f"the model must return an array {_SHAPES}; got the shape {values.shape}{vector}")
    if valid is not None and valid.ndim == 3:
        valid = np.asarray(valid.all(axis=0))
    return RasterAnswer(values=values if values.ndim == 3 else values[None], is_flat=values.ndim == 2, valid=valid)


def _with_validity(answer: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return an array, and which of its values are none of nodata; None for all."""
    if isinstance(answer, np.ma.MaskedArray):
        known = ~np.ma.getmaskarray(answer)
        return answer.filled(0), None if known.all() else known
    values = as_array(answer)
    if not isinstance(answer, xr.DataArray) or values.dtype.kind not in "buif":
        return values, None
    nodata = _number(answer.attrs, "_FillValue", _number(answer.attrs, "missing_value", None))
    known = np.ones(values.shape, bool)
    if nodata is not None:
        known = ~np.isnan(values) if np.isnan(nodata) else values != nodata
    scale, offset = _number(answer.attrs, "scale_factor", 1.0), _number(answer.attrs, "add_offset", 0.0)
    if (scale, offset) != (1, 0):
        values = values * scale + offset
    return (values, None) if known.all() else (np.where(known, values, values.dtype.type(0)), known)


def _number(attributes: Mapping[Any, Any], name: str, default: Any) -> Any:
    """Return an attribute of an answer that must be a number."""
    given = attributes.get(name, default)
    if given is None or given is default or (isinstance(given, Real | np.number) and not isinstance(given, bool)):
        return given
    raise ResponseError(f"the attribute {name} of the answer must be a number; got {given!r:.80}")


def decode_raster(body: bytes, content_type: str) -> RasterAnswer:
    """Return the raster in the body of a response.

    Parameters
    ----------
    body : bytes
        A GeoTIFF, a PNG, or an array as `numpy.save` writes it.
    content_type : str
        Media type of the body.

    Raises
    ------
    ResponseError
        If the type is another one, or the body cannot be read.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _DRIVERS:
        content = read_raster_file(body, _DRIVERS[kind])
        return RasterAnswer(
            values=content.values, is_flat=len(content.values) == 1, classes=content.classes, valid=content.valid
        )
    if kind in _NPY:
        return raster_of(decode_array(body, content_type))
    raise ResponseError(
        f"the answer must be image/tiff, image/png or application/x-npy; got the content type {content_type!r}"
    )


def decode_array(body: bytes, content_type: str) -> NDArray[Any]:
    """Return the array in the body of a response, as `numpy.save` writes it.

    Raises
    ------
    ResponseError
        If the type is another one, or the body cannot be read.
    """
    if content_type.partition(";")[0].strip().lower() not in _NPY:
        raise ResponseError(f"the answer must be application/x-npy; got the content type {content_type!r}")
    content = io.BytesIO(body)
    try:
        array = np.lib.format.read_array(content, allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, which raises errors of many kinds
        text = str(error) or type(error).__name__
        raise ResponseError(f"the answer is not an array as numpy.save writes it ({text})") from None
    if left := len(body) - content.tell():
        raise ResponseError(f"the answer has {left:,} bytes after its array; send one array, as numpy.save writes it")
    return np.asarray(array)


def as_array(answer: Any) -> NDArray[Any]:
    """Return the array in an ndarray, a DataArray or a tensor.

    Raises
    ------
    ResponseError
        If it is something else.
    """
    if hasattr(answer, "dims") and hasattr(answer, "transpose"):
        dims = [dim for dim in answer.dims if dim not in ("y", "x")]
        if {"y", "x"} - set(answer.dims) or len(dims) > 1:
            raise ResponseError(f"a DataArray must have the dims y, x and at most one more; got {answer.dims}")
        answer = answer.transpose(*dims, "y", "x").to_numpy()
    for name in ("detach", "cpu"):
        answer = getattr(answer, name)() if hasattr(answer, name) else answer
    if isinstance(answer, np.ma.MaskedArray) and np.ma.getmaskarray(answer).any():
        raise ResponseError("the model returned a masked array, some of whose numbers are masked; fill them")
    if not (isinstance(answer, np.ndarray) or hasattr(answer, "__array__")):
        raise ResponseError(f"the model must return an array {_SHAPES}; got {type(answer).__name__}")
    try:
        return np.asarray(answer)
    except Exception as error:  # a tensor's own code decides what it raises
        raise ResponseError(f"the model's {type(answer).__name__} cannot be an array ({error})") from None


def _named(answer: Any, values: NDArray[Any]) -> str:
    return f"{type(answer).__name__} of {values.dtype}"
