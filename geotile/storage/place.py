"""Prefixes of places: which URLs and paths lie below one, however they are written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from requests.utils import unquote_unreserved

from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.storage.uris import expanded_path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]", re.ASCII)
_PORTS = {"http": 80, "https": 443, "oip+http": 80, "oip+https": 443}
_UNCLEAR = re.compile(r"[\s\\\x00-\x1f\x7f]")  # programs disagree about these in URLs
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A URL or a local path, taken apart.

    Examples
    --------
    >>> Place.of("https://Models.example./a/%7Eb/../c").below(Place.of("https://models.example/a"))
    True
    >>> Place.of("https://models.example.evil.test/a").below(Place.of("https://models.example"))
    False
    """

    scheme: str
    authority: str
    readings: tuple[Parts, ...]
    """Parts of the path: as it is written, decoded, and both without empty parts, since servers differ here."""

    @classmethod
    def of(cls, text: str) -> Place:
        """Return the place that a URL or a path names.

        Raises
        ------
        ArgumentError
            If programs could read it in different ways, or it is a name of another kind.
        """
        place = cls._of(text)
        if not place.authority and place.scheme.removeprefix("onnx:") in _PORTS:  # curl takes http:///a/b for host a
            raise ArgumentError(f"{redact(text)!r} names no host; write it after two slashes")
        return place

    @classmethod
    def _of(cls, text: str) -> Place:
        if "::" in text.partition("[")[0]:
            raise ArgumentError(f"{redact(text)!r} is a chain of places, by '::'; name one place")
        scheme, colon, rest = text.partition(":")
        if scheme.lower() == "onnx":
            inner = cls._of(rest)
            return cls(f"onnx:{inner.scheme}", inner.authority, inner.readings)
        if colon and scheme.lower() != "file" and rest.startswith("//") and _SCHEME.fullmatch(scheme):
            return cls._of_url(text, scheme.lower())
        return cls("file", "", (_local_parts(text),))

    @classmethod
    def prefix(cls, text: str) -> Place:
        """Return the place of a prefix.

        Raises
        ------
        ArgumentError
            If it is empty or has a query or a fragment, or programs could read it in different ways.
        """
        if not text or "?" in text or "#" in text:
            raise ArgumentError(
                f"a prefix must be the start of a URL or a folder, without ? and #; got {redact(text)!r}"
            )
        return cls._of(text)

    @classmethod
    def _of_url(cls, text: str, scheme: str) -> Place:
        if _UNCLEAR.search(text):
            raise ArgumentError(f"{redact(text)!r} is not a URL: it must have neither spaces nor \\; write %20 and %5C")
        try:
            parts = urlsplit(text)
            authority = _authority(parts, scheme)
        except ValueError as error:
            raise ArgumentError(f"{redact(text)!r} is not a URL: {error}") from None
        written = unquote_unreserved(parts.path)
        return cls(scheme, authority, tuple(_readings(written, unquote(written))))

    def below(self, prefix: Place) -> bool:
        """Return whether this place is the prefix, or lies below it, in each way in which its path can be read."""
        if self.scheme != prefix.scheme:
            return False
        if not prefix.authority and self.scheme not in ("file", "onnx:file"):
            return True  # s3:// are all buckets
        pairs = zip(self.readings, prefix.readings, strict=True)
        return self.authority == prefix.authority and all(own[: len(of)] == of for own, of in pairs)


def host_of(text: str) -> str | None:
    """Return the host of an HTTP URL, also behind ``oip+`` and ``onnx:``; None for other places."""
    scheme, _, rest = text.partition(":")
    if scheme.lower() == "onnx":
        return host_of(rest)
    return urlsplit(text).hostname if scheme.lower() in _PORTS else None


def _authority(parts: SplitResult, scheme: str) -> str:
    """Return host and port of an HTTP URL, and the bucket, stream or endpoint of another one as it is."""
    if scheme not in _PORTS:
        return parts.netloc
    if not parts.netloc:
        return ""
    host = parts.netloc.rpartition("@")[2]
    host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    if not _HOST.fullmatch(host):
        raise ValueError("its host must be a name in ASCII or an IP address")
    return f"{host.lower().removesuffix('.')}:{_PORTS[scheme] if parts.port is None else parts.port}"


def _readings(*paths: str) -> Iterator[Parts]:
    for path in paths:
        parts = path.split("/")[1:]
        yield _resolved(parts)
        yield _resolved([part for part in parts if part])


def _resolved(parts: list[str]) -> Parts:
    """Return parts without ``.`` and ``..`` (RFC 3986, 5.2.4), and without an empty last one."""
    found: list[str] = []
    for part in parts:
        if part == "..":
            del found[-1:]
        elif part != ".":
            found.append(part)
    return tuple(found[:-1] if found and not found[-1] else found)


def _local_parts(text: str) -> Parts:
    """Return the parts of a local path, with symbolic links followed.

    Raises
    ------
    ArgumentError
        If GDAL would take it for something else than a path.
    """
    path = expanded_path(text)
    if "/vsi" in path or "://" in path or (":" in path and not os.path.exists(path)):
        raise ArgumentError(f"{redact(text)!r} is neither a URL nor the path of a file; name one of these")
    return tuple(part for part in os.path.realpath(path).split("/") if part)
