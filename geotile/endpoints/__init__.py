"""Endpoints turn tiles into detections; they know nothing of Dask, of places, or of a CRS."""

from __future__ import annotations

from typing import Any

from geotile.endpoints.base import Answer, Endpoint
from geotile.endpoints.function import FunctionEndpoint
from geotile.endpoints.http import HttpEndpoint
from geotile.errors import ArgumentError


def endpoint(spec: Any, **options: Any) -> Endpoint:
    """Return the endpoint that a spec means.

    Parameters
    ----------
    spec : str, callable or Endpoint
        An http(s) url that speaks the OSML contract, a Python callable, or an endpoint, which is
        returned as it is.
    **options
        For a url: those of `HttpEndpoint`.

    Returns
    -------
    Endpoint

    Raises
    ------
    ArgumentError
        If the spec is none of these.

    Examples
    --------
    >>> endpoint("http://127.0.0.1:8080/invocations")
    HttpEndpoint('http://127.0.0.1:8080/invocations')
    """
    if isinstance(spec, str):
        return HttpEndpoint(spec, **options)
    if options:
        raise ArgumentError(f"{sorted(options)} apply to a url; the endpoint is {type(spec).__name__}")
    if isinstance(spec, Endpoint):
        return spec
    if callable(spec):
        return FunctionEndpoint(spec)
    raise ArgumentError(f"endpoint={spec!r} is no http(s) url, no callable and no Endpoint")


__all__ = ["Answer", "Endpoint", "FunctionEndpoint", "HttpEndpoint", "endpoint"]
