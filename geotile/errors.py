"""Every error geotile raises on purpose.

::

    GeotileError
    ├── ArgumentError        an argument that cannot be used (also a ValueError)
    ├── ImageError           an image that cannot be used
    │   ├── ImageOpenError   missing, denied, not an image, or of a kind geotile does not take
    │   └── ImageReadError   it opened, but some pixels cannot be read
    ├── GeoreferenceError    pixels cannot be placed on Earth, or not yet
    ├── EndpointError        the model's side
    │   ├── EndpointUnreachable   nobody answers, or not in time
    │   └── ResponseError    it answered, but not with detections
    ├── TileError            a tile failed and the run was asked to stop there
    ├── OutputError          an output or a checkpoint cannot be written, exists, or is another run's
    ├── ClusterError         the Dask cluster was lost
    └── ServiceError         a queue, a topic or a stream does not answer as it should

All of them are built from one message, so all of them pickle.
"""

from __future__ import annotations


class GeotileError(Exception):
    """Base of all errors that geotile raises on purpose."""


class ArgumentError(GeotileError, ValueError):
    """An argument that cannot be used."""


class ImageError(GeotileError):
    """An image that cannot be used."""


class ImageOpenError(ImageError):
    """An image that cannot be opened: missing, denied, or not an image geotile takes."""

    retryable: bool = False
    """Whether it may open later: its host did not answer, or had too much to do."""


class ImageReadError(ImageError):
    """Pixels of an opened image that cannot be read."""


class GeoreferenceError(GeotileError):
    """Pixels that cannot be placed on Earth."""


class EndpointError(GeotileError):
    """A model endpoint that refused a tile or failed on it."""

    attempts: int = 1
    """Requests that were sent before it was given up."""
    retryable: bool = False
    """Whether the same request may be answered later."""
    throttled: bool = False
    """Whether the endpoint said that it has too much to do."""
    timed_out: bool = False
    """Whether it did not answer in time."""
    retry_after_s: float | None = None
    """Seconds after which the endpoint wants to be asked again."""
    http_status: int | None = None
    """Of the answer, if there was one."""


class EndpointUnreachable(EndpointError):
    """An endpoint that does not answer, or not in time."""


class ResponseError(EndpointError):
    """An answer that does not hold detections."""


class TileError(GeotileError):
    """A tile failed while ``errors="raise"``."""


class OutputError(GeotileError):
    """An output or a checkpoint that cannot be written, exists already, or is another run's."""


class ClusterError(GeotileError):
    """A Dask cluster that was lost under way."""


class ServiceError(GeotileError):
    """A queue, a topic or a stream that does not answer as it should."""
