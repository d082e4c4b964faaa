"""Where the blocks of a raster are kept: the chunks of a Zarr 3 store, each a small file that is whole or absent.

::

    out.zarr/
      zarr.json                   written last: makes the store complete
      prediction/zarr.json
      prediction/c/3/17           a chunk; one that holds only nodata is absent
      x/... y/... spatial_ref/... coordinates
      blocks/00003-00017.json     while the run lasts: a block that is stored, with what its report needs and the
                                  size and the CRC-32 of its chunks
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.core.redact import redact
from geotile.core.warning_filter import ignore_warnings
from geotile.errors import ArgumentError, OutputError
from geotile.geometry.georeference import PLACEMENT
from geotile.grid.tile_grid import Window
from geotile.results.block_report import read_report
from geotile.results.raster_chunks import LEVEL, ChunkEncoder
from geotile.storage.folder import Folder

NAME = "prediction"
ROOT = "zarr.json"
BLOCKS = "blocks"
_log = logging.getLogger(__name__)
_BLOCK = re.compile(r"(\d+)-(\d+)\.json")


def zarr_module() -> Any:
    """Return the package zarr.

    Raises
    ------
    ArgumentError
        If it is not installed.
    """
    try:
        import zarr
    except ImportError:
        raise ArgumentError(
            "rasters are written through zarr, which is not installed. Install it with pip install zarr"
        ) from None
    return zarr


def store_files(template: xr.DataArray, chunk: int) -> dict[str, bytes]:
    """Return the files that describe a store, and those of the coordinates, by name.

    Parameters
    ----------
    template : xarray.DataArray
        The output, with any lazy values.
    chunk : int
        Side of a chunk in pixels.
    """
    zarr = zarr_module()
    files: dict[str, Any] = {}
    sizes = zip(template.dims, template.shape, strict=True)
    chunks = tuple(min(chunk, n) if dim in ("y", "x") else n for dim, n in sizes)
    encoding = {
        NAME: {
            "chunks": chunks, "fill_value": template.rio.encoded_nodata or template.rio.nodata,
            "compressors": [zarr.codecs.ZstdCodec(level=LEVEL)],
        }
    }  # fmt: skip
    whole = template.chunk(-1) if template.chunks else template.copy()
    whole.encoding.pop("grid_mapping", None)
    if "band" in whole.coords and whole["band"].dtype.kind == "U":
        whole = whole.assign_coords(band=whole["band"].astype(object))  # Zarr 3 specifies no strings of fixed length
    if "spatial_ref" in whole.coords and PLACEMENT in whole["spatial_ref"].encoding:
        held = "gcps" in whole["spatial_ref"].attrs  # polynomials are not, so the CRS says nothing of the pixels
        kept = {"spatial_ref": whole["spatial_ref"].drop_encoding()} if held else {}
        whole = whole.drop_vars("spatial_ref").assign_coords(kept)
    if "spatial_ref" in whole.coords:
        whole.attrs["grid_mapping"] = "spatial_ref"
    with ignore_warnings(UserWarning):  # consolidated metadata are not part of Zarr 3, and xarray writes and reads them
        whole.to_dataset(name=NAME).to_zarr(
            zarr.storage.MemoryStore(files), compute=False, zarr_format=3, consolidated=True, encoding=encoding
        )
    return {name: content.to_bytes() for name, content in files.items()}


@dataclass(frozen=True, kw_only=True)
class RasterStore:
    """A store that blocks are written to. Pickles."""

    folder: Folder
    array: bytes
    """Content of the array's ``zarr.json``."""
    is_new: bool = True
    """Whether no earlier run has left chunks there."""

    def begin(self, files: dict[str, bytes]) -> None:
        """Write all files that describe the store, but the one that makes it complete."""
        for name, content in files.items():
            if name != ROOT:
                self.folder.write(name, content)

    def write(self, window: Window, values: NDArray[Any], row: int, column: int, report: dict[str, Any]) -> None:
        """Write a block, whose window begins and ends where chunks do.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if not self.is_new:  # what it says holds no more from here on
            self.folder.sub(BLOCKS).remove(_block_name(row, column))
        sums = {}
        for place, content in ChunkEncoder.of(self.array).encode(window, values):
            name = f"{NAME}/{place}"
            if content is None and not self.is_new:
                self.folder.remove(name)  # of an earlier run, in which this place had values
            elif content is not None:
                self.folder.write(name, content, at_once=False)  # its checksum tells whether it was
                sums[name] = [len(content), crc32(content)]
        self.folder.sub(BLOCKS).write(_block_name(row, column), json.dumps(report | {"chunks": sums}).encode())

    def done(self, regions_yx: Pair) -> NDArray[np.bool_]:
        """Return which blocks are stored, (regions down, regions across) bool."""
        found = np.zeros(regions_yx, bool)
        for name in self.folder.sub(BLOCKS).names():
            if match := _BLOCK.fullmatch(name):
                row, column = int(match[1]), int(match[2])
                if row < regions_yx[0] and column < regions_yx[1]:
                    found[row, column] = True
        return found

    def reports(self, regions_yx: Pair) -> dict[Pair, dict[str, Any]]:
        """Return what was kept with each block that is stored whole, by its row and column.

        A block whose report or chunks are damaged is left out, with a warning in the log. Chunks are read where the
        store is local; in object storage only their sizes are compared.

        Raises
        ------
        OutputError
            If the store cannot be read.
        """
        places = [(int(row), int(column)) for row, column in np.argwhere(self.done(regions_yx))]
        sizes = self.folder.sub(NAME).all_names() if places else {}
        found = {}
        for row, column in places:
            name = _block_name(row, column)
            try:
                report = read_report(self.folder.sub(BLOCKS).read(name) or b"")
                self._check_chunks(report.get("chunks", {}), sizes)
                found[row, column] = report
            except ValueError as error:
                place = f"{self.folder.display_name}/{BLOCKS}/{name}"
                _log.warning("%s is damaged, so its block is run again: %s", place, error)
        return found

    def _check_chunks(self, chunks: dict[str, list[int]], sizes: dict[str, int]) -> None:
        """Check the chunks of a block, given the sizes of all files of the array.

        Raises
        ------
        ValueError
            If one is missing or was changed.
        """
        is_local = self.folder.is_local
        for name, (size, checksum) in chunks.items():
            found = sizes.get(name.removeprefix(f"{NAME}/"))
            if found != size:
                raise ValueError(
                    f"{name} must have {size} bytes; " + ("it is gone" if found is None else f"got {found}")
                )
            if is_local and crc32(self.folder.read(name) or b"") != checksum:
                raise ValueError(f"{name} has changed")

    def read(self, window: Window) -> NDArray[Any]:
        """Return stored values, (y, x) or (band, y, x).

        Raises
        ------
        OutputError
            If they cannot be read.
        """
        zarr = zarr_module()
        options = dict(self.folder.options)
        try:
            store = self.folder.uri if self.folder.is_local else zarr.storage.FsspecStore.from_url(
                self.folder.uri, storage_options=options, read_only=True
            )  # fmt: skip
            return np.asarray(zarr.open_array(store, path=NAME, mode="r")[..., *window.slices])
        except Exception as error:  # each codec and file system has errors of its own; all mean the same here
            y0, y1, x0, x1 = window
            raise OutputError(
                f"cannot read rows {y0}:{y1}, columns {x0}:{x1} of the blocks in {self.folder.display_name} "
                f"({redact(str(error)) or type(error).__name__}). If this happens again, the blocks are "
                "damaged: remove that folder and run again"
            ) from None


def _block_name(row: int, column: int) -> str:
    return f"{row:05d}-{column:05d}.json"
