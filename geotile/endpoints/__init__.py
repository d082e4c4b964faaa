"""Endpoints turn tiles into detections; they know nothing of Dask, of places, or of a CRS."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from geotile.core.option import Options, option_names, refuse_unknown
from geotile.core.redact import redact
from geotile.endpoints.base import Check, Endpoint, decoded
from geotile.endpoints.function import FunctionEndpoint
from geotile.endpoints.http import HttpEndpoint
from geotile.errors import ArgumentError
from geotile.options import (
    EndpointKeywords,
    FunctionOptions,
    HttpOptions,
    OipOptions,
    OnnxOptions,
    SageMakerOptions,
)

ENTRY_POINTS = "geotile.endpoints"
_KINDS = {
    "http": "http:HttpEndpoint",
    "https": "http:HttpEndpoint",
    "onnx": "onnx:OnnxEndpoint",
    "sagemaker": "sagemaker:SageMakerEndpoint",
    "oip+http": "oip:OipEndpoint",
    "oip+https": "oip:OipEndpoint",
}
_OPTIONS: dict[str, type[Options]] = {
    "http": HttpOptions,
    "https": HttpOptions,
    "onnx": OnnxOptions,
    "sagemaker": SageMakerOptions,
    "oip+http": OipOptions,
    "oip+https": OipOptions,
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
    names = _names_taken(spec)
    if names is not None:
        refuse_unknown(options, names, _taker(spec), _hints(spec, names))
    if isinstance(spec, Endpoint):
        return spec
    if isinstance(spec, str):
        made: Endpoint = _kind(spec)(spec, **options)
        return made
    if not callable(spec):
        raise ArgumentError(f"endpoint={spec!r} is no url, no callable and no Endpoint")
    return FunctionEndpoint(spec, **options)


def resolve_endpoint(options: type[Options]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Return a function that makes the endpoint of a call from its specification and its own options.

    Parameters
    ----------
    options : type
        `Options` class of the call; every option that it does not declare belongs to the endpoint.

    Returns
    -------
    callable
        ``prepare(arguments, given)`` replaces ``arguments["endpoint"]`` and removes its options from ``given``.
    """
    own = option_names(options)

    def prepare(arguments: dict[str, Any], given: dict[str, Any]) -> None:
        spec = arguments["endpoint"]
        asked = {name: given.pop(name) for name in list(given) if name not in own}
        names = _names_taken(spec)
        if names is not None:
            hints = _hints(spec, own | names) | dict(getattr(options, "HINTS", {}))
            refuse_unknown(asked, own | names, f"detect with {_taker(spec)}", hints)
        arguments["endpoint"] = endpoint(spec, **asked)

    return prepare


def _names_taken(spec: Any) -> set[str] | None:
    """Return the names of the options that an endpoint takes; None for a kind of another package."""
    if isinstance(spec, Endpoint):
        return set()
    if not isinstance(spec, str):
        return option_names(FunctionOptions)
    scheme = spec.partition(":")[0].lower()
    return option_names(_OPTIONS[scheme]) if scheme in _OPTIONS else None


def _taker(spec: Any) -> str:
    if isinstance(spec, Endpoint):
        return f"the endpoint {spec!r}"
    return f"the endpoint {redact(spec)!r}" if isinstance(spec, str) else "a Python callable"


def _hints(spec: Any, known: set[str]) -> dict[str, str]:
    """Return sentences for options that exist, but not for this endpoint."""
    taker = _taker(spec)
    elsewhere = option_names(EndpointKeywords) - known
    hints = {name: f"option {name!r} does not apply to {taker}; leave it out" for name in elsewhere}
    if isinstance(spec, Endpoint):
        hints = {
            name: f"option {name!r} must be given when an endpoint is made, and {taker} is made already; pass it to "
            "geotile.endpoint" for name in elsewhere
        }  # fmt: skip
    return hints


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


__all__ = [
    "Check",
    "Endpoint",
    "FunctionEndpoint",
    "HttpEndpoint",
    "decoded",
    "endpoint",
    "resolve_endpoint",
]
