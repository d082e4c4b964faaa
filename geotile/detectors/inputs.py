"""The inputs of a network: which geotile can fill, and their size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geotile.detectors.layouts import Tensor
from geotile.detectors.metadata import ModelMetadata
from geotile.errors import ArgumentError


def check_inputs(inputs: Sequence[Tensor], metadata: ModelMetadata) -> None:
    """Check that geotile can fill the inputs of a network.

    Raises
    ------
    ArgumentError
        If the network takes no pictures of three channels in a dtype that geotile fills, has an input of another
        kind, or contradicts the metadata.
    """
    first, others = inputs[0], [each.name for each in inputs[1:] if each.name != "pixel_mask"]
    if others:
        raise ArgumentError(
            f"the model must have one input, or a second one named 'pixel_mask'; got {others[0]!r} besides "
            f"{first.name!r}. Export the model without this input"
        )
    if len(first.shape) not in (3, 4) or (first.shape[-3] not in (None, 3) and first.shape[-1] != 3):
        raise ArgumentError(
            f"the model's input must have shape (…, 3, y, x) or (…, y, x, 3); got {first.shape}. Export it with 3 "
            "channels"
        )
    if first.dtype.kind != "f" and first.dtype != np.uint8:
        raise ArgumentError(f"the model's input must be float or uint8; got {first.dtype}. Export it as float32")
    for said, has in zip(metadata.size_yx or (None, None), input_sides(first), strict=True):
        if None not in (said, has) and said != has:
            raise ArgumentError(
                f"the metadata of the model say imgsz={list(metadata.size_yx or ())}, and its input has the shape "
                f"{first.shape}. Export the model again"
            )


def input_sides(first: Tensor) -> tuple[int | None, int | None]:
    """Return height and width of an input in pixels; None for a side of any length."""
    tail = first.shape[-3:]
    rows, columns = tail[:2] if tail[-1] == 3 and tail[0] != 3 else tail[-2:]
    return rows, columns
