"""Checks of the scores and class numbers that a network returns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.errors import ResponseError

_ROUNDING = 1e-3  # half precision keeps three decimals


def as_scores(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return scores as float32, with the rounding errors at 0 and 1 removed.

    Parameters
    ----------
    values : numpy.ndarray
        Scores of any shape.

    Raises
    ------
    ResponseError
        If a score is outside [0, 1] or not a number.

    Examples
    --------
    >>> as_scores(np.array([0.25, 1.0001])).tolist()
    [0.25, 1.0]
    """
    scores = np.asarray(values, np.float32)
    if not scores.size:
        return scores
    low, high = float(scores.min()), float(scores.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # false for NaN, too
        raise ResponseError(
            f"scores must be numbers from 0 to 1; the model returned {low:.6g} to {high:.6g}. {_cause(low, high)}"
        )
    return np.clip(scores, 0, 1)


def _cause(low: float, high: float) -> str:
    """Return the likely cause of scores outside [0, 1]."""
    if np.isnan(low) or np.isnan(high):
        return "Check the model, for example whether half precision overflows"
    logits = "" if low >= 0 else " They may be logits: export the model with its sigmoid or softmax."
    percentages = " They may be percentages." if low >= 0 and 1 < high <= 100 else ""
    other = "The model may be of another family or task (angles and key points are not scores): check family="
    return f"{logits}{percentages} {other}".strip()


def class_numbers(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return class numbers as int64.

    Parameters
    ----------
    values : numpy.ndarray
        (n,) numbers, whole but of any dtype.

    Raises
    ------
    ResponseError
        If a number is not whole.
    """
    numbers = np.asarray(values)
    if not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
        raise ResponseError(
            f"class numbers must be whole numbers; the model returned {numbers.min():.6g} to {numbers.max():.6g}. The "
            "model may be of another family: check family="
        )
    return numbers.astype(np.int64)
