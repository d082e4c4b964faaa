"""Lazy conversion of pixels for a model: rescaling and casting. The pixels of a file stay windows of the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from geotile.core.checks import is_number
from geotile.errors import ArgumentError
from geotile.imagery.array_check import check_array
from geotile.imagery.file_array import file_of
from geotile.imagery.masks import has_data, nodata_of
from geotile.imagery.open import from_source
from geotile.public import public

_OF_STORED_VALUES = {"_FillValue", "missing_value", "scale_factor", "add_offset", "dtype", "rasterio_dtype"}
_MAX_SAMPLE_SIDE_PX = 1024  # of the overview from which percentiles are computed


@dataclass(frozen=True)
class Rescale:
    """Linear rescaling that maps `low` to the minimum of the new range and `high` to its maximum."""

    low: tuple[float, ...]
    """One value per band."""
    high: tuple[float, ...]
    """One value per band."""
    to: str
    """Dtype of the result."""

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the new values, (band, y, x), clipped, and rounded for an integer dtype."""
        first, last = output_range(self.to)
        out = np.empty(values.shape, self.to)
        for band, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            scaled = (values[band].astype(np.float32) - low) * ((last - first) / (high - low)) + first
            scaled = np.nan_to_num(scaled, nan=first, posinf=last, neginf=first)
            if np.dtype(self.to).kind in "ui":
                scaled = np.rint(scaled)
            out[band] = np.clip(scaled, first, last)
        return out

    def dtype(self, dtype: str) -> str:
        """Return the new dtype."""
        return self.to

    def for_bands(self, indices: tuple[int, ...]) -> Rescale:
        """Return the same step for a selection of its bands."""
        low, high = (tuple(values[index] for index in indices) for values in (self.low, self.high))
        return Rescale(low, high, self.to)


@dataclass(frozen=True)
class Cast:
    """Conversion to another dtype; for an integer dtype, values are rounded and clipped to its range."""

    to: str
    """Dtype of the result."""

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the new values, (band, y, x)."""
        kind = np.dtype(self.to)
        if kind.kind in "ui" and values.dtype != kind:
            limits, floating = np.iinfo(kind), values.dtype.kind == "f"
            values = values.astype(np.result_type(values.dtype, kind), copy=False)  # a dtype that contains the limits
            values = np.clip(np.rint(np.nan_to_num(values)) if floating else values, limits.min, limits.max)
        return values.astype(kind, copy=False)

    def dtype(self, dtype: str) -> str:
        """Return the new dtype."""
        return self.to

    def for_bands(self, indices: tuple[int, ...]) -> Cast:
        """Return the same step."""
        return self


@public
def rescale(
    image: xr.DataArray,
    low: float | Sequence[float],
    high: float | Sequence[float],
    *,
    dtype: DTypeLike = "uint8",
) -> xr.DataArray:
    """Rescale an image linearly and lazily: `low` to the minimum of the dtype, `high` to its maximum.

    Values outside of this range are clipped. The range of a float dtype is 0 to 1.

    Parameters
    ----------
    image : xarray.DataArray
        Image with dims (band, y, x), as `open_image` returns it.
    low, high : float or sequence of float
        Values of the image: one for all bands, or one for each band.
    dtype : dtype
        Integer or float dtype of the result.

    Returns
    -------
    xarray.DataArray
        Lazy image with dims (band, y, x) and this dtype. If the image is a file, the result still reads windows of it.

    Raises
    ------
    ArgumentError
        If `low` is not smaller than `high`, their number is not that of the bands, or the dtype is neither an integer
        nor a float.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import write_example
    >>> image = geotile.open_image(write_example())
    >>> scaled = geotile.rescale(image, 40, 230)
    >>> int(scaled.min()), int(scaled.max())
    (0, 255)
    """
    flat = _flat(image)
    lows, highs = (_per_band(value, len(flat), name) for value, name in ((low, "low"), (high, "high")))
    if not all(a < b for a, b in zip(lows, highs, strict=True)):
        raise ArgumentError(f"low must be smaller than high in every band; got low={low!r} and high={high!r}")
    return _apply(flat, Rescale(lows, highs, _dtype(dtype)))


@public
def stretch(
    image: xr.DataArray, percentiles: tuple[float, float] = (2.0, 98.0), *, dtype: DTypeLike = "uint8"
) -> xr.DataArray:
    """Rescale each band between percentiles of its values (dynamic-range adjustment).

    The percentiles are computed immediately, from an overview of at most 1,024 pixels a side, without nodata and NaN.
    If the file has no overviews, the whole file is read for this. The rescaling itself is lazy.

    Parameters
    ----------
    image : xarray.DataArray
        Image with dims (band, y, x), as `open_image` returns it.
    percentiles : tuple of float
        Lower and upper percentile, 0 to 100.
    dtype : dtype
        Integer or float dtype of the result.

    Returns
    -------
    xarray.DataArray
        Lazy image with dims (band, y, x) and this dtype.

    Raises
    ------
    ArgumentError
        If the percentiles are not ascending numbers from 0 to 100, a band has no data, or the dtype is neither an
        integer nor a float.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import write_example
    >>> geotile.stretch(geotile.open_image(write_example()), (0, 100)).dtype
    dtype('uint8')
    """
    flat = _flat(image)
    _check_percentiles(percentiles)
    values, valid = _sample(flat)
    lows, highs = [], []
    for number, band in enumerate(values):
        data = band[valid] if valid is not None else band.ravel()
        data = data[np.isfinite(data)] if data.dtype.kind == "f" else data
        if not data.size:
            raise ArgumentError(
                f"band {number + 1} has no data, so it has no percentiles. Use rescale(image, low, high)"
            )
        low, high = np.percentile(data, percentiles)
        lows.append(float(low))
        highs.append(float(high) if high > low else float(low) + 1.0)
    return _apply(flat, Rescale(tuple(lows), tuple(highs), _dtype(dtype)))


@public
def cast(image: xr.DataArray, dtype: DTypeLike) -> xr.DataArray:
    """Convert an image to another dtype lazily; for an integer dtype, values are rounded and clipped to its range.

    Parameters
    ----------
    image : xarray.DataArray
        Image with dims (band, y, x), as `open_image` returns it.
    dtype : dtype
        Integer or float dtype of the result.

    Returns
    -------
    xarray.DataArray
        Lazy image with dims (band, y, x) and this dtype. If the image is a file, the result still reads windows of it.

    Raises
    ------
    ArgumentError
        If the dtype is neither an integer nor a float.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import write_example
    >>> geotile.cast(geotile.open_image(write_example()), "float32").dtype
    dtype('float32')
    """
    return _apply(check_array(image), Cast(_dtype(dtype)))


def output_range(dtype: str) -> tuple[float, float]:
    """Return the output range of a dtype: the limits of an integer dtype, 0 to 1 for floats."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return 0.0, 1.0
    limits = np.iinfo(kind)
    return float(limits.min), float(limits.max)


def _apply(image: xr.DataArray, step: Rescale | Cast) -> xr.DataArray:
    """Return an image with a step applied to the pixels of a file as they are read, or to the chunks of an array."""
    source = file_of(image)
    if source is not None:
        result = from_source(source.with_step(step), image)
    elif image.chunks is not None:
        result = image.copy(data=image.data.map_blocks(step, dtype=step.to, meta=np.empty((0, 0, 0), step.to)))
    else:
        result = image.copy(data=step(np.asarray(image)))
    result.encoding = {name: value for name, value in image.encoding.items() if name not in _OF_STORED_VALUES}
    result.attrs.pop("_FillValue", None)  # the nodata value of the file does not apply to the result
    return result


def _sample(image: xr.DataArray) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a small overview of an image, (band, y, x), and its pixels with data, (y, x) bool."""
    source = file_of(image)
    if source is not None:
        return source.thumbnail(_MAX_SAMPLE_SIDE_PX)
    step = max(1, -(-max(image.shape[1:]) // _MAX_SAMPLE_SIDE_PX))
    values = np.asarray(image[:, ::step, ::step])
    return values, has_data(values, nodata_of(image))


def _flat(image: xr.DataArray) -> xr.DataArray:
    """Return an image with dims (band, y, x), in this order."""
    flat = image if "band" in check_array(image).dims else image.expand_dims("band")
    return flat.transpose("band", "y", "x")


def _check_percentiles(percentiles: object) -> None:
    given = percentiles if isinstance(percentiles, Sequence) and not isinstance(percentiles, str | bytes) else ()
    if len(given) != 2 or not all(map(is_number, given)) or not 0 <= given[0] < given[1] <= 100:
        raise ArgumentError(
            f"percentiles must be two ascending numbers from 0 to 100, such as (2, 98); got {percentiles!r}"
        )


def _per_band(value: float | Sequence[float], bands: int, name: str) -> tuple[float, ...]:
    given: Any = [value] if is_number(value) else value
    listed = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes) and np.ndim(given) == 1
    values = tuple(given) if listed else ()
    if len(values) not in (1, bands) or not all(is_number(each) and math.isfinite(each) for each in values):
        raise ArgumentError(f"{name} must be one finite number, or one for each of {bands} bands; got {value!r}")
    return tuple(map(float, values)) * (bands if len(values) == 1 else 1)


def _dtype(dtype: DTypeLike) -> str:
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise ArgumentError(f"dtype must be a dtype of NumPy; got {dtype!r} ({error})") from None
    if dtype is None or kind.kind not in "uif":  # NumPy takes None for float64
        raise ArgumentError(f"dtype must be one of integers or floats; got {dtype!r}")
    return str(kind)
