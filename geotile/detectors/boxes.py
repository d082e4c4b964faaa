"""A check that the boxes of a network are in pixels of its input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.errors import ResponseError

_SHARES = 2.0  # of the input: a box in shares may reach over the edge
_MANY = 20  # boxes, as a head without suppression returns them
_MAX_TIMES = 4  # the side of the input


def check_in_pixels(boxes: NDArray[Any], selected: NDArray[np.int64], input_yx: tuple[int, int]) -> None:
    """Check that decoded boxes are neither shares of the input nor decoded twice.

    Parameters
    ----------
    boxes : numpy.ndarray
        (n, 4) boxes xyxy of all rows of an output.
    selected : numpy.ndarray
        Numbers of the rows whose score reaches the threshold.
    input_yx : tuple of int
        Height and width of the input in pixels.

    Raises
    ------
    ResponseError
        If all selected boxes, and most of the others, lie in the first pixels of the input, or most of the selected
        boxes are several times as large as the input. A few such boxes are clipped, as the networks' authors do it.

    Examples
    --------
    >>> shares = np.array([[0.1, 0.2, 0.4, 0.9], [0.5, 0.5, 0.8, 0.7]])
    >>> check_in_pixels(shares, np.array([0, 1]), (640, 640))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    geotile.ResponseError: boxes must be in pixels of the input, 640 x 640 px; ...
    """
    if not len(selected):
        return
    expected = f"boxes must be in pixels of the input, {input_yx[1]} x {input_yx[0]} px"
    remedy = "Export the model with boxes in pixels, or check family="
    largest = np.abs(boxes[selected]).max()
    if largest <= _SHARES and _tells(boxes, selected):
        raise ResponseError(
            f"{expected}; the largest coordinate of the model's is {largest:.3g}, so they may be shares from 0 to 1. "
            f"{remedy}"
        )
    with np.errstate(invalid="ignore"):  # the run counts boxes that are not finite
        sides = np.abs(boxes[selected, 2:] - boxes[selected, :2]).max(axis=1)
    too_large = np.isfinite(sides) & (sides > _MAX_TIMES * max(input_yx))
    if np.count_nonzero(too_large) > len(selected) / 2:
        raise ResponseError(f"{expected}; most sides of the model's are longer than {_MAX_TIMES} times that. {remedy}")


def _tells(boxes: NDArray[Any], selected: NDArray[np.int64]) -> bool:
    """Return whether boxes in the first pixels cannot be small objects in a corner of the tile."""
    extended = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]  # padding has no extent
    if len(extended) >= _MANY:
        return bool((np.abs(extended).max(axis=1) <= _SHARES).mean() > 0.9)
    return len(selected) > 1
