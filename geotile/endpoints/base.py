"""What an endpoint is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.option import option_names
from geotile.encoding.encoder import CONTENT_TYPES, Encoder
from geotile.endpoints.decode import decode_object
from geotile.errors import ArgumentError, EndpointError, GeotileError, ResponseError
from geotile.grid.tile_grid import Window
from geotile.merging.detections import Detections
from geotile.options import RetryPolicy, TileFormat


class Endpoint(ABC):
    """Turns tiles into detections: the base of all kinds, also of your own.

    It pickles, opens nothing before it is first asked, and knows nothing of Dask, of where a tile
    lies, or of a CRS. `invoke` is one request; retries, the number of requests in flight and waiting
    for a model that is away are the run's. A package offers a kind of its own by a function
    ``(spec, **options) -> Endpoint`` as an entry point of the group ``geotile.endpoints``, named
    like the scheme of the specs it takes (``"mine"`` for ``mine://host/model``).

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
    """Whether `invoke` takes encoded tiles, or arrays (band, y, x)."""
    remote: bool = True
    """Whether it waits elsewhere. If so, `concurrency` bounds its requests over the whole cluster, and
    they are tried again; if not, no more run in a process than it has Dask threads."""
    batch_size: int = 1
    """Most tiles, alike in shape, that a request takes."""
    max_request_bytes: int | None = None
    """Largest body of a request, where that is known."""
    retry_policy: RetryPolicy = RetryPolicy()
    sample_shape: tuple[int, int, int] = (3, 512, 512)
    """(band, y, x) of the tile that `check` sends."""

    @abstractmethod
    def invoke(self, tiles: Sequence[Any], content_type: str) -> Sequence[Any]:
        """Ask the model once about one tile, or about up to `batch_size`.

        Parameters
        ----------
        tiles : sequence of bytes or numpy.ndarray
            Encoded tiles, or arrays (band, y, x), by `wants_bytes`.
        content_type : str
            Media type of encoded tiles.

        Returns
        -------
        sequence
            For each tile in order its detections, in pixels of the tile, as `detect` takes them of a
            callable; or an EndpointError, for one whose answer cannot be used.

        Raises
        ------
        EndpointError
            If the request failed. Its ``retryable`` says whether another try is worth it, ``throttled`` that
            the endpoint has too much to do.
        """

    def ready(self) -> None:  # noqa: B027 - a model in the process is always there
        """Ask whether the model is there, without a tile.

        Raises
        ------
        EndpointError
            If it is not. Its ``retryable`` says whether it may come.
        """

    def for_run(self, tile_threads: int = 1) -> Endpoint:
        """Return the endpoint with what is settled once a run.

        Parameters
        ----------
        tile_threads : int
            How many tiles of the run a machine works on at once.
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

    def identity(self) -> dict[str, Any]:
        """Return what answers depend on: which model, which version of it where that is told, what is done to tiles.

        Returns
        -------
        dict
            JSON, without secrets. A checkpoint is refused where it differs.
        """
        return {"model": str(self)}

    def check(self, tile: NDArray[Any] | None = None, *, tile_format: TileFormat = "GTIFF") -> Check:
        """Ask whether the model is there, then about one tile: what to run first.

        Parameters
        ----------
        tile : numpy.ndarray, optional
            (band, y, x); by default one of three bands of zeros, or of the model's own shape.
        tile_format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
            How it is encoded, for an endpoint that wants bytes.

        Returns
        -------
        Check
            True if it answered with detections; its message says what is wrong, in a sentence.

        Examples
        --------
        >>> import geotile
        >>> geotile.endpoint(lambda tile: "hello").check()
        <geotile.Check: the model returned str; return (boxes, scores), (boxes, scores, labels), ...>
        """
        try:
            self.ready()
            ready = self.for_run()
            pixels = np.zeros(ready.sample_shape, np.uint8) if tile is None else np.asarray(tile)
            encoder = Encoder(tile_format)
            encoder.check(pixels.dtype.name, len(pixels))
            window = Window(0, pixels.shape[1], 0, pixels.shape[2])
            body = encoder.encode(pixels, window) if self.wants_bytes else pixels
            began = time.perf_counter()
            found = decoded(invoked(ready, [body], CONTENT_TYPES[tile_format])[0])
        except GeotileError as error:
            return Check(ok=False, message=str(error) + _remedy(error))
        seconds = time.perf_counter() - began
        bands, height, width = pixels.shape
        said = f"{self} answered a tile of {bands} x {height} x {width} in {seconds:.3f} s with {len(found)} detections"
        return Check(ok=True, message=said, seconds=seconds, found=found)


def invoked(endpoint: Endpoint, tiles: Sequence[Any], content_type: str) -> list[Any]:
    """Ask an endpoint once, whatever it is made of: an answer a tile, or a GeotileError."""
    try:
        answers = list(endpoint.invoke(tiles, content_type))
    except GeotileError:
        raise
    except Exception as error:  # an endpoint of somebody else's: what it raises fails this request alone
        raise EndpointError(f"{endpoint} raised {type(error).__name__}: {error}") from error
    if len(answers) != len(tiles):
        raise ResponseError(f"the model gave {len(answers)} answers to {len(tiles)} tiles")
    return answers


def decoded(answer: Any) -> Detections:
    """Return what an endpoint gave for a tile as detections, or raise what it gave instead."""
    if isinstance(answer, EndpointError):
        raise answer
    return decode_object(answer)


@dataclass(frozen=True, kw_only=True, repr=False)
class Check:
    """What `Endpoint.check` found out; true if the endpoint can be used."""

    ok: bool
    message: str
    """What is wrong, or how it answered, in a sentence."""
    seconds: float | None = None
    """How long the answer took."""
    found: Detections | None = None
    """What it detected, in pixels of the tile."""

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return f"<geotile.Check: {self.message}>"


_REMEDIES = {
    400: "the model does not take this tile; try another tile_format, bands or dtype",
    401: "give credentials: auth=, headers= or bearer=",
    403: "these credentials are not enough: auth=, headers= or bearer=",
    404: "check the url",
    405: "check the url: tiles are posted to it",
    413: "the tile is too large for it; use a smaller tile_size or tile_format='JPEG'",
    415: "the model does not take this format; try another tile_format",
    422: "the model does not take this tile; try another tile_format, bands or dtype",
    429: "it has too much to do; try again later, or with less concurrency",
    503: "it has too much to do, or is starting; try again later",
}


def _remedy(error: GeotileError) -> str:
    status = getattr(error, "http_status", None)
    if status in _REMEDIES:
        return f" ({_REMEDIES[status]})"
    return " (the model failed on the tile: look at its log)" if status is not None and status >= 500 else ""


RETRY_NAMES = sorted(option_names(RetryPolicy))


def split_options(options: dict[str, Any], known: Sequence[str], kind: str) -> RetryPolicy:
    """Take the options of `RetryPolicy` out; refuse those that nobody knows.

    Raises
    ------
    ArgumentError
        If an option is unknown.
    """
    retry_policy = {name: options.pop(name) for name in RETRY_NAMES if name in options}
    if unknown := sorted(set(options) - set(known)):
        raise ArgumentError(f"no option {unknown}; {kind} takes {sorted([*known, *RETRY_NAMES])}")
    return RetryPolicy(**retry_policy)
