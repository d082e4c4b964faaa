"""Checks of the content of a checkpoint's `job.json`, which other programs and broken disks may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

_MAX_NUMBERS = 2**32  # of an answer for one tile


def check_job(job: Mapping[str, Any]) -> None:
    """Check what runs read of a `job.json`, as far as it is there.

    Parameters
    ----------
    job : mapping
        Content of the file, with ``identity``, a dict.

    Raises
    ------
    ValueError
        If something has another form than the one that geotile writes; the message names it.

    Examples
    --------
    >>> check_job({"identity": {}, "length": "x"})
    Traceback (most recent call last):
    ...
    ValueError: length
    """
    identity = job["identity"]
    are_valid = {
        "identity.grid": "grid" not in identity or _is_grid(identity["grid"]),
        "regions": "regions" not in job or _is_sizes(job["regions"], 2),
        "answer": "answer" not in job or _is_answer(job["answer"]),
        "length": "length" not in job or _is_sizes([job["length"]], 1),
    }
    for name, is_valid in are_valid.items():
        if not is_valid:
            raise ValueError(name)


def _is_grid(grid: Any) -> bool:
    """Return whether the regions of a grid fill its image."""
    if not isinstance(grid, dict) or not _is_sizes(grid.get("shape"), 2):
        return False
    chunks = grid.get("chunks")
    if not isinstance(chunks, list) or len(chunks) != 2:
        return False
    return all(_is_sizes(axis) and sum(axis) == n for axis, n in zip(chunks, grid["shape"], strict=True))


def _is_answer(answer: Any) -> bool:
    """Return whether this is the form of a raster, with the size of the tile that was sent."""
    if not isinstance(answer, dict) or not _is_sizes(answer.get("shape"), 3) or not _is_sizes(answer.get("sent"), 2):
        return False
    classes = answer.get("classes", 0)
    is_named = classes is None or (isinstance(classes, list) and all(isinstance(each, str) for each in classes))
    is_small = prod(answer["shape"]) <= _MAX_NUMBERS
    return is_named and is_small and isinstance(answer.get("flat"), bool) and _is_number_type(answer.get("dtype"))


def _is_number_type(name: Any) -> bool:
    try:
        return isinstance(name, str) and np.dtype(name).kind in "buif"
    except (TypeError, ValueError, SyntaxError):
        return False


def _is_sizes(values: Any, count: int | None = None) -> bool:
    """Return whether these are positive integers, and as many as they must be."""
    if not isinstance(values, list) or (count is not None and len(values) != count):
        return False
    return all(type(each) is int and each > 0 for each in values)
