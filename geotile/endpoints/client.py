"""HTTP client for model servers: deadlines for whole responses, size limits, one pool, no secrets in errors."""

from __future__ import annotations

import base64
import email.utils
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urljoin, urlsplit, urlunsplit
from uuid import uuid4

import requests

from geotile.core.deadline import deadline_session, exchange_cancelled, exchange_deadline, exchange_expired
from geotile.core.quiet_logs import quiet_urls
from geotile.core.redact import digests, redact, redact_answer
from geotile.core.registry import Registry
from geotile.core.regular_file import special_kind
from geotile.endpoints.failure_cause import Cause, failure_cause, is_timeout, is_unsent, missing_certificate_file
from geotile.endpoints.json_answer import excerpt
from geotile.endpoints.prepared import PreparedSession
from geotile.errors import ArgumentError, EndpointError, EndpointUnreachable, GeotileError, ResponseError
from geotile.options import ClientOptions

_RETRYABLE_STATUSES = frozenset({408, 425, 429})  # and all 5xx
_CREDENTIAL = re.compile("auth|cookie|token|secret|password|signature|credential|expires|key|^sig$|^se$|^x-amz-", re.I)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)
_PLAIN_NAME = re.compile(r"[\w.-]{1,40}")
_THROTTLED_STATUSES = frozenset({429, 503})
_MIN_SECRET = 6  # characters; shorter texts would be masked in words
_PROBE_TIMEOUT_S = 5.0  # OSML waits 2 s for a /ping
_MAX_POOLED_CONNECTIONS = 256  # further threads open connections that are not kept
_sessions = Registry[str, PreparedSession](16)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An HTTP response with any status."""

    client: Client
    """Client that sent the request."""
    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> EndpointError:
        """Return the error that the status of an unsuccessful response stands for."""
        error = EndpointError(f"{self.client.display_url} returned HTTP {self.status}{self._details()}")
        error.http_status = self.status
        error.retryable = self.status in _RETRYABLE_STATUSES or self.status >= 500
        error.throttled = self.status in _THROTTLED_STATUSES
        error.retry_after_s = _retry_after_s(self.headers.get("Retry-After"))
        return error

    def _details(self) -> str:
        """Return what the response says, or that it says nothing."""
        target = self.headers.get("Location")
        if 300 <= self.status < 400 and target:
            host = redact_answer(_joined(self.client.display_url, target))[:200]
            return f", a redirect to {host}; redirects of tiles are not followed. Use the URL of the model itself"
        quoted = self.client.without_secrets(excerpt(self.body))
        return f": {quoted}" if self.body.strip() else " without a body"


class Client:
    """HTTP client of one URL. It can be pickled; all copies in a process share one session.

    Parameters
    ----------
    url : str
    options : ClientOptions
    more_headers : mapping, optional
        Headers that `options` override.

    Raises
    ------
    ArgumentError
        If an argument cannot be used.
    """

    def __init__(self, url: str, options: ClientOptions, *, more_headers: Mapping[str, str] | None = None) -> None:
        parts, auth = urlsplit(url), options.auth
        if parts.username is not None and auth is None:
            auth = (unquote(parts.username), unquote(parts.password or ""))
        if options.bearer is not None and auth is not None:
            raise ArgumentError("bearer cannot be combined with auth or a user name in the URL; pass one of them")
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.display_url = redact(url)
        self._headers = {**(more_headers or {}), **(options.headers or {})}
        if options.bearer is not None:
            self._headers["Authorization"] = f"Bearer {options.bearer}"
        self._secrets = _secrets(url, self._headers, auth)
        self._auth = tuple(auth) if isinstance(auth, list) else auth
        self._verify = options.verify if isinstance(options.verify, bool) else os.fspath(options.verify)
        self._cert = _paths(options.cert)
        for name, file in (("verify", self._verify), ("cert", self._cert)):
            _check_files(name, file)
        self._connect_s, self._response_s = options.timeout_s
        self._max_response_bytes = options.max_response_bytes
        self._key = uuid4().hex

    def identity(self) -> dict[str, Any]:
        """Return digests of the query and the headers, without those that hold credentials, which may change."""
        query: dict[str, str] = {}
        for name, value in parse_qsl(urlsplit(self.url).query, keep_blank_values=True):
            if not value or not _PLAIN_NAME.fullmatch(name):
                query["..."] = f"{query.get('...', '')}&{name}={value}"  # the name itself may be a secret
            elif not _CREDENTIAL.search(name):
                query[name] = value
        return {
            "query": digests(query),
            "headers": digests({name: value for name, value in self._headers.items() if not _CREDENTIAL.search(name)}),
        }

    def probe(self, url: str | None = None) -> Reply:
        """Send a GET request with the shorter time-outs of a probe. It raises the same errors as `send`."""
        timeout_s = min(self._connect_s, _PROBE_TIMEOUT_S), min(self._response_s, _PROBE_TIMEOUT_S)
        return self.send("GET", url, timeout_s=timeout_s)

    def send(
        self, method: str, url: str | None = None, *, timeout_s: tuple[float, float] | None = None, **request: Any
    ) -> Reply:  # fmt: skip
        """Send a request and read the whole response.

        Parameters
        ----------
        method : str
        url : str, optional
            By default the client's URL.
        timeout_s : tuple of float, optional
            Maximum time for the connection and for the whole response; by default the client's.
        **request
            ``data`` and ``headers`` of `PreparedSession.send`.

        Raises
        ------
        EndpointUnreachable
            If there is no response, or not in time.
        ResponseError
            If the response is larger than ``max_response_bytes``.
        """
        connect_s, response_s = timeout_s or (self._connect_s, self._response_s)
        with quiet_urls(), exchange_deadline(connect_s + response_s) as deadline:
            try:
                with self._session().send(
                    method, url or self.url, timeout=(connect_s, response_s), **request
                ) as response:
                    body = self._read(response)
            except GeotileError:
                raise
            except Exception as error:  # requests parses cookies, redirects and encodings, which can raise anything
                raise self._unreachable(error, deadline, connect_s, response_s) from None
        return Reply(client=self, status=response.status_code, headers=response.headers, body=body)

    @contextmanager
    def quoting(self) -> Iterator[None]:
        """Take the secrets out of the errors of a block that quote an answer."""
        try:
            yield
        except ResponseError as error:
            raise ResponseError(self.without_secrets(str(error))) from None

    def without_secrets(self, text: str) -> str:
        """Return what a server wrote without what looks like a secret, and without what this client sends as one."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return redact_answer(text)

    def _read(self, response: requests.Response) -> bytes:
        """Read the body, but not more than is allowed."""
        parts, size = [], 0
        while part := response.raw.read1(2**18, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > self._max_response_bytes:
                raise ResponseError(
                    f"{self.display_url} returned more than max_response_bytes={self._max_response_bytes} bytes"
                )
            if exchange_expired():
                break
        if exchange_expired():  # a body without a length looks complete when its connection is shut down
            raise requests.ReadTimeout
        return b"".join(parts)

    def _unreachable(self, error: Exception, deadline: float, connect_s: float, response_s: float) -> EndpointError:
        if reason := exchange_cancelled():
            return EndpointUnreachable(reason)
        timed_out = is_timeout(error)
        if timed_out or time.monotonic() >= deadline:
            timed_out = True
            cause = Cause(f"timed out: no complete response within {response_s:g} s (timeout_s)", True)
            if isinstance(error, requests.ConnectTimeout):
                cause = Cause(f"timed out: no connection within {connect_s:g} s (timeout_s)", True)
        else:
            cause = self._missing_file(error) or failure_cause(error)
        if cause.local:
            failed = EndpointError(f"no request to {self.display_url} can be sent: {cause.text}")
        else:
            failed = EndpointUnreachable(f"{self.display_url} did not respond: {cause.text}")
        failed.retryable, failed.timed_out, failed.local = cause.retryable, timed_out, cause.local
        failed.unsent = is_unsent(error)
        return failed

    def _missing_file(self, error: Exception) -> Cause | None:
        if type(error) is not OSError or error.errno is not None:
            return None
        file = missing_certificate_file(self._verify, self._cert)
        return Cause(f"the certificate file {file} does not exist", False) if file else None

    def _session(self) -> PreparedSession:
        return _sessions.get(self._key, self._new_session)

    def _new_session(self) -> PreparedSession:
        session = deadline_session(pool_connections=4, pool_maxsize=_MAX_POOLED_CONNECTIONS)
        session.auth = self._auth
        session.headers.update(self._headers)
        # If `verify` were set on the session, REQUESTS_CA_BUNDLE would take precedence.
        return PreparedSession(session, verify=self._verify, cert=self._cert)


def _joined(url: str, target: str) -> str:
    """Return the URL of a redirect; what a server wrote, if it is no URL."""
    try:
        return urljoin(url, target)
    except ValueError:
        return target


def _secrets(url: str, headers: Mapping[str, str], auth: Any) -> list[str]:
    """Return the texts that must not show when a server repeats them, the longest first."""
    found = {part for name, value in headers.items() if _CREDENTIAL.search(name) for part in (value, *value.split())}
    found |= {value for _, value in parse_qsl(urlsplit(url).query)}
    if isinstance(auth, tuple | list):
        user, password = map(str, auth)
        found |= {password, base64.b64encode(f"{user}:{password}".encode()).decode()}
    found |= {quote(each, safe="") for each in found}
    return sorted((each for each in found if len(each) >= _MIN_SECRET), key=len, reverse=True)


def _check_files(name: str, files: Any) -> None:
    """Refuse a pipe or a device as a certificate: OpenSSL would wait for it, or read it for ever."""
    for file in files if isinstance(files, tuple) else (files,):
        if isinstance(file, str) and (kind := special_kind(file)):
            raise ArgumentError(f"{name} must be a regular file; got {file!r}, which is {kind}")


def _paths(cert: Any) -> Any:
    """Return the paths of a client certificate as str, as requests takes them."""
    if isinstance(cert, tuple | list):
        return tuple(map(os.fspath, cert))
    return None if cert is None else os.fspath(cert)


def _retry_after_s(value: str | None) -> float | None:
    """Return the delay of a Retry-After header (RFC 9110, 10.2.3), which holds seconds or a date.

    Examples
    --------
    >>> _retry_after_s("120"), _retry_after_s("²"), _retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT")
    (120.0, None, 0.0)
    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError):  # what the parser raises for other text
        return None
