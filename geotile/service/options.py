"""The settings of a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geotile.core.checks import as_int, check_bool, check_seconds
from geotile.errors import ArgumentError


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

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value cannot be used.
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

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("max_jobs", "max_jobs_per_endpoint", "max_backlog", "max_attempts"):
            as_int(getattr(self, name), name, 1, unit="attempts" if name == "max_attempts" else "jobs")
        for name in ("retry_delay_s", "grace_s"):
            check_seconds(getattr(self, name), name)
        for name in ("concurrency", "region_size"):
            if getattr(self, name) != "auto":
                as_int(getattr(self, name), name, 1, unit="requests" if name == "concurrency" else "pixels")
        for name in ("limits", "endpoint_options"):
            given = getattr(self, name)
            if not isinstance(given, Mapping) or not all(isinstance(each, str) for each in given):
                raise ArgumentError(f"{name} must be a mapping of names to values; got {type(given).__name__}")
        for limit in self.limits.values():
            as_int(limit, "limits", 1, unit="requests")
        check_bool(self.once, "once")
