"""An image file and how its windows are read. Each thread opens the file when it first reads from it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import Resampling

from geotile.core.checks import Pair
from geotile.core.rasterio_env import READ_ERRORS, error_text
from geotile.core.redact import redact
from geotile.errors import ImageReadError
from geotile.grid.tile_grid import Window
from geotile.imagery.masks import has_data, missing_blocks, spread_blocks
from geotile.imagery.open_files import FileKey, close_dataset, dataset, is_retryable, late_note
from geotile.imagery.pixels import Pixels, Step
from geotile.imagery.refused_ranges import read_ranges
from geotile.storage.gdal_cache import LARGE_CACHE_BYTES
from geotile.storage.location import Location

CELL = 512  # a resampled image is computed in cells of this size, so that its pixels do not depend on the window
_MARGIN = 4  # pixels around a cell that resampling may use
_MAX_EDGES = 2**20


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image file or a rectangle of it: what its header says, and how a window is read."""

    location: Location
    shape: tuple[int, int, int]
    """Number of bands, height and width of the image as it is read."""
    file_dtype: str
    """Dtype of the pixels in the file."""
    block_yx: Pair
    """Height and width of a block in pixels."""
    version: str
    """Version of the file, which differs from that of a later file with the same name."""
    bands: tuple[int, ...]
    """Numbers of the bands that are read, from 1."""
    driver: str
    interleave: str = "pixel"
    """Order of the values in the file: "pixel" or "band"."""
    overviews: tuple[int, ...] = ()
    """Decimation factor of each overview."""
    nodata: float | None = None
    masked: bool = False
    """Whether the file has a mask or an alpha band that GDAL takes for its mask."""
    alpha: int | None = None
    """Number of an alpha band that GDAL does not take for the mask: of another position or type than it expects."""
    allow_vrt: bool = False
    """Whether formats that refer to other files are opened."""
    steps: tuple[Step, ...] = ()
    """Operations that are applied after reading."""
    resampled: bool = False
    """Whether the whole image is read at a size other than that of the file."""
    whole_yx: Pair = (0, 0)
    """Height and width in pixels of the whole image as it is read, before it is cropped."""
    origin_yx: Pair = (0, 0)
    """Upper-left pixel of the image in the whole image."""
    file_shape_yx: Pair = (0, 0)
    """Height and width of the file's image in pixels."""
    file_bands: int = 1
    """Number of bands in the file."""
    band_names: tuple[str, ...] = ()
    """Name of each band of the file in lower case, as `names_of_bands` returns them."""
    one_codestream: bool = False
    """Whether the file is a JPEG 2000 with a single tile."""
    indexed: bool = False
    """Whether the pixels are numbers of colours, which cannot be averaged."""
    sequential_rows: bool = False
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
        """Pixels of the file per pixel of the image, down and across."""
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
        """Whether a row of the image can only be read after all the rows above it."""
        return self.sequential_rows and not self.resampled

    @cached_property
    def file_key(self) -> FileKey:
        """Key of the open file."""
        return FileKey(self.location, self.version, self.allow_vrt)

    def with_step(self, step: Step) -> Source:
        """Return the source with one more operation."""
        return replace(self, steps=(*self.steps, step))

    def at_shape(self, height: int, width: int) -> Source:
        """Return the source resampled to another size in pixels."""
        return replace(
            self, shape=(self.shape[0], height, width), whole_yx=(height, width), block_yx=(CELL, CELL), resampled=True
        )

    def cropped(self, window: Window) -> Source:
        """Return the part of the image in a window of it."""
        origin = self.to_whole_image(window)
        return replace(self, shape=(self.shape[0], *window.shape_yx), origin_yx=(origin.y0, origin.x0))

    def with_bands(self, indices: tuple[int, ...]) -> Source | None:
        """Return the source with some of its bands, by index from 0; None if a step needs the others."""
        if indices == tuple(range(self.shape[0])):
            return self
        steps = [step.for_bands(indices) for step in self.steps]
        if len(self.bands) != self.shape[0] or None in steps:
            return None
        bands = tuple(self.bands[index] for index in indices)
        return replace(
            self, bands=bands, shape=(len(bands), *self.shape[1:]), steps=tuple(step for step in steps if step)
        )

    def to_whole_image(self, window: Window) -> Window:
        """Return a window of the image in pixels of the whole image."""
        return window.shifted(*self.origin_yx)

    def check(self) -> None:
        """Raise an error of GDAL or the system if the file cannot be opened in this process."""
        with self.location.environment():
            dataset(self.file_key)

    def read(self, window: Window, valid: bool = False, out: NDArray[Any] | None = None) -> Pixels:
        """Return the pixels of a window.

        Parameters
        ----------
        window : Window
            Window of the image in pixels.
        valid : bool
            Whether the validity of the pixels is needed.
        out : numpy.ndarray, optional
            (band, y, x) of the file's dtype, where the values may be put; the result says whether they are there.

        Raises
        ------
        ImageReadError
            If a block on the window cannot be read.
        """
        whole, started = self.to_whole_image(window), time.monotonic()
        try:
            values, data = self._cells(whole, valid) if self.resampled else read_ranges(self, whole, valid, out)
        except READ_ERRORS as error:
            late = late_note(self.location, started, self.location.total_s)
            failed = self.unreadable(window, redact(error_text(error)) + late)
            if failed.retryable:
                close_dataset(self.file_key)
            raise failed from None
        for step in self.steps:
            values = step(values)
        return Pixels(values, data)

    def unreadable(self, window: Window, cause: str) -> ImageReadError:
        """Return the error of a window that cannot be read."""
        error = ImageReadError(
            f"cannot read rows {window.y0}:{window.y1}, columns {window.x0}:{window.x1} of "
            f"{self.location.display_name}: {cause}"
        )
        error.cause, error.retryable = cause, is_retryable(self.location, cause)
        return error

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the image with at most `max_side` pixels a side, from the nearest overview, after all steps."""
        (height, width), (file_height, file_width) = self.whole_yx, self.file_shape_yx
        shrink = max(1.0, max(self.shape[1] * file_height / height, self.shape[2] * file_width / width) / max_side)
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
        """Return which blocks on a window are missing in the file, before the window is read.

        Returns
        -------
        numpy.ndarray or None
            (blocks down, blocks across) bool, from the block that contains the first pixel of the window. None if the
            file does not tell, and for remote files: the look-up would need requests, while blocks that are missing
            in a remote file cost nothing to read.
        """
        if self.location.is_remote:
            return None
        whole = self.to_whole_image(window)
        try:
            with self.location.environment():
                missing = self._missing_blocks(whole)
                return missing if missing is None or self._can_be_read(missing, whole) else None
        except READ_ERRORS:
            return None  # the file cannot be opened; reading it reports why

    def _missing_blocks(self, window: Window) -> NDArray[np.bool_] | None:
        """Return which blocks on a window of the whole image are missing in the file, None if this is unknown."""
        if self.driver != "GTiff" or self.resampled or self.block_yx[0] == 1:
            return None  # blocks of one row may be GDAL's own view of a longer strip
        bands = self.bands if self.interleave == "band" else self.bands[:1]
        return missing_blocks(dataset(self.file_key), bands, window, self.block_yx)

    def _can_be_read(self, blocks: NDArray[np.bool_], window: Window) -> bool:
        """Return whether missing blocks can be read: in a sparse file they can, in a damaged one they cannot."""
        if not blocks.any():
            return True
        down, across = np.argwhere(blocks)[0]
        y = (int(down) + window.y0 // self.block_yx[0]) * self.block_yx[0]
        x = (int(across) + window.x0 // self.block_yx[1]) * self.block_yx[1]
        try:
            self.read_file(Window(y, y + 1, x, x + 1), valid=False)
        except READ_ERRORS:
            return False
        return True

    def read_file(self, window: Window, valid: bool, out: NDArray[Any] | None = None) -> Pixels:
        """Return a window of the file at full resolution, before all steps."""
        file, area = dataset(self.file_key), rasterio.windows.Window.from_slices(*window.slices)
        values: NDArray[Any] = file.read(list(self.bands), window=area, out=out)
        if not valid:
            return Pixels(values, None)
        data = self._validity(file, values, window=area)
        missing = self._missing_blocks(window)
        if missing is None or not missing.any():
            return Pixels(values, data)
        stored = ~spread_blocks(missing, window, self.block_yx)
        return Pixels(values, stored if data is None else data & stored)

    def _validity(self, file: rasterio.DatasetReader, values: NDArray[Any], **area: Any) -> NDArray[np.bool_] | None:
        """Return the pixels with data: by nodata and NaN, and the mask or the alpha band of the file."""
        data = has_data(values, self.nodata)
        for mask in (
            file.dataset_mask(**area) > 0 if self.masked else None,
            file.read(self.alpha, **area) > 0 if self.alpha is not None else None,
        ):
            if mask is not None:
                data = mask if data is None else data & mask
        return data

    def _cells(self, window: Window, valid: bool) -> Pixels:
        """Return a window of a resampled image, assembled from the cells that it intersects."""
        values = np.empty((len(self.bands), *window.shape_yx), self.file_dtype)
        data = np.ones(window.shape_yx, bool) if valid else None
        for y in range(window.y0 // CELL * CELL, window.y1, CELL):
            for x in range(window.x0 // CELL * CELL, window.x1, CELL):
                cell = Window(y, min(y + CELL, self.whole_yx[0]), x, min(x + CELL, self.whole_yx[1]))
                with self.location.environment(LARGE_CACHE_BYTES), np.errstate(all="ignore"):
                    part = self._cell(cell, valid)
                shared = cell.intersection(window)
                values[:, *shared.within(window).slices] = part.values[:, *shared.within(cell).slices]
                if data is not None and part.valid is not None:
                    data[shared.within(window).slices] = part.valid[shared.within(cell).slices]
        return Pixels(values, data)

    def _cell(self, cell: Window, valid: bool) -> Pixels:
        """Return one resampled cell, computed with a margin from the overview that GDAL chooses."""
        height, width = self.whole_yx
        wide = Window(
            max(cell.y0 - _MARGIN, 0), min(cell.y1 + _MARGIN, height),
            max(cell.x0 - _MARGIN, 0), min(cell.x1 + _MARGIN, width),
        )  # fmt: skip
        sy, sx = self.scale_yx
        area = rasterio.windows.Window(wide.x0 * sx, wide.y0 * sy, (wide.x1 - wide.x0) * sx, (wide.y1 - wide.y0) * sy)
        smooth = Resampling.average if min(sy, sx) >= 2 else Resampling.bilinear
        how = Resampling.nearest if self.indexed else smooth
        file = dataset(self.file_key)
        values = file.read(list(self.bands), window=area, out_shape=wide.shape_yx, resampling=how)
        inner = cell.within(wide).slices
        data = None
        if valid:
            data = self._validity(file, values, window=area, out_shape=wide.shape_yx, resampling=Resampling.nearest)
            data = None if data is None else data[inner]
        return Pixels(values[:, *inner], data)
