"""Types of the options of file systems, which fsspec's packages do not check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from geotile.core import from_text
from geotile.core.checks import is_number
from geotile.errors import ArgumentError

Check = tuple[Callable[[Any], bool], str]


def _strings(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(each, str) for pair in value.items() for each in pair)


_TEXT: Check = (lambda value: isinstance(value, str), "a string")
_FLAG: Check = (lambda value: isinstance(value, bool), "True or False")
_SECONDS: Check = (lambda value: is_number(value) and value > 0, "a number of seconds above 0")
_MAPPING: Check = (
    lambda value: isinstance(value, Mapping) and all(isinstance(each, str) for each in value),
    "a mapping of names to values",
)
_HEADERS: Check = (_strings, "a mapping of strings to strings")
_TOKEN: Check = (  # gcsfs takes credentials of Google's packages
    lambda value: not isinstance(value, bool | int | float | bytes | list | tuple),
    "a string, a mapping or an object of credentials",
)
_AUTH: Check = (
    lambda value: hasattr(value, "login") or (isinstance(value, tuple | list) and list(map(type, value)) == [str, str]),
    "a pair (user, password) or an aiohttp.BasicAuth",
)
_TRUST: Check = (lambda value: isinstance(value, bool | str), "True, False or the path of a file")
_CHECKS: dict[str, Check] = {
    **dict.fromkeys(
        (
            "key", "secret", "profile", "role_arn", "endpoint_url", "account_name", "account_key", "sas_token",
            "connection_string", "project", "username", "password", "client_kwargs.endpoint_url",
            "client_kwargs.region_name",
        ),
        _TEXT,
    ),
    **dict.fromkeys(("anon", "requester_pays", "use_ssl"), _FLAG),
    **dict.fromkeys(
        ("timeout", "total_timeout", "config_kwargs.read_timeout", "config_kwargs.connect_timeout"), _SECONDS
    ),
    **dict.fromkeys(("client_kwargs", "config_kwargs", "config_kwargs.s3"), _MAPPING),
    **dict.fromkeys(("headers", "client_kwargs.headers"), _HEADERS),
    **dict.fromkeys(("auth", "client_kwargs.auth"), _AUTH),
    "token": _TOKEN, "verify": _TRUST, "client_kwargs.verify": _TRUST,
}  # fmt: skip


def check_storage(option: str, values: Mapping[str, Any] | None) -> None:
    """Check the types of the options of a file system, without showing their values.

    Parameters
    ----------
    option : str
        Name of the option that holds them, for the error.
    values : mapping or None
        Options with fsspec's names. Unknown names are not checked.

    Raises
    ------
    ArgumentError
        If a value has another type.
    """
    for name, value in (values or {}).items():
        _check_one(option, name, value)
        if name in ("client_kwargs", "config_kwargs"):
            for inner, each in (value or {}).items():
                _check_one(option, f"{name}.{inner}", each)


def _check_one(option: str, name: str, value: Any) -> None:
    if value is None or name not in _CHECKS:
        return
    fits, words = _CHECKS[name]
    if not fits(value):
        raise ArgumentError(f"{option} must hold {words} as {name}; got a value of type {type(value).__name__}")


def storage_values(texts: Sequence[str]) -> dict[str, Any]:
    """Return the options of several ``name=value``; what must be a string stays text.

    Examples
    --------
    >>> storage_values(["key=123", "anon=false"])
    {'key': '123', 'anon': False}
    """
    return from_text.named_values(texts, {name: fits for name, (fits, _) in _CHECKS.items()})
