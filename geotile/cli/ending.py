"""How commands end: with the report's status, or interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

from geotile.cli.show import err, print_text, show, show_failures, show_notes
from geotile.core.redact import redact

if TYPE_CHECKING:
    from geotile.results.report import Report


def end(report: Report, output: str) -> NoReturn:
    """Show a report, and exit with its status."""
    written = redact(output) if report.status != "FAILED" else "not written, since every tile failed"
    show((report.rows(failed_tiles=False) | {"output": written}).items())
    show_failures(report)
    raise typer.Exit({"SUCCESS": 0, "PARTIAL": 3, "FAILED": 1}[report.status])


@contextmanager
def interruptible(checkpoint: str | None) -> Iterator[None]:
    """Turn Ctrl-C into a message and exit status 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        err.print("Stopped.", style="bold", end=" ")
        show_notes(error)
        if checkpoint is not None:
            print_text(f"Resume with: geotile resume {redact(checkpoint)}", err)
        raise typer.Exit(130) from None
