"""The service on the command line: ``geotile serve``, ``submit`` and ``jobs``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from geotile.cli.options import EndpointOption, as_concurrency, endpoint_options
from geotile.cli.show import err, out

Queue = Annotated[
    str, typer.Option(help="A folder of requests as JSON files, or sqs:// and an SQS queue's url or name.")
]
State = Annotated[
    str | None,
    typer.Option(help="Folder or uri of records and checkpoints. Default: state/ in the queue's folder."),
]


def serve(
    queue: Queue,
    status: Annotated[str | None, typer.Option(help="sns:// and the ARN of a topic for statuses.")] = None,
    state: State = None,
    dead_letters: Annotated[
        str | None, typer.Option(help="sqs:// queue of what fails for good. Default: the queue's redrive policy's.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, tcp://…")] = None,
    gateway: Annotated[str | None, typer.Option(help="Url of a dask-gateway: a cluster is started there.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Threads of this process: the default.")] = False,
    workers: Annotated[str, typer.Option(help="Least and most workers of a gateway's cluster.")] = "1-16",
    address: Annotated[
        str | None, typer.Option(help="host:port for /healthz, /readyz and /metrics, e.g. 0.0.0.0:9100.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Jobs at once.", min=1)] = 32,
    jobs_per_endpoint: Annotated[int, typer.Option(help="Jobs at once against one endpoint.", min=1)] = 4,
    backlog: Annotated[int, typer.Option(help="Requests taken out of the queue ahead of that.", min=1)] = 1000,
    deliveries: Annotated[int, typer.Option(help="Times that a job is tried.", min=1)] = 5,
    retry_s: Annotated[float, typer.Option(help="Seconds before the second time; doubled with each.")] = 30.0,
    grace: Annotated[float, typer.Option(help="Seconds that running jobs get at SIGTERM.", min=0)] = 30.0,
    concurrency: Annotated[
        str, typer.Option(help="Requests in flight at an endpoint, over all its jobs; auto finds them.")
    ] = "auto",
    limit: Annotated[
        list[str] | None, typer.Option(help="'NAME=N': the same for one endpoint, by its name or url; may be repeated.")
    ] = None,
    region_size: Annotated[int | None, typer.Option(help="Side of a region in pixels. Default: chosen.")] = None,
    option: EndpointOption = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when nothing is left in the queue.")] = False,
) -> None:
    """Do the jobs of a queue: requests as OversightML's model runner takes them.

    Statuses go to standard output as lines of JSON, logs to standard error.

    SIGTERM ends it: running jobs get --grace seconds, the rest is handed back to the queue.
    """
    import geotile

    if local and (scheduler or gateway):
        raise typer.BadParameter("--local goes with neither --scheduler nor --gateway", param_hint="--local")
    geotile.serve(
        queue, status=status, state=state, dead_letters=dead_letters, scheduler=scheduler, gateway=gateway,
        workers=_workers(workers), address=address, jobs=jobs, jobs_per_endpoint=jobs_per_endpoint, backlog=backlog,
        deliveries=deliveries, retry_s=retry_s, grace_s=grace, concurrency=as_concurrency(concurrency),
        limits=dict(_limit(each) for each in limit or []), region_size=region_size or "auto",
        endpoint_options=endpoint_options(option, None), once=once,
    )  # fmt: skip


def submit(
    request: Annotated[list[Path], typer.Argument(help="JSON files of requests.")],
    queue: Queue,
) -> None:
    """Check requests and put them into a queue."""
    import geotile

    for path in request:
        parsed = geotile.submit(path, queue)
        for name in parsed.unknown():
            err.print(f"{path}: unknown field {name}: it has no effect", style="yellow", markup=False, soft_wrap=True)
        out.print(f"{parsed.job_id}: {len(parsed.image_urls)} images", markup=False, highlight=False)


def jobs(
    queue: Queue,
    job_id: Annotated[str | None, typer.Argument(help="A job, to show all that is known of it.")] = None,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print records as JSON.")] = False,
) -> None:
    """List the jobs of a queue, or show one.

    Exit status: 1 if there is no such job.
    """
    import geotile

    found = geotile.jobs(queue, state)
    if job_id is not None:
        found = [record for record in found if record.job_id == job_id]
        if not found:
            raise geotile.ArgumentError(f"no job {job_id!r} is known in {queue}")
    if as_json or job_id is not None:
        said: Any = [record.model_dump(mode="json") for record in found]
        typer.echo(json.dumps(said[0] if job_id is not None else said, indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "status", "queued", "images", "tries", "detections", "why"):
        table.add_column(name, justify="right" if name in ("images", "tries", "detections") else "left")
    for record in found:
        table.add_row(
            record.job_id, record.status, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.queued)),
            str(len(record.images)), str(len(record.attempts)), f"{sum(each.detections for each in record.images):,}",
            _why(record),
        )  # fmt: skip
    out.print(table)


def _why(record: Any) -> str:
    reasons = record.reasons or [each.error for each in record.attempts if each.error]
    return str(reasons[-1]) if reasons else ""


def _workers(text: str) -> tuple[int, int]:
    least, dash, most = text.partition("-")
    if not (least.isdigit() and (most.isdigit() or not dash)) or int(most or least) < max(1, int(least)):
        raise typer.BadParameter("give least and most, such as 1-16", param_hint="--workers")
    return int(least), int(most or least)


def _limit(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not equals or not number.isdigit() or int(number) < 1:
        raise typer.BadParameter("a limit reads 'NAME=N'", param_hint="--limit")
    return name, int(number)
