"""The OSML contract over HTTP: one POST a tile."""

from __future__ import annotations

import email.utils
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

import requests
import tenacity
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter

from geotile.decode import decode_bytes, excerpt
from geotile.endpoints.base import Answer
from geotile.errors import ArgumentError, EndpointError, EndpointUnreachable, ResponseError
from geotile.redact import redact

RETRY_STATUSES = frozenset({429, 502, 503, 504})
_LONGEST_WAIT_S = 60.0
_POOL = 256  # connections kept; more threads than that open their own
_sessions: OrderedDict[str, requests.Session] = OrderedDict()
_lock = Lock()


class _Retryable(Exception):
    """A failure that may pass: (error to raise at last, seconds the server asked to wait)."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    """How to ask."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: Any = field(default=None, repr=False)
    verify: bool | str = True
    timeout_s: tuple[float, float] = (10.0, 60.0)
    retries: int = 8
    backoff_s: float = 0.5
    max_response_bytes: int = 64 * 2**20


class HttpEndpoint:
    """A model behind a url that speaks the OSML contract.

    Parameters
    ----------
    url : str
        Where tiles are posted, e.g. ``https://host/invocations``. A user and password in it are
        sent as basic authentication and shown nowhere.
    headers : mapping, optional
        Sent with every request.
    params : mapping, optional
        The contract's endpoint parameters, by SageMaker's names: ``CustomAttributes`` goes as the
        header ``X-Amzn-SageMaker-Custom-Attributes``, the rest as headers of their name.
    auth : tuple or requests.auth.AuthBase, optional
        As `requests` takes it.
    verify : bool or str
        Verify TLS certificates; a path names a bundle of certificate authorities.
    timeout_s : tuple of float
        Seconds to wait for a connection and for an answer.
    retries : int
        Further tries after connection errors, time-outs, 429, 502, 503 and 504.
    backoff_s : float
        First pause; it doubles with each retry, with jitter. Retry-After goes before it.
    max_response_bytes : int
        Largest answer that is read.

    Raises
    ------
    ArgumentError
        If the url is no http(s) url.

    Examples
    --------
    >>> HttpEndpoint("https://me:secret@models.example/invocations?key=abc")
    HttpEndpoint('https://***@models.example/invocations?key=***')
    """

    wants_bytes = True

    def __init__(self, url: str, **options: Any) -> None:
        parts = urlsplit(url)
        try:
            reachable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            reachable = False
        if not reachable:
            raise ArgumentError(f"endpoint={redact(url)!r} is no http(s) url; give e.g. https://host/invocations")
        if unknown := set(options) - set(_Options.__annotations__):
            raise ArgumentError(f"no option {sorted(unknown)}; an endpoint takes {sorted(_Options.__annotations__)}")
        self.options = _Options(**options)
        self.shown = redact(url)
        auth = self.options.auth
        if parts.username is not None:
            auth = auth or (unquote(parts.username), unquote(parts.password or ""))
        self._auth = auth
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._key = uuid4().hex  # one session a process, however often the endpoint is unpickled

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.shown!r})"

    def __str__(self) -> str:
        return self.shown

    def workers(self, concurrency: int, threads: int) -> int:
        """Return `concurrency`: the threads only wait."""
        return concurrency

    def ready(self) -> None:
        """Ask ``/ping`` beside the url.

        Raises
        ------
        EndpointUnreachable
            If nobody answers.
        EndpointError
            If neither ``/ping`` nor the url itself exists there.
        """
        parts = urlsplit(self._url)
        ping = urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/ping", query=""))
        try:
            missing = [self._status(url) == 404 for url in (ping, self._url)]
        except requests.RequestException as error:
            raise EndpointUnreachable(f"{self.shown} cannot be reached: {_cause(error)}") from None
        if all(missing):
            raise EndpointError(f"{self.shown} does not exist: it and /ping beside it answer 404; check the url")

    def _status(self, url: str) -> int:
        with self._ask("GET", url) as response:
            return response.status_code

    def invoke(self, tile: bytes | NDArray[Any], content_type: str) -> Answer:
        """Post a tile; try again where that may help."""
        assert isinstance(tile, bytes)
        attempts = 0

        def once() -> bytes:
            nonlocal attempts
            attempts += 1
            return self._post(tile, content_type)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.options.retries + 1),
            wait=self._pause,
            retry=tenacity.retry_if_exception_type(_Retryable),
            reraise=True,
        )
        try:
            body = retrying(once)
            return Answer(decode_bytes(body), attempts)
        except _Retryable as failure:
            error = failure.args[0]
            error.attempts = attempts
            raise error from None
        except EndpointError as error:
            error.attempts = attempts
            raise

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds to wait: what the server asked for, else exponential with full jitter."""
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.args[1] if isinstance(failure, _Retryable) else None
        if asked is not None:
            return min(float(asked), _LONGEST_WAIT_S)
        return tenacity.wait_random_exponential(self.options.backoff_s, _LONGEST_WAIT_S)(state)

    def _ask(self, method: str, url: str, **options: Any) -> requests.Response:
        return self._session().request(
            method,
            url,
            stream=True,
            timeout=self.options.timeout_s,
            allow_redirects=False,
            verify=self.options.verify,  # of the session, REQUESTS_CA_BUNDLE would go before it
            **options,
        )

    def _post(self, tile: bytes, content_type: str) -> bytes:
        try:
            with self._ask("POST", self._url, data=tile, headers={"Content-Type": content_type}) as response:
                body = self._read(response)
        except requests.exceptions.SSLError as error:
            raise EndpointUnreachable(f"{self.shown} could not be asked: {_cause(error)}") from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            failure = EndpointUnreachable(f"{self.shown} did not answer: {_cause(error)}")
            raise _Retryable(failure, None) from None
        except requests.RequestException as error:
            raise EndpointError(f"{self.shown} could not be asked: {_cause(error)}") from None
        if response.status_code == 200:
            return body
        failed = EndpointError(f"{self.shown} answered HTTP {response.status_code}: {excerpt(body)}")
        if response.status_code in RETRY_STATUSES:
            raise _Retryable(failed, _retry_after(response.headers.get("Retry-After")))
        raise failed

    def _read(self, response: requests.Response) -> bytes:
        """Read the body, no more of it than allowed."""
        limit, parts, size = self.options.max_response_bytes, [], 0
        for part in response.iter_content(2**16):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise ResponseError(f"{self.shown} answered with more than max_response_bytes={limit}")
        return b"".join(parts)

    def _session(self) -> requests.Session:
        """Return this process's session for this endpoint."""
        with _lock:
            if self._key not in _sessions:
                if len(_sessions) >= 16:
                    _sessions.popitem(last=False)
                _sessions[self._key] = self._new_session()
            return _sessions[self._key]

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=_POOL)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.auth = self._auth
        for name, value in self.options.params.items():
            header = "X-Amzn-SageMaker-Custom-Attributes" if name == "CustomAttributes" else name
            session.headers[header] = str(value)
        session.headers.update(self.options.headers)
        return session


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


def _cause(error: BaseException) -> str:
    """Say what went wrong without the url, which may hold a secret."""
    text = str(error).lower()
    for sign, said in (
        ("name or service not known", "the host name is unknown"), ("failed to resolve", "the host name is unknown"),
        ("refused", "connection refused"), ("certificate", "its TLS certificate is not trusted (verify=)"),
        ("timed out", "timed out"), ("reset", "connection reset"), ("incompleteread", "the answer broke off"),
    ):  # fmt: skip
        if sign in text:
            return f"{said} ({type(error).__name__})"
    return type(error).__name__
