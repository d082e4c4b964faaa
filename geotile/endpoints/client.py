"""A `requests` session as a good client of a model server: limits, deadlines, one pool, no secrets shown."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

import requests
import urllib3
from requests.auth import AuthBase

from geotile.core.checks import as_int, as_timeouts
from geotile.core.redact import redact
from geotile.core.registry import Registry
from geotile.endpoints.deadline import TimelyAdapter, answer_within
from geotile.endpoints.decode import excerpt
from geotile.errors import ArgumentError, EndpointError, EndpointUnreachable, ResponseError

CLIENT_OPTIONS = ("headers", "auth", "bearer", "verify", "cert", "timeout_s", "max_response_bytes")
_RETRYABLE = frozenset({408, 425, 429})  # and 5xx
_THROTTLED = frozenset({429, 503})
_PROBE_S = 5.0  # OSML waits 2 s for a /ping
_POOL = 256  # connections kept; more threads than that open their own
_sessions = Registry[str, requests.Session](16)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, whatever its status."""

    shown: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> EndpointError:
        """Return what the status means, for one that is no success."""
        failed = EndpointError(f"{self.shown} answered HTTP {self.status}: {excerpt(self.body)}")
        failed.http_status = self.status
        failed.retryable = self.status in _RETRYABLE or self.status >= 500
        failed.throttled = self.status in _THROTTLED
        failed.retry_after_s = _retry_after(self.headers.get("Retry-After"))
        return failed


class Client:
    """Asks one url. Pickles; a process has one session for it, however often it is unpickled.

    Parameters
    ----------
    url : str
    headers, auth, bearer, verify, cert, timeout_s, max_response_bytes
        Those of `HttpEndpoint`.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, auth: Any = None, bearer: str | None = None,
        verify: bool | str = True, cert: str | tuple[str, str] | None = None,
        timeout_s: tuple[float, float] = (10.0, 60.0), max_response_bytes: int = 64 * 2**20,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.username is not None and auth is None:
            auth = (unquote(parts.username), unquote(parts.password or ""))
        if bearer is not None and auth is not None:
            raise ArgumentError("both bearer= and auth= (or a user in the url) were given; give one")
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.shown = redact(url)
        self._headers = dict(headers or {})
        if bearer is not None:
            self._headers["Authorization"] = f"Bearer {bearer}"
        self._auth = auth or _Headers()
        self._verify, self._cert = verify, cert
        self._connect_s, self._answer_s = as_timeouts(timeout_s)
        self._most = as_int(max_response_bytes, "max_response_bytes", 1, unit="bytes")
        self._key = uuid4().hex

    def probe(self, url: str | None = None) -> Reply:
        """Ask whether something is there: GET, and no longer than a probe may take. Raises as `ask`."""
        return self.ask("GET", url, wait_s=(min(self._connect_s, _PROBE_S), min(self._answer_s, _PROBE_S)))

    def ask(
        self, method: str, url: str | None = None, *, wait_s: tuple[float, float] | None = None, **request: Any
    ) -> Reply:  # fmt: skip
        """Ask, and read the answer whole.

        Raises
        ------
        EndpointUnreachable
            If there is none, or not in time.
        ResponseError
            If it is larger than is read.
        """
        connect_s, answer_s = wait_s or (self._connect_s, self._answer_s)
        with answer_within(connect_s + answer_s) as deadline:
            try:
                with self._session().request(
                    method, url or self.url, stream=True, allow_redirects=False,
                    timeout=(connect_s, answer_s),
                    verify=self._verify,  # of the session, REQUESTS_CA_BUNDLE would go before it
                    cert=self._cert,
                    **request,
                ) as response:  # fmt: skip
                    body = self._read(response, deadline)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise self._unreachable(error, deadline, answer_s) from None
        return Reply(shown=self.shown, status=response.status_code, headers=response.headers, body=body)

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """Read the body, no more of it than allowed."""
        parts, size = [], 0
        while part := response.raw.read1(2**18, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > self._most:
                raise ResponseError(f"{self.shown} answered with more than max_response_bytes={self._most}")
            if time.monotonic() > deadline:
                raise requests.ReadTimeout
        return b"".join(parts)

    def _unreachable(self, error: Exception, deadline: float, answer_s: float) -> EndpointUnreachable:
        late = isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError) or time.monotonic() >= deadline
        cause, lasting = _cause(error)
        if late:
            cause, lasting = f"timed out: no whole answer within {answer_s:g} s (timeout_s=)", False
            if isinstance(error, requests.ConnectTimeout):
                cause = f"timed out: no connection within {self._connect_s:g} s (timeout_s=)"
        failed = EndpointUnreachable(f"{self.shown} did not answer: {cause}")
        failed.retryable, failed.timed_out = not lasting, late
        return failed

    def _session(self) -> requests.Session:
        return _sessions.get(self._key, self._new_session)

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        adapter = TimelyAdapter(pool_connections=4, pool_maxsize=_POOL)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.auth = self._auth
        session.headers.update(self._headers)
        return session


class _Headers(AuthBase):
    """Nothing beyond the headers: without it requests would look into ~/.netrc and overrule them."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _retry_after(value: str | None) -> float | None:
    """Read Retry-After (RFC 9110, 10.2.3): seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _cause(error: BaseException) -> tuple[str, bool]:
    """Say what went wrong, without the url, which may hold a secret; and whether it will stay so."""
    text = str(error).lower()
    for sign, said, lasting in (
        ("temporary failure in name resolution", "the host name cannot be looked up just now", False),
        ("name or service not known", "the host name is unknown", True),
        ("nodename nor servname", "the host name is unknown", True),
        ("no address associated", "the host name is unknown", True),
        ("failed to resolve", "the host name cannot be looked up", True),
        ("certificate has expired", "its TLS certificate has expired", True),
        ("hostname mismatch", "its TLS certificate is for another host", True),
        ("ip address mismatch", "its TLS certificate is for another host", True),
        ("doesn't match", "its TLS certificate is for another host", True),
        ("certificate required", "it wants a client certificate (cert=)", True),
        ("certificate_required", "it wants a client certificate (cert=)", True),
        ("certificate", "its TLS certificate is not trusted (verify=)", True),
        ("could not find the tls", "a file of certificates is missing (verify=, cert=)", True),
        ("wrong_version_number", "it does not speak TLS (https)", True),
        ("proxy", "the proxy cannot be reached or refuses", False),
        ("refused", "connection refused", False),
        ("reset", "connection reset", False), ("broken pipe", "connection reset", False),
        ("incompleteread", "the answer broke off", False), ("closed connection", "the connection was closed", False),
        ("remotedisconnected", "the connection was closed", False),
    ):  # fmt: skip
        if sign in text:
            return f"{said} ({type(error).__name__})", lasting
    if isinstance(error, requests.exceptions.SSLError):
        return f"TLS failed; it may want a client certificate (cert=) ({type(error).__name__})", False
    return type(error).__name__, isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader)
