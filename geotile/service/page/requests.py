"""Requests of browsers, as the page reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

_MAX_FIELDS = 20


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request."""

    method: str
    """Method, in capitals."""
    name: str
    """Path without the slash at its beginning; all paths of the page have one part."""
    query: dict[str, str]
    """Values of the query."""
    form: dict[str, str] = field(repr=False)
    """Values of a form."""
    headers: dict[str, str] = field(repr=False)
    """Headers, with names in lower case."""

    @classmethod
    def of(cls, environ: dict[str, Any]) -> Request:
        """Return the request of a WSGI environment."""
        method = str(environ["REQUEST_METHOD"]).upper()
        is_form = method == "POST" and environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
        body = environ["wsgi.input"].read() if is_form else b""  # the server limits it
        return cls(
            method=method, name=str(environ.get("PATH_INFO", "")).removeprefix("/"),
            query=_values(str(environ.get("QUERY_STRING", ""))), form=_values(body.decode("latin-1")),
            headers={
                name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
                for name, value in environ.items() if name.startswith("HTTP_")
            },
        )  # fmt: skip


def _values(text: str) -> dict[str, str]:
    """Return the values of a query or a form; nothing of one that has too many."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        return {}
