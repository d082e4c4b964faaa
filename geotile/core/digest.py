"""Short digests: names for contents, and what replaces a value that must not be shown."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(data: bytes, length: int = 16) -> str:
    """Return the first hexadecimal digits of the SHA-256 of some bytes.

    Parameters
    ----------
    data : bytes
    length : int
        Number of digits, at most 64.

    Examples
    --------
    >>> digest(b"a"), digest(b"a", 8)
    ('ca978112ca1bbdca', 'ca978112')
    """
    return hashlib.sha256(data).hexdigest()[:length]


def json_digest(value: Any, length: int = 16) -> str:
    """Return the digest of a JSON value. The order of the keys of an object does not matter.

    Examples
    --------
    >>> json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    True
    """
    return digest(json.dumps(value, sort_keys=True).encode(), length)
