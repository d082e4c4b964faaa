"""What the command line prints, and where."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from geotile.results.report import Report

out, err = Console(), Console(stderr=True)


def say_notes(error: BaseException) -> None:
    """Print what was noted on an error."""
    for note in getattr(error, "__notes__", []):
        err.print(note, markup=False, highlight=False, soft_wrap=True)


def report_rows(report: Report) -> dict[str, str]:
    """Return a report as lines for people."""
    return {
        "status": report.status,
        "tiles": f"{report.tiles:,}",
        "regions": f"{report.regions:,}",
        "tiles off the roi, without data": f"{report.tiles_outside_roi:,}, {report.tiles_without_data:,}",
        "tiles kept from before": f"{report.tiles_resumed:,}",
        "requests": f"{report.requests:,} ({report.retries:,} retries)",
        "failed tiles": f"{len(report.failures):,}",
        "detections before merging": f"{report.detections_before:,}",
        "detections after merging": f"{report.detections_after:,}",
        "seconds": f"{report.seconds:.2f}",
    }


def show(rows: dict[str, str]) -> None:
    """Print names and values."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
