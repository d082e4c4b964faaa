"""Checks of a job before it starts, its number of tiles, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geotile.endpoints import Endpoint, applicable_options, endpoint
from geotile.errors import (
    ArgumentError,
    GeoreferenceError,
    GeotileError,
    ImageError,
    ImageOpenError,
    OutputError,
    ServiceError,
)
from geotile.options import ImageOptions
from geotile.planning.opened_image import opened_image
from geotile.planning.plan import planned
from geotile.service.request import JobRequest

_ACCESS = re.compile(
    r"\b40[13]\b|[Dd]enied|[Ff]orbidden|Expired|InvalidAccessKeyId|SignatureDoesNotMatch|[Cc]redentials"
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\[Errno (28|122)\]")


def endpoint_of(request: JobRequest, options: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint of a job, with its own options and those of the service's that apply to it."""
    spec = request.image_processor.endpoint
    return endpoint(spec, **{**applicable_options(spec, options), **request.endpoint_options()})


def count_tiles(request: JobRequest, options: Mapping[str, Any]) -> int:
    """Return the number of tiles that a job will send; read only the headers of its images.

    Parameters
    ----------
    request : JobRequest
        The job's request.
    options : mapping
        Endpoint options of the service. Those of the request are added.

    Raises
    ------
    GeotileError
        If an image cannot be opened, or cannot be tiled or encoded as the request says.
    """
    model = endpoint_of(request, options)
    job = request.options()
    return sum(
        planned(opened_image(url, job.part(ImageOptions), job), job, job, model).requests for url in request.image_urls
    )


def is_permanent(error: GeotileError) -> bool:
    """Return whether an error of `count_tiles` would occur in each attempt.

    A missing image, a file that is not an image and a wrong argument are permanent. A host that does not respond, a
    role that cannot be assumed and denied access are not: the permission may be granted later.
    """
    if isinstance(error, ImageOpenError) and error.retryable:
        return False
    if _ACCESS.search(str(error)):
        return False
    return isinstance(error, ArgumentError | GeoreferenceError | ImageError)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full, which is no fault of the job.

    Its text says so also where the error comes from a worker.

    Examples
    --------
    >>> is_disk_full(OutputError("cannot write state/a.json: [Errno 28] No space left on device"))
    True
    >>> is_disk_full(ValueError("No space left on device"))
    False
    """
    return isinstance(error, OutputError | ServiceError | OSError) and _FULL.search(str(error)) is not None
