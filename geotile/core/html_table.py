"""Tables in notebooks: HTML without scripts, style sheets or ids, which reads well on light and dark pages.

Colours of text are those of the page. A notebook that is not trusted keeps the styles of elements, but no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_MAX_TEXT = 500  # characters of a value that are shown
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"
_TEXT = f"{_CELL};white-space:normal;overflow-wrap:anywhere;max-width:48em"
COLOURS = {"good": "#2e9e5b", "doubtful": "#d98e04", "bad": "#d64545"}
"""Colours of a state, which stand out on white and on black."""


def html_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a table; both may hold any text.

    Examples
    --------
    >>> "&lt;b&gt;" in html_table([("image", "<b>")])
    True
    """
    cells = "".join(
        f"<tr style='background:none'><th style='{_CELL};opacity:0.75'>{_shown(name)}</th>"
        f"<td style='{_TEXT}'>{_shown(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table style='border:none;margin:0'>{cells}</table>"


def html_card(title: str, *parts: str, state: str = "") -> str:
    """Return parts, which are HTML, side by side under a title, which is text; `state` is a key of `COLOURS`."""
    colour = COLOURS.get(state, "rgba(128,128,128,0.5)")
    beside = "".join(f"<div>{part}</div>" for part in parts if part)
    return (
        f"<div class='geotile-card' style='border-left:4px solid {colour};padding:4px 0 4px 12px;margin:4px 0'>"
        f"<div style='font-weight:bold;margin-bottom:4px'>{_shown(title)}</div>"
        f"<div style='display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start'>{beside}</div></div>"
    )


def html_details(summary: str, inner: str) -> str:
    """Return HTML that is hidden until the reader opens it by a click on its summary, which is text."""
    return f"<details><summary style='cursor:pointer'>{_shown(summary)}</summary>{inner}</details>"


def html_bar(share: float, state: str = "good") -> str:
    """Return a bar of which a share, 0 to 1, is filled."""
    percent = 100 * min(max(share, 0.0), 1.0)
    return (
        "<div style='width:24em;max-width:100%;height:10px;border-radius:5px;background:rgba(128,128,128,0.3)'>"
        f"<div style='width:{percent:.1f}%;height:10px;border-radius:5px;background:{COLOURS[state]}'></div></div>"
    )


def _shown(text: str) -> str:
    return escape(text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…")
