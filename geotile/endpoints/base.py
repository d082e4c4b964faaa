"""The base class of all endpoints, their retry policy, and the check of an endpoint."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.choices import TileFormat
from geotile.encoding.encoder import CONTENT_TYPES, Encoder
from geotile.endpoints.answer import Answer
from geotile.endpoints.array_check import array_answer
from geotile.endpoints.objects import decode_object
from geotile.endpoints.plausible import doubts
from geotile.endpoints.shown import check_html, endpoint_html
from geotile.errors import ArgumentError, EndpointError, GeotileError, ResponseError
from geotile.grid.tile_grid import Window
from geotile.merging.detections import Detections
from geotile.options import RetryPolicy
from geotile.public import public


@public
class Endpoint(ABC):
    """Base class of all endpoints, including your own: an endpoint turns tiles into detections.

    An endpoint can be pickled, opens no connection or file before its first use, and knows nothing about Dask,
    the position of a tile, or a CRS. `invoke` sends one request; the run is responsible for retries, for the
    number of requests in flight, and for waiting during an outage.

    A package can provide its own endpoint type as an entry point of the group ``geotile.endpoints``: a function
    ``(spec, **options) -> Endpoint``, named like the scheme of its specs (``"mine"`` for ``mine://host/model``).

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import write_example
    >>> class Nothing(geotile.Endpoint):
    ...     remote = wants_bytes = False
    ...
    ...     def invoke(self, tiles, content_type):
    ...         return [([], []) for _ in tiles]
    >>> len(geotile.detect(write_example(), Nothing()))
    0
    """

    wants_bytes: bool = True
    """Whether `invoke` takes encoded tiles (True) or arrays of shape (band, y, x) (False)."""
    takes_buffers: bool = False
    """Whether the encoded tiles that `invoke` takes may be a `memoryview` instead of `bytes`, which saves a copy."""
    remote: bool = True
    """Whether the model runs outside this process. If so, `concurrency` limits the requests over the whole cluster,
    and retryable failures are retried; if not, a process runs at most as many calls as it has Dask threads."""
    batch_size: int = 1
    """Maximum number of tiles per request; all tiles of a request have the same shape."""
    max_request_bytes: int | None = None
    """Maximum size of a request body in bytes; None if it is unknown."""
    retry_policy: RetryPolicy = RetryPolicy()
    """Retry and time-out policy; used only if the endpoint is remote."""
    takes_rgb: bool = False
    """Whether `invoke` takes uint8 tiles with red, green and blue as their first bands, or with one band, grey."""
    input_yx: tuple[int, int] | None = None
    """Height and width in pixels of the tiles that the model is made for; None if they are not known."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes of a model that answers rasters, in order, where its file says them."""
    resizes_tiles: bool = False
    """Whether tiles of another size are resized to `input_yx`."""
    sample_shape: tuple[int, int, int] = (3, 512, 512)
    """Shape (band, y, x) of the tile that `check` sends."""

    @abstractmethod
    def invoke(self, tiles: Sequence[Any], content_type: str) -> Sequence[Any]:
        """Send one request with one tile, or with up to `batch_size` tiles.

        Parameters
        ----------
        tiles : sequence of bytes or numpy.ndarray
            Encoded tiles if `wants_bytes`, else arrays of shape (band, y, x).
        content_type : str
            Media type of the encoded tiles.

        Returns
        -------
        sequence
            One item per tile, in the same order: its detections in pixels of the tile, in any form that `detect`
            accepts from a callable; or an EndpointError if the response for this tile cannot be used.

        Raises
        ------
        EndpointError
            If the request failed. Set ``retryable`` if a later attempt may succeed, and ``throttled`` if the
            endpoint is overloaded.
        """

    def ready(self) -> None:  # noqa: B027 - a model in this process is always ready
        """Check that the model is ready, without sending a tile.

        Raises
        ------
        EndpointError
            If the model is not ready. Its ``retryable`` tells whether it may become ready later.
        """

    def for_run(self, tile_threads: int = 1) -> Endpoint:
        """Return an endpoint with everything that is decided once per run, for example the model's metadata.

        Parameters
        ----------
        tile_threads : int
            Number of tiles of the run that one machine processes at the same time.
        """
        return self

    def with_score_threshold(self, score_threshold: float) -> Endpoint:
        """Return the endpoint with another minimum score, if it applies one itself.

        Parameters
        ----------
        score_threshold : float
            Minimum score of a detection, 0 to 1: the `score_threshold` of the run.
        """
        return self

    def for_rasters(self) -> Endpoint:
        """Return the endpoint for a model that answers rasters, not detections.

        The items that its `invoke` returns are then arrays, in any form that `geotile.predict` accepts from a callable.
        """
        return self

    def for_embeddings(self) -> Endpoint:
        """Return the endpoint for a model that answers vectors, not detections.

        The items that its `invoke` returns are then arrays, in any form that `geotile.embed` accepts from a callable.
        """
        return self

    def description(self) -> str:
        """Return what is known of the model as a sentence for `check`, an empty text if nothing is."""
        return ""

    def doubts(self) -> Sequence[str]:
        """Return what looks wrong about the model itself, for `check`."""
        return ()

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on: the model, its version if it is known, and the options of the decoder.

        Returns
        -------
        dict
            JSON values without secrets. A checkpoint cannot be resumed if its identity differs.
        """
        return {"model": str(self)}

    def check(self, tile: NDArray[Any] | None = None, *, tile_format: TileFormat = "GTIFF") -> Check:
        """Check that the model is ready and that it returns detections for one tile. Run this before anything else.

        Parameters
        ----------
        tile : numpy.ndarray of shape (band, y, x), optional
            By default a tile of zeros, with three bands or with the shape that the model expects.
        tile_format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
            Format of the encoded tile, for an endpoint that takes bytes.

        Returns
        -------
        Check
            True if the model returned detections, a raster or a vector. Otherwise its message describes the problem.

        Raises
        ------
        ArgumentError
            If the tile is not an array of three dimensions.

        Examples
        --------
        >>> import geotile
        >>> geotile.endpoint(lambda tile: "hello").check()
        <geotile.Check: the model returned str; return (boxes, scores), (boxes, scores, labels), ...>
        """
        if tile is not None and np.ndim(tile) != 3:
            raise ArgumentError(f"tile must be an array (band, y, x); got {np.ndim(tile)} dimensions")
        try:
            self.ready()
            ready = self.for_run()
            pixels = np.zeros(ready.sample_shape, np.uint8) if tile is None else np.asarray(tile)
            encoder = Encoder(tile_format)
            encoder.check(pixels.dtype.name, len(pixels))
            window = Window(0, pixels.shape[1], 0, pixels.shape[2])
            body = encoder.encode(pixels, window) if self.wants_bytes else pixels
            started = time.perf_counter()
            answer = as_answer(invoke_endpoint(ready, [body], CONTENT_TYPES[tile_format])[0])
        except GeotileError as error:
            if isinstance(error, ArgumentError | ResponseError) and (other := array_answer(self, tile, tile_format)):
                return Check(ok=True, message=f"{self} returned {other[0]} ({other[1]:.3f} s)", seconds=other[1])
            return Check(ok=False, message=str(error) + _remedy(error))
        seconds = time.perf_counter() - started
        warnings = (*ready.doubts(), *doubts(answer.detections, pixels))
        size = " x ".join(map(str, pixels.shape))
        message = f"{self} returned {len(answer.detections)} detections for a tile of {size} in {seconds:.3f} s"
        if answer.reason:
            message += f"; {answer.rejected} boxes were rejected: {answer.reason}"
        if answer.flaw:
            message += f"; {answer.repaired} shapes were repaired: {answer.flaw}"
        message += "".join(
            f". {text}" for text in (ready.description(), *(f"Warning: {each}" for each in warnings)) if text
        )
        return Check(ok=True, message=message, seconds=seconds, detections=answer.detections, warnings=warnings)

    def _repr_html_(self) -> str:
        return endpoint_html(self)


def invoke_endpoint(endpoint: Endpoint, tiles: Sequence[Any], content_type: str) -> list[Any]:
    """Send one request to any endpoint: return one item per tile, or raise a GeotileError."""
    try:
        answers = list(endpoint.invoke(tiles, content_type))
    except GeotileError:
        raise
    except Exception as error:  # a user's endpoint can raise anything; only this request fails
        raise EndpointError(f"{endpoint} raised {type(error).__name__}: {error}") from error
    if len(answers) != len(tiles):
        raise ResponseError(f"the model returned {len(answers)} results for {len(tiles)} tiles")
    return answers


def as_answer(answer: Any, tile_yx: tuple[int, int] | None = None) -> Answer:
    """Return the answer in what an endpoint returned for a tile of a height and a width.

    Raises
    ------
    EndpointError
        If the endpoint returned an error for the tile, or something that cannot be decoded.
    """
    if isinstance(answer, EndpointError):
        raise answer
    return decode_object(answer, tile_yx)


@public
@dataclass(frozen=True, kw_only=True, repr=False)
class Check:
    """Result of `Endpoint.check`; true if the endpoint can be used."""

    ok: bool
    """Whether the endpoint can be used."""
    message: str
    """Description of the problem, or of the successful response."""
    seconds: float | None = None
    """Duration of the request in seconds; None if the check failed."""
    detections: Detections | None = None
    """Detections that the model returned, in pixels of the tile; None if it returned none or something else."""
    warnings: tuple[str, ...] = ()
    """What looks wrong, though the model returned detections; also in the message."""

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return f"<geotile.Check: {self.message}>"

    def _repr_html_(self) -> str:
        return check_html(self)


_REMEDIES = {
    400: "the model does not accept this tile; try another tile_format, other bands or another dtype",
    401: "credentials are required; pass auth, headers or bearer",
    403: "these credentials do not grant access; check auth, headers or bearer",
    404: "check the URL",
    405: "check the URL: it must accept POST requests",
    413: "the tile is too large for the server; use a smaller tile_size or tile_format='JPEG'",
    415: "the model does not accept this format; try another tile_format",
    422: "the model does not accept this tile; try another tile_format, other bands or another dtype",
    429: "the endpoint is overloaded; try again later or with lower concurrency",
    503: "the endpoint is overloaded or still starting; try again later",
}


def _remedy(error: GeotileError) -> str:
    status = getattr(error, "http_status", None)
    if status in _REMEDIES:
        return f" ({_REMEDIES[status]})"
    return " (the model failed on the tile; see the server's log)" if status is not None and status >= 500 else ""
