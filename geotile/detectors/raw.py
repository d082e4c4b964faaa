"""What the decoder of a family returns, and what a family is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotile.detectors.preprocessing import Preprocessing

Array = NDArray[np.float32]
Size = tuple[int, int]  # (y, x) of the input


@dataclass(frozen=True)
class RawDetections:
    """Decoded outputs of a network for one picture, before the score threshold."""

    boxes: Array
    """(k, 4) float32, xyxy in pixels of the input."""
    scores: Array
    """(k, classes) float32; (k,) if `labels` gives one class per box."""
    labels: NDArray[np.int64] | None = None
    """(k,) int64, number of the class; None if every box has a score for every class."""
    oriented: Array | None = None
    """(k, 5) float32, oriented boxes, cx cy w h in pixels of the input and the angle in radians. `boxes` are their
    envelopes."""
    coefficients: Array | None = None
    """(k, m) float32, share of each prototype in the mask of a detection."""
    prototypes: Array | None = None
    """(m, y, x) float32, masks of the whole input at a lower resolution."""
    masks: Array | None = None
    """(k, y, x) float32, probability of each pixel of the input to belong to a detection."""
    keypoints: Array | None = None
    """(k, points, 2 or 3) float32, x and y in pixels of the input and, if there are three, a score."""

    @property
    def boxes_only(self) -> bool:
        """Whether there are neither shapes nor key points."""
        return self.oriented is None and self.coefficients is None and self.masks is None and self.keypoints is None


@dataclass(frozen=True, kw_only=True)
class Family:
    """Family of networks that share preprocessing and decoding."""

    preprocessing: Preprocessing
    decode: Callable[..., RawDetections]
    """Function ``decode(outputs of one picture, size of the input)``; of the families of key points, with their shape
    as a third argument."""
    needs_nms: bool = True
    """Whether the outputs need non-maximum suppression within the tile."""
    single_label: bool = True
    """Whether a box becomes one detection, of its best class, instead of one for every class above the threshold."""


def centred(centre: Array, sides: Array) -> Array:
    """Return boxes xyxy of their centres and sides."""
    return np.hstack([centre - sides / 2, centre + sides / 2])
