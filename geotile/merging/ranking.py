"""The order of detections, which depends on the detections alone, and what depends on their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from geotile.core.thresholds import ANY, Threshold


def ranking(
    scores: NDArray[np.float64], codes: NDArray[np.int64], boxes: NDArray[np.float64], *more: NDArray[Any]
) -> NDArray[np.int64]:
    """Return the order of detections: decreasing score, then label, x0, y0, x1, y1, then the keys in `more`.

    Parameters
    ----------
    scores : numpy.ndarray
        (n,) float64.
    codes : numpy.ndarray
        (n,) int64, integers that sort as the labels do.
    boxes : numpy.ndarray
        (n, 4) float64, xyxy.
    *more : numpy.ndarray
        Further keys of shape (n,), the most significant first.

    Returns
    -------
    numpy.ndarray
        (n,) int64, indices of the detections by rank.
    """
    order: NDArray[np.int64] = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    equal = ranked[1:] == ranked[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = order[tied]
    keys = [key[rows] for key in (-scores, codes, *boxes.T, *more)]
    order[tied] = rows[np.lexsort(keys[::-1])]
    return order


def label_codes(labels: ArrayLike) -> NDArray[np.int64]:
    """Return integers that sort as the labels do, (n,) int64."""
    values = np.asarray(labels)
    if values.dtype == object:  # fixed-width text would take memory by the longest label
        return np.asarray(pd.factorize(values, sort=True)[0], np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def by_label(value: Threshold, labels: NDArray[np.object_]) -> NDArray[np.float64] | float:
    """Return the threshold of each label, (n,) float64, or the one number for all of them.

    Examples
    --------
    >>> by_label({"ship": 0.3, "*": 0.5}, np.array(["ship", "car"], object)).tolist()
    [0.3, 0.5]
    """
    if not isinstance(value, Mapping):
        return value
    return np.array([value.get(label, value[ANY]) for label in labels], np.float64)
