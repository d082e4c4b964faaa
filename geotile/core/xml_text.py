"""Text in XML, which cannot hold all characters."""

from __future__ import annotations

import re

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def fits_xml(text: str) -> bool:
    """Return whether XML 1.0 can hold all characters of a text."""
    return not _NOT_IN_XML.search(text)


def without_control_characters(text: str) -> str:
    r"""Return a text in which a question mark stands for each character that XML cannot hold.

    Examples
    --------
    >>> without_control_characters("wa\x00ter")
    'wa?ter'
    """
    return _NOT_IN_XML.sub("?", text)
