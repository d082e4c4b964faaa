"""Settings of `geotile serve` from a file and from the environment: flags win over variables, these over the file."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any

import typer

from geotile.core.option import described
from geotile.core.redact import redact
from geotile.core.regular_file import read_regular
from geotile.errors import ArgumentError
from geotile.options import EndpointKeywords

PREFIX = "GEOTILE"
_MAX_BYTES = 2**20
_OF_KUBERNETES = re.compile(  # of each service, in the environment of each pod: a service may be named geotile-...
    r"_SERVICE_(HOST|PORT(_\w+)?)|_PORT(_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)?"
)
_NAMED = ("limit", "option")  # flags whose values are NAME=VALUE
_LISTED = ("allow_endpoint", "allow_image", "allow_output", "page_host")


def _settings(context: typer.Context, path: str | None) -> str | None:
    """Make a file of settings the defaults of a command's flags, and check the names of variables."""
    names = {str(each.name) for each in context.command.params} - {"help"}
    variables = {name for name in os.environ if name.startswith(f"{PREFIX}_")}
    known = {f"{PREFIX}_{name.upper()}" for name in names}
    _refuse_unknown((name for name in variables if not _is_of_kubernetes(name)), known, "the environment")
    if path is not None:
        content = {name.replace("-", "_"): value for name, value in _read(path).items()}
        _refuse_unknown(content, names - {"config"}, path)
        context.default_map = {name: _as_flag_value(name, value, path) for name, value in content.items()}
    return path


Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        help=f"TOML file of settings, named like the flags. Variables such as {PREFIX}_MAX_JOBS win over it, and "
        "flags over both.",
        is_eager=True,
        callback=_settings,
        metavar="FILE",
    ),
]


def _is_of_kubernetes(variable: str) -> bool:
    match = _OF_KUBERNETES.search(variable)
    return match is not None and match.end() == len(variable)


def _read(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path, _MAX_BYTES).decode())
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"the settings {redact(path)} cannot be read: {error}. Give a TOML file, with lines such as 'max_jobs = 8'"
        ) from None


def _refuse_unknown(given: Iterable[str], known: Iterable[str], place: str) -> None:
    known = sorted(known)
    for name in sorted(set(given) - set(known)):
        near = get_close_matches(name, known, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
        raise ArgumentError(f"unknown setting {name!r} in {redact(place)}; {remedy}")


def _as_flag_value(name: str, value: Any, path: str) -> Any:
    """Return a value of a file as its flag takes it."""
    if name in _NAMED and isinstance(value, Mapping):
        return [text for key, each in value.items() for text in _named_texts(key, each, path)]
    if name in _LISTED and isinstance(value, str):
        return [value]
    if name in _LISTED and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    if name in _NAMED and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    if name == "workers" and isinstance(value, list):
        return "-".join(map(str, value))
    if name in _NAMED or isinstance(value, list | Mapping):
        raise ArgumentError(f"'{name}' in {redact(path)} must be {_allowed(name)}; got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """Return how an error shows a value: numbers as they are, and only the type of what may hold a secret."""
    each = value if isinstance(value, list) else [value]
    numbers = all(isinstance(item, int | float) for item in each)
    return repr(value) if numbers else f"a value of type {type(value).__name__}"


def _named_texts(name: str, value: Any, path: str) -> list[str]:
    """Return the texts of a value, or of the options of endpoints that stand under a prefix."""
    if ":" in name and isinstance(value, Mapping):
        return [f"{name}={option}={_as_text(each, option, path)}" for option, each in value.items()]
    return [f"{name}={_as_text(value, name, path)}"]


def _allowed(name: str) -> str:
    if name in _LISTED:
        return "a prefix or a list of prefixes"
    return "a table of names and values, or a list of 'NAME=VALUE'" if name in _NAMED else "one value"


def _as_text(value: Any, name: str, path: str) -> str:
    info = described(EndpointKeywords).get(name)
    if info is not None and info.type_text == "str" and not isinstance(value, str):
        raise ArgumentError(f"'{name}' in {redact(path)} must be text in quotes; got a value of type {_kind(value)}")
    return value if isinstance(value, str) else json.dumps(value)


def _kind(value: Any) -> str:
    return type(value).__name__


def given_by(context: Any, parameter: Any) -> str:
    """Return the value of a flag that cannot be used and where it comes from, for an error; nothing if that is unknown.

    Parameters
    ----------
    context, parameter
        Context and parameter of an error of click.
    """
    if context is None or parameter is None:
        return ""
    name = str(parameter.name)
    source = place_of(context, name)
    if source == PREFIX:
        return f"; got {redact(repr(os.environ.get(f'{PREFIX}_{name.upper()}', '')))} in {PREFIX}_{name.upper()}"
    if source:
        return f"; got {redact(repr((context.default_map or {}).get(name)))} in {redact(source)}"
    words = [word.partition("=")[2] for word in sys.argv if word.partition("=")[0] in parameter.opts and "=" in word]
    words += [value for flag, value in pairwise(sys.argv) if flag in parameter.opts]
    return f"; got {redact(repr(words[-1]))}" if words else ""


def place_of(context: Any, name: str) -> str:
    """Return where a flag's value comes from: the file of settings, ``GEOTILE`` for a variable, or nothing."""
    source = getattr(context.get_parameter_source(name), "name", "")
    if source == "DEFAULT_MAP":
        return str(context.params.get("config") or "the file of settings")
    return PREFIX if source == "ENVIRONMENT" else ""


def _shared_settings(context: typer.Context, path: str | None) -> str | None:
    """Take the queue and the state of a service's file of settings."""
    if path is not None:
        content = _read(path)
        context.default_map = {name: str(content[name]) for name in ("queue", "state") if name in content}
    return path


SharedConfig = Annotated[
    str | None,
    typer.Option(
        "--config", help="TOML file of the service's settings, of which the queue and the state are taken.",
        is_eager=True, callback=_shared_settings, metavar="FILE", envvar=f"{PREFIX}_CONFIG",
    ),
]  # fmt: skip
