"""Flags that several commands share and that are not options of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import typer

from geotile.cli.completion import endpoint_option
from geotile.core import from_text
from geotile.core.option import described
from geotile.core.option_types import TYPES
from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.options import EndpointKeywords

_ENDPOINT = "Endpoint"
_BOUND = re.compile(r"(?P<prefix>[A-Za-z][\w+.-]*:[^=]*)=(?P<option>.*)", re.DOTALL)
ENDPOINT_TYPES = {name: TYPES[info.type_text][0] for name, info in described(EndpointKeywords).items()}

EndpointHeaders = Annotated[
    list[str] | None,
    typer.Option(
        "--headers", help="HTTP header sent with every request. May be repeated.", metavar="'NAME: VALUE'",
        rich_help_panel=_ENDPOINT,
    ),
]  # fmt: skip
EndpointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-O", help="Option of the endpoint, such as family=yolov8 or retries=2. Pairs and lists "
        "have commas (timeout_s=5,60), mappings as well (params=TargetModel=cars,TargetVariant=b). May be repeated.",
        metavar="NAME=VALUE", rich_help_panel=_ENDPOINT, autocompletion=endpoint_option,
    ),
]  # fmt: skip
SecretValues = Annotated[
    list[str] | None,
    typer.Option(help="The same flag of `geotile detect`, whose values are not stored.", metavar="NAME=VALUE"),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask scheduler. Default: threads of this process.", rich_help_panel="Cluster"),
]


def as_concurrency(text: str) -> int | Literal["auto"]:
    """Return a number of requests, or "auto"."""
    try:
        number = from_text.int_or_auto(text)
    except ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="--concurrency") from None
    return "auto" if isinstance(number, str) else number


def endpoint_options(
    options: list[str] | None, headers: list[str] | None = None, flags: Collection[str] = ()
) -> dict[str, Any]:
    """Return the options of the endpoint; options that have a flag of their own, named by `flags`, are refused."""
    try:
        typed = from_text.named_values(options or [], ENDPOINT_TYPES)
        found = {name: _typed(name, value) for name, value in typed.items()}
    except ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="--option") from None
    for name in sorted(set(found) & set(flags)):
        flag = "--" + name.replace("_", "-")
        raise typer.BadParameter(f"{name} has a flag of its own; use {flag}", param_hint="--option")
    try:
        return found | ({"headers": from_text.headers(headers)} if headers else {})
    except ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="--headers") from None


def service_endpoint_options(options: list[str] | None) -> dict[str, Any]:
    """Return the options of a service's endpoints, those of ``PREFIX=NAME=VALUE`` under their prefix."""
    found = [_BOUND.fullmatch(text) for text in options or []]
    texts = [text for text, match in zip(options or [], found, strict=True) if match is None]
    by_prefix: dict[str, list[str]] = {}
    for match in filter(None, found):
        by_prefix.setdefault(match["prefix"], []).append(match["option"])
    return endpoint_options(texts) | {prefix: endpoint_options(each) for prefix, each in by_prefix.items()}


def _typed(name: str, value: Any) -> Any:
    """Return text with commas as the pair, list or mapping that an option of an endpoint is declared as."""
    info = described(EndpointKeywords).get(name)
    if info is None or not isinstance(value, str) or value.startswith(("{", "[")):
        return value
    if info.type_text.startswith("mapping"):
        parts = [part.partition("=") for part in value.split(",")]
        named = all(each and equals for each, equals, _ in parts)
        return {each.strip(): text for each, _, text in parts} if named else value
    kind = info.type_text.partition(" or ")[0]
    if "," not in value or os.path.exists(value):
        return value
    if kind.startswith("(float"):
        return [float(part) if _is_number(part) else part for part in value.split(",")]
    if kind == "(str, str)":
        return value.split(",", 1)  # a password may hold commas
    listed = kind == "str, path" or info.type_text.startswith("sequence of str")
    return [part.strip() for part in value.split(",")] if listed else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def client_at(address: str | None) -> Any:
    """Return a client of the scheduler at an address, or a context that does nothing."""
    if address is None:
        return nullcontext()
    from distributed import Client

    try:
        return Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"no Dask scheduler answers at {redact(address)}: {redact(str(error))}. Check the address"
        ) from None
