"""Pixels as a model wants them: rescaled, cast. Lazy; a file's stay windows of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from geotile.errors import ArgumentError
from geotile.imagery.file_array import source_of
from geotile.imagery.masks import has_data
from geotile.imagery.open import from_source
from geotile.public import public

_LOOK_PX = 1024  # side of the picture that percentiles are taken from


@dataclass(frozen=True)
class Rescale:
    """Linear: `low` becomes the smallest value of the new range, `high` the largest; clipped, rounded."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    to: str

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the new values, (band, y, x)."""
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
    """To another dtype; to an integer one, rounded and clipped to what it holds."""

    to: str

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the new values, (band, y, x)."""
        kind = np.dtype(self.to)
        if kind.kind in "ui" and values.dtype != kind:
            limits, floating = np.iinfo(kind), values.dtype.kind == "f"
            values = values.astype(np.result_type(values.dtype, kind), copy=False)  # a type that holds the limits
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
    """Rescale linearly, lazily: `low` to the smallest value of the dtype, `high` to its largest.

    Values beyond are clipped. A float dtype gives 0 to 1.

    Parameters
    ----------
    image : xarray.DataArray
        Dims (band, y, x), as `open_image` gives it.
    low, high : float or sequence of float
        Of the image's values; one, or one a band.
    dtype : dtype
        Of the result.

    Returns
    -------
    xarray.DataArray
        Dims (band, y, x), of that dtype, lazy; still windows of the file where the image was.

    Raises
    ------
    ArgumentError
        If the limits do not rise, or there is not one for each band.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import write_example
    >>> image = geotile.open_image(write_example())
    >>> scaled = geotile.rescale(image, 40, 230)
    >>> int(scaled.min()), int(scaled.max())
    (0, 255)
    """
    flat = image if "band" in image.dims else image.expand_dims("band")
    flat = flat.transpose("band", "y", "x")
    lows, highs = (_per_band(value, len(flat), name) for value, name in ((low, "low"), (high, "high")))
    if not all(a < b for a, b in zip(lows, highs, strict=True)):
        raise ArgumentError(f"low={low!r} must be below high={high!r} in every band")
    return _stepped(flat, Rescale(lows, highs, _dtype(dtype)))


@public
def stretch(
    image: xr.DataArray, percentiles: tuple[float, float] = (2.0, 98.0), *, dtype: DTypeLike = "uint8"
) -> xr.DataArray:
    """Rescale between percentiles of the values, band by band: dynamic-range adjustment.

    The percentiles are taken at once, from an overview of at most 1,024 pixels a side (the whole
    file is read for it where it has none); nodata and NaN do not count. The rescaling is lazy.

    Parameters
    ----------
    image : xarray.DataArray
        Dims (band, y, x), as `open_image` gives it.
    percentiles : tuple of float
        Lower and upper, 0 to 100.
    dtype : dtype
        Of the result.

    Returns
    -------
    xarray.DataArray
        Dims (band, y, x), of that dtype, lazy.

    Raises
    ------
    ArgumentError
        If the percentiles do not rise from 0 to 100, or a band has no data.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import write_example
    >>> geotile.stretch(geotile.open_image(write_example()), (0, 100)).dtype
    dtype('uint8')
    """
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ArgumentError(f"percentiles={percentiles!r} must rise from 0 to 100")
    flat = image if "band" in image.dims else image.expand_dims("band")
    flat = flat.transpose("band", "y", "x")
    values, valid = _look(flat)
    lows, highs = [], []
    for number, band in enumerate(values):
        data = band[valid] if valid is not None else band.ravel()
        data = data[np.isfinite(data)] if data.dtype.kind == "f" else data
        if not data.size:
            raise ArgumentError(f"band {number + 1} has no data to take percentiles of; use rescale(low, high)")
        low, high = np.percentile(data, percentiles)
        lows.append(float(low))
        highs.append(float(high) if high > low else float(low) + 1.0)
    return _stepped(flat, Rescale(tuple(lows), tuple(highs), _dtype(dtype)))


@public
def cast(image: xr.DataArray, dtype: DTypeLike) -> xr.DataArray:
    """Cast to another dtype, lazily; to an integer one rounded and clipped to what it holds.

    Parameters
    ----------
    image : xarray.DataArray
        Dims (band, y, x), as `open_image` gives it.
    dtype : dtype
        Of the result.

    Returns
    -------
    xarray.DataArray
        Dims (band, y, x), lazy; still windows of the file where the image was.

    Raises
    ------
    ArgumentError
        If it is no dtype of integers or floats.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import write_example
    >>> geotile.cast(geotile.open_image(write_example()), "float32").dtype
    dtype('float32')
    """
    return _stepped(image, Cast(_dtype(dtype)))


def output_range(dtype: str) -> tuple[float, float]:
    """Return what a dtype spans: an integer's limits, 0 to 1 for floats."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return 0.0, 1.0
    limits = np.iinfo(kind)
    return float(limits.min), float(limits.max)


def _stepped(image: xr.DataArray, step: Rescale | Cast) -> xr.DataArray:
    """Do a step to a file's pixels as they are read, or to an array's chunks."""
    source = source_of(image.data)
    if source is not None:
        done = from_source(source.then(step), image)
    elif image.chunks is not None:
        done = image.copy(data=image.data.map_blocks(step, dtype=step.to, meta=np.empty((0, 0, 0), step.to)))
    else:
        done = image.copy(data=step(np.asarray(image)))
    done.encoding = dict(image.encoding)
    done.attrs.pop("_FillValue", None)  # the file's nodata is no value of the result
    return done


def _look(image: xr.DataArray) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a small picture of an image, and where it has data."""
    source = source_of(image.data)
    if source is not None:
        return source.thumbnail(_LOOK_PX)
    step = max(1, -(-max(image.shape[1:]) // _LOOK_PX))
    values = np.asarray(image[:, ::step, ::step])
    return values, has_data(values, image.rio.nodata)


def _per_band(value: float | Sequence[float], bands: int, name: str) -> tuple[float, ...]:
    listed = tuple(np.atleast_1d(np.asarray(value, np.float64)).tolist())
    if len(listed) not in (1, bands) or not np.isfinite(listed).all():
        raise ArgumentError(f"{name}={value!r} must be one finite number, or one for each of {bands} bands")
    return listed * bands if len(listed) == 1 else listed


def _dtype(dtype: DTypeLike) -> str:
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise ArgumentError(f"dtype={dtype!r}: {error}") from None
    if kind.kind not in "uif":
        raise ArgumentError(f"dtype={dtype!r} must be one of integers or floats")
    return str(kind)
