"""A Python callable as an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from geotile.decode import decode_object
from geotile.endpoints.base import Answer
from geotile.errors import EndpointError, GeotileError


@dataclass(frozen=True)
class FunctionEndpoint:
    """A model in this process: ``model(tile)``, tile an ndarray (band, y, x).

    It computes, so no more tiles are under way than there are threads.
    """

    model: Callable[[NDArray[Any]], Any]
    wants_bytes = False

    def invoke(self, tile: bytes | NDArray[Any], content_type: str) -> Answer:
        """Call the model."""
        assert not isinstance(tile, bytes)
        try:
            answer = self.model(tile)
        except GeotileError:
            raise
        except Exception as error:  # whatever a user's model raises fails this tile alone
            raise EndpointError(f"the model raised {type(error).__name__}: {error}") from error
        return Answer(decode_object(answer), 1)

    def ready(self) -> None:
        """Do nothing: a function is always there."""

    def workers(self, concurrency: int, threads: int) -> int:
        """Return the number of threads, or fewer if so asked."""
        return min(concurrency, threads)

    def __str__(self) -> str:
        """Name the model."""
        return getattr(self.model, "__qualname__", None) or type(self.model).__name__
