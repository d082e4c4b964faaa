"""Pictures of images under their maps: small, from overviews, made one after the other beside the server."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillDrawing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotile.core.daemon_pool import DaemonPool
from geotile.core.redact import redact
from geotile.encoding.encoder import Encoder
from geotile.errors import GeotileError
from geotile.grid.tile_grid import Window
from geotile.imagery.file_array import source_of
from geotile.imagery.open import opened
from geotile.imagery.source import Source
from geotile.imagery.zarr import is_zarr
from geotile.options import ImageOptions
from geotile.results.plotting import rgb
from geotile.service.records import JobRecord

_log = logging.getLogger(__name__)
_SIDE_PX = 768
_MAX_BYTES = 160_000  # of a picture
_MAX_VALUES = 50_000_000  # that may be decoded for one
_KEPT, _MAX_WAITING = 32, 8
_STORES = ("s3://", "gs://", "az://")


@dataclass(frozen=True)
class Picture:
    """A picture of an image, or why there is none."""

    jpeg: bytes = b""
    """The picture as JPEG; empty if there is none."""
    why_not: str = ""
    """Why there is none, for people."""


_WAITS = Picture(why_not="The picture of the image is being made; it is there after a refresh.")
_CROWDED = Picture(why_not="Other pictures are being made; refresh the page later.")


class Pictures:
    """Maker of pictures, which keeps the latest ones."""

    def __init__(self) -> None:
        self._pool, self._lock = DaemonPool(1, "geotile-picture"), threading.Lock()
        self._kept: OrderedDict[tuple[str, float | None], Future[Picture]] = OrderedDict()

    def get(self, record: JobRecord, number: int, wait_s: float) -> Picture:
        """Return the picture of an image of a job; wait for one that is being made.

        An image is opened only once a run of it has begun: the service has then checked that the request may name it.

        Parameters
        ----------
        record : JobRecord
            The record of the job.
        number : int
            Number of the image.
        wait_s : float
            Maximum number of seconds to wait.
        """
        image = record.images[number]
        if image.shape_yx is None:
            return Picture(why_not="No run of the image has begun.")
        if (reason := _refused(image.image)) is not None:
            return Picture(why_not=reason)
        with self._lock:
            future = self._kept.pop((image.image, record.started), None)
            if future is None:
                if sum(not each.done() for each in self._kept.values()) >= _MAX_WAITING:
                    return _CROWDED
                future = self._pool.submit(_drawn, image.image)
            self._kept[image.image, record.started] = future
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        try:
            return future.result(wait_s)
        except StillDrawing:
            return _WAITS


def _refused(uri: str) -> str | None:
    """Return why an image is not opened for a picture; None if it is."""
    if "***" in uri:
        return "The address of the image has a secret, which the record does not hold, so there is no picture."
    if ("://" in uri and not uri.startswith(_STORES)) or uri.startswith("/vsi"):
        return "Images are read again for a picture only from folders and object storage."
    if is_zarr(uri):
        return "There are no pictures of Zarr stores."
    return None


def _drawn(uri: str) -> Picture:
    """Return the picture of an image."""
    try:
        source = source_of(opened(uri, ImageOptions()).isel(band=slice(0, 3)).data)
        if source is None or _values_to_decode(source) > _MAX_VALUES:
            return Picture(why_not="The image has no overview that is small enough for a picture.")
        return Picture(_as_jpeg(rgb(source.thumbnail(_SIDE_PX).values)))
    except GeotileError as error:
        return Picture(why_not=f"There is no picture: {redact(str(error))}")
    except Exception as error:  # a library's, over an odd image; the map is drawn without it
        _log.warning("no picture of %s", redact(uri), exc_info=error)
        return Picture(why_not=f"There is no picture: {type(error).__name__}")


def _values_to_decode(source: Source) -> int:
    """Return the number of values in the overview from which a picture is made."""
    height, width = source.file_shape_yx
    wanted = max(height, width) / _SIDE_PX
    factor = max([1, *(each for each in source.overviews if each <= wanted)])
    bands = len(source.bands) if source.interleave == "band" else source.file_bands
    return height * width // factor**2 * bands


def _as_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels, (y, x, 3) uint8, as a JPEG; of noise, which does not get small, a smaller one."""
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    data = Encoder(format="JPEG").encode(planes, Window(0, planes.shape[1], 0, planes.shape[2]))
    return data if len(data) <= _MAX_BYTES or max(pixels.shape) < 64 else _as_jpeg(pixels[::2, ::2])
