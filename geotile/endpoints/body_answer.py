"""Endpoints that answer a tile with the body of a response: detections in JSON, a raster or a vector in a file."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, Self

from geotile.endpoints.base import Endpoint
from geotile.endpoints.decode import decode_bytes
from geotile.endpoints.raster import decode_array, decode_raster


class BodyEndpoint(Endpoint):
    """Base class of endpoints that send one tile and read the body of the response by its content type."""

    _max_detections: int
    _decode: Callable[[bytes, str], Any] | None = None

    def for_rasters(self) -> Self:
        """Return the endpoint for a model that answers image/tiff, image/png or application/x-npy."""
        return self._decoding(decode_raster)

    def for_embeddings(self) -> Self:
        """Return the endpoint for a model that answers application/x-npy."""
        return self._decoding(decode_array)

    def _answer(self, body: bytes, content_type: str) -> Any:
        """Return what a body says."""
        if self._decode is None:
            return decode_bytes(body, self._max_detections)
        return self._decode(body, content_type)

    def _decoding(self, decode: Callable[[bytes, str], Any]) -> Self:
        other = copy(self)
        other._decode = decode
        return other
