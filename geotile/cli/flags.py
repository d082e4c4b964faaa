"""Flags made from options: one flag for each field of an `Options` class, with its help, its type and its panel."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from geotile.cli.completion import VALUES
from geotile.core.option import Options, described, option_names
from geotile.core.option_info import OptionInfo
from geotile.errors import ArgumentError
from geotile.options import DetectToKeywords, EndpointKeywords, ServiceOptions
from geotile.options.raster import EmbedToOptions, PredictToOptions

_FLAGS = {  # of options whose flags have other names
    "limits": "--limit", "endpoint_options": "--option", "allow_endpoints": "--allow-endpoint",
    "allow_images": "--allow-image", "allow_outputs": "--allow-output", "output": "--as",
}  # fmt: skip
_NOT_IMPORTED = {"Merge": Any, "ProgressCallback": Any}  # types that are named in annotations and not imported for them


def with_flags(kind: type[Options]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command a flag for each option of a class; the command gets the given ones as its `options`.

    Parameters
    ----------
    kind : type
        `Options` class.

    Returns
    -------
    callable
        Decorator of a command with a parameter ``options``, a dict of the values that differ from the defaults.
    """
    infos = {name: info for name, info in described(kind).items() if info.on_command_line}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "options"]

        @wraps(command)
        def call(**given: Any) -> Any:
            flags = {name: given.pop(name) for name in list(given) if name in infos}
            return command(**given, options=_values(kind, infos, flags))

        parameters = sorted([*own, *_parameters(kind, infos)], key=lambda each: each.default is not each.empty)
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions have it
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        del call.__wrapped__  # typer would read the annotations of the command
        return call

    return decorate


def as_flag(name: str) -> str:
    """Return the flag of an option.

    Examples
    --------
    >>> as_flag("tile_size")
    '--tile-size'
    """
    return _FLAGS.get(name) or "--" + name.replace("_", "-")


def in_flags(message: str, given: Iterable[str] = ()) -> str:
    """Return an error message in the words of the command line.

    What users gave is left as it is: text in quotes, paths and URLs, and each of the texts `given`.

    Examples
    --------
    >>> in_flags("found.parquet exists; give overwrite=True or another name")
    'found.parquet exists; give --overwrite or another name'
    >>> in_flags("overlap must be smaller than tile_size; got overlap=512 and tile_size=512")
    '--overlap must be smaller than --tile-size; got --overlap 512 and --tile-size 512'
    >>> in_flags("scale it with stretch=(2, 98)")
    'scale it with --stretch 2,98'
    >>> in_flags("no such image: tile_size/a.tif")
    'no such image: tile_size/a.tif'
    """
    own = sorted({re.escape(text) for text in given if text}, key=len, reverse=True)
    left = "".join(rf"|(?<![\w/.-]){text}(?![\w/])" for text in own)
    words = re.compile(f"(?P<left>{_LEFT}{left})|{_ASSIGNED}|{_BARE}|{_PYTHON}")
    return _PAIR.sub(r"\1\2,\3", words.sub(_in_flag, message))


_ENDPOINT_NAMES = option_names(EndpointKeywords) - {"score_threshold"}
_TEXTS = {  # of each option, whether its value is written as text
    name: info.from_text is not None
    for kind in (ServiceOptions, EmbedToOptions, PredictToOptions, DetectToKeywords)
    for name, info in described(kind).items()
}
_NAMES = {*_TEXTS}
_FILES = ("output", "destination")  # parameters that --output becomes


def _any_of(names: set[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_PAIR = re.compile(r"(--[\w-]+ )\((\w+), (\w+)\)")  # a pair of Python's as it is given to a flag
_LEFT = r"""(?<!\w)'[^'\n]*'(?!\w)|(?<!\w)"[^"\n]*"(?!\w)|[^\s'"=(]*/\S*"""  # quotes, paths and URLs
_ASSIGNED = rf"(?<![\w.:-])(?P<assigned>{_any_of(_NAMES)})=(?P<value>True\b|False\b|None\b)?"
_PREDICATES = (  # a name that is a common word is an option only before these
    r" (?:must|was|has changed|is given|is left out|applies only|does not apply|is in metres|cannot be opened)\b"
    r"|(?:, \w+)* (?:cannot be applied|would have no effect)\b"
)
_OWN = _NAMES - _ENDPOINT_NAMES - {*_FILES}
_BARE = (
    rf"(?<![\w.:=-])(?P<bare>{_any_of({name for name in _OWN if '_' in name})}"
    rf"|(?<!the )(?:{_any_of(_OWN)})(?={_PREDICATES})|(?:{_any_of({*_FILES})})(?= must\b)"
    rf"|(?<=eave )(?:{_any_of(_OWN)})(?= out\b))(?![\w=-]|\.\w)"
)
_PYTHON = r"(?P<before>(?:must be|was|is now| or|,) )(?P<python>True|False|None)\b"


def _in_flag(match: re.Match[str]) -> str:
    """Return the flag for ``name``, ``name=``, ``name=True`` or ``name=False``, and what users gave as it is."""
    if match["left"] is not None:
        return match[0]
    if match["python"] is not None:
        return match["before"] + match["python"].lower()
    if match["bare"] is not None:
        return "--output" if match["bare"] in _FILES else as_flag(match["bare"])
    name, value = match["assigned"], match["value"]
    if name in _ENDPOINT_NAMES:
        return f"-O {match[0]}"
    if value == "None" or (value is not None and _TEXTS[name]):
        return f"{as_flag(name)} {value.lower()}"
    if value == "False":
        return "--no-" + as_flag(name)[2:]
    follows = match.string[match.end() : match.end() + 1]
    return as_flag(name) + (" " if value is None and follows.strip(" )];,.") else "")


def _values(kind: type[Options], infos: Mapping[str, OptionInfo], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the flags that were given."""
    defaults = {each.name: each.default for each in fields(kind)}
    found = {}
    for name, value in flags.items():
        read = infos[name].from_text
        if value in (None, []):  # a stored call has [] for repeatable flags that were not given
            continue
        if value == (defaults[name] if read is None else _as_text(defaults[name])):
            continue
        try:
            found[name] = value if read is None else read(value)
        except ArgumentError as error:
            raise typer.BadParameter(str(error), param_hint=as_flag(name)) from None
    return found


def _parameters(kind: type[Options], infos: Mapping[str, OptionInfo]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, localns=_NOT_IMPORTED)
    defaults = {each.name: each.default for each in fields(kind)}
    return [
        _parameter(name, info, hints[name], defaults[name], _panel(kind, name)) for name, info in infos.items()
    ]  # fmt: skip


def _parameter(name: str, info: OptionInfo, hint: Any, default: Any, panel: str) -> inspect.Parameter:
    flag, text = as_flag(name), info.from_text is not None
    kind: Any = (list[str] if info.repeatable else str) | None if text else _plain(hint)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if bool in (kind, *get_args(kind)) else flag, help=_help(info), metavar=info.metavar,
        rich_help_panel=panel, show_default=default is not None, autocompletion=VALUES.get(name),
    )  # fmt: skip
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=_as_text(default) if text else default,
        annotation=Annotated[kind, option],
    )


def _as_text(default: Any) -> str | None:
    """Return a default value as it is written on the command line."""
    return None if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _help(info: OptionInfo) -> str:
    text = in_flags(info.flag_doc or info.doc.replace("``", "").replace("`", "").replace("(y, x)", "Y,X"))
    return text + (" May be repeated." if info.repeatable else "")


def _plain(hint: Any) -> Any:
    """Return the type that typer reads a value as: str for everything that is not a plain type."""
    if get_origin(hint) is Literal or hint in (int, float, bool, str):
        return hint
    if get_origin(hint) in (Union, types.UnionType):
        parts = [each for each in get_args(hint) if each is not type(None)]
        single = parts[0] if len(parts) == 1 else str
        return _plain(single) | None if type(None) in get_args(hint) else _plain(single)
    return str | None


def _panel(kind: type[Options], name: str) -> str:
    """Return the title of the group that declares an option."""
    group = next(each for each in kind.__mro__ if name in vars(each).get("__annotations__", {}))
    return vars(group).get("PANEL") or (group.__doc__ or "").partition("\n")[0].rstrip(".")
