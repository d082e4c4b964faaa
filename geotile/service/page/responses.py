"""Answers of the page, with the headers that keep browsers from doing more than it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from geotile.core.redact import redact
from geotile.printable import printable

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),  # "no-referrer" would take the origin from forms
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


@dataclass(frozen=True, kw_only=True)
class Response:
    """An answer."""

    status: str = "200 OK"
    """Status line."""
    body: bytes = b""
    """Content."""
    type: str = "text/html; charset=utf-8"
    """Media type of the content."""
    more: Sequence[tuple[str, str]] = ()
    """Further headers."""

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers."""
        return [("Content-Type", self.type), ("Content-Length", str(len(self.body))), *_HEADERS, *self.more]


def redirect(place: str, *more: tuple[str, str]) -> Response:
    """Return the answer to a form: the browser asks for a page, relative to this one."""
    return Response(status="303 See Other", more=[("Location", place), *more])


def templates(**helpers: Any) -> Environment:
    """Return the templates. All text in them is masked, without control characters, and escaped.

    Parameters
    ----------
    **helpers
        Filters.
    """
    found = Environment(
        loader=PackageLoader("geotile.service.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    found.filters |= helpers
    return found


def _shown(value: Any) -> Any:
    """Return a value as people may see it; `Markup` is what templates have made themselves."""
    return printable(redact(value)) if isinstance(value, str) and not isinstance(value, Markup) else value
