"""What becomes of a model's answer for a pixel: class numbers, scores or values, in integers until the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.blending.canvas import Blended, Canvas
from geotile.blending.mean import LARGEST_WEIGHT, MeanCanvas
from geotile.blending.output_grid import OutputGrid
from geotile.blending.trim import TrimCanvas
from geotile.core.choices import Activation, Blend, OutputKind, ScoreDtype
from geotile.errors import ResponseError
from geotile.grid.tile_grid import Window

SCORE_STEPS = 65_535  # scores are multiples of 1 / 65,535
BYTE_STEPS = 254  # of a score as uint8; 255 is nodata
VALUE_STEPS = 2**16  # averaged values are multiples of 2**-16
_NARROW_TILES = (2**32 - 1) // (LARGEST_WEIGHT * SCORE_STEPS)  # whose weighted scores add up to less than 2**32
_SMALLEST = 2.0**-8  # of the largest value of a tile that is averaged in steps of 2**-16
_EXACT = 2**24  # whole numbers up to here are exact in float32
_TOLERANCE = 1e-3  # by which the scores of half precision may leave 0 to 1


@dataclass(frozen=True, kw_only=True)
class RasterForm:
    """The form of a run's output. Pickles."""

    output: OutputKind
    blend: Blend
    planes: int
    """Number of planes of the model's answer."""
    is_class_map: bool = False
    """Whether the model answers the number of a class for each pixel."""
    activation: Activation = "none"
    thresholds: tuple[float, ...] | None = None
    """Score of each plane above which a pixel is of its class; None for the class with the highest score."""
    classes: tuple[str, ...] | None = None
    """Names of the classes."""
    score_dtype: ScoreDtype = "uint8"
    small: bool = True
    """Whether the numbers of the classes fit uint8, below its nodata."""
    tiles_on_a_pixel: int = 1
    """Maximum number of tiles that see a pixel."""

    @property
    def n_classes(self) -> int | None:
        """Number of classes, None if a model answers class numbers and nobody has named the classes."""
        if self.classes is not None:
            return len(self.classes)
        return None if self.is_class_map else max(2, self.planes)

    @property
    def is_multi_label(self) -> bool:
        """Whether a pixel can be of several classes, each of which has a band."""
        return self.output == "classes" and self.thresholds is not None and self.planes > 1

    @property
    def bands(self) -> int | None:
        """Number of bands of the output; None where it has the dims (y, x)."""
        if self.output == "classes":
            return self.planes if self.is_multi_label else None
        return self.planes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the output."""
        if self.output == "classes":
            return np.dtype("uint8" if self.small else "uint16")
        return np.dtype(self.score_dtype if self.output == "scores" else "float32")

    @property
    def nodata(self) -> float:
        """Value of pixels without an answer."""
        return float("nan") if self.dtype.kind == "f" else float(np.iinfo(self.dtype).max)

    def canvas(self, window: Window, grid: OutputGrid) -> Canvas:
        """Return an empty canvas."""
        if self.blend == "trim":
            planes = 1 if self.output == "classes" and not self.is_multi_label else self.planes
            return TrimCanvas(window, planes, self._trimmed_dtype, grid)
        planes = self.planes
        if self.is_class_map:
            assert self.n_classes is not None  # checked before the run
            planes = self.n_classes
        return MeanCanvas(window, planes, self.sum_dtype, "hann" if self.blend == "hann" else "mean", grid)

    @property
    def sum_dtype(self) -> np.dtype[Any]:
        """Dtype that holds all sums of weighted values exactly."""
        return np.dtype("int64" if self.output == "values" or self.tiles_on_a_pixel > _NARROW_TILES else "uint32")

    @property
    def _trimmed_dtype(self) -> np.dtype[Any]:
        return np.dtype("uint16") if self.output == "scores" else self.dtype

    def planes_of(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return what a canvas takes of a model's answer for a tile, and which pixels have a value (None: all).

        Parameters
        ----------
        values : numpy.ndarray
            (plane, y, x): class numbers of one plane, or floats.

        Raises
        ------
        ResponseError
            If a value cannot be what it should be.
        """
        if self.is_class_map:
            return self._of_class_map(values), None
        if self.output == "values":
            return self._of_values(values)
        if np.isnan(values).any():
            raise ResponseError("the model returned NaN as a score")
        if self.output == "scores":
            return self._quantised(values), None
        if self.thresholds is None:
            return self._of_argmax(values), None
        scores = self._quantised(values)
        if self.blend in ("trim", "vote"):
            return (scores > self._limits).astype(self.dtype), None
        return scores, None

    def finish(self, blended: Blended) -> NDArray[Any]:
        """Return the output of blended pixels, (y, x) or (band, y, x)."""
        values, weights = blended.values, blended.weights
        if self.output == "classes":
            result = self._classes(values, weights)
        elif self.output == "values":
            result = values if weights is None else self._means(values, weights, VALUE_STEPS)
        elif self.score_dtype == "float32":
            result = self._means(values, np.ones_like(values[0], np.int64) if weights is None else weights, SCORE_STEPS)
        else:
            result = _as_bytes(values, None if weights is None else np.maximum(weights, 1))
        out = np.asarray(result, self.dtype)
        if blended.seen is not None:
            np.copyto(out, self.nodata, where=~blended.seen, casting="unsafe")
        return out

    def _classes(self, values: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
        if weights is None:
            return values if self.is_multi_label else values[0]
        if self.is_class_map or self.thresholds is None:
            return _argmax(values)
        scale, limits = (2, np.ones_like(self._limits)) if self.blend == "vote" else (1, self._limits)
        bars = limits * weights.astype(np.int64)
        chosen = np.stack([scale * plane.astype(np.int64) > bar for plane, bar in zip(values, bars, strict=True)])
        return chosen if self.is_multi_label else chosen[0]

    @staticmethod
    def _means(values: NDArray[Any], weights: NDArray[Any], steps: int) -> NDArray[np.float64]:
        return np.asarray(values / (np.maximum(weights, 1) * float(steps)))

    @property
    def _limits(self) -> NDArray[np.int64]:
        """(plane, 1, 1) int64, the thresholds in steps of a score."""
        assert self.thresholds is not None
        return np.asarray(np.rint(np.array(self.thresholds) * SCORE_STEPS), np.int64)[:, None, None]

    def _of_class_map(self, values: NDArray[Any]) -> NDArray[Any]:
        limit = self.n_classes or int(np.iinfo(self.dtype).max)
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high >= limit:
            named = "" if self.n_classes is None else f", as {limit} classes are named"
            raise ResponseError(
                f"class numbers must be 0 to {limit - 1}{named}; got {low if low < 0 else high}. Name all classes with "
                "classes=, or have the model return other numbers"
            )
        if self.blend == "trim":
            return values.astype(self.dtype)
        return np.asarray(values == np.arange(limit)[:, None, None])

    def _of_argmax(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.blend in ("trim", "vote"):
            best = _argmax(values)[None]
            chosen = best if self.blend == "trim" else best == np.arange(self.planes)[:, None, None]
            return np.asarray(chosen, self.dtype)
        return self._quantised(values)

    def check_first(self, values: NDArray[Any]) -> None:
        """Check the first answer: also whether its values are so small that averages would lose them.

        Raises
        ------
        ResponseError
            If they cannot be what they should be.
        """
        self.planes_of(values)
        largest = np.abs(values[np.isfinite(values)].astype(np.float64)).max(initial=0)
        if self.output == "values" and self.blend != "trim" and 0 < largest < _SMALLEST:
            raise ResponseError(
                f"values below {_SMALLEST:.2g} cannot be averaged well, since averages are multiples of 2**-16; got at "
                f"most {largest:g}. Use blend='trim', or have the model return values in a smaller unit"
            )

    def _of_values(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        if values.dtype.kind in "iu" and values.size and max(abs(int(values.min())), int(values.max())) > _EXACT:
            raise ResponseError(
                f"whole numbers beyond ±{_EXACT:,} do not fit float32 exactly; have the model return floats, or "
                "numbers in a larger unit"
            )
        known = np.isfinite(values).all(axis=0)
        valid = None if known.all() else known
        if self.blend == "trim":
            with np.errstate(over="ignore"):
                single = values.astype(np.float32)
            if not np.isfinite(single[:, known]).all():
                raise ResponseError(f"values must fit float32; got {np.abs(values[:, known]).max():g}")
            return single, valid
        largest = 2.0**62 / (LARGEST_WEIGHT * self.tiles_on_a_pixel * VALUE_STEPS)
        finite = np.where(known, values, 0).astype(np.float64)
        if np.abs(finite).max(initial=0) > largest:
            raise ResponseError(
                f"values beyond ±{largest:.3g} cannot be averaged exactly; got {np.abs(finite).max():g}. Use "
                "blend='trim', or have the model return values in a larger unit"
            )
        return np.rint(finite * VALUE_STEPS).astype(np.int64), valid

    def _quantised(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Return scores in steps of 1 / 65,535."""
        with np.errstate(invalid="ignore", over="ignore"):
            scores = _activated(np.asarray(values, np.float32), self.activation)
        if not np.isfinite(scores).all():
            raise ResponseError("scores must be finite; the model returned infinite numbers, or logits that overflow")
        low, high = (float(scores.min()), float(scores.max())) if scores.size else (0.0, 0.0)
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise ResponseError(
                f"scores must be from 0 to 1; got {low:.3g} to {high:.3g}. If these are logits, give "
                "activation='softmax' (each pixel is of one class) or 'sigmoid' (each class for itself); if they are "
                "values such as heights, output='values'"
            )
        return np.asarray(np.rint(np.clip(scores, 0, 1) * np.float32(SCORE_STEPS)), np.uint16)


def _argmax(planes: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the number of the plane with the largest value, of equal ones the first, (y, x).

    `numpy.argmax` along the first axis goes through memory pixel by pixel; this goes plane by plane.
    """
    largest, chosen = planes[0].copy(), np.zeros(planes.shape[1:], np.uint16)
    for number, plane in enumerate(planes[1:], 1):
        larger = plane > largest
        np.copyto(largest, plane, where=larger)
        np.copyto(chosen, np.uint16(number), where=larger)
    return chosen


def _as_bytes(values: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Return means of scores as bytes; plane by plane, since 64 bits hold what 32 do not."""
    whole = np.int64(SCORE_STEPS) if weights is None else SCORE_STEPS * weights.astype(np.int64)
    means = np.empty(values.shape, np.uint8)
    for mean, plane in zip(means, values, strict=True):
        mean[...] = (2 * BYTE_STEPS * plane.astype(np.int64) + whole) // (2 * whole)
    return means


def _activated(values: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    if activation == "softmax":
        shifted = np.exp(values - values.max(axis=0, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=0, keepdims=True))
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), np.float32)
    return values
