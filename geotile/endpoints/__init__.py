"""Endpoints turn tiles into detections; they know nothing about Dask, tile positions, or CRSs."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from geotile.core.redact import redact
from geotile.endpoints.base import Check, Endpoint, RetryPolicy, as_detections, check_options
from geotile.endpoints.function import FunctionEndpoint
from geotile.endpoints.http import HttpEndpoint
from geotile.errors import ArgumentError

ENTRY_POINTS = "geotile.endpoints"
_CLASSES = {
    "http": "http:HttpEndpoint",
    "https": "http:HttpEndpoint",
    "onnx": "onnx:OnnxEndpoint",
    "sagemaker": "sagemaker:SageMakerEndpoint",
    "oip+http": "oip:OipEndpoint",
    "oip+https": "oip:OipEndpoint",
}


def endpoint(spec: Any, **options: Any) -> Endpoint:
    """Return the endpoint that a spec describes. The endpoint type is inferred from the spec.

    Parameters
    ----------
    spec : str, callable or Endpoint
        One of

        - an HTTP(S) URL of a server that implements the OSML contract (`HttpEndpoint`),
        - ``sagemaker://NAME`` (`SageMakerEndpoint`),
        - ``oip+http://host/v2/models/NAME`` (`OipEndpoint`),
        - ``onnx:PATH`` (`OnnxEndpoint`),
        - a Python callable (`FunctionEndpoint`),
        - a spec of an endpoint type that an installed package provides as an entry point of the group
          ``geotile.endpoints``,
        - an endpoint, which is returned unchanged.
    **options
        Options of the endpoint type.

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
            raise ArgumentError(
                f"{spec!r} is already an endpoint, so it takes no more options; got {sorted(options)}. "
                "Pass them when you create the endpoint"
            )
        return spec
    if isinstance(spec, str):
        created: Endpoint = _endpoint_class(spec)(spec, **options)
        return created
    if not callable(spec):
        raise ArgumentError(f"endpoint must be a URL, a callable or an Endpoint; got {spec!r}")
    check_options(options, ("batch_size", "factory"), "a callable")
    return FunctionEndpoint(spec, **options)


def _endpoint_class(spec: str) -> Any:
    scheme = spec.partition(":")[0].lower()
    if scheme in _CLASSES:
        module, _, name = _CLASSES[scheme].partition(":")
        return getattr(import_module(f"geotile.endpoints.{module}"), name)
    plugins = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    if scheme in plugins:
        return plugins[scheme].load()
    raise ArgumentError(
        f"endpoint must start with one of {sorted(f'{each}:' for each in {*_CLASSES, *plugins})}; "
        f"got {redact(spec)!r}. Use, for example, https://host/invocations"
    )


__all__ = ["Check", "Endpoint", "FunctionEndpoint", "HttpEndpoint", "RetryPolicy", "as_detections", "endpoint"]
