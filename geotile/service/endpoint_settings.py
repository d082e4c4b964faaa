"""The options that a service gives to an endpoint: secrets go only to the endpoints that they were given for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geotile.endpoints import applicable_options
from geotile.errors import ArgumentError
from geotile.options import ServiceOptions
from geotile.options.service import ENDPOINT_SECRETS, is_prefix
from geotile.storage.place import Place


def options_of(spec: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an endpoint: those of all endpoints, and those of the prefixes above it.

    The longest prefix counts most.

    Parameters
    ----------
    spec : str
        The endpoint.
    given : mapping
        ``endpoint_options`` of the service, as `bound` returns them.
    """
    found = {name: value for name, value in given.items() if not is_prefix(name)}
    prefixes = [(Place.prefix(name), options) for name, options in given.items() if is_prefix(name)]
    for prefix, options in sorted(prefixes, key=lambda each: len(each[0].readings[0])):
        if _is_below(spec, prefix):
            found |= options
    return applicable_options(spec, found)


def _is_below(spec: str, prefix: Place) -> bool:
    try:
        return Place.of(spec).below(prefix)
    except ArgumentError:  # programs could read it in different ways: no secrets for it
        return False


def bound(options: ServiceOptions) -> ServiceOptions:
    """Return the options of a service whose secrets are bound to endpoints.

    Secrets that are given without a prefix belong to the one endpoint that is allowed, where there is one.

    Raises
    ------
    ArgumentError
        If there are such secrets, and any number of endpoints but one is allowed; or if a prefix is none.
    """
    given = dict(options.endpoint_options or {})
    for name in filter(is_prefix, given):
        try:
            Place.prefix(name)
        except ArgumentError as error:
            raise ArgumentError(f"endpoint_options must have names of options or prefixes of URLs: {error}") from None
    secrets = {name: given.pop(name) for name in sorted(ENDPOINT_SECRETS & given.keys())}
    if not secrets:
        return options
    allowed = [options.allow_endpoints] if isinstance(options.allow_endpoints, str) else options.allow_endpoints or []
    if len(allowed) != 1:
        name = next(iter(secrets))
        raise ArgumentError(
            f"endpoint_options must bind {', '.join(secrets)} to an endpoint, since requests choose the endpoint and "
            f"could have them sent anywhere; give endpoint_options={{'https://host/': {{'{name}': ...}}}}, on the "
            f"command line -O https://host/={name}=..., or allow one endpoint with allow_endpoints="
        )
    return replace(options, endpoint_options=given | {allowed[0]: secrets | dict(given.get(allowed[0], {}))})
