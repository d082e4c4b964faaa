"""Recognition of models that return a raster or a vector instead of detections, for `Endpoint.check`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from geotile.encoding.encoder import CONTENT_TYPES, Encoder
from geotile.errors import EndpointError, GeotileError
from geotile.grid.tile_grid import Window

if TYPE_CHECKING:
    from geotile.core.choices import TileFormat
    from geotile.endpoints.base import Endpoint


def array_answer(endpoint: Endpoint, tile: Any, tile_format: TileFormat) -> tuple[str, float] | None:
    """Ask a model for a raster and for a vector; describe the first answer that is one.

    Parameters
    ----------
    endpoint : Endpoint
        As the user gave it.
    tile : numpy.ndarray or None
        (band, y, x); by default zeros.
    tile_format : {"GTIFF", "NITF", "PNG", "JPEG", "NPY"}

    Returns
    -------
    tuple of (str, float) or None
        Description of the answer, and the duration of the request in seconds; None if the model returns neither.
    """
    from geotile.endpoints.base import invoke_endpoint
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
            (answer,) = invoke_endpoint(ready, [body], CONTENT_TYPES[tile_format])
            seconds = time.perf_counter() - began
            if isinstance(answer, EndpointError):
                raise answer
            if kind == "predict":
                raster = raster_of(answer)
                raster.scale(pixels.shape[1:])  # raises if it is not the tile's size, as the rows of a detector are not
                shape, dtype = raster.values.shape, raster.values.dtype
                return f"a raster of the shape {shape}, {dtype}: run it with geotile.predict", seconds
            length = embedding_of(answer, "mean", pixels.shape[1:]).vectors.shape[-1]
            return f"a vector of {length} numbers: run it with geotile.embed", seconds
        except GeotileError:  # it does not return this kind of answer
            continue
    return None
