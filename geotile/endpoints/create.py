"""An endpoint from what a user passes: its type is inferred, and its options are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from geotile.core.choices import TileFormat
from geotile.core.option import Options, option_names, refuse_unknown, with_options
from geotile.core.redact import redact
from geotile.detectors.recognition import SeveralFamiliesError
from geotile.endpoints.array_check import array_answer
from geotile.endpoints.base import Check, Endpoint
from geotile.endpoints.function import FunctionEndpoint
from geotile.errors import ArgumentError, GeotileError
from geotile.options import EndpointKeywords, FunctionOptions, HttpOptions, OipOptions, OnnxOptions, SageMakerOptions
from geotile.options.endpoint import AnswerOptions, DecoderOptions, NetworkOptions, OnnxArrayOptions
from geotile.public import public

ENTRY_POINTS = "geotile.endpoints"


@dataclass(frozen=True)
class _Kind:
    """An endpoint type: its class, imported when it is used, and its options."""

    path: str
    options: type[Options]

    def load(self) -> Any:
        module, _, name = self.path.partition(":")
        return getattr(import_module(f"geotile.endpoints.{module}"), name)


_HTTP, _OIP = _Kind("http:HttpEndpoint", HttpOptions), _Kind("oip:OipEndpoint", OipOptions)
_ONNX_ARRAYS = _Kind("onnx_arrays:OnnxArrayEndpoint", OnnxArrayOptions)
_OF_DETECTIONS = option_names(AnswerOptions, DecoderOptions) - option_names(NetworkOptions)
_HINTS_OF_ARRAYS = {name: f"{name} is for models that answer detections; leave it out" for name in _OF_DETECTIONS}
_KINDS = {
    "http": _HTTP,
    "https": _HTTP,
    "onnx": _Kind("onnx:OnnxEndpoint", OnnxOptions),
    "sagemaker": _Kind("sagemaker:SageMakerEndpoint", SageMakerOptions),
    "oip+http": _OIP,
    "oip+https": _OIP,
}


@public
@with_options(EndpointKeywords, build=dict)
def endpoint(spec: Any, options: Any) -> Endpoint:
    """Return the endpoint that a spec describes. The endpoint type is inferred from the spec.

    Parameters
    ----------
    spec : str, callable or Endpoint
        One of

        - an HTTP(S) URL of a server that implements the OversightML contract (`HttpEndpoint`),
        - ``sagemaker://NAME`` (`SageMakerEndpoint`),
        - ``oip+http://host/v2/models/NAME`` (`OipEndpoint`),
        - ``onnx:`` with the path or the URI of a model (`OnnxEndpoint`),
        - a Python callable (`FunctionEndpoint`),
        - a spec of an endpoint type that an installed package provides as an entry point of the group
          ``geotile.endpoints``,
        - an endpoint, which is returned unchanged.

        Each type takes its own options of those below; others are refused.
    {options}

    Returns
    -------
    Endpoint

    Raises
    ------
    ArgumentError
        If the spec is none of these, or an option is unknown or does not apply to it.

    Examples
    --------
    >>> endpoint("http://127.0.0.1:8080/invocations")
    HttpEndpoint('http://127.0.0.1:8080/invocations')
    """
    names = _accepted_names(spec)
    if names is not None:
        refuse_unknown(options, names, _description(spec), _hints(spec, names))
    if isinstance(spec, Endpoint):
        return spec
    if isinstance(spec, str):
        created: Endpoint = _endpoint_class(spec)(spec, **options)
        return created
    if not callable(spec):
        raise ArgumentError(
            f"endpoint must be a URL, a callable or an Endpoint; got a value of type {type(spec).__name__}"
        )
    return FunctionEndpoint(spec, **options)


def check_of(spec: str, options: Mapping[str, Any], tile_format: TileFormat) -> Check:
    """Return the check of the model behind a spec, whether it answers detections or arrays.

    Raises
    ------
    ArgumentError
        If the spec or an option cannot be used.
    """
    try:
        model = endpoint(spec, **options)
    except ArgumentError as error:
        try:
            found = array_answer(array_endpoint(spec, **options), None, tile_format)
        except GeotileError:
            found = None
        if found is None:
            raise error from None
        text = f"{redact(spec)} returned {found[0]} ({found[1]:.3f} s)"
        if isinstance(error, SeveralFamiliesError):
            text += f". If it detects objects: {error}"
        return Check(ok=True, message=text, seconds=found[1])
    return model.check(tile_format=tile_format)


def array_endpoint(spec: Any, **options: Any) -> Endpoint:
    """Return the endpoint that a spec describes, as `endpoint` does, for a model that answers arrays."""
    if isinstance(spec, str) and spec.lower().startswith("onnx:"):
        created: Endpoint = _ONNX_ARRAYS.load()(spec, **options)
        return created
    return endpoint(spec, **options)


def resolve_endpoint(
    options: type[Options], *, of_arrays: bool = False
) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Return a function that creates the endpoint of a call from its spec and those options that are its own.

    Parameters
    ----------
    options : type
        `Options` class of the call; every option that it does not declare belongs to the endpoint.
    of_arrays : bool
        Whether the model answers arrays, not detections.

    Returns
    -------
    callable
        ``prepare(arguments, given)`` replaces ``arguments["endpoint"]`` and removes its options from ``given``.
    """
    of_call = option_names(options)

    def prepare(arguments: dict[str, Any], given: dict[str, Any]) -> None:
        spec = arguments["endpoint"]
        of_endpoint = {name: given.pop(name) for name in list(given) if name not in of_call}
        names = _accepted_names(spec)
        if names is not None:
            names -= _OF_DETECTIONS if of_arrays else set()
            hints = _hints(spec, of_call | names) | (_HINTS_OF_ARRAYS if of_arrays else {})
            hints |= getattr(options, "HINTS", {})
            refuse_unknown(of_endpoint, of_call | names, f"a run with {_description(spec)}", hints)
        arguments["endpoint"] = (array_endpoint if of_arrays else endpoint)(spec, **of_endpoint)

    return prepare


def applicable_options(spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some options that apply to an endpoint; all of them for an endpoint type of another package."""
    names = _accepted_names(spec)
    return {name: value for name, value in options.items() if names is None or name in names}


def _accepted_names(spec: Any) -> set[str] | None:
    """Return the names of the options that a spec accepts; None for an endpoint type of another package."""
    if isinstance(spec, Endpoint):
        return set()
    if not isinstance(spec, str):
        return option_names(FunctionOptions)
    kind = _KINDS.get(spec.partition(":")[0].lower())
    return None if kind is None else option_names(kind.options)


def _description(spec: Any) -> str:
    if isinstance(spec, Endpoint):
        return f"the endpoint {spec!r}"
    return f"the endpoint {redact(spec)!r}" if isinstance(spec, str) else "a Python callable"


def _hints(spec: Any, known: set[str]) -> dict[str, str]:
    """Return messages for options of endpoints that come too late, because the endpoint exists."""
    if not isinstance(spec, Endpoint):
        return {}
    return {
        name: f"option {name!r} must be given when an endpoint is created, and {_description(spec)} exists; pass it to "
        "geotile.endpoint"
        for name in option_names(EndpointKeywords) - known
    }


def _endpoint_class(spec: str) -> Any:
    scheme = spec.partition(":")[0].lower()
    if scheme in _KINDS:
        return _KINDS[scheme].load()
    plugins = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    if scheme in plugins:
        return plugins[scheme].load()
    raise ArgumentError(
        f"endpoint must start with one of {', '.join(sorted(f'{each}:' for each in {*_KINDS, *plugins}))}; "
        f"got {redact(spec)!r}. "
        + (
            f"Did you mean onnx:{redact(spec)}?"
            if spec.lower().endswith(".onnx")
            else "Use, for example, https://host/invocations"
        )
    )
