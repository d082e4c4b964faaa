"""Checks of the numbers that users pass as arguments."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TypeGuard

from geotile.core.redact import redact
from geotile.errors import ArgumentError

Pair = tuple[int, int]
_MAX_SECONDS = 1e9
_MAX_TIMEOUT_S = 2_000_000  # sockets count milliseconds in 32 bits
HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
"""Name of a header (RFC 9110, 5.6.2)."""


def as_int(value: object, name: str, minimum: int, unit: str = "pixels") -> int:
    """Return `value` as an int.

    Parameters
    ----------
    value : object
    name : str
        Name of the argument, for the error.
    minimum : int
        Smallest allowed value.
    unit : str
        What the number counts, for the error.

    Raises
    ------
    ArgumentError
        If the value is not a whole number, or is smaller than `minimum`.
    """
    error = ArgumentError(f"{name} must be a whole number of {unit}, at least {minimum}; got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the call is the check
    except TypeError:
        raise error from None
    if isinstance(value, bool) or number < minimum:
        raise error
    return number


def as_pair(value: object, name: str, minimum: int) -> Pair:
    """Return an int, or a (y, x) pair of ints, as a (y, x) pair.

    Raises
    ------
    ArgumentError
        If the value is neither, or a number is smaller than `minimum`.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ArgumentError(f"{name} must be one number or a (y, x) pair; got {value!r}")
        return as_int(value[0], name, minimum), as_int(value[1], name, minimum)
    number = as_int(value, name, minimum)
    return number, number


def check_unit(value: object, name: str) -> float:
    """Return a number in [0, 1] as a float.

    Raises
    ------
    ArgumentError
        If the value is not such a number.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise ArgumentError(f"{name} must be a number from 0 to 1; got {value!r}")
    return float(value)


def check_positive(value: object, name: str, unit: str) -> float:
    """Return a finite number above 0 as a float.

    Raises
    ------
    ArgumentError
        If the value is not such a number.
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ArgumentError(f"{name} must be a finite number of {unit} above 0; got {value!r}")
    return float(value)


def check_seconds(value: object, name: str) -> float:
    """Return a finite number of seconds, 0 or more, as a float.

    Raises
    ------
    ArgumentError
        If the value is not such a number, or is above 1e9: no clock waits longer.
    """
    if not is_number(value) or not 0 <= value <= _MAX_SECONDS:
        raise ArgumentError(f"{name} must be a finite number of seconds, 0 to {_MAX_SECONDS:g}; got {value!r}")
    return float(value)


def as_timeouts(value: object) -> tuple[float, float]:
    """Return the two timeouts of a request, in seconds: for the connection and for the response.

    Raises
    ------
    ArgumentError
        If the value is not a pair of finite numbers above 0, or one is above 2,000,000 (23 days).
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ArgumentError(
            f"timeout_s must be a pair of seconds, for the connection and for the response; got {value!r}"
        )
    connect_s, response_s = (check_positive(each, "timeout_s", "seconds") for each in value)
    if max(connect_s, response_s) > _MAX_TIMEOUT_S:
        raise ArgumentError(f"timeout_s must be at most {_MAX_TIMEOUT_S:,} seconds; got {value!r}")
    return connect_s, response_s


def check_finite(value: object, name: str, unit: str) -> float:
    """Return a finite number.

    Raises
    ------
    ArgumentError
        If it is none.
    """
    if not is_number(value) or not math.isfinite(value):
        raise ArgumentError(f"{name} must be a finite number of {unit}; got {value!r}")
    return float(value)


def check_not_negative(value: object, name: str, unit: str) -> float:
    """Return a finite number that is 0 or more, as a float.

    Raises
    ------
    ArgumentError
        If it is not one.
    """
    number = check_finite(value, name, unit)
    if number < 0:
        raise ArgumentError(f"{name} must be 0 or more {unit}; got {value!r}")
    return number


def check_bool(value: object, name: str) -> bool:
    """Return True or False, also one of NumPy, as a bool.

    Raises
    ------
    ArgumentError
        If the value is neither.
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise ArgumentError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def check_path(value: object, name: str) -> str:
    """Return a path or a URI as a string.

    Raises
    ------
    ArgumentError
        If the value is neither a string nor a path object, is empty, or has a NUL character.
    """
    if not isinstance(value, str | os.PathLike):
        raise ArgumentError(
            f"{name} must be a path or a URI, as a string or a path object; got a value of type {type(value).__name__}"
        )
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ArgumentError(f"{name} must be a path or a URI, not empty and without NUL; got {redact(repr(text))}")
    return text


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number that a float can hold, and not a bool."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def check_headers(name: str, headers: Mapping[str, str]) -> None:
    """Check that names and values can be sent as HTTP headers, without showing the values.

    Raises
    ------
    ArgumentError
        If a name or a value has a line break, a leading space, or a character outside Latin-1.
    """
    from requests.exceptions import InvalidHeader
    from requests.utils import check_header_validity

    for header, value in headers.items():
        check_encoding(name, header)
        check_encoding(name, value)
        if not HEADER_NAME.fullmatch(header):  # it may hold the value by mistake, so it is not shown
            raise ArgumentError(
                f"{name} must hold names of HTTP headers, which have letters, digits and hyphens; one name has another "
                "character"
            )
        try:
            valid = not set("\r\n") & set(value)  # some versions of requests let a last line break through
            check_header_validity((header, value))
        except InvalidHeader:
            valid = False
        if not valid:
            raise ArgumentError(
                f"{name} must hold values of HTTP headers, without line breaks and leading spaces; that of {header!r} "
                "has one"
            )


def check_encoding(name: str, text: str) -> None:
    """Check that a text can be sent in an HTTP header, without showing it.

    Raises
    ------
    ArgumentError
        If it has a character outside Latin-1.
    """
    try:
        text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ArgumentError(
            f"{name} must hold characters of Latin-1 only, as HTTP headers do; character {error.start + 1} is another"
        ) from None
