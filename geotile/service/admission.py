"""Checks of a job before it starts: its images, its outputs, its number of tiles, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geotile.embedding import embedding_table
from geotile.endpoints import Endpoint, array_endpoint, endpoint
from geotile.errors import (
    ArgumentError,
    GeoreferenceError,
    GeotileError,
    ImageError,
    ImageOpenError,
    OutputError,
    ServiceError,
)
from geotile.options import DetectToOptions, ImageOptions
from geotile.options.raster import EmbedToOptions
from geotile.planning.opened_image import opened_image
from geotile.planning.plan import Plan, planned
from geotile.results.raster_store import zarr_module
from geotile.running.prepare import prepare
from geotile.service.endpoint_settings import options_of
from geotile.service.json_words import speaking_json
from geotile.service.output_checks import check_formats, check_places
from geotile.service.permissions import Permissions
from geotile.service.request import JobRequest
from geotile.service.tasks import TaskOptions, asked_for
from geotile.storage.separate import NamedPlace, check_apart

_CREDENTIALS = re.compile("[Cc]redentials")
_ACCESS = re.compile(
    r"\b40[13]\b|[Dd]enied|[Ff]orbidden|Expired|InvalidAccessKeyId|SignatureDoesNotMatch|[Cc]redentials"
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\[Errno (28|122)\]")


def endpoint_of(request: JobRequest, options: Mapping[str, Any]) -> Endpoint:
    """Return the endpoint of a job, with its own options and those of the service's that apply to it."""
    spec, create = request.image_processor.endpoint, endpoint if request.task == "detect" else array_endpoint
    return create(spec, **{**options_of(spec, options), **request.endpoint_options()})


def admit(request: JobRequest, options: Mapping[str, Any], permissions: Permissions) -> int:
    """Check what a job needs before its model is asked, and return the number of tiles that it will send.

    Only the headers of its images are read; its outputs are tried.

    Parameters
    ----------
    request : JobRequest
        The job's request.
    options : mapping
        Endpoint options of the service. Those of the request are added.
    permissions : Permissions
        What requests may name.

    Raises
    ------
    GeotileError
        If the request names what it may not, if an image cannot be opened, or cannot be tiled or encoded as the request
        says, or if an output cannot be written.
    """
    permissions.check(request)
    with speaking_json():
        return _admit(request, options)


def _admit(request: JobRequest, options: Mapping[str, Any]) -> int:
    model = asked_for(request.task, endpoint_of(request, options))
    check_places(request)
    job, tiles, places = request.options(), 0, list[NamedPlace]()
    for url in request.image_urls:
        opened = opened_image(url, job.part(ImageOptions), job)
        places += opened.places
        work = planned(opened, job, job, model)
        _check_results(request, work, job)
        tiles += work.requests
    check_apart(places, request.places())  # again, since the assets of STAC items are known only now
    return tiles


def _check_results(request: JobRequest, work: Plan, job: TaskOptions) -> None:
    """Check that the formats of the outputs can hold the results of an image, as far as is known before the run."""
    if isinstance(job, DetectToOptions):
        check_formats(request, work, prepare(work, job).sample())
    elif isinstance(job, EmbedToOptions):
        check_formats(request, work, embedding_table(work, job).sample(work.grid.shape_yx))
    else:
        zarr_module()


def is_permanent(error: GeotileError) -> bool:
    """Return whether an error of `admit` would occur in each attempt.

    A missing image, a file that is not an image, a wrong argument and an output that does not exist are permanent. A
    host that does not respond, a role that cannot be assumed and denied access are not: the permission may be granted
    later.
    """
    if isinstance(error, ImageOpenError) and error.retryable:
        return False
    passing = _CREDENTIALS if isinstance(error, ArgumentError) else _ACCESS  # a name may contain 403
    if passing.search(str(error)):
        return False
    return isinstance(error, ArgumentError | GeoreferenceError | ImageError)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full, which is not a fault of the job.

    Its text says so also where the error comes from a worker.

    Examples
    --------
    >>> is_disk_full(OutputError("cannot write state/a.json: [Errno 28] No space left on device"))
    True
    >>> is_disk_full(ValueError("No space left on device"))
    False
    """
    return isinstance(error, OutputError | ServiceError | OSError) and _FULL.search(str(error)) is not None
