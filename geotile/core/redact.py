"""Removal of secrets from texts that people read.

A text may be one URL or a message that contains URLs, and a secret may break the syntax of its URL (a password with a
slash or a space, a value with quotes). So what could be a secret is masked where the syntax is in doubt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from geotile.core.digest import digest
from geotile.printable import printable

_PORT = r"\d{1,5}(?:[/?#\s'\")\],;.]|$)"
# Each repetition that can begin in many places of a text has a maximum, since time would grow with the square of it.
_LOGIN = re.compile(
    r"(?<=//)(?:"
    rf"(?!\[[0-9a-fA-F:.]+\])[^\s/?#:@]*:(?!{_PORT})"  # user:any text@
    r"(?:\S{0,4096}@|(?:[^\n@:]{0,4096}+(?::(?!//))?+){0,64}+@(?:[^\s@?#]*+@)*)"
    r"|[^\s/?#]{0,4096}@(?:[^\s?#]{0,4096}@)?"  # user@
    r"|[^\s/?#:@]*:\d{1,5}/[^\s?#]{0,4096}@"  # host:port/a@b, or a password that begins with a number and a slash
    r")"
)
_LOGIN_WITHOUT_SLASHES = re.compile(
    r"(?<![\w/])([A-Za-z][\w+.-]{0,64}:/?)(?!/)[^\s:@/]*+:[^\s@]{1,4096}+@"  # scheme:user:password@
    r"|(?<![\w/.:@])[\w.%+~-]{1,256}:(?!\*\*\*@)[^\s@/:]{1,4096}+@"  # user:password@
)
_VSI_OPTIONS = re.compile(r"(/vsi\w+)(\?[^\n]*?)(['\"]?)$", re.MULTILINE)  # header values in them may have spaces
_URL, _PARAMETERS = re.compile(r"//|/vsi"), re.compile(r"[?#;]|&(?=[^\s&]*=)")
_ASSIGNED = re.compile(r"[?#;&].*")
_PART = re.compile(r"([?#;&])([^?#;&]*)")
_NAME = re.compile(r"[\w.%~-]+")
_SECRET_NAME = (
    r"(?:token|secret|passw(?:or)?d|passphrase|pwd|api[-_ ]?key|access[-_ ]?key|signature|credential|authorization"
    r"|cookie)"
)
_NAMED = re.compile(  # name: value, "name": "value", name=value; of Authorization also the scheme
    rf"({_SECRET_NAME}[\w-]{{0,64}}+\\?[\"']?\s*+[:=]\s*+\\?[\"']?)"
    r"(?:(?:bearer|basic|digest|negotiate)\s+)?[^\s\"',;}&<>\\]+",
    re.I,
)
_SCHEME = re.compile(r"\b(bearer|basic)\s+(?=\S*[\d=+/._-]|\S{20})[^\s\"',;<>]+", re.I)
_CLOSING = "'\"`)]}>,.;:"


def redact(text: str) -> str:
    """Mask the passwords in URLs, the values of their parameters, and their fragments.

    Examples
    --------
    >>> redact("https://me:secret@host/a.tif?token=abc&x=1#part")
    'https://***@host/a.tif?token=***&x=***#***'
    >>> redact("cannot read 'https://host/a.tif?secret'. Check the URL")
    "cannot read 'https://host/a.tif?***'. Check the URL"
    """
    if "@" in text:
        text = _LOGIN.sub("***@", text)
        text = _LOGIN_WITHOUT_SLASHES.sub(lambda match: (match[1] or "") + "***@", text)
    text = _VSI_OPTIONS.sub(lambda match: match[1] + _masked(match[2]) + match[3], text)
    return re.sub(r"\S+", lambda match: _redacted_word(match[0]), text)


def redact_answer(text: str) -> str:
    """Mask what looks like a secret in what a server wrote: URLs, and values after names such as token or password.

    Control characters are written as escapes.

    Examples
    --------
    >>> redact_answer('{"access_token": "abc123", "detail": "no"} for Authorization: Bearer xyz')
    '{"access_token": "***", "detail": "no"} for Authorization: ***'
    """
    return redact(_SCHEME.sub(r"\1 ***", _NAMED.sub(r"\1***", printable(text))))


def _redacted_word(word: str) -> str:
    """Return a word without what follows the path of a URL, and without the assignments of any other text."""
    core = word.rstrip(_CLOSING)
    if url := _URL.search(core):
        found = _PARAMETERS.search(core, url.end())
    else:
        found = _ASSIGNED.search(core, 0, core.rfind("=") + 1)
    if found is None:
        return word
    return core[: found.start()] + _masked(core[found.start() :]) + word[len(core) :]


def _masked(parameters: str) -> str:
    """Return parameters without their values; an unusual name may itself be a secret."""

    def mask(match: re.Match[str]) -> str:
        name, _, value = match[2].partition("=")
        if _NAME.fullmatch(name) and value.strip("="):
            return f"{match[1]}{name}=***"
        return match[1] + ("***" if match[2] else "")

    return _PART.sub(mask, parameters)


def digests(values: Mapping[str, str]) -> dict[str, str]:
    """Replace values by short digests, which show whether a value has changed but not what it is.

    Examples
    --------
    >>> digests({"TargetModel": "a"})
    {'TargetModel': 'ca978112'}
    """
    return {name: digest(str(value).encode(), 8) for name, value in values.items()}
