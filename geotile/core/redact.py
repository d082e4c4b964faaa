"""Removal of secrets from texts that people read."""

from __future__ import annotations

import re
from collections.abc import Mapping

from geotile.core.digest import digest


def redact(text: str) -> str:
    """Mask the passwords in URLs and the values of their query parameters.

    Examples
    --------
    >>> redact("https://me:secret@host/a.tif?token=abc&x=1")
    'https://***@host/a.tif?token=***&x=***'
    """
    text = re.sub(r"(\w+://)[^/\s]+@", r"\1***@", text)
    return re.sub(r"([?&][\w.%-]+=)[^&\s'\")]+", r"\1***", text)


def digests(values: Mapping[str, str]) -> dict[str, str]:
    """Replace values by short digests, which show whether a value has changed but not what it is.

    Examples
    --------
    >>> digests({"TargetModel": "a"})
    {'TargetModel': 'ca978112'}
    """
    return {name: digest(str(value).encode(), 8) for name, value in values.items()}
