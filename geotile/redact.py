"""Secrets out of what people see."""

from __future__ import annotations

import re


def redact(text: str) -> str:
    """Mask passwords in urls and the values of their query parameters.

    Examples
    --------
    >>> redact("https://me:secret@host/a.tif?token=abc&x=1")
    'https://***@host/a.tif?token=***&x=***'
    """
    text = re.sub(r"(\w+://)[^/@\s]+@", r"\1***@", text)
    return re.sub(r"([?&][\w.%-]+=)[^&\s'\")]+", r"\1***", text)
