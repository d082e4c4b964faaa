"""Thresholds that may differ by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geotile.core.checks import check_unit
from geotile.errors import ArgumentError

ANY = "*"
Threshold = float | Mapping[str, float]


def check_threshold(value: Any, name: str, *, all_named: bool = False) -> Threshold:
    """Return a threshold that is a number from 0 to 1, or a copy of one that has numbers by label.

    Parameters
    ----------
    value : object
    name : str
        Name of the argument, for the error.
    all_named : bool, default False
        Whether it may name all labels instead of giving a number for all others.

    Raises
    ------
    ArgumentError
        If it is something else.
    """
    if not isinstance(value, Mapping):
        check_unit(value, name)
        number: float = value
        return number
    for label, each in value.items():
        if not isinstance(label, str):
            raise ArgumentError(f"{name} must have labels as its keys, which are text; got {label!r}")
        check_unit(each, f"{name}[{label!r}]")
    if ANY not in value and not (all_named and value):
        raise ArgumentError(
            f'{name} must have a number for all other labels under "*", as in {{"ship": 0.3, "*": 0.5}}; got '
            f"{dict(value)!r}"
        )
    return dict(value)


def lowest(value: Threshold) -> float:
    """Return the lowest threshold of any label."""
    return min(value.values()) if isinstance(value, Mapping) else float(value)
