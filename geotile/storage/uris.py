"""Names of places as users write them: paths with ``~``, ``file:`` URIs, URIs of object storage."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import url2pathname

from geotile.core.redact import redact
from geotile.errors import ArgumentError


def expanded_path(text: str) -> str:
    """Return a local name with ``~`` expanded, or the path of a ``file:`` URI (RFC 8089); other names as they are.

    Raises
    ------
    ArgumentError
        If a ``file:`` URI names another host, or has a query or a fragment.

    Examples
    --------
    >>> expanded_path("file:///data/a%20b.tif"), expanded_path("s3://bucket/a.tif")
    ('/data/a b.tif', 's3://bucket/a.tif')
    """
    if text.lower().startswith("file:"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ArgumentError(
                f"a file: URI must name a file of this machine, as file:///folder/name; got {redact(text)!r}"
            )
        if parts.query or parts.fragment:
            raise ArgumentError(f"a file: URI must write # as %23 and ? as %3F; got {redact(text)!r}")
        return url2pathname(parts.path)
    return os.path.expanduser(text) if text.startswith("~") else text


def output_uri(place: str | os.PathLike[str]) -> str:
    """Return where to write: an absolute path, or a URI of object storage.

    Raises
    ------
    ArgumentError
        If nothing can be kept there, or the name means several places.
    """
    text = expanded_path(str(os.fspath(place)))
    if text.partition("://")[0] == "memory":
        raise ArgumentError(f"{text!r} is lost when the process ends; name a file, a folder or object storage")
    if "://" in text:
        return text
    if "::" in text:
        raise ArgumentError(f"a path must not contain '::', which fsspec takes for a chain of places; got {text!r}")
    return os.path.abspath(text) + ("/" if text.endswith("/") else "")
