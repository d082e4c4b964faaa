"""Types of options: what a value of each type that an option is declared with must be.

The texts are those of the docstrings. Limits of a value, such as "at least 1", are checked by the option's group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

from geotile.core.checks import is_number


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # an array of no dims has an index, too


def _path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))


def _string(value: Any) -> bool:
    return isinstance(value, str)


def _pair(value: Any, member: Callable[[Any], bool]) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(member, value))


def _pixels(value: Any) -> bool:
    return _whole(value) or _pair(value, _whole)


def _names(value: Any, member: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) and member(each) for name, each in value.items())


def _numbered(value: Any) -> bool:
    """Return whether a value is a mapping of whole numbers, which JSON writes as text, to strings."""
    return isinstance(value, Mapping) and all(
        (_whole(key) or (isinstance(key, str) and key.isascii() and key.isdigit())) and isinstance(each, str)
        for key, each in value.items()
    )


def _listed(value: Any, member: Callable[[Any], bool]) -> bool:
    array = hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1  # numpy and pandas
    listed = array or (isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview))
    return listed and not isinstance(value, str) and all(map(member, value))


def _band(value: Any) -> bool:
    return isinstance(value, str) or _whole(value)


TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: type(value).__name__ in ("bool", "bool_"), "True or False"),
    "int": (_whole, "a whole number"),
    "int or (int, int)": (_pixels, "a whole number of pixels, or a (y, x) pair"),
    'int, (int, int) or "auto"': (
        lambda value: _pixels(value) or _is(value, "auto"), 'a whole number of pixels, a (y, x) pair or "auto"'
    ),
    'int or "auto"': (lambda value: _whole(value) or _is(value, "auto"), 'a whole number or "auto"'),
    "int or str": (_band, "a whole number or a name"),
    "int, str or sequence": (
        lambda value: _band(value) or _listed(value, _band), "a band's number or name, or a sequence of them"
    ),
    "float": (is_number, "a number"),
    "(int, int)": (lambda value: _pair(value, _whole), "a pair of whole numbers"),
    "(float, float)": (lambda value: _pair(value, is_number), "a pair of numbers"),
    "(float, float, float)": (
        lambda value: _listed(value, is_number) and len(value) == 3, "three numbers, for red, green and blue"
    ),
    "sequence of str or str": (
        lambda value: (_string(value) and bool(value)) or (_listed(value, _string) and len(value) > 0),
        "a string or a sequence of strings",
    ),
    "bool or float": (lambda value: isinstance(value, bool) or is_number(value), "True, False or a number"),
    "str": (_string, "a string"),
    "str or path": (_path, "a path or a URI, as a string or a path object"),
    "bool, str or path": (lambda value: isinstance(value, bool) or _path(value), "True, False or the path of a file"),
    "str, path or pair of them": (
        lambda value: _path(value) or _pair(value, _path), "a path, or a pair of paths (certificate, key)"
    ),
    "sequence of str, mapping of int to str, str or path": (
        lambda value: _path(value) or _listed(value, _string) or _numbered(value),
        "a sequence of names, a mapping of class numbers to names, or the path of a file",
    ),
    "mapping": (lambda value: _names(value, lambda _: True), "a mapping of names to values"),
    "mapping of str to str": (lambda value: _names(value, _string), "a mapping of strings to strings"),
    "mapping of str to int": (
        lambda value: _names(value, _whole), "a mapping of strings to whole numbers"
    ),
    "(str, str) or requests.auth.AuthBase": (
        lambda value: (callable(value) and not isinstance(value, type)) or _pair(value, _string),
        "a pair (user, password) or an authentication object of requests",
    ),
    "bool or callable": (
        lambda value: isinstance(value, bool) or callable(value),
        "True, None or a callable that takes a geotile.Progress",
    ),
    "str, Merge or None": (
        lambda value: value is None or _string(value) or hasattr(value, "settle"),
        "the name of a merge, None or a geotile.Merge",
    ),
    "float or mapping of str to float": (
        lambda value: is_number(value) or _names(value, is_number), "a number, or a mapping of labels to numbers"
    ),
    "str, mapping, shapely geometry or GeoDataFrame": (
        lambda value: isinstance(value, str | Mapping | os.PathLike) or hasattr(value, "__geo_interface__"),
        "WKT, GeoJSON, the path of a file of areas, a shapely geometry or a GeoDataFrame",
    ),
}  # fmt: skip
"""A test and its description for each type. A type that is not here is checked where the value is used."""


def _is(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def same(value: Any, default: Any) -> bool:
    """Return whether a value is the default, of the same type."""
    return value is default or (type(value) is type(default) and bool(value == default))


def is_choice(value: Any, choice: Any) -> bool:
    """Return whether a value is one of the allowed ones; True is no 1."""
    return value is choice or (isinstance(value, type(choice)) and bool(value == choice))
