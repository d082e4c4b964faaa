"""The settings of a service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """Settings of a service: the keyword arguments of `geotile.serve`.

    Parameters
    ----------
    max_jobs : int, default 32
        Maximum number of jobs that run at once.
    max_jobs_per_endpoint : int, default 4
        Maximum number of jobs that run at once against one endpoint.
    max_backlog : int, default 1000
        Maximum number of requests that are taken out of the queue in advance. Jobs of a fast endpoint can overtake
        those of a slow endpoint among them.
    max_attempts : int, default 5
        Number of attempts after which a failing job is rejected.
    retry_delay_s : float, default 30
        Delay before the second attempt, in seconds. It doubles with each attempt, up to 900 s.
    grace_s : float, default 30
        Time that running jobs get to finish when the service stops, in seconds.
    concurrency : int or "auto", default "auto"
        Maximum number of requests in flight at each endpoint, over all its jobs. ``"auto"`` adapts to the endpoint.
    limits : dict of str to int, default {}
        `concurrency` of single endpoints, by the name or URL that the requests use.
    region_size : int or "auto", default "auto"
        Side of a region in pixels, as for `geotile.detect`.
    endpoint_options : dict, default {}
        Options of every endpoint: the fields of `geotile.RetryPolicy`, such as ``retries``.
    once : bool, default False
        Whether to stop when the queue is empty and all jobs have finished.
    """

    max_jobs: int = 32
    max_jobs_per_endpoint: int = 4
    max_backlog: int = 1000
    max_attempts: int = 5
    retry_delay_s: float = 30.0
    grace_s: float = 30.0
    concurrency: int | Literal["auto"] = "auto"
    limits: dict[str, int] = field(default_factory=dict)
    region_size: int | Literal["auto"] = "auto"
    endpoint_options: dict[str, Any] = field(default_factory=dict)
    once: bool = False
