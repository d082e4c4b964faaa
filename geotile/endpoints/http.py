"""Endpoints of the OSML contract over HTTP: one POST request per tile."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from geotile.core.option import documents, with_options
from geotile.core.redact import digests, redact
from geotile.core.timing import timed
from geotile.endpoints.body_answer import BodyEndpoint
from geotile.endpoints.client import Client
from geotile.errors import ArgumentError, EndpointError
from geotile.options import HttpOptions, RetryPolicy
from geotile.public import public


@public
@documents(HttpOptions)
class HttpEndpoint(BodyEndpoint):
    """A model behind a URL that implements the OSML contract.

    Proxies are taken from the environment. Cookies that the server sets are kept per process, as sticky sessions
    require. Redirects are not followed.

    Parameters
    ----------
    url : str
        URL that accepts tiles as POST requests, for example ``https://host/invocations``. A user name and password
        in it are sent as basic authentication and never displayed.
    {options}

    Raises
    ------
    ArgumentError
        If the URL is not an HTTP(S) URL, or an option is unknown or cannot be used.

    Examples
    --------
    >>> HttpEndpoint("https://me:secret@models.example/invocations?key=abc")
    HttpEndpoint('https://***@models.example/invocations?key=***')
    """

    @with_options(HttpOptions).on_init
    def __init__(self, url: str, options: HttpOptions) -> None:
        check_url(url, "https://host/invocations")
        self.retry_policy = options.part(RetryPolicy)
        self._params, self._max_detections = dict(options.params or {}), options.max_detections
        headers = {_header_name(name): str(value) for name, value in self._params.items()}
        self._client = Client(url, options, more_headers=headers)
        self.display_url = redact(url)
        self.takes_buffers = not callable(options.auth)  # one of requests may want bytes to sign

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.display_url!r})"

    def __str__(self) -> str:
        return self.display_url

    def identity(self) -> dict[str, Any]:
        """Return the URL and digests of the endpoint parameters, the query and the headers, without credentials."""
        return {"model": self.display_url, "params": digests(self._params), **self._client.identity()}

    def ready(self) -> None:
        """Check the health of the server: GET ``/ping`` beside the URL.

        Raises
        ------
        EndpointUnreachable
            If the server does not respond.
        EndpointError
            If it returns 429 or 5xx other than 501, or if it returns 404 both for ``/ping`` and for the URL itself.
        """
        parts = urlsplit(self._client.url)
        ping_parts = parts._replace(path=parts.path.rpartition("/")[0] + "/ping", query="")
        ping = self._client.probe(urlunsplit(ping_parts))
        if ping.status == 429 or (ping.status >= 500 and ping.status != HTTPStatus.NOT_IMPLEMENTED):
            raise ping.error()  # a server that answers no GET at all may still answer tiles
        if ping.status == 404 and self._client.probe().status == 404:
            raise EndpointError(f"{self.display_url} does not exist: it and /ping beside it return 404; check the URL")

    def invoke(self, tiles: Sequence[bytes | memoryview], content_type: str) -> Sequence[Any]:
        """Post one tile and decode the response."""
        reply = self._client.send("POST", data=tiles[0], headers={"Content-Type": content_type})
        if reply.status != 200:
            raise reply.error()
        with timed("parse"), self._client.quoting():
            return [self._answer(reply.body, reply.headers.get("Content-Type", ""))]


def check_url(url: str, example: str) -> None:
    """Raise ArgumentError if `url` is not an HTTP(S) URL; `example` completes its message."""
    if not isinstance(url, str):
        raise ArgumentError(
            f"endpoint must be an HTTP(S) URL, for example {example}; got a value of type {type(url).__name__}"
        )
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ArgumentError(f"endpoint must be an HTTP(S) URL, for example {example}; got {redact(url)!r}")


def _header_name(name: str) -> str:
    return "X-Amzn-SageMaker-Custom-Attributes" if name == "CustomAttributes" else name
