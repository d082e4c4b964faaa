"""The jobs of a service on the command line: ``geotile submit`` and ``jobs``."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from geotile.cli.service import Queue, State
from geotile.cli.settings import SharedConfig
from geotile.cli.show import cell, err, print_error, print_table, print_text
from geotile.core.redact import redact
from geotile.errors import ServiceError


def submit(
    request: Annotated[list[Path], typer.Argument(help="JSON files with one request each.")],
    queue: Queue,
    config: SharedConfig = None,
) -> None:
    """Check requests and put them into a queue."""
    import geotile

    for path in request:
        try:
            parsed = geotile.submit(path, queue)
        except geotile.ArgumentError as error:  # its names are fields of JSON, not flags
            of_file = f"{path}: " if len(request) > 1 else ""
            print_error(f"{of_file}{error}")
            raise typer.Exit(2) from None
        for name in parsed.unknown_fields():
            print_text(f"{path}: unknown field {name}: it has no effect", err, "yellow")
        print_text(f"{parsed.job_id}: {len(parsed.image_urls)} images")


def jobs(
    queue: Queue,
    job_id: Annotated[str | None, typer.Argument(help="Id of a job whose full record to print as JSON.")] = None,
    state: State = None,
    config: SharedConfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all records as JSON.")] = False,
    cancel: Annotated[
        str | None,
        typer.Option(help="Id of a job to cancel: a running one stops and keeps its finished regions.", metavar="ID"),
    ] = None,
    retry: Annotated[
        str | None,
        typer.Option(help="Id of a job to retry that failed or was cancelled: it keeps its regions.", metavar="ID"),
    ] = None,
) -> None:
    """List the jobs of a queue, show one, cancel one, or submit the request of one again.

    Exit status: 1 if the job or the queue does not exist, the job to cancel has ended, or the job to retry cannot be
    submitted again.
    """
    import geotile

    if retry is not None:
        geotile.retry(retry, queue, state)
        print_text(f"{retry}: submitted again; it resumes from its finished regions")
        return
    if cancel is not None:
        if all(record.job_id != cancel for record in geotile.jobs(queue, state)):
            raise _no_job(queue, cancel)
        was = geotile.cancel(cancel, queue, state).status
        print_text(f"{cancel}: was {was}; the service that has it cancels it within seconds")
        return
    records = geotile.jobs(queue, state)
    if job_id is not None:
        records = [record for record in records if record.job_id == job_id]
        if not records:
            raise _no_job(queue, job_id)
    if as_json or job_id is not None:
        contents: Any = [record.model_dump(mode="json") for record in records]
        typer.echo(json.dumps(contents[0] if job_id is not None else contents, indent=1))
        return
    print_table(_table(records))
    if not records and state is None:
        print_text(
            "No records in the folder state/ of the queue; give --state if the service keeps them elsewhere.", err
        )


def _no_job(queue: str, job_id: str) -> ServiceError:
    shown = redact(queue)
    return ServiceError(
        f"the queue {shown} has no job {job_id!r}. List its jobs with: geotile jobs --queue {shlex.quote(shown)}"
    )


def _table(records: list[Any]) -> Table:
    from geotile.service.job_progress import last_reason

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "status", "queued", "images", "attempts", "tiles", "failed", "tiles/s", "left", "detections"):
        table.add_column(name, justify="left" if name in ("job", "status", "queued") else "right")
    table.add_column("reason")
    for record in records:
        table.add_row(
            cell(record.job_id), record.status, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.queued)),
            str(len(record.images)), str(len(record.attempts)), *_figures(record),
            cell(last_reason(record)),
        )  # fmt: skip
    return table


def _figures(record: Any) -> tuple[str, str, str, str, str]:
    """Return tiles, failed tiles, tiles per second, time left and detections, each empty where there is none."""
    from geotile.running.progress import clock
    from geotile.service.job_progress import job_figures

    now = job_figures(record)
    tiles = _number(now.tiles) if now.done is None else f"{now.done:,} of {now.tiles:,}"
    rate = "" if now.tiles_per_s is None else f"{now.tiles_per_s:,.1f}"
    left = "" if now.left_s is None else clock(now.left_s)
    return tiles, _number(now.failures), rate, left, _number(now.detections)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
