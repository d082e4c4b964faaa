"""What the command line prints, and where."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from geotile.cli.flags import in_flags
from geotile.printable import printable

if TYPE_CHECKING:
    from geotile.results.report import Report

out, err = Console(), Console(stderr=True)
_LISTED = 20  # failed tiles
_NO_LIMIT = 1_000_000  # characters of a line


def in_words(message: str) -> str:
    """Return a message in the words of the command line, with the values of this call as they were given."""
    values = (text.partition("=")[2] if text.startswith("-") else text for text in sys.argv[2:])
    return in_flags(message, values)


def print_text(text: str, console: Console = out, style: str = "") -> None:
    """Print a text without control characters, and unwrapped where the output is not a terminal."""
    console.print(printable(text, "\n\t"), style=style, markup=False, highlight=False, soft_wrap=True)


def print_error(message: str) -> None:
    """Print an error as one line."""
    print_text(f"Error: {' '.join(message.split()) if chr(10) in message else message}", err, "bold red")


def show(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values; a terminal wraps long values beside their names."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, cell(value))
    print_table(table)


def cell(text: str) -> Text:
    """Return a text for a table: one line, whatever a stranger has put into it."""
    return Text(printable(text))


def print_table(table: Table) -> None:
    """Print a table; whole values where the output is not a terminal, which has no width."""
    if out.is_terminal:
        out.print(table)
        return
    wide = Console(file=io.StringIO(), width=_NO_LIMIT)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        print_text(line.rstrip())


def show_failures(report: Report) -> None:
    """Print the failed tiles of a run."""
    from geotile.results.failures import failure_text

    for failure in report.failures[:_LISTED]:
        print_text(in_words(failure_text(failure.tile, failure.window, failure.reason)), err, "red")
    if len(report.failures) > _LISTED:
        print_text(f"... and {len(report.failures) - _LISTED} more tiles", err, "red")


def show_notes(error: BaseException) -> None:
    """Print the notes of an error."""
    for note in getattr(error, "__notes__", []):
        print_text(in_words(note), err)
