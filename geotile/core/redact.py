"""Secrets out of what people see."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping


def redact(text: str) -> str:
    """Mask passwords in urls and the values of their query parameters.

    Examples
    --------
    >>> redact("https://me:secret@host/a.tif?token=abc&x=1")
    'https://***@host/a.tif?token=***&x=***'
    """
    text = re.sub(r"(\w+://)[^/@\s]+@", r"\1***@", text)
    return re.sub(r"([?&][\w.%-]+=)[^&\s'\")]+", r"\1***", text)


def digests(values: Mapping[str, str]) -> dict[str, str]:
    """Return short digests in the place of values: whether they changed is seen, what they are is not.

    Examples
    --------
    >>> digests({"TargetModel": "a"})
    {'TargetModel': 'ca978112'}
    """
    return {name: hashlib.sha256(str(value).encode()).hexdigest()[:8] for name, value in values.items()}
