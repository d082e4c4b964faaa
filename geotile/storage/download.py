"""Files that a user or a request names, read whole: regular ones, of a limited size, within a limited time."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import fsspec
import requests
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs
from requests.utils import get_auth_from_url

from geotile.core.deadline import deadline_session, exchange_deadline
from geotile.core.internal_hosts import internal_address
from geotile.core.quiet_logs import quiet_urls
from geotile.core.redact import redact
from geotile.core.regular_file import read_regular

_MAX_REDIRECTS, _STEP = 10, 2**16
_SILENCE_S = 20.0
_HTTP = ("http://", "https://")


def read_whole(uri: str, max_bytes: int, total_s: float) -> bytes:
    """Return the content of a local file, an HTTP URL or an object in storage.

    Redirects are followed, but not from outside this machine and its cloud to a host inside, nor from https to http.

    Parameters
    ----------
    uri : str
    max_bytes : int
        Maximum size, also after an HTTP body is decompressed.
    total_s : float
        Maximum time for all of it, in seconds.

    Raises
    ------
    Exception
        If it cannot be read, is larger or takes longer; each kind of storage has errors of its own.
    """
    if uri.lower().startswith(_HTTP):
        with quiet_urls():
            content = _read_http(uri, max_bytes, total_s)
    elif "://" in uri:
        files, path = url_to_fs(uri)
        content = read_object(files, path, max_bytes, total_s)
    else:
        content = read_regular(uri, max_bytes)
    if len(content) > max_bytes:
        raise OSError(f"it has more than {max_bytes:,} bytes")
    return content


def read_object(files: fsspec.AbstractFileSystem, path: str, max_bytes: int, total_s: float) -> bytes:
    """Return the content of a file of a file system; it may be cut off where it is larger than allowed.

    Raises
    ------
    Exception
        As `read_whole`.
    """
    if not isinstance(files, AsyncFileSystem):
        with files.open(path, "rb") as file:
            return bytes(file.read(max_bytes + 1))

    async def read() -> bytes:
        size = (await files._info(path))["size"]  # of an empty object no range can be read
        if size is not None and size > max_bytes:
            raise OSError(f"it has {size:,} bytes, and the maximum is {max_bytes:,}")
        return bytes(await files._cat_file(path))

    with quiet_urls():
        return bytes(within(files, read, total_s))


def within(files: AsyncFileSystem, act: Any, total_s: float) -> Any:
    """Return what a coroutine function of a file system returns, which is cancelled after a time.

    Raises
    ------
    TimeoutError
        If it takes longer.
    """
    try:
        return sync(files.loop, act, timeout=total_s)
    except TimeoutError:
        raise TimeoutError(f"no complete answer within {total_s:g} s") from None


def _read_http(url: str, max_bytes: int, total_s: float) -> bytes:
    with exchange_deadline(total_s) as deadline, deadline_session() as session:
        try:
            for _ in range(_MAX_REDIRECTS):
                login = get_auth_from_url(url)
                session.auth = login if any(login) else _no_login  # not that of a .netrc file
                with session.get(url, timeout=min(_SILENCE_S, total_s), allow_redirects=False, stream=True) as response:
                    if not response.is_redirect:
                        response.raise_for_status()
                        return _body(response, max_bytes, deadline)
                    url = _checked_redirect(url, urljoin(url, response.headers["Location"]))
        except requests.RequestException:
            _check_time(deadline)
            raise
    raise OSError(f"more than {_MAX_REDIRECTS} redirects")


def _body(response: requests.Response, max_bytes: int, deadline: float) -> bytes:
    content = bytearray()
    for part in response.iter_content(_STEP):
        content += part
        if len(content) > max_bytes:
            break
    _check_time(deadline)  # a body without a length looks complete when its connection is shut down
    return bytes(content)


def _check_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TimeoutError("no complete answer within the time allowed")


def _checked_redirect(url: str, target: str) -> str:
    """Return the target of a redirect."""
    if not target.lower().startswith("https://" if url.lower().startswith("https://") else _HTTP):
        raise OSError(f"it redirects to {redact(target)}, which is not read")
    if urlsplit(url).hostname != urlsplit(target).hostname and not _is_internal(url) and _is_internal(target):
        raise OSError(f"it redirects to {redact(target)}, inside this machine or its cloud, which is not read")
    return target


def _is_internal(url: str) -> bool:
    try:
        return internal_address(urlsplit(url).hostname or "") is not None
    except OSError:
        return False  # a proxy may know the name


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
