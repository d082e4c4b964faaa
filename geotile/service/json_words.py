"""Error messages in the words of a job request: JSON and its fields, in place of Python and its arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from geotile.errors import GeotileError
from geotile.service.request_fields import FIELDS_BY_OPTION, IN_GEOTILE

_NAMES = "|".join(sorted(IN_GEOTILE | set(FIELDS_BY_OPTION), key=len, reverse=True))
_GIVEN = r"""(?<!\w)'[^'\n]*'(?!\w)|(?<!\w)"[^"\n]*"(?!\w)|[^\s'"=(]*/\S*"""  # quotes, paths and URLs
_VALUE = r"""\([^()]*\)|\[[^\]]*\]|'[^']*'|"[^"]*"|True|False|None|-?[\w.]+|"""
_WORDS = re.compile(
    rf"(?<![\w.:-])(?P<name>{_NAMES})=(?P<value>{_VALUE})"
    rf"|(?P<left>{_GIVEN})"
    rf"|(?<![\w.:=-])(?P<field>{'|'.join(FIELDS_BY_OPTION)})(?= must\b)"
    r"|(?<=[ \[(])(?P<python>True|False|None)\b"
)
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}


def in_json(message: str) -> str:
    """Return an error message in the words of a request. What users gave is left as it is: quotes, paths and URLs.

    Examples
    --------
    >>> in_json("Scale it with rescale=(low, high) or stretch=(2, 98)")
    'Scale it with "geotile": {"rescale": [low, high]} or "geotile": {"stretch": [2, 98]}'
    >>> in_json("scaled must be True or False; got 1; not in a/True/b.tif")
    'scaled must be true or false; got 1; not in a/True/b.tif'
    >>> in_json("overlap must be smaller than tile_size; got overlap=512")
    'imageProcessorTileOverlap must be smaller than tile_size; got "imageProcessorTileOverlap": 512'
    """
    return _WORDS.sub(_replaced, message)


@contextmanager
def speaking_json() -> Iterator[None]:
    """Put the errors of geotile that leave the block into the words of a request."""
    try:
        yield
    except GeotileError as error:
        error.args = (in_json(str(error)),)
        raise


def _replaced(match: re.Match[str]) -> str:
    if match["left"] is not None:
        return match[0]
    if match["python"] is not None:
        return _CONSTANTS[match["python"]]
    if match["field"] is not None:
        return FIELDS_BY_OPTION[match["field"]]
    name, value = match["name"], _as_json(match["value"]) or "..."
    if name in FIELDS_BY_OPTION:
        return f'"{FIELDS_BY_OPTION[name]}": {value}'
    return f'"geotile": {{"{name}": {value}}}'


def _as_json(value: str) -> str:
    """Return a value of Python as it is written in JSON."""
    if value.startswith("("):
        value = f"[{value[1:-1].rstrip(',')}]"
    value = value.replace("'", '"')
    return re.sub(r"\b(True|False|None)\b", lambda word: _CONSTANTS[word[0]], value)
