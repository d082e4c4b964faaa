"""Values of foreign objects as plain Python values: clean text, JSON, arrays."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DEEPEST = 50  # of nested properties


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
    """Return a property as JSON has it: numpy scalars and arrays, dates and mappings of any kind are converted.

    NaN and infinity become None, since JSON has no such numbers.

    Raises
    ------
    ValueError
        If it cannot be written as JSON.

    Examples
    --------
    >>> as_json({"area": np.float32(3.5), "when": datetime.date(2024, 1, 1), "share": math.nan}, "properties")
    {'area': 3.5, 'when': '2024-01-01', 'share': None}
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _valid_unicode(str(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth > _DEEPEST:
        raise ValueError(f"property {name} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, Mapping):
        return {as_text(key, "property's name"): as_json(each, name, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(each, name, depth + 1) for each in value]
    if isinstance(value, datetime.date | datetime.time | np.datetime64):
        return str(value) if isinstance(value, np.datetime64) else value.isoformat()
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return as_json(as_array(value).tolist(), name, depth + 1)
    raise ValueError(f"property {name} cannot be written as JSON; got {type(value).__name__}")


def as_array(value: Any) -> NDArray[Any]:
    """Return an array of anything array-like, also of a tensor that requires grad or lies on another device."""
    if isinstance(value, list | tuple) and any(hasattr(each, "detach") for each in value):
        return np.array([as_array(each) for each in value])
    for step in ("detach", "cpu", "resolve_conj"):  # of torch
        value = getattr(value, step)() if hasattr(value, step) else value
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        value = value.float()
    if type(value).__module__.partition(".")[0] == "cupy":
        value = value.get()
    return np.asarray(value)


def _valid_unicode(text: str) -> str:
    """Return text with U+FFFD in place of lone surrogates, which no file format can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
