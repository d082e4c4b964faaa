"""Text of strangers, made harmless for a terminal and a log."""

from __future__ import annotations

import re

# Control characters, and those that change the direction of text or begin a line.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    r"""Return a text whose control characters are written as escapes.

    Parameters
    ----------
    text : str
    keep : str
        Control characters that stay.

    Examples
    --------
    >>> printable("red \x1b[31m\n")
    'red \\x1b[31m\\n'
    """
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
