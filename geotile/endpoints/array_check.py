"""What a model says that answers no detections: a raster or a vector, for `Endpoint.check`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from geotile.encoding.encoder import CONTENT_TYPES, Encoder
from geotile.errors import EndpointError
from geotile.grid.tile_grid import Window

if TYPE_CHECKING:
    from geotile.core.choices import TileFormat
    from geotile.endpoints.base import Endpoint


def array_answer(endpoint: Endpoint, tile: Any, tile_format: TileFormat) -> tuple[str, float] | None:
    """Return what a model answers that is no detector, in words, and the seconds that it took; None if it is neither.

    Parameters
    ----------
    endpoint : Endpoint
        As the user gave it.
    tile : numpy.ndarray or None
        (band, y, x); by default zeros.
    tile_format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}
    """
    from geotile.endpoints.embedding import embedding_of
    from geotile.endpoints.raster import raster_of

    for kind in ("predict", "embed"):
        try:
            ready = (endpoint.for_rasters() if kind == "predict" else endpoint.for_embeddings()).for_run()
            pixels = np.zeros(ready.sample_shape, np.uint8) if tile is None else np.asarray(tile)
            body: Any = pixels
            if ready.wants_bytes:
                body = Encoder(tile_format).encode(pixels, Window(0, pixels.shape[1], 0, pixels.shape[2]))
            began = time.perf_counter()
            (answer,) = ready.invoke([body], CONTENT_TYPES[tile_format])
            seconds = time.perf_counter() - began
            if isinstance(answer, EndpointError):
                raise answer
            if kind == "predict":
                values = raster_of(answer).values
                return f"a raster of the shape {values.shape}, {values.dtype}: run it with geotile.predict", seconds
            length = embedding_of(answer, "mean", pixels.shape[1:]).vectors.shape[-1]
            return f"a vector of {length} numbers: run it with geotile.embed", seconds
        except Exception:  # a user's function can raise anything, and so can what reads its answer: then it is neither
            continue
    return None
