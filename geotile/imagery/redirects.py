"""Where an HTTP server redirects to, asked before GDAL follows it: GDAL cannot be told not to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from geotile.core.deadline import deadline_session, exchange_deadline
from geotile.core.quiet_logs import quiet_urls
from geotile.core.redact import redact
from geotile.errors import ImageOpenError
from geotile.storage.location import Location

_TIMEOUT_S, _MAX_REDIRECTS = 10.0, 10
_PORTS = {"http": 80, "https": 443}
_HARMLESS = re.compile(r"accept(-.*)?|user-agent|referer|range|content-type|cache-control", re.I)
_DROPPED = re.compile(r"authorization|cookie", re.I)  # curl and aiohttp leave these out at another host


def redirect_targets(
    url: str, headers: Mapping[str, str] | None = None, method: str = "GET", **options: Any
) -> Iterator[str]:
    """Yield the URLs that a server redirects a read to, one after the other, while the caller asks for more.

    Parameters
    ----------
    url : str
        Any URI; what is not HTTP has no redirects.
    headers : mapping, optional
        Headers of the read.
    method : str
        Method of the read.
    **options
        Further arguments of `requests.get`: ``auth`` and ``verify``.

    Yields
    ------
    str
    """
    for _ in range(_MAX_REDIRECTS):
        target = _target(method, url, headers, options)
        if target is None:
            return
        yield target
        url = target


def refuse_headers_elsewhere(location: Location) -> None:
    """Refuse an image whose server redirects to another host, if headers would go along that may be secret.

    Raises
    ------
    ImageOpenError
        If the server redirects to another host, and the image is read with headers of the user.
    """
    url, settings = location.file_path.removeprefix("/vsicurl/"), dict(location.settings)
    headers = sent_headers(location)
    names = [name for name in headers if may_be_secret(name)]
    if not names or not location.file_path.startswith("/vsicurl/"):
        return
    user = settings.get("GDAL_HTTP_USERPWD")
    auth = tuple(user.split(":", 1)) if user else None
    for method in ("HEAD", "GET"):  # GDAL sends both
        for target in redirect_targets(url, headers, method, auth=auth, verify=location.verify):
            if not same_origin(url, target):
                raise ImageOpenError(elsewhere(location.display_name, target, names))


async def client_of_one_host(**options: Any) -> Any:
    """Return a client of aiohttp, as fsspec takes it, whose redirects take no headers of the user to another host."""
    import aiohttp

    async def check(session: Any, context: Any, redirected: Any) -> None:
        url, names = str(redirected.url), [name for name in redirected.headers if may_be_secret(name)]
        target = urljoin(url, redirected.response.headers.get("Location", ""))
        if names and not same_origin(url, target):
            raise ImageOpenError(elsewhere(redact(url), target, names))

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    traces = [trace, *(options.pop("trace_configs", None) or [])]
    return aiohttp.ClientSession(trace_configs=traces, **options)


def elsewhere(display_name: str, target: str, names: Iterable[str]) -> str:
    """Return the message for a redirect to another host."""
    return (
        f"{display_name} redirects to another host, {urlsplit(target).hostname}, and the headers {', '.join(names)} of "
        f"storage_options were given for this one only. Open the address of the other host, {redact(target)}, with "
        "headers of its own"
    )


def may_be_secret(name: str) -> bool:
    """Return whether a header may be secret and goes along with a redirect to another host."""
    return not (_HARMLESS.fullmatch(name) or _DROPPED.fullmatch(name))


def sent_headers(location: Location) -> dict[str, str]:
    """Return the headers with which GDAL reads a location."""
    lines = dict(location.settings).get("GDAL_HTTP_HEADERS", "").split("\r\n")
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def same_origin(url: str, target: str) -> bool:
    """Return whether two URLs have one scheme, host and port; an upgrade to TLS on the usual ports counts as well."""
    a, b = _origin(url), _origin(target)
    return a == b or (a[0] == "http" and a[2] == 80 and b == ("https", a[1], 443))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _target(method: str, url: str, headers: Mapping[str, str] | None, options: Mapping[str, Any]) -> str | None:
    if not url.lower().startswith(("http://", "https://")):
        return None
    first_byte = {"Range": "bytes=0-0", **(headers or {})}
    try:
        with (
            quiet_urls(), exchange_deadline(_TIMEOUT_S), deadline_session() as session,
            session.request(
                method, url, headers=first_byte, timeout=_TIMEOUT_S, allow_redirects=False, stream=True, **options
            ) as response,
        ):  # fmt: skip
            return urljoin(url, response.headers["Location"]) if response.is_redirect else None
    except (requests.RequestException, ValueError):
        return None  # the read says what is wrong
