"""The service on the command line: ``geotile serve``, ``submit`` and ``jobs``."""

from __future__ import annotations

import json
import shlex
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from geotile.cli.options import as_concurrency, service_endpoint_options
from geotile.cli.settings import PREFIX, Config, SharedConfig, place_of
from geotile.cli.show import cell, err, print_error, print_table, print_text
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ServiceError
from geotile.options.service import check_endpoint_options

_queue = partial(typer.Option, rich_help_panel="Queue")
_cluster = partial(typer.Option, rich_help_panel="Cluster")
_limits = partial(typer.Option, rich_help_panel="Limits")
_endpoint = partial(typer.Option, rich_help_panel="Endpoint")
_allowed = partial(typer.Option, rich_help_panel="What requests may name", metavar="PREFIX")
_monitoring = partial(typer.Option, rich_help_panel="Monitoring")

Queue = Annotated[
    str,
    _queue(
        help="Folder that receives requests as JSON files, or sqs:// and the URL or name of an SQS queue.",
        envvar=f"{PREFIX}_QUEUE",
    ),
]
State = Annotated[
    str | None,
    _queue(
        help="Folder or URI for records and checkpoints. Default: state/ in a queue folder; required for SQS.",
        envvar=f"{PREFIX}_STATE",
    ),
]


def serve(
    context: typer.Context,
    queue: Queue,
    config: Config = None,
    state: State = None,
    dead_letters: Annotated[
        str | None, _queue(help="sqs:// queue for rejected requests. Default: the one that the redrive policy names.")
    ] = None,
    max_attempts: Annotated[int, _queue(help="Attempts after which a failing job is rejected.", min=1)] = 5,
    deliveries: Annotated[
        int,
        _queue(
            help="Deliveries after which a request is rejected, if each time the process ended while it read the "
            "headers of its images.",
            min=1,
        ),
    ] = 3,
    retry_delay_s: Annotated[
        float, _queue(help="Delay before the second attempt, in seconds. Doubles with each attempt, up to 900 s.")
    ] = 30.0,
    grace_s: Annotated[
        float, _queue(help="Time that running jobs get to finish after SIGTERM, in seconds.", min=0)
    ] = 30.0,
    once: Annotated[
        bool,
        _queue(
            "--once",
            help="Stop when the queue is empty and all jobs have finished, or with "
            "exit status 1 if there is no connection to the Dask cluster for 60 s.",
        ),
    ] = False,
    local: Annotated[bool, _cluster("--local", help="Run on threads of this process (the default).")] = False,
    scheduler: Annotated[str | None, _cluster(help="Address of a Dask scheduler: tcp://HOST:PORT.")] = None,
    gateway: Annotated[str | None, _cluster(help="URL of a dask-gateway on which to start a cluster.")] = None,
    workers: Annotated[
        str, _cluster(help="Minimum and maximum number of workers of the gateway's cluster.", metavar="MIN-MAX")
    ] = "1-16",
    region_size: Annotated[
        int | None, _cluster(help="Side of a region (one task) in pixels. Default: chosen for each image.")
    ] = None,
    max_jobs: Annotated[int, _limits(help="Maximum number of jobs that run at once.", min=1)] = 32,
    max_jobs_per_endpoint: Annotated[
        int, _limits(help="Maximum number of jobs that run at once against one endpoint.", min=1)
    ] = 4,
    max_backlog: Annotated[
        int, _limits(help="Maximum number of requests that are taken out of the queue in advance.", min=1)
    ] = 1000,
    concurrency: Annotated[
        str,
        _limits(
            help="Maximum number of requests in flight at each endpoint, over all its jobs. "
            "'auto' adapts to the endpoint.",
            metavar="INTEGER|auto",
        ),
    ] = "auto",
    limit: Annotated[
        list[str] | None,
        _limits(
            help="--concurrency of one endpoint, by the name or URL that requests use. Can be repeated.",
            metavar="NAME=N",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        _endpoint(
            "--option",
            "-O",
            metavar="[PREFIX=]NAME=VALUE",
            help="Option of the endpoints that it applies to, for example retries=2; with a prefix, of the endpoints "
            "below it: https://HOST/=bearer=TOKEN. Secrets need one, unless there is one --allow-endpoint. "
            "Pairs and lists have commas, as for `geotile detect`. Can be repeated.",
        ),
    ] = None,
    allow_endpoint: Annotated[
        list[str] | None,
        _allowed(
            help="Endpoints that requests may name: https://HOST/PATH and all below it, sagemaker://NAME, or "
            "sagemaker:// for all. Default: all, but with SQS no loopback, link-local or metadata addresses. May be "
            "repeated."
        ),
    ] = None,
    allow_image: Annotated[
        list[str] | None,
        _allowed(help="Images and elevation models: s3://BUCKET/PREFIX, https://HOST/, a folder. May be repeated."),
    ] = None,
    allow_output: Annotated[
        list[str] | None,
        _allowed(help="Outputs: a folder, s3://BUCKET/PREFIX, kinesis://STREAM. Default: all. May be repeated."),
    ] = None,
    status: Annotated[str | None, _monitoring(help="sns:// and the ARN of a topic for status notifications.")] = None,
    region_status: Annotated[
        str | None, _monitoring(help="sns:// and the ARN of a topic for the statuses of regions with failed tiles.")
    ] = None,
    address: Annotated[
        str | None,
        _monitoring(help="HOST:PORT at which to serve /healthz, /readyz and /metrics, for example 0.0.0.0:9100."),
    ] = None,
) -> None:
    """Run the jobs of a queue, like OversightML's model runner.

    Status notifications are written to standard output as lines of JSON, logs to standard error.

    SIGTERM stops the service: running jobs get --grace-s seconds to finish, and all other requests return to the queue.
    A second signal ends that time; a third one ends the process.
    """
    import geotile

    if local and (scheduler or gateway):
        raise typer.BadParameter("cannot be combined with --scheduler or --gateway", param_hint="--local")
    geotile.serve(
        queue, status=status, region_status=region_status, state=state,
        dead_letters=dead_letters, scheduler=scheduler, gateway=gateway,
        workers=_workers(workers), address=address, max_jobs=max_jobs, max_jobs_per_endpoint=max_jobs_per_endpoint,
        max_backlog=max_backlog, max_attempts=max_attempts, deliveries=deliveries, retry_delay_s=retry_delay_s,
        grace_s=grace_s, concurrency=as_concurrency(concurrency), limits=dict(_limit(each) for each in limit or []),
        region_size="auto" if region_size is None else region_size, once=once,
        endpoint_options=_endpoint_options(context, option), allow_endpoints=allow_endpoint or None,
        allow_images=allow_image or None, allow_outputs=allow_output or None,
    )  # fmt: skip


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
) -> None:
    """List the jobs of a queue, show one, or cancel one.

    Exit status: 1 if the job or the queue does not exist, or the job to cancel has ended.
    """
    import geotile

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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "status", "queued", "images", "attempts", "tiles", "failed", "tiles/s", "left", "detections"):
        table.add_column(name, justify="left" if name in ("job", "status", "queued") else "right")
    table.add_column("reason")
    for record in records:
        table.add_row(
            cell(record.job_id), record.status, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.queued)),
            str(len(record.images)), str(len(record.attempts)), *_progress(record),
            f"{sum(each.progress.detections if each.progress else each.detections for each in record.images):,}",
            cell(_last_reason(record)),
        )  # fmt: skip
    return table


def _progress(record: Any) -> tuple[str, str, str, str]:
    """Return the tiles of a job, those that failed, and of a running one the tiles per second and the time left."""
    from geotile.running.progress import clock

    tiles = sum(each.progress.tiles if each.progress else each.tiles for each in record.images)
    failed = f"{sum(each.progress.failures if each.progress else each.failures for each in record.images):,}"
    parts = [each.progress for each in record.images if each.progress]
    if not parts:
        return f"{tiles:,}", failed, "", ""
    done = sum(each.progress.done if each.progress else each.tiles for each in record.images)
    running = [each for each in parts if each.running]
    if not running:
        return f"{done:,} of {tiles:,}", failed, "", ""
    left = "" if running[0].left_s is None else clock(running[0].left_s)
    return f"{done:,} of {tiles:,}", failed, f"{running[0].tiles_per_s:,.1f}", left


def _last_reason(record: Any) -> str:
    reasons = record.reasons or [each.error for each in record.attempts if each.error]
    return "; ".join(filter(None, [record.waiting_for, str(reasons[-1]) if reasons else ""]))


def _endpoint_options(context: typer.Context, options: list[str] | None) -> dict[str, Any]:
    """Return the options of the endpoints; an error names the file or the variable that they come from."""
    place = place_of(context, "option")
    try:
        found = service_endpoint_options(options)
        check_endpoint_options(found)
    except (typer.BadParameter, ArgumentError) as error:
        hint = {"": "--option", PREFIX: f"{PREFIX}_OPTION"}.get(place, f"option in {redact(place)}")
        text = error.message if isinstance(error, typer.BadParameter) else str(error)
        raise typer.BadParameter(text, param_hint=f"'{hint}'") from None
    return found


def _workers(text: str) -> tuple[int, int]:
    """Parse "MIN-MAX", or "N" for a fixed number."""
    minimum, dash, maximum = text.partition("-")
    is_valid = minimum.isdigit() and (maximum.isdigit() or not dash)
    if not is_valid or int(maximum or minimum) < max(1, int(minimum)):
        raise typer.BadParameter(
            f"must be MINIMUM-MAXIMUM with MAXIMUM at least 1; got {text!r}. Use, for example, 1-16.",
            param_hint="--workers",
        )
    return int(minimum), int(maximum or minimum)


def _limit(text: str) -> tuple[str, int]:
    """Parse "NAME=N"."""
    name, equals, number = text.rpartition("=")
    if not equals or not number.isdigit() or int(number) < 1:
        raise typer.BadParameter(f"must be NAME=N with N at least 1; got {redact(text)!r}", param_hint="--limit")
    return name, int(number)
