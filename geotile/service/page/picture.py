"""Pictures of images under their maps: small, from overviews, made one after the other beside the server."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillDrawing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.core.daemon_pool import DaemonPool
from geotile.core.redact import redact
from geotile.encoding.encoder import Encoder
from geotile.errors import GeotileError, ImageOpenError
from geotile.grid.tile_grid import Window
from geotile.imagery.file_array import source_of
from geotile.imagery.open import opened
from geotile.imagery.source import Source
from geotile.imagery.zarr import is_zarr
from geotile.options import ImageOptions
from geotile.results.plotting import rgb
from geotile.service.page.class_map import Legend, with_classes
from geotile.service.records import FINISHED, ImageRecord, JobRecord

_log = logging.getLogger(__name__)
T = TypeVar("T")
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
    legend: Legend = ()
    """The classes of the map that is drawn over the image; empty without one."""


_WAITS = Picture(why_not="The picture of the image is being made; it is there after a refresh.")
_CROWDED = Picture(why_not="Other pictures are being made; refresh the page later.")


class Pictures:
    """Maker of pictures, which keeps the latest ones."""

    def __init__(self) -> None:
        self._pool, self._lock = DaemonPool(1, "geotile-picture"), threading.Lock()
        self._kept: OrderedDict[tuple[str, str, float | None], Future[Picture]] = OrderedDict()

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
        classes = _class_map_of(record, image)
        if (reason := _refused(image.image)) is not None and not classes:
            return Picture(why_not=reason)
        key = image.image, classes, record.started
        with self._lock:
            future = self._kept.pop(key, None)
            if future is None:
                if sum(not each.done() for each in self._kept.values()) >= _MAX_WAITING:
                    return _CROWDED
                future = self._pool.submit(_drawn, image.image, classes)
            self._kept[key] = future
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


def _class_map_of(record: JobRecord, image: ImageRecord) -> str:
    """Return the file of the class map of an image that is done; nothing if there is none that may be read."""
    if record.task != "predict" or image.status not in FINISHED:
        return ""
    return next((each for each in image.outputs.values() if each.endswith(".tif") and _refused(each) is None), "")


def _drawn(uri: str, classes: str) -> Picture:
    """Return the picture of an image, under its class map if it has one."""
    refused = _refused(uri)
    pixels = _tried(_pixels, uri) if refused is None else refused
    why_not, base = (pixels, None) if isinstance(pixels, str) else ("", pixels)
    legend: Legend = ()
    if classes:
        mixed = _tried(partial(_mixed, base), classes)
        if isinstance(mixed, str):
            why_not = mixed
        elif mixed is not None:
            why_not, (base, legend) = "", mixed
    return Picture(b"" if base is None else _as_jpeg(base), why_not, legend)


def _tried(draw: Callable[[str], T], uri: str) -> T | str:
    """Return what a file is drawn as, or why it is not."""
    try:
        return draw(uri)
    except GeotileError as error:
        return f"There is no picture: {redact(str(error))}"
    except Exception as error:  # a library's, over an odd image; the map is drawn without it
        _log.warning("no picture of %s", redact(uri), exc_info=error)
        return f"There is no picture: {type(error).__name__}"


def _pixels(uri: str) -> NDArray[np.uint8]:
    return rgb(_source(opened(uri, ImageOptions()).isel(band=slice(0, 3))).thumbnail(_SIDE_PX).values)


def _mixed(pixels: NDArray[np.uint8] | None, uri: str) -> tuple[NDArray[np.uint8], Legend] | None:
    return with_classes(pixels, _source(opened(uri, ImageOptions())), uri, _SIDE_PX)


def _source(image: xr.DataArray) -> Source:
    """Return the file of an image of which a picture costs little."""
    source = source_of(image.data)
    if source is None or _values_to_decode(source) > _MAX_VALUES:
        raise ImageOpenError("the image has no overview that is small enough")
    return source


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
