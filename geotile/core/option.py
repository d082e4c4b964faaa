"""Options: declared once as fields of frozen dataclasses, used by the calls, the command line and job requests.

::

    class TilingOptions(Options):                      overlap: int | Pair = option(128, "Minimum ...")
            │
            ├─ @with_options(DetectOptions) ─▶ detect(image, endpoint, *, overlap=128, ...)   signature, types, docs
            ├─ geotile.cli.flags            ─▶ --overlap PX|Y,X                                     flags and help
            └─ service request              ─▶ {"geotile": {"skip_nodata": 1}}                      names and checks
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache, wraps
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from geotile.core.option_info import OptionInfo
from geotile.core.option_types import TYPES, is_choice, same
from geotile.core.redact import redact
from geotile.errors import ArgumentError

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C", bound=type)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
PartT = TypeVar("PartT", bound="Options")
_METADATA = "geotile_option"


def option(
    default: T,
    doc: str,
    *,
    type: str,
    choices: Iterable[Any] = (),
    from_text: Callable[[Any], Any] | None = None,
    repeatable: bool = False,
    metavar: str | None = None,
    on_command_line: bool = True,
    in_requests: bool = True,
    secret: bool = False,
    flag_doc: str = "",
) -> T:
    """Declare an option: the default value of a field of an `Options` class.

    Parameters
    ----------
    default : object
        Default value, immutable.
    doc, type, choices, from_text, repeatable, metavar, on_command_line, in_requests, flag_doc
        Fields of `OptionInfo`; `type` is its ``type_text``.
    secret : bool
        Leave the value out of the ``repr``.
    """
    info = OptionInfo(
        doc=doc, type_text=type, choices=tuple(choices), from_text=from_text, repeatable=repeatable, metavar=metavar,
        on_command_line=on_command_line, in_requests=in_requests, flag_doc=flag_doc,
    )  # fmt: skip
    return field(default=default, repr=not secret, metadata={_METADATA: info})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all groups of options. A group checks its own values in ``_check``."""

    CALL: ClassVar[str] = ""
    """Name of the function that takes this group of options; empty where several do."""
    PANEL: ClassVar[str] = ""
    """Title of the group in the command line's help; by default the first line of its docstring."""

    def __post_init__(self) -> None:
        """Check every value."""
        defaults = {each.name: each.default for each in fields(self)}
        hidden = {each.name for each in fields(self) if not each.repr}
        for name, info in described(type(self)).items():
            value = getattr(self, name)
            if info.choices and not any(is_choice(value, each) for each in info.choices):
                allowed = ", ".join(map(repr, info.choices))
                raise ArgumentError(f"{name} must be one of {allowed}; got {redact(repr(value))}")
            if value is None and defaults[name] is None:
                continue
            if (known := TYPES.get(info.type_text)) and not known[0](value):
                given = f"a value of type {type(value).__name__}" if name in hidden else redact(repr(value))
                raise ArgumentError(f"{name} must be {known[1]}; got {given}")
        for group in reversed(type(self).__mro__):
            if "_check" in vars(group):
                vars(group)["_check"](self)

    def part(self, group: type[PartT]) -> PartT:
        """Return the values of one of the groups that this class is made of."""
        return group(**{each.name: getattr(self, each.name) for each in fields(group)})

    def changed(self) -> dict[str, Any]:
        """Return the values that differ from their defaults, by name."""
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        return {name: value for name, (value, default) in values.items() if not same(value, default)}


def described(group: type[Options]) -> dict[str, OptionInfo]:
    """Return the options of a group by name, in the order of their declaration."""
    found = {each.name: each.metadata[_METADATA] for each in fields(group) if _METADATA in each.metadata}
    return dict(sorted(found.items(), key=lambda item: item[1].number))


def option_names(*groups: type[Options] | None) -> set[str]:
    """Return the names of the options of groups."""
    return set(_names(groups))


@cache
def _names(groups: tuple[Any, ...]) -> frozenset[str]:
    return frozenset(each.name for group in groups if group is not None for each in fields(group))


def refuse_unknown(
    given: Iterable[str], known: Iterable[str], taker: str, hints: Mapping[str, str] | None = None
) -> None:
    """Refuse options that do not apply, and suggest the nearest name.

    A name that is an option elsewhere is not called unknown, and the nearest name may be an option elsewhere too.

    Parameters
    ----------
    given, known : iterable of str
        Names of the options that were given, and of those that exist.
    taker : str
        What takes the options, for the message.
    hints : mapping of str to str, optional
        Messages for names that are options elsewhere, in place of the general one.

    Raises
    ------
    ArgumentError
        If a given name is not known.

    Examples
    --------
    >>> refuse_unknown(["tilesize"], ["tile_size", "overlap"], "detect")
    Traceback (most recent call last):
    geotile.ArgumentError: unknown option 'tilesize'; did you mean 'tile_size'?
    """
    if not (unknown := set(given).difference(known)):
        return
    known = sorted(known)
    elsewhere = sorted(option_names(*_subclasses(Options)) - set(known))
    for name in sorted(unknown):
        if hints and name in hints:
            raise ArgumentError(hints[name])
        if name in elsewhere:
            raise ArgumentError(f"option {name!r} does not apply to {taker}{_elsewhere(name, taker)}; leave it out")
        remedy = f"{taker} takes {', '.join(map(repr, known))}"
        if near := get_close_matches(name, known, n=1, cutoff=0.6):
            remedy = f"did you mean {near[0]!r}?"
        elif near := get_close_matches(name, elsewhere, n=1, cutoff=0.6):
            remedy = f"did you mean {near[0]!r}? It does not apply to {taker}"
        raise ArgumentError(f"unknown option {name!r}; {remedy}")


def _elsewhere(name: str, taker: str) -> str:
    """Return which functions take an option, as ", but to ..."."""
    groups = [group for group in _subclasses(Options) if vars(group).get("CALL") and name in option_names(group)]
    calls = sorted({group.CALL for group in groups} - {taker, "" if taker in _calls() else "endpoint"})
    return f", but to {' and '.join(calls)}" if calls else ""


def _calls() -> set[str]:
    return {group.CALL for group in _subclasses(Options) if vars(group).get("CALL")}


def _subclasses(group: type[Options]) -> Iterator[type[Options]]:
    for each in group.__subclasses__():
        yield each
        yield from _subclasses(each)


class _TwoArguments(Protocol[P, R_co]):
    def __call__(self, image: Any, endpoint: Any, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class _ThreeArguments(Protocol[P, R_co]):
    def __call__(self, image: Any, endpoint: Any, output: Any, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class with_options(Generic[P, T]):
    """Turn the last parameter of a function, an `Options` value, into flat keyword arguments.

    The function gets the signature, the types and, in place of ``{options}`` in its docstring, the descriptions of
    all fields of the class.

    Parameters
    ----------
    keywords : type
        `Options` class that declares the keyword arguments.
    build : callable, optional
        What is made of them, ``build(**given)``; by default `keywords`.
    prepare : callable, optional
        ``prepare(arguments, given)`` may change the positional arguments and the given options, both by name,
        before `build` is called.
    """

    def __init__(
        self,
        keywords: Callable[P, T],
        *,
        build: Callable[..., Any] | None = None,
        prepare: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> None:
        self.keywords = cast(type[Options], keywords)
        self.build: Any = build or keywords
        self.prepare = prepare

    def on_init(self, function: Callable[[A, B, T], None]) -> Callable[Concatenate[A, B, P], None]:
        """Return a constructor with flat keyword arguments: as for a function, with the types of a method."""
        flat: Any = self(function)
        return cast(Callable[Concatenate[A, B, P], None], flat)

    @overload
    def __call__(self, function: Callable[[A, T], R]) -> Callable[Concatenate[A, P], R]: ...
    @overload
    def __call__(self, function: Callable[[Any, Any, T], R]) -> _TwoArguments[P, R]: ...
    @overload
    def __call__(self, function: Callable[[Any, Any, Any, T], R]) -> _ThreeArguments[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        """Return the function with flat keyword arguments."""
        *leading, _ = inspect.signature(function).parameters.values()
        positional = inspect.Signature(leading)

        @wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            by_name = {each.name: given.pop(each.name) for each in leading if each.name in given}
            try:
                arguments = dict(positional.bind(*args, **by_name).arguments)
            except TypeError as error:
                raise TypeError(_call_error(function, error)) from None
            if self.prepare is not None:
                self.prepare(arguments, given)
            if isinstance(self.build, type) and issubclass(self.build, Options):
                taker = type(arguments["self"]).__name__ if "self" in arguments else function.__name__
                refuse_unknown(given, option_names(self.build), taker, getattr(self.build, "HINTS", None))
            return function(*arguments.values(), self.build(**given))

        declared = {each.name: each for each in fields(self.keywords)}
        options = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=declared[name].default, annotation=declared[name].type
            )
            for name in described(self.keywords)
        ]
        returns = inspect.signature(function).return_annotation
        call.__signature__ = inspect.Signature([*leading, *options], return_annotation=returns)  # type: ignore[attr-defined]  # functions have it
        call.__doc__ = _with_parameters(function.__doc__, self.keywords)
        return call


def _call_error(function: Callable[..., Any], error: TypeError) -> str:
    """Return the message for positional arguments that are missing or too many."""
    text = str(error).replace("missing a required argument:", "needs the argument")
    if text.startswith("too many"):
        text = f"takes its options by name; got {text}"
    return f"{function.__qualname__.removesuffix('.__init__')}() {text}"


def documents(keywords: type[Options] | None = None) -> Callable[[C], C]:
    """Return a decorator that puts the descriptions of options in place of ``{options}`` in a class's docstring.

    Parameters
    ----------
    keywords : type, optional
        `Options` class that declares the options; by default the decorated class.
    """

    def decorate(cls: C) -> C:
        cls.__doc__ = _with_parameters(cls.__doc__, keywords or cast(type[Options], cls))
        return cls

    return decorate


def _with_parameters(doc: str | None, keywords: type[Options]) -> str | None:
    if doc is None:
        return None  # python -OO
    return inspect.cleandoc(doc).replace("{options}", "\n".join(_parameters(keywords)))  # Python 3.13 cleans it as well


def _parameters(keywords: type[Options]) -> Iterator[str]:
    """Yield the lines of a numpydoc Parameters section."""
    defaults = {each.name: each.default for each in fields(keywords)}
    for name, info in described(keywords).items():
        default = "optional" if defaults[name] is None else f"default {defaults[name]!r}"
        yield f"{name} : {info.type_text}, {default}"
        yield textwrap.fill(info.doc, 100, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
