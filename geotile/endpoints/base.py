"""The endpoint protocol."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from geotile.detections import Detections


class Answer(NamedTuple):
    """What an endpoint gives back for a tile."""

    found: Detections
    """In pixels of the tile."""
    attempts: int
    """Requests that it took."""


@runtime_checkable
class Endpoint(Protocol):
    """Turns a tile into detections. Pickles; opens nothing before it is first asked."""

    wants_bytes: bool
    """Whether `invoke` takes an encoded tile, or the array itself."""

    def invoke(self, tile: bytes | NDArray[Any], content_type: str) -> Answer:
        """Ask the model about one tile.

        Raises
        ------
        EndpointError
            If it does not answer with detections; its ``attempts`` counts the requests.
        """

    def ready(self) -> None:
        """Raise EndpointUnreachable or EndpointError if it is plain that no tile can be answered."""

    def workers(self, concurrency: int, threads: int) -> int:
        """How many tiles to have under way in one process."""
