"""Every error that geotile raises on purpose.

::

    GeotileError
    ├── ArgumentError        an argument that cannot be used (also a ValueError)
    ├── ImageError           an image that cannot be used
    │   ├── ImageOpenError   the image is missing, access is denied, or its format is not supported
    │   └── ImageReadError   the image was opened, but some of its pixels cannot be read
    ├── GeoreferenceError    pixels cannot be georeferenced, or not in the way that was requested
    ├── EndpointError        the model endpoint failed
    │   ├── EndpointUnreachable   the endpoint did not respond, or not in time
    │   └── ResponseError    the endpoint responded, but not with detections
    ├── TileError            a tile failed and the run was configured to stop at the first failure
    ├── OutputError          an output or checkpoint cannot be written, exists already, or belongs to another run
    ├── ClusterError         the connection to the Dask cluster was lost
    └── ServiceError         a queue, topic or stream did not respond as expected

Each error is built from one message, so each error can be pickled. `FailedTilesWarning` is the one warning that geotile
issues: some tiles of a run failed, and the others were answered.
"""

from __future__ import annotations

from geotile.printable import printable
from geotile.public import public


@public
class GeotileError(Exception):
    r"""Base class of all errors that geotile raises on purpose.

    A message may quote what others wrote, such as a server or the metadata of a file. So control characters in it, and
    others that people do not see, are written as escapes.

    Examples
    --------
    >>> print(GeotileError("the server says \x1b[2J"))
    the server says \x1b[2J
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message, "\n\t"))


@public
class ArgumentError(GeotileError, ValueError):
    """An argument that cannot be used."""


@public
class ImageError(GeotileError):
    """An image that cannot be used."""


@public
class ImageOpenError(ImageError):
    """An image that cannot be opened: it is missing, access is denied, or its format is not supported."""

    retryable: bool = False
    """Whether a later attempt may succeed, because the host did not respond or was overloaded."""


@public
class ImageReadError(ImageError):
    """Pixels of an opened image that cannot be read."""

    cause: str = ""
    """What the reader said, without the place."""
    retryable: bool = False
    """Whether a later attempt may succeed, because the host did not respond or was overloaded."""


@public
class GeoreferenceError(GeotileError):
    """Pixels that cannot be placed on Earth."""


@public
class EndpointError(GeotileError):
    """A model endpoint that rejected a tile or failed on it."""

    attempts: int = 1
    """Number of requests that were sent before geotile gave up."""
    retryable: bool = False
    """Whether the same request may succeed later."""
    throttled: bool = False
    """Whether the endpoint reported that it is overloaded (HTTP 429 or 503)."""
    timed_out: bool = False
    """Whether the endpoint did not respond in time."""
    local: bool = False
    """Whether the cause lies in this process, such as a limit of its open files, not in the endpoint."""
    unsent: bool = False
    """Whether no server has received the request, so that the failure says nothing of the tile."""
    retry_after_s: float | None = None
    """Delay before the next attempt that the endpoint requested, in seconds; None if it requested none."""
    http_status: int | None = None
    """HTTP status of the response; None if there was no response."""


@public
class EndpointUnreachable(EndpointError):
    """An endpoint that did not respond, or not in time."""


@public
class ResponseError(EndpointError):
    """A response that does not contain detections."""


@public
class TileError(GeotileError):
    """A tile that failed in a run with ``errors="raise"``."""


@public
class OutputError(GeotileError):
    """An output or checkpoint that cannot be written, exists already, or belongs to another run."""


@public
class ClusterError(GeotileError):
    """A Dask cluster whose connection was lost during the run."""


@public
class ServiceError(GeotileError):
    """A queue, topic or stream that did not respond as expected."""


@public
class FailedTilesWarning(UserWarning):
    """A run in which some tiles failed; its report lists them."""
