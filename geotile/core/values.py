"""Values of foreign objects as plain Python values: clean text, JSON, arrays."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_DEEPEST = 50  # of nested properties
_LARGEST = int(sys.float_info.max)
_REAL = "iuf"  # kinds of dtypes
_KINDS = {"c": "complex numbers", "U": "text", "S": "text", "b": "truth values", "M": "dates", "m": "times"}


def as_text(value: Any, name: str) -> str:
    """Return a label or another text as clean text: of str, bytes, or a whole number of any kind.

    Raises
    ------
    ValueError
        If it is something else.

    Examples
    --------
    >>> as_text(np.str_("car"), "label"), as_text(b"car", "label"), as_text(3.0, "label"), as_text(np.int64(3), "label")
    ('car', 'car', '3', '3')
    """
    if isinstance(value, bytes | bytearray):
        value = bytes(value).decode("utf-8", "replace")
    if isinstance(value, str):
        return _valid_unicode(str(value))
    number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(number, int | float) and not isinstance(number, bool) and number == number // 1:
        return str(int(number))
    if number is not value and isinstance(number, str | bytes):
        return as_text(number, name)
    raise ValueError(f"a {name} must be text or a whole number; got {value!r}")


def as_json(value: Any, name: str, depth: int = 0) -> Any:
    """Return a property as JSON has it: numpy scalars and arrays, dates, bytes and mappings of any kind are converted.

    NaN and infinity become None, since JSON has no such numbers; so do pandas' NA and NaT, and masked values.

    Raises
    ------
    ValueError
        If it cannot be written as JSON.

    Examples
    --------
    >>> as_json({"area": np.float32(3.5), "when": datetime.date(2024, 1, 1), "share": math.nan}, "properties")
    {'area': 3.5, 'when': '2024-01-01', 'share': None}
    """
    if type(value) is str:  # the most frequent ones first
        return _valid_unicode(value)
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) in (dict, list):
        return _nested_as_json(value, name, depth)
    if is_missing(value):
        return None
    if isinstance(value, bool | int):
        return _within_floats(value, name)
    if isinstance(value, str):
        return _valid_unicode(str(value))
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None  # infinity
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _nested_as_json(value, name, depth)
    if isinstance(value, Decimal):
        return float(_within_floats(value, name)) if value.is_finite() else None
    if isinstance(value, bytes | bytearray | PurePath | UUID | pd.Interval | pd.Period):
        return as_text(value if isinstance(value, bytes | bytearray) else str(value), name)
    if isinstance(value, datetime.timedelta | np.timedelta64):
        return pd.Timedelta(value).isoformat()
    if isinstance(value, datetime.date | datetime.time | np.datetime64):
        return str(value) if isinstance(value, np.datetime64) else value.isoformat()
    if isinstance(value, np.ndarray) and value.dtype.kind in "mM":
        return _nested_as_json(list(value), name, depth)
    if hasattr(value, "tolist") and depth <= _DEEPEST:  # numpy scalars and arrays, tensors
        return as_json(as_array(value).tolist(), name, depth + 1)
    raise ValueError(f"property {name} cannot be written as JSON; got {type(value).__name__}")


def _within_floats(value: Any, name: str) -> Any:
    """Return a number that others can read, since they read the numbers of JSON as floats."""
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"property {name} is a number of more than 308 digits, which JSON's readers do not read")
    return value


def _nested_as_json(value: Any, name: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"property {name} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, dict | Mapping):  # `dict` is found at once
        return {as_text(key, "property's name"): as_json(each, name, depth + 1) for key, each in value.items()}
    return [as_json(each, name, depth + 1) for each in value]


def is_missing(value: Any) -> bool:
    """Return whether a value is one of those that say that there is none: None, NaN, NA, NaT, or a masked one.

    Examples
    --------
    >>> is_missing(math.nan), is_missing(pd.NaT), is_missing(np.datetime64("NaT", "s")), is_missing("")
    (True, True, True, False)
    """
    if value is None or value is pd.NA or value is pd.NaT or value is np.ma.masked:
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def as_numbers(value: Any, name: str) -> NDArray[np.float64]:
    """Return an array of real numbers; masked values, None and pandas' NA become NaN.

    Raises
    ------
    ValueError
        If it holds something else: complex numbers, text, truth values, dates.

    Examples
    --------
    >>> as_numbers([[1, 2.5]], "boxes").tolist(), as_numbers(np.ma.masked_equal([3, 4], 4), "scores").tolist()
    ([[1.0, 2.5]], [3.0, nan])
    """
    array = as_array(value)
    if array.dtype.kind == "O":
        array = np.array([np.nan if is_missing(each) else each for each in array.flat], object).reshape(array.shape)
        kinds = {"f" if isinstance(each, Decimal) else np.asarray(each).dtype.kind for each in array.flat}
        kind = next(iter(kinds - set(_REAL)), "f")
    else:
        kind = array.dtype.kind
    if kind not in _REAL and array.size:
        raise ValueError(f"{name} must be real numbers; got {_KINDS.get(kind, 'other values')}")
    return array.astype(np.float64)


def as_array(value: Any) -> NDArray[Any]:
    """Return an array of anything array-like, also of a tensor that requires grad or lies on another device.

    Masked values become None.
    """
    if isinstance(value, np.ma.MaskedArray):
        if not np.ma.is_masked(value):
            return np.asarray(value)
        plain = value.data.astype(object)
        plain[np.ma.getmaskarray(value)] = None
        return plain
    if isinstance(value, list | tuple) and any(hasattr(each, "detach") for each in value):
        return np.array([as_array(each) for each in value])
    for step in ("detach", "cpu", "resolve_conj"):  # of torch
        value = getattr(value, step)() if hasattr(value, step) else value
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        value = value.float()
    if type(value).__module__.partition(".")[0] == "cupy":
        value = value.get()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _valid_unicode(text: str) -> str:
    """Return text with U+FFFD in place of what file formats cannot hold: lone surrogates and NUL."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
