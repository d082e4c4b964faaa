"""What is known of a job before it starts: how large it is, or that it can never succeed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from geotile.endpoints import endpoint
from geotile.errors import ArgumentError, GeoreferenceError, GeotileError, ImageError, ImageOpenError
from geotile.planning.plan import plan
from geotile.service.request import JobRequest

_ACCESS = re.compile(
    r"\b40[13]\b|[Dd]enied|[Ff]orbidden|Expired|InvalidAccessKeyId|SignatureDoesNotMatch|[Cc]redentials"
)


def count_tiles(request: JobRequest, options: Mapping[str, Any]) -> int:
    """Return how many tiles a job will send, by the headers of its images.

    Parameters
    ----------
    request : JobRequest
    options : mapping
        Of its endpoint, besides its own.

    Raises
    ------
    GeotileError
        If an image does not open, or cannot be cut or sent as the request says.
    """
    model = endpoint(request.image_processor.endpoint, **options, **request.asking())
    return sum(
        plan(url, endpoint=model, **request.cutting(), **request.opening()).requests for url in request.image_urls
    )


def never_succeeds(error: GeotileError) -> bool:
    """Tell whether what `count_tiles` raised will be so each time.

    A missing image, one that is no image, a wrong argument. Not: a host that does not answer, a role that may not be
    assumed now, access that is denied, which somebody may grant.
    """
    if isinstance(error, ImageOpenError) and error.retryable:
        return False
    if _ACCESS.search(str(error)):
        return False
    return isinstance(error, ArgumentError | GeoreferenceError | ImageError)
