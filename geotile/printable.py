"""Text of strangers, made harmless for a terminal and a log."""

from __future__ import annotations

import re

# Control characters, characters that are not seen or change the direction of text or begin a line, and halves of
# characters, which cannot be written. The joiners U+200C and U+200D stay: words of some languages need them.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)


def printable(text: str, keep: str = "") -> str:
    r"""Return a text whose control characters, and others that people do not see, are written as escapes.

    Parameters
    ----------
    text : str
    keep : str
        Control characters that stay.

    Examples
    --------
    >>> printable("red \x1b[31m\n")
    'red \\x1b[31m\\n'
    >>> printable("\u202eexe.fit")
    '\\u202eexe.fit'
    """
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
