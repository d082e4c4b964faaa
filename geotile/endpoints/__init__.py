"""Endpoints turn tiles into detections; they know nothing of Dask, of places, or of a CRS."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from geotile.core.redact import redact
from geotile.endpoints.base import Check, Endpoint, RetryPolicy, decoded
from geotile.endpoints.function import FunctionEndpoint
from geotile.endpoints.http import HttpEndpoint
from geotile.errors import ArgumentError

ENTRY_POINTS = "geotile.endpoints"
_KINDS = {
    "http": "http:HttpEndpoint",
    "https": "http:HttpEndpoint",
    "onnx": "onnx:OnnxEndpoint",
    "sagemaker": "sagemaker:SageMakerEndpoint",
    "oip+http": "oip:OipEndpoint",
    "oip+https": "oip:OipEndpoint",
}


def endpoint(spec: Any, **options: Any) -> Endpoint:
    """Return the endpoint that a spec means.

    Parameters
    ----------
    spec : str, callable or Endpoint
        An http(s) url that speaks the OSML contract (`HttpEndpoint`); ``sagemaker://NAME``
        (`SageMakerEndpoint`); ``oip+http://host/v2/models/NAME`` (`OipEndpoint`); ``onnx:PATH``
        (`OnnxEndpoint`); a Python callable (`FunctionEndpoint`); what a package offers as an entry point
        of the group ``geotile.endpoints``; or an endpoint, which is returned as it is.
    **options
        Those of the kind.

    Returns
    -------
    Endpoint

    Raises
    ------
    ArgumentError
        If the spec is none of these, or an option is unknown.

    Examples
    --------
    >>> endpoint("http://127.0.0.1:8080/invocations")
    HttpEndpoint('http://127.0.0.1:8080/invocations')
    """
    if isinstance(spec, Endpoint):
        if options:
            raise ArgumentError(f"{sorted(options)} are for making an endpoint; {spec!r} is made")
        return spec
    if isinstance(spec, str):
        made: Endpoint = _kind(spec)(spec, **options)
        return made
    if not callable(spec):
        raise ArgumentError(f"endpoint={spec!r} is no url, no callable and no Endpoint")
    if unknown := sorted(set(options) - {"batch_size", "factory"}):
        raise ArgumentError(f"no option {unknown}; a callable takes ['batch_size', 'factory']")
    return FunctionEndpoint(spec, **options)


def _kind(spec: str) -> Any:
    scheme = spec.partition(":")[0].lower()
    if scheme in _KINDS:
        module, _, name = _KINDS[scheme].partition(":")
        return getattr(import_module(f"geotile.endpoints.{module}"), name)
    others = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    if scheme in others:
        return others[scheme].load()
    raise ArgumentError(
        f"endpoint={redact(spec)!r} is of no kind known here; it starts with one of "
        f"{sorted(f'{each}:' for each in {*_KINDS, *others})}, e.g. https://host/invocations"
    )


__all__ = ["Check", "Endpoint", "FunctionEndpoint", "HttpEndpoint", "RetryPolicy", "decoded", "endpoint"]
