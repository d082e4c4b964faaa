"""The service on the command line: ``geotile serve``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from geotile.cli.options import as_concurrency, service_endpoint_options
from geotile.cli.settings import PREFIX, Config, place_of
from geotile.core.redact import redact
from geotile.errors import ArgumentError
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
        _monitoring(
            help="HOST:PORT at which to serve a page of the jobs, /healthz, /readyz and /metrics, for example "
            "0.0.0.0:9100."
        ),
    ] = None,
    page_token: Annotated[
        str | None,
        _monitoring(
            help="Token with which people can cancel and retry jobs on the page. Others see flags of a process: give "
            f"{PREFIX}_PAGE_TOKEN or a file of settings.",
            metavar="TOKEN",
        ),
    ] = None,
    page_host: Annotated[
        list[str] | None,
        _monitoring(
            help="Name of a host in URLs of the page and metrics, beside its addresses. Can be repeated.",
            metavar="NAME",
        ),
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
        workers=_workers(workers), address=address, page_token=page_token, page_hosts=page_host or None,
        max_jobs=max_jobs, max_jobs_per_endpoint=max_jobs_per_endpoint,
        max_backlog=max_backlog, max_attempts=max_attempts, deliveries=deliveries, retry_delay_s=retry_delay_s,
        grace_s=grace_s, concurrency=as_concurrency(concurrency), limits=dict(_limit(each) for each in limit or []),
        region_size="auto" if region_size is None else region_size, once=once,
        endpoint_options=_endpoint_options(context, option), allow_endpoints=allow_endpoint or None,
        allow_images=allow_image or None, allow_outputs=allow_output or None,
    )  # fmt: skip


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
