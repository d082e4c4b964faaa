"""Values of options read from text: of the command line, for example."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from geotile.core.checks import HEADER_NAME
from geotile.core.regular_file import special_kind
from geotile.errors import ArgumentError

Types = Mapping[str, Callable[[Any], bool]]
_NAME = re.compile(r"[\w.-]+")


def pair(text: str) -> int | tuple[int, int]:
    """Return ``"512"`` as an int and ``"512,256"`` as a (y, x) pair.

    Raises
    ------
    ArgumentError
        If the text is neither.

    Examples
    --------
    >>> pair("512"), pair("512,256")
    (512, (512, 256))
    """
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ArgumentError(f"must be a number of pixels, or two as Y,X; got {text!r}")
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def pair_or_auto(text: str) -> int | tuple[int, int] | str:
    """Return "auto" as it is, and any other text as `pair` does."""
    return text if text == "auto" else pair(text)


def two_numbers(text: str) -> tuple[float, float]:
    """Return two numbers that are separated by a comma.

    Raises
    ------
    ArgumentError
        If the text is not two numbers.

    Examples
    --------
    >>> two_numbers("0, 3000.5")
    (0.0, 3000.5)
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ArgumentError(f"must be two numbers, as LOW,HIGH; got {text!r}") from None
    return low, high


def int_or_auto(text: str) -> int | str:
    """Return "auto" as it is, and any other text as an int.

    Raises
    ------
    ArgumentError
        If the text is neither.
    """
    if text == "auto":
        return text
    if not text.isdigit():
        raise ArgumentError(f'must be a positive integer or "auto"; got {text!r}')
    return int(text)


def int_or_text(text: str) -> int | str:
    """Return digits as an int, and any other text as it is."""
    return int(text) if text.isdigit() else text


def bool_or_share(text: str) -> bool | float:
    """Return "true" and "false" as a bool, and a number as a float.

    Raises
    ------
    ArgumentError
        If the text is neither.
    """
    words = {"true": True, "yes": True, "false": False, "no": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise ArgumentError(f"must be true, false or a share from 0 to 1; got {text!r}") from None


def threshold(text: str) -> float | dict[str, float]:
    """Return a number, or numbers by label.

    Raises
    ------
    ArgumentError
        If the text is neither.

    Examples
    --------
    >>> threshold("0.5"), threshold("ship=0.3,*=0.5")
    (0.5, {'ship': 0.3, '*': 0.5})
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {label.strip(): float(value) for label, _, value in pairs}
    except ValueError:
        raise ArgumentError(f"must be a number, or LABEL=NUMBER,...,*=NUMBER; got {text!r}") from None


def names(text: str) -> list[str]:
    """Return names that are separated by commas.

    Examples
    --------
    >>> names("water, trees")
    ['water', 'trees']
    """
    return [name.strip() for name in text.split(",")]


def names_or_file(text: str) -> list[str] | str:
    """Return names that are separated by commas; or a file, which has a suffix or a folder, as it is.

    Examples
    --------
    >>> names_or_file("water, trees"), names_or_file("water"), names_or_file("classes.txt")
    (['water', 'trees'], ['water'], 'classes.txt')
    """
    path = PurePath(text)
    return text if "," not in text and (path.suffix or path.name != text) else names(text)


def names_or_numbers(text: str) -> list[str | int]:
    """Return names and whole numbers that are separated by commas.

    Examples
    --------
    >>> names_or_numbers("water, 3")
    ['water', 3]
    """
    return [int(name) if name.isdecimal() else name for name in names(text)]


def bands(texts: Sequence[str]) -> list[int | str]:
    """Return band numbers and names, each text one or several separated by commas.

    Examples
    --------
    >>> bands(["4,3,2"]), bands(["red", "1"])
    ([4, 3, 2], ['red', 1])
    """
    return [int_or_text(part.strip()) for text in texts for part in text.split(",")]


def named_value(text: str, types: Types = MappingProxyType({})) -> tuple[str, Any]:
    """Return the name and the value of ``name=value``; the value is read as JSON where it is JSON.

    Parameters
    ----------
    text : str
    types : mapping of str to callable, optional
        Whether a value is of the type of an option, by name: a word or a number that is not stays text.

    Raises
    ------
    ArgumentError
        If the text has no ``=``, or no name before it. It is not shown, since it may be a secret.

    Examples
    --------
    >>> named_value("retries=2"), named_value("family=yolov8")
    (('retries', 2), ('family', 'yolov8'))
    >>> named_value("bearer=12", {"bearer": lambda value: isinstance(value, str)})
    ('bearer', '12')
    """
    name, equals, value = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise ArgumentError("must be written as name=value, such as retries=2; the text is not shown, for its secrets")
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return name, value
    fits = name not in types or isinstance(read, list | dict) or types[name](read)
    return name, read if fits else value


def named_values(texts: Sequence[str], types: Types = MappingProxyType({})) -> dict[str, Any]:
    """Return the names and values of several ``name=value``."""
    return dict(named_value(text, types) for text in texts)


def area(text: str) -> Any:
    """Return a region of interest: the areas of a file, or the text itself, which is WKT or GeoJSON.

    Raises
    ------
    ArgumentError
        If a file of that name holds no areas, or the text is the path of a file that does not exist.
    """
    if kind := special_kind(text):
        raise ArgumentError(f"must be WKT, GeoJSON or a file of areas; {text!r} is {kind}")
    if not os.path.isfile(text):
        if "(" in text or text.lstrip().startswith("{") or text.upper().endswith("EMPTY"):
            return text
        raise ArgumentError(f"must be WKT, GeoJSON or a file of areas; there is no file {text!r}")
    import geopandas as gpd

    try:
        return gpd.read_file(text)
    except Exception as error:  # GDAL has an error for each way in which a file can be wrong
        raise ArgumentError(f"must be WKT, GeoJSON or a file of areas; {text} cannot be read: {error}") from None


def headers(texts: Sequence[str]) -> dict[str, str]:
    """Return the names and values of several ``Name: value``.

    Raises
    ------
    ArgumentError
        If a text has no colon, or no name before it. It is not shown, since it may be a secret.
    """
    found = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not HEADER_NAME.fullmatch(name.strip()):
            raise ArgumentError("must be written as 'Name: value'; the text is not shown, for its secrets")
        found[name.strip()] = value.strip()
    return found
