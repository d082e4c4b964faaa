"""Thresholds that may differ by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def by_name(value: Any, names: Sequence[str], argument: str) -> list[float]:
    """Return a threshold for each of some names; one that is not known is ``"*"``.

    Raises
    ------
    ArgumentError
        If it is not a threshold, names something else, or has no number for one of them.
    """
    threshold = check_threshold(value, argument, all_named=True)
    if not isinstance(threshold, Mapping):
        return [float(threshold)] * len(names)
    if unknown := sorted(set(threshold) - {*names, ANY}):
        unnamed = ANY in names
        known = "their names are not known; give them with classes=" if unnamed else f"they are {list(names)}"
        raise ArgumentError(f"{argument} names classes that do not exist, {unknown}; {known}")
    if ANY not in threshold and (left := [name for name in names if name not in threshold]):
        raise ArgumentError(f'{argument} has no number for {left}; give one, or one for all others under "{ANY}"')
    return [float(threshold[name if name in threshold else ANY]) for name in names]


def lowest(value: Threshold) -> float:
    """Return the lowest threshold of any label."""
    return min(value.values()) if isinstance(value, Mapping) else float(value)
