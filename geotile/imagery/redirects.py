"""Where an HTTP server redirects to, asked before GDAL follows it: GDAL cannot be told not to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

_TIMEOUT_S, _MAX_REDIRECTS = 10.0, 10
_PORTS = {"http": 80, "https": 443}


def redirect_targets(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> Iterator[str]:
    """Yield the URLs that a server redirects a read to, one after the other, while the caller asks for more.

    Parameters
    ----------
    url : str
        Any URI; what is not HTTP has no redirects.
    headers : mapping, optional
        Headers of the read.
    **options
        Further arguments of `requests.get`: ``auth`` and ``verify``.

    Yields
    ------
    str
    """
    for _ in range(_MAX_REDIRECTS):
        target = _target(url, headers, options)
        if target is None:
            return
        yield target
        url = target


def same_origin(url: str, target: str) -> bool:
    """Return whether two URLs have one scheme, host and port; an upgrade to TLS on the usual ports counts as well."""
    a, b = _origin(url), _origin(target)
    return a == b or (a[0] == "http" and a[2] == 80 and b == ("https", a[1], 443))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _target(url: str, headers: Mapping[str, str] | None, options: Mapping[str, Any]) -> str | None:
    if not url.lower().startswith(("http://", "https://")):
        return None
    first_byte = {"Range": "bytes=0-0", **(headers or {})}
    try:
        with requests.get(
            url, headers=first_byte, timeout=_TIMEOUT_S, allow_redirects=False, stream=True, **options
        ) as response:  # fmt: skip
            return urljoin(url, response.headers["Location"]) if response.is_redirect else None
    except (requests.RequestException, ValueError):
        return None  # the read says what is wrong
