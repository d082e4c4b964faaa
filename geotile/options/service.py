"""Options of a service."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from geotile.core.checks import as_int, check_seconds
from geotile.core.option import Options, option, option_names, refuse_unknown
from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.options.endpoint import EndpointKeywords, HttpOptions, OipOptions, OnnxOptions, SageMakerOptions


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ServiceOptions(Options):
    """Options of `geotile.serve`."""

    CALL: ClassVar[str] = "serve"

    status: str | None = option(
        None, "``sns://`` followed by the ARN of a topic for status notifications. They are also written to standard "
        "output, as lines of JSON.", type="str",
    )  # fmt: skip
    region_status: str | None = option(
        None, "``sns://`` followed by the ARN of a topic for the statuses of regions with failed tiles.", type="str",
    )  # fmt: skip
    state: str | os.PathLike[str] | None = option(
        None, "Folder or fsspec URI for records and checkpoints. Required for SQS; by default ``state/`` in a queue "
        "folder.", type="str or path",
    )  # fmt: skip
    dead_letters: str | None = option(
        None, "``sqs://`` queue for rejected requests. By default, the queue that the redrive policy names.",
        type="str",
    )  # fmt: skip
    scheduler: str | None = option(
        None, "Address of a Dask scheduler. By default, jobs run on threads of this process.", type="str",
    )  # fmt: skip
    gateway: str | None = option(None, "URL of a dask-gateway on which to start a cluster.", type="str")
    workers: tuple[int, int] = option(
        (1, 16), "Minimum and maximum number of workers of the gateway's cluster.", type="(int, int)",
    )  # fmt: skip
    address: str | None = option(
        None, "``host:port`` at which to serve a page of the jobs, ``/healthz``, ``/readyz`` and ``/metrics``.",
        type="str",
    )  # fmt: skip
    page_token: str | None = option(
        None, "Token with which people can cancel and retry jobs on the page, of at least 16 characters. Without one "
        "the page is read-only.", type="str", secret=True,
    )  # fmt: skip
    page_hosts: Sequence[str] | None = option(
        None, "Names of hosts in URLs of the page and of ``/metrics``, such as ``jobs.example``, beside IP addresses, "
        "``localhost``, the name of the machine and that of `address`.", type="sequence of str or str",
    )  # fmt: skip
    max_jobs: int = option(32, "Maximum number of jobs that run at once.", type="int")
    max_jobs_per_endpoint: int = option(
        4, "Maximum number of jobs that run at once against one endpoint.", type="int",
    )  # fmt: skip
    max_backlog: int = option(
        1000, "Maximum number of requests that are taken out of the queue in advance. Jobs of a fast endpoint can "
        "overtake those of a slow endpoint among them.", type="int",
    )  # fmt: skip
    max_attempts: int = option(5, "Number of attempts after which a failing job is rejected.", type="int")
    deliveries: int = option(
        3, "Number of deliveries of a request after which it is rejected, if each time the process ended while it read "
        "the headers of the request's images.", type="int",
    )  # fmt: skip
    retry_delay_s: float = option(
        30.0, "Delay before the second attempt, in seconds. It doubles with each attempt, up to 900 s.", type="float",
    )  # fmt: skip
    grace_s: float = option(
        30.0, "Time that running jobs get to finish when the service stops, in seconds.", type="float",
    )  # fmt: skip
    concurrency: int | Literal["auto"] = option(
        "auto", 'Maximum number of requests in flight at each endpoint, over all its jobs. "auto" adapts to the '
        "endpoint.", type='int or "auto"',
    )  # fmt: skip
    limits: Mapping[str, int] | None = option(
        None, "`concurrency` of single endpoints, by the name or URL that the requests use.",
        type="mapping of str to int",
    )  # fmt: skip
    region_size: int | Literal["auto"] = option(
        "auto", "Side of a region in pixels, as for `geotile.detect`.", type='int or "auto"',
    )  # fmt: skip
    endpoint_options: Mapping[str, Any] | None = option(
        None, "Options of the endpoints, as `geotile.endpoint` takes them, such as ``retries``. Each endpoint gets "
        "those that apply to it. Options of endpoints with a prefix stand under it: ``{\"https://host/\": {\"bearer\": "
        "...}}``. `auth`, `bearer`, `cert`, `headers` and `params` need a prefix, unless `allow_endpoints` is one "
        "endpoint, to which they then belong.", type="mapping", secret=True,
    )  # fmt: skip
    allow_endpoints: Sequence[str] | None = option(
        None, "Endpoints that requests may name: URLs such as ``https://models.example/`` (with all that lies below "
        "them), ``sagemaker://NAME``, ``sagemaker://`` for all of a kind, or ``onnx:`` and a folder. By default all, "
        "but with a queue in SQS no loopback, link-local or metadata addresses.", type="sequence of str or str",
    )  # fmt: skip
    allow_images: Sequence[str] | None = option(
        None, "Images that requests may name, and elevation models: URLs and folders with all that lies below them, "
        "such as ``s3://imagery/2024/`` or ``/data``. By default as for endpoints.", type="sequence of str or str",
    )  # fmt: skip
    allow_outputs: Sequence[str] | None = option(
        None, "Places that requests may write to: folders, ``s3://bucket/prefix`` and ``kinesis://STREAM``. By default "
        "all.", type="sequence of str or str",
    )  # fmt: skip
    once: bool = option(
        False, "Stop when the queue is empty and all jobs have finished, or with an error if there is no connection to "
        "the Dask cluster for 60 s.", type="bool",
    )  # fmt: skip

    def _check(self) -> None:
        for name, unit in _COUNTS.items():
            as_int(getattr(self, name), name, 1, unit)
        for name in ("retry_delay_s", "grace_s"):
            check_seconds(getattr(self, name), name)
        for name, limit in (self.limits or {}).items():
            as_int(limit, f"limits[{name!r}]", 1, unit="requests")
        for name, unit in (("concurrency", "requests"), ("region_size", "pixels")):
            if getattr(self, name) != "auto":
                as_int(getattr(self, name), name, 1, unit)
        if not 0 <= self.workers[0] <= self.workers[1] or self.workers[1] < 1:
            raise ArgumentError(
                f"workers must be a (minimum, maximum) pair with 0 <= minimum <= maximum and maximum at least 1; got "
                f"{self.workers!r}"
            )
        _check_topic("status", self.status)
        _check_topic("region_status", self.region_status)
        check_endpoint_options(self.endpoint_options or {})
        _check_page_token(self.page_token)
        allowed = self.allow_endpoints or ()
        for place in [allowed] if isinstance(allowed, str) else allowed:
            if isinstance(place, str):
                _check_scheme(place)


ENDPOINT_SECRETS = frozenset({"auth", "bearer", "cert", "headers", "params"})
"""Options of endpoints that must not be sent to an endpoint for which they were not given."""
_MIN_TOKEN = 16
_COUNTS = {
    "max_jobs": "jobs",
    "max_jobs_per_endpoint": "jobs",
    "max_backlog": "requests",
    "max_attempts": "attempts",
    "deliveries": "deliveries",
}


def _check_topic(name: str, topic: str | None) -> None:
    """Check that status notifications can be sent: an ARN names the service, the region, the account and the topic."""
    parts = (topic or "").removeprefix("sns://").split(":")
    valid = len(parts) == 6 and parts[0] == "arn" and parts[2] == "sns" and all(parts[3:])
    if topic is not None and not (topic.startswith("sns://") and valid):
        raise ArgumentError(
            f"{name} must be sns:// and the ARN of a topic, such as sns://arn:aws:sns:REGION:ACCOUNT:TOPIC; "
            f"got {topic!r}"
        )


def _check_page_token(token: str | None) -> None:
    if token is not None and len(token) < _MIN_TOKEN:
        raise ArgumentError(
            f"page_token must have at least {_MIN_TOKEN} characters; got {len(token)}. Make one with "
            "`openssl rand -hex 16`"
        )


def _check_scheme(place: str) -> None:
    if place and ":" not in place:
        raise ArgumentError(
            "allow_endpoints must be URLs such as 'https://models.example/', 'sagemaker://NAME' or 'onnx:' and a "
            f"folder; got {place!r}. Add the scheme"
        )


def check_endpoint_options(given: Mapping[str, Any]) -> None:
    """Check the options before any job is taken, since a job whose endpoint refuses them fails for good."""
    known = option_names(HttpOptions, OipOptions, OnnxOptions, SageMakerOptions)
    groups = [{name: value for name, value in given.items() if not is_prefix(name)}]
    groups += [value for name, value in given.items() if is_prefix(name)]
    for name in filter(is_prefix, given):
        if "@" in name.partition("//")[2].partition("/")[0]:
            raise ArgumentError(
                "endpoint_options must have prefixes without a user name and a password; "
                f"got {redact(name)!r}. Give them as auth"
            )
    for group in groups:
        if not isinstance(group, Mapping):
            raise ArgumentError(
                "endpoint_options must hold a mapping under a prefix, such as {'https://host/': {'retries': 2}}"
                f"; got a value of type {type(group).__name__}"
            )
        refuse_unknown(group, known, "the endpoint of a job")
        EndpointKeywords(**group)


def is_prefix(name: str) -> bool:
    """Return whether a name in `endpoint_options` is the prefix of an endpoint, and no option."""
    return ":" in name
