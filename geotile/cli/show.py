"""What the command line prints, and where."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from geotile.cli.flags import in_flags

if TYPE_CHECKING:
    from geotile.results.report import Report

out, err = Console(), Console(stderr=True)
_LISTED = 20  # failed tiles


def in_words(message: str) -> str:
    """Return a message in the words of the command line, with the values of this call as they were given."""
    values = (text.partition("=")[2] if text.startswith("-") else text for text in sys.argv[2:])
    return in_flags(message, values)


def print_error(message: str) -> None:
    """Print an error as one line."""
    text = f"Error: {' '.join(message.split())}" if "\n" in message else f"Error: {message}"
    err.print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)


def show(rows: Mapping[str, str]) -> None:
    """Print names and values."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def show_failures(report: Report) -> None:
    """Print the failed tiles of a run."""
    for failure in report.failures[:_LISTED]:
        text = f"tile {failure.tile} {failure.window}: {in_words(failure.reason)}"
        err.print(text, style="red", markup=False, soft_wrap=True)
    if len(report.failures) > _LISTED:
        err.print(f"... and {len(report.failures) - _LISTED} more tiles", style="red")


def show_notes(error: BaseException) -> None:
    """Print the notes of an error."""
    for note in getattr(error, "__notes__", []):
        err.print(in_words(note), markup=False, highlight=False, soft_wrap=True)
