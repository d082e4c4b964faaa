"""A file that windows are read from: opened on first read, once a thread."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from geotile.core.checks import Pair
from geotile.core.rasterio_env import ignore_georeference_warnings
from geotile.core.redact import redact
from geotile.core.registry import Registry
from geotile.errors import ImageReadError
from geotile.grid.tile_grid import Window
from geotile.imagery.file_version import has_changed, note_change, version_of
from geotile.imagery.masks import has_data, spread_blocks
from geotile.storage.location import Location

_OPEN_FILES = 4  # datasets kept open per thread
CELL = 512  # a resampled image is computed in cells of this size, so that no window changes its pixels
_MARGIN = 4  # pixels of a cell's surroundings that resampling may look at
_MAX_EDGES = 2**20
_local = threading.local()

# Formats whose files hold all of their image. The others (VRT, DIMAP, SAFE, WMS ...) name further
# files or hosts, which an image from elsewhere should not choose.
DRIVERS = (
    "GTiff", "COG", "NITF", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JPEG", "JPEGXL", "PNG", "WEBP", "GIF",
    "BIGGIF", "BMP", "HFA", "PCIDSK", "ENVI", "EHdr", "DTED", "SRTMHGT", "USGSDEM", "AAIGrid", "GRIB", "PNM", "RST",
)  # fmt: skip


class Pixels(NamedTuple):
    """What was read of a window."""

    values: NDArray[Any]
    """(band, y, x)."""
    valid: NDArray[np.bool_] | None
    """(y, x), where the image has data; None where all of it has, or nobody asked."""


class Step(Protocol):
    """An operation on each pixel alone, applied after reading."""

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return new values, (band, y, x)."""

    def dtype(self, dtype: str) -> str:
        """Return the dtype of the new values."""

    def for_bands(self, indices: tuple[int, ...]) -> Step | None:
        """Return the same step for a selection of its bands, by index from 0; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image file, or a rectangle of it: its header, and how to read a window."""

    location: Location
    shape: tuple[int, int, int]
    """Bands, height and width of the image, as it is read."""
    file_dtype: str
    block_yx: Pair
    """Height and width of a block in pixels."""
    version: str
    """Tells this file from a later one of the same name."""
    bands: tuple[int, ...]
    """Numbers of the bands read, from 1."""
    driver: str
    interleave: str = "pixel"
    """"pixel" or "band"."""
    overviews: tuple[int, ...] = ()
    """Decimation of each overview."""
    nodata: float | None = None
    masked: bool = False
    """Whether the file has a mask or an alpha band."""
    trusted: bool = False
    """Whether formats that name other files are opened."""
    steps: tuple[Step, ...] = ()
    resampled: bool = False
    """Whether the whole image is read at another size than the file's own."""
    whole_yx: Pair = (0, 0)
    """Height and width of the whole image in pixels, as it is read, before it is cropped."""
    origin_yx: Pair = (0, 0)
    """Upper-left pixel of the image in the whole image."""
    file_shape_yx: Pair = (0, 0)
    file_bands: int = 1
    one_codestream: bool = False
    """Whether a JPEG 2000 has a single tile."""
    from_the_top: bool = False
    """Whether a row can only be decoded after all the rows above it."""

    @property
    def dtype(self) -> str:
        """Dtype of the values, after all steps."""
        dtype = self.file_dtype
        for step in self.steps:
            dtype = step.dtype(dtype)
        return dtype

    @property
    def scale_yx(self) -> tuple[float, float]:
        """Pixels of the file that a pixel read covers, down and across."""
        return self.file_shape_yx[0] / self.whole_yx[0], self.file_shape_yx[1] / self.whole_yx[1]

    @property
    def block_edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inner edges of the blocks on y and x, in pixels."""
        edges = []
        for length, block, origin in zip(self.shape[1:], self.block_yx, self.origin_yx, strict=True):
            step = block * max(1, length // block // _MAX_EDGES)  # a header may claim a billion strips
            edges.append(np.arange(step - origin % step, length, step, dtype=np.int64))
        return edges[0], edges[1]

    @property
    def sequential(self) -> bool:
        """Whether a row can only be read after all the rows above it."""
        return self.from_the_top and not self.resampled

    def then(self, step: Step) -> Source:
        """Return the source with one more step."""
        return replace(self, steps=(*self.steps, step))

    def at_shape(self, height: int, width: int) -> Source:
        """Return the source resampled to another size."""
        return replace(
            self, shape=(self.shape[0], height, width), whole_yx=(height, width), block_yx=(CELL, CELL), resampled=True
        )

    def cropped(self, window: Window) -> Source:
        """Return the part of the image in a window of it."""
        origin = self.in_whole(window)
        return replace(self, shape=(self.shape[0], *window.shape_yx), origin_yx=(origin.y0, origin.x0))

    def with_bands(self, indices: tuple[int, ...]) -> Source | None:
        """Return the image with some of its bands, by index from 0; None if a step needs the others."""
        if indices == tuple(range(self.shape[0])):
            return self
        steps = [step.for_bands(indices) for step in self.steps]
        if len(self.bands) != self.shape[0] or None in steps:
            return None
        bands = tuple(self.bands[index] for index in indices)
        return replace(
            self, bands=bands, shape=(len(bands), *self.shape[1:]), steps=tuple(step for step in steps if step)
        )

    def in_whole(self, window: Window) -> Window:
        """Return a window of the image as a window of the whole image, in the whole image's pixels."""
        return window.shifted(*self.origin_yx)

    def read(self, window: Window, valid: bool = False) -> Pixels:
        """Read a window.

        Parameters
        ----------
        window : Window
            In pixels of the source.
        valid : bool
            Tell too where there is data.

        Raises
        ------
        ImageReadError
            If a block in it cannot be read.
        """
        whole = self.in_whole(window)
        try:
            with self.location.environment(), np.errstate(all="ignore"):
                values, data = self._cells(whole, valid) if self.resampled else self._raw(whole, valid)
        except (RasterioError, OSError) as error:
            raise ImageReadError(
                f"cannot read rows {window.y0}:{window.y1}, columns {window.x0}:{window.x1} of "
                f"{self.location.display_name}: {redact(_first(error))}"
            ) from None
        for step in self.steps:
            values = step(values)
        return Pixels(values, data)

    def thumbnail(self, side: int) -> Pixels:
        """Read the whole image at `side` pixels or less, from the nearest overview; steps apply."""
        (height, width), (file_height, file_width) = self.whole_yx, self.file_shape_yx
        shrink = max(1.0, max(self.shape[1] * file_height / height, self.shape[2] * file_width / width) / side)
        small = replace(self, origin_yx=(0, 0)).at_shape(
            max(1, round(file_height / shrink)), max(1, round(file_width / shrink))
        )
        bounds = []
        for start, length, whole, reduced in zip(
            self.origin_yx, self.shape[1:], self.whole_yx, small.whole_yx, strict=True
        ):
            first = min(start * reduced // whole, reduced - 1)
            bounds += [first, max(first + 1, -(-(start + length) * reduced // whole))]
        return small.read(Window(*bounds), valid=True)

    def empty_blocks(self, window: Window) -> NDArray[np.bool_] | None:
        """Tell which blocks on a window the file does not hold at all, before it is read.

        Returns
        -------
        numpy.ndarray or None
            (blocks down, blocks across) bool, from the block of the window's first pixel; None
            where the file does not say, or would have to be asked over a network: what a remote
            file does not hold costs nothing to read.
        """
        if self.location.is_remote:
            return None
        whole = self.in_whole(window)
        try:
            with self.location.environment():
                empty = self._without_place(whole)
                return empty if empty is None or self._meant(empty, whole) else None
        except (RasterioError, OSError):
            return None  # it does not open: reading will say why

    def _without_place(self, window: Window) -> NDArray[np.bool_] | None:
        """Tell which blocks have no place in the file, by this thread's handle.

        rasterio keeps the interpreter's lock while GDAL looks a place up, so it must not have to
        be fetched: ask before reading a local file, or after reading the very blocks.
        """
        if self.driver != "GTiff" or self.resampled or self.block_yx[0] == 1:
            return None  # rows of one pixel may be GDAL's own view of a longer strip
        (y0, y1), (x0, x1) = (
            (low // size, -(-high // size))
            for low, high, size in zip(window[::2], window[1::2], self.block_yx, strict=True)
        )
        file, bands = dataset(self), self.bands if self.interleave == "band" else self.bands[:1]
        empty = [
            all(file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band) is None for band in bands)
            for y in range(y0, y1)
            for x in range(x0, x1)
        ]
        return np.array(empty, bool).reshape(y1 - y0, x1 - x0)

    def _meant(self, empty: NDArray[np.bool_], window: Window) -> bool:
        """Tell whether blocks without a place in the file are meant: a damaged file cannot read them."""
        if not empty.any():
            return True
        down, across = np.argwhere(empty)[0]
        y = (int(down) + window.y0 // self.block_yx[0]) * self.block_yx[0]
        x = (int(across) + window.x0 // self.block_yx[1]) * self.block_yx[1]
        try:
            self._raw(Window(y, y + 1, x, x + 1), valid=False)
        except (RasterioError, OSError):
            return False
        return True

    def _raw(self, window: Window, valid: bool) -> Pixels:
        file, area = dataset(self), rasterio.windows.Window.from_slices(*window.slices)
        values: NDArray[Any] = file.read(list(self.bands), window=area)
        if not valid:
            return Pixels(values, None)
        found = file.dataset_mask(window=area) > 0 if self.masked else has_data(values, self.nodata)
        empty = self._without_place(window)
        if empty is None or not empty.any():
            return Pixels(values, found)
        held = ~spread_blocks(empty, window, self.block_yx)
        return Pixels(values, held if found is None else found & held)

    def _cells(self, window: Window, valid: bool) -> Pixels:
        """Put a window of a resampled image together from the cells that it meets."""
        values = np.empty((len(self.bands), *window.shape_yx), self.file_dtype)
        data = np.ones(window.shape_yx, bool) if valid else None
        for y in range(window.y0 // CELL * CELL, window.y1, CELL):
            for x in range(window.x0 // CELL * CELL, window.x1, CELL):
                cell = Window(y, min(y + CELL, self.whole_yx[0]), x, min(x + CELL, self.whole_yx[1]))
                part = self._cell(cell, valid)
                meet = Window(
                    max(cell.y0, window.y0), min(cell.y1, window.y1), max(cell.x0, window.x0), min(cell.x1, window.x1)
                )
                values[:, *meet.within(window).slices] = part.values[:, *meet.within(cell).slices]
                if data is not None and part.valid is not None:
                    data[meet.within(window).slices] = part.valid[meet.within(cell).slices]
        return Pixels(values, data)

    def _cell(self, cell: Window, valid: bool) -> Pixels:
        """Resample one cell with its surroundings, from the overview that GDAL finds nearest."""
        height, width = self.whole_yx
        wide = Window(
            max(cell.y0 - _MARGIN, 0), min(cell.y1 + _MARGIN, height),
            max(cell.x0 - _MARGIN, 0), min(cell.x1 + _MARGIN, width),
        )  # fmt: skip
        sy, sx = self.scale_yx
        area = rasterio.windows.Window(wide.x0 * sx, wide.y0 * sy, (wide.x1 - wide.x0) * sx, (wide.y1 - wide.y0) * sy)
        how = Resampling.average if min(sy, sx) >= 2 else Resampling.bilinear
        file = dataset(self)
        values = file.read(list(self.bands), window=area, out_shape=wide.shape_yx, resampling=how)
        inner = cell.within(wide).slices
        data = None
        if valid and self.masked:
            data = file.dataset_mask(window=area, out_shape=wide.shape_yx, resampling=Resampling.nearest)[inner] > 0
        elif valid:
            data = has_data(values[:, *inner], self.nodata)
        return Pixels(values[:, *inner], data)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What an open file is kept by."""
        return self.location, self.version, self.trusted


def dataset(source: Source) -> rasterio.DatasetReader:
    """Open a file once a thread: GDAL's handles must not be shared between threads."""
    files: Registry[Any, rasterio.DatasetReader] | None = getattr(_local, "files", None)
    if files is None:
        files = _local.files = Registry(_OPEN_FILES, close=rasterio.DatasetReader.close)

    def opened() -> rasterio.DatasetReader:
        if has_changed(source.location, source.version):
            if version_of(source.location) != source.version:
                raise OSError("it has been written anew since it was opened; open it again")
            forget(source.location, source.trusted)
            note_change(source.location, source.version)
        return open_file(source.location, source.trusted)

    return files.get(source.key, opened)


def forget(location: Location, trusted: bool) -> None:
    """Have GDAL forget what it remembers of a remote file: its first bytes, or that it was missing.

    GDAL drops that when a handle is closed that was opened with this setting, whether or not it opens: a host
    that does not answer is not waited for.
    """
    hasty = {"GDAL_HTTP_MAX_RETRY": "0", "GDAL_HTTP_TIMEOUT": "1", "GDAL_HTTP_CONNECTTIMEOUT": "1"}
    with location.environment(CPL_VSIL_CURL_NON_CACHED=location.path, **hasty), suppress(RasterioError, OSError):
        open_file(location, trusted).close()


def open_file(location: Location, trusted: bool) -> rasterio.DatasetReader:
    """Open a file with the drivers that are allowed."""
    with ignore_georeference_warnings():
        return rasterio.DatasetReader(location.path, driver=None if trusted else list(DRIVERS))
        #      ^ rasterio.open takes one driver; what it returns takes several


def _first(error: BaseException) -> str:
    """Return GDAL's first complaint, which names the cause; rasterio's own says 'read failed'."""
    cause = error.__cause__ or error.__context__
    return str(error) if cause is None or not str(cause) else f"{error}; {cause}"
