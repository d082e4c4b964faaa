"""Numbers that users give, checked where they come in."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import TypeGuard

from geotile.errors import ArgumentError

Pair = tuple[int, int]


def as_int(value: object, name: str, minimum: int, unit: str = "pixels") -> int:
    """Return `value` as an int, or say what is wrong with it.

    Raises
    ------
    ArgumentError
        If it is no whole number or smaller than `minimum`.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # that is the question asked
    except TypeError:
        raise ArgumentError(f"{name}={value!r} is not a whole number of {unit}; give an int") from None
    if isinstance(value, bool) or number < minimum:
        raise ArgumentError(f"{name}={value!r} must be a whole number of at least {minimum} {unit}")
    return number


def as_pair(value: object, name: str, minimum: int) -> Pair:
    """Return an int, or a (y, x) pair of ints, as a (y, x) pair."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ArgumentError(f"{name}={value!r} must be one number or a (y, x) pair")
        return as_int(value[0], name, minimum), as_int(value[1], name, minimum)
    number = as_int(value, name, minimum)
    return number, number


def check_unit(value: object, name: str) -> float:
    """Return a number of 0 to 1.

    Raises
    ------
    ArgumentError
        If it is none.
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise ArgumentError(f"{name}={value!r} must be a number from 0 to 1")
    return float(value)


def positive(value: object, name: str, unit: str) -> float:
    """Return a finite number above zero.

    Raises
    ------
    ArgumentError
        If it is none.
    """
    if not _is_number(value) or not 0 < value < math.inf:
        raise ArgumentError(f"{name}={value!r} must be a number of {unit} above 0")
    return float(value)


def check_seconds(value: object, name: str) -> float:
    """Return a number of seconds, 0 or more.

    Raises
    ------
    ArgumentError
        If it is none.
    """
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ArgumentError(f"{name}={value!r} must be a number of seconds, 0 or more")
    return float(value)


def as_timeouts(value: object) -> tuple[float, float]:
    """Return seconds to wait for a connection and for an answer.

    Raises
    ------
    ArgumentError
        If it is no pair of seconds above 0.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ArgumentError(f"timeout_s={value!r} must be a pair of seconds: for a connection, and for an answer")
    return positive(value[0], "timeout_s", "seconds"), positive(value[1], "timeout_s", "seconds")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)
