"""The OSML contract over HTTP: one POST a tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from geotile.core.redact import digests, redact
from geotile.core.timing import timed
from geotile.endpoints.base import Endpoint, split_options
from geotile.endpoints.client import CLIENT_OPTIONS, Client
from geotile.endpoints.decode import decode_bytes
from geotile.errors import ArgumentError, EndpointError


class HttpEndpoint(Endpoint):
    """A model behind a url that speaks the OSML contract.

    Proxies are those of the environment; cookies that the server sets are kept, a process each, as
    sticky endpoints want it; redirects are not followed.

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
        (user, password), or any of requests' and its plugins'; `geotile.SigV4` signs for AWS.
    bearer : str, optional
        A token, sent as ``Authorization: Bearer``.
    verify : bool or str
        Verify TLS certificates; a path names a bundle of certificate authorities.
    cert : str or tuple of str, optional
        Path of a client certificate with its key, or (certificate, key).
    timeout_s : tuple of float
        Timing to wait for a connection, and for the whole of an answer.
    max_response_bytes : int
        Largest answer that is read.
    retries, backoff_s, ready_timeout_s, outage_timeout_s
        Of `RetryPolicy`.

    Raises
    ------
    ArgumentError
        If the url is no http(s) url, or an option is unknown.

    Examples
    --------
    >>> HttpEndpoint("https://me:secret@models.example/invocations?key=abc")
    HttpEndpoint('https://***@models.example/invocations?key=***')
    """

    def __init__(self, url: str, *, params: Mapping[str, str] | None = None, **options: Any) -> None:
        check_url(url, "https://host/invocations")
        self.retry_policy = split_options(options, ["params", *CLIENT_OPTIONS], "an http endpoint")
        self._params = dict(params or {})
        headers = {_header(name): str(value) for name, value in (params or {}).items()}
        self._client = Client(url, **options | {"headers": {**headers, **options.get("headers", {})}})
        self.shown = redact(url)

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.shown!r})"

    def __str__(self) -> str:
        return self.shown

    def identity(self) -> dict[str, Any]:
        """Return the url and digests of the contract's parameters."""
        return {"model": self.shown, "params": digests(self._params)}

    def ready(self) -> None:
        """Ask ``/ping`` beside the url.

        Raises
        ------
        EndpointUnreachable
            If nobody answers.
        EndpointError
            If it answers 5xx or 429, or if neither ``/ping`` nor the url itself exists there.
        """
        parts = urlsplit(self._client.url)
        beside = parts._replace(path=parts.path.rpartition("/")[0] + "/ping", query="")
        ping = self._client.probe(urlunsplit(beside))
        if ping.status == 429 or ping.status >= 500:
            raise ping.error()
        if ping.status == 404 and self._client.probe().status == 404:
            raise EndpointError(f"{self.shown} does not exist: it and /ping beside it answer 404; check the url")

    def invoke(self, tiles: Sequence[bytes], content_type: str) -> Sequence[Any]:
        """Post a tile."""
        reply = self._client.ask("POST", data=tiles[0], headers={"Content-Type": content_type})
        if reply.status != 200:
            raise reply.error()
        with timed("parse"):
            return [decode_bytes(reply.body)]


def check_url(url: str, example: str) -> None:
    """Refuse what is no http(s) url.

    Raises
    ------
    ArgumentError
        If it is none.
    """
    try:
        parts = urlsplit(url)
        reachable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        reachable = False
    if not reachable:
        raise ArgumentError(f"endpoint={redact(url)!r} is no http(s) url; give e.g. {example}")


def _header(name: str) -> str:
    return "X-Amzn-SageMaker-Custom-Attributes" if name == "CustomAttributes" else name
