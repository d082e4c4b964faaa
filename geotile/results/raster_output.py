"""Files of rasters, on disk or in object storage, that are written whole or not at all: COGs and Zarr stores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
from fsspec.core import url_to_fs
from rasterio.errors import RasterioError

from geotile.core.checks import Pair, check_path
from geotile.core.rasterio_env import ignore_georeference_warnings
from geotile.core.redact import redact
from geotile.errors import ArgumentError, OutputError
from geotile.grid.tile_grid import Window
from geotile.results.class_legend import colour
from geotile.results.raster_store import BLOCKS, ROOT, RasterStore
from geotile.storage.atomic import draft, draft_path, remove, replace, restore
from geotile.storage.folder import Folder, Options
from geotile.storage.lease import lease
from geotile.storage.uris import output_uri

_SUFFIXES = (".tif", ".tiff", ".zarr")
_OWNER = "raster"
_ROWS_AT_ONCE = 4  # rows of chunks that are copied to a COG at once


@dataclass(frozen=True)
class RasterOutput:
    """A COG or a Zarr store, in a place that was found writable."""

    uri: str
    overwrite: bool
    options: Options = field(default=(), repr=False)

    @classmethod
    def reserve(
        cls, output: str | os.PathLike[str], *, overwrite: bool, options: Mapping[str, Any] | None
    ) -> RasterOutput:
        """Check an output before the run starts.

        Raises
        ------
        ArgumentError
            If its format is unknown.
        OutputError
            If it exists, or nothing can be written there.
        """
        uri = output_uri(check_path(output, "output")).rstrip("/")
        if Path(uri).suffix.lower() not in _SUFFIXES:
            raise ArgumentError(f"output must end in one of {', '.join(_SUFFIXES)}; got {redact(uri)!r}")
        sink = cls(uri, overwrite, tuple(sorted((options or {}).items())))
        if sink.folder.is_local and not Path(uri).parent.is_dir():
            raise OutputError(f"output {redact(uri)}: there is no folder {Path(uri).parent}. Create it first.")
        sink._check_free()
        probe = f".geotile-{uuid4().hex}"
        sink.drafts.write(probe, b"")
        sink.drafts.remove(probe)  # alone: another run may be writing there
        if sink.folder.is_local:
            with suppress(OSError):
                Path(sink.drafts.uri).rmdir()
        return sink

    @property
    def is_zarr(self) -> bool:
        """Whether the output is a Zarr store."""
        return self.uri.lower().endswith(".zarr")

    @property
    def folder(self) -> Folder:
        """The output as a folder."""
        return Folder(self.uri, self.options)

    @property
    def drafts(self) -> Folder:
        """The folder that blocks are written to in a run without a checkpoint."""
        if self.folder.is_local:
            return Folder(str(draft_path(Path(self.uri), _OWNER)), self.options)
        parent, _, name = self.uri.rpartition("/")
        return Folder(f"{parent}/.{name}.geotile-draft", self.options)

    def leased(self) -> AbstractContextManager[None]:
        """Return a block that holds the lease of the output."""
        parent, _, name = self.uri.rpartition("/")
        return lease(Folder(parent or "/", self.options), f".{name}.geotile-lease", f"the output {redact(self.uri)}")

    def begin(self) -> None:
        """Remove what a killed run left behind. Call it while holding the lease."""
        self.discard()
        if self.folder.is_local:
            restore(Path(self.uri))
        self._check_free()

    def end(
        self, store: RasterStore, files: dict[str, bytes], template: xr.DataArray, chunk: int, kept: bool,
        regions_yx: Pair,
    ) -> None:  # fmt: skip
        """Make the output of the stored blocks.

        Parameters
        ----------
        store : RasterStore
            Store of all blocks.
        files : dict of str to bytes
            Files that describe it.
        template : xarray.DataArray
        chunk : int
            Side of its chunks.
        kept : bool
            Whether the store stays, since it is a checkpoint.
        regions_yx : tuple of int
            Number of rows and columns of blocks.

        Raises
        ------
        OutputError
            If the output cannot be written; the message says where the blocks are.
        """
        try:
            self._check_free()
            if not store.done(regions_yx).all():
                raise OutputError("blocks have disappeared during the run")
            if self.is_zarr:
                self._end_zarr(store, files, kept)
            else:
                self._end_cog(store, template, chunk)
                if not kept:
                    self.discard()
        except (OSError, RasterioError, OutputError) as error:
            raise OutputError(
                f"cannot write {redact(self.uri)}: {redact(str(error))}. The blocks are in {store.folder.display_name}"
            ) from None

    def _end_zarr(self, store: RasterStore, files: dict[str, bytes], kept: bool) -> None:
        """Move or copy a store to its place; the file that makes it complete is last."""
        if self.folder.is_local and store.folder.is_local and not kept:
            remove(Path(store.folder.uri) / BLOCKS)
            store.folder.write(ROOT, files[ROOT])
            replace(Path(store.folder.uri), Path(self.uri))
            return
        target = self.drafts if self.folder.is_local else self.folder
        if not target.is_local:
            target.remove(ROOT)  # what is replaced is complete no more, before any of it is
            _remove_tree(target)
        _copy(store.folder, target, skip=(BLOCKS, ROOT))
        target.write(ROOT, files[ROOT])
        if self.folder.is_local:
            replace(Path(target.uri), Path(self.uri))
        if not kept:
            _remove_tree(store.folder)

    def _end_cog(self, store: RasterStore, template: xr.DataArray, chunk: int) -> None:
        if self.folder.is_local:
            with draft(Path(self.uri), "cog", "out.tif") as path:
                write_cog(store, template, chunk, path)
            return
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "out.tif"
            write_cog(store, template, chunk, path)
            files, target = url_to_fs(self.uri, **dict(self.options))
            files.put_file(str(path), target)

    def _check_free(self) -> None:
        files, path = self.folder.files()
        if not self.is_zarr and files.isdir(path):
            raise OutputError(f"output {redact(self.uri)} is a folder. Name a file in it.")
        exists = files.exists(f"{path}/{ROOT}") or (files.exists(path) and not self.is_zarr)
        if self.is_zarr and not exists and files.exists(path) and files.ls(path):
            raise OutputError(f"output {redact(self.uri)} holds something else than a Zarr 3 store. Name a new folder")
        if exists and not self.overwrite:
            raise OutputError(f"output {redact(self.uri)} exists. Pass overwrite=True or another name.")

    def discard(self) -> None:
        """Remove the blocks that were written without a checkpoint."""
        _remove_tree(self.drafts)


def write_cog(store: RasterStore, template: xr.DataArray, chunk: int, path: Path) -> None:
    """Write a Cloud Optimized GeoTIFF with overviews.

    Parameters
    ----------
    store : RasterStore
    template : xarray.DataArray
        The output without values.
    chunk : int
        Side of the store's chunks.
    path : Path
    """
    plain = path.with_name("plain.tif")
    height, width = template.sizes["y"], template.sizes["x"]
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": template.sizes.get("band", 1),
        "dtype": str(template.dtype), "nodata": template.rio.nodata, "crs": template.rio.crs, "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "ZSTD", "zstd_level": 1, "bigtiff": "IF_SAFER",
        "sparse_ok": True, "num_threads": "ALL_CPUS",
    }  # fmt: skip
    place = template.coords.get("spatial_ref")
    if place is not None and "GeoTransform" in place.attrs:
        profile["transform"] = template.rio.transform(recalc=False)
    names = template.attrs.get("class_names")
    with ignore_georeference_warnings(), rasterio.open(plain, "w", **profile) as file:
        for window in _windows(height, width, chunk):
            values = store.read(window)
            values = values if values.ndim == 3 else values[None]
            y0, y1, x0, x1 = window
            file.write(values, window=rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0))
        _describe(file, template, names)
    is_class = template.attrs["long_name"] == "class"
    with ignore_georeference_warnings():
        _copy_as_cog(plain, path, "MODE" if is_class else "AVERAGE")
    plain.unlink()


def _copy_as_cog(plain: Path, path: Path, resampling: str) -> None:
    rasterio.shutil.copy(
        str(plain), str(path), driver="COG", compress="DEFLATE", blocksize=512, bigtiff="IF_SAFER",
        overview_resampling=resampling, num_threads="ALL_CPUS",
    )  # fmt: skip


def _describe(file: Any, template: xr.DataArray, names: Sequence[str] | None) -> None:
    """Write the names of classes or bands, colours of classes, and the scale of scores."""
    if "band" in template.dims:
        for number, name in enumerate(template.indexes.get("band", ()), 1):
            if isinstance(name, str):
                file.set_band_description(number, name)
    elif names or template.attrs["long_name"] == "class":
        file.set_band_description(1, template.attrs["long_name"])
    if names and "band" not in template.dims:
        file.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(names)})
    if template.attrs["long_name"] == "class" and template.dtype == np.uint8 and "band" not in template.dims:
        file.write_colormap(1, {number: (*colour(number), 255) for number in range(255)} | {255: (0, 0, 0, 0)})
    if "scale_factor" in template.attrs:
        file.scales = (template.attrs["scale_factor"],) * file.count


def _windows(height: int, width: int, chunk: int) -> Iterator[Window]:
    """Yield windows of whole chunks from left to right, from top to bottom."""
    side = _ROWS_AT_ONCE * chunk
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield Window(y, min(y + side, height), x, min(x + side, width))


def _copy(source: Folder, target: Folder, skip: Sequence[str]) -> None:
    files, path = source.files()
    files.invalidate_cache()
    for each in files.find(path):
        name = str(each).removeprefix(path).lstrip("/")
        if name.split("/")[0] not in skip:
            content = source.read(name)
            if content is not None:
                target.write(name, content)


def _remove_tree(folder: Folder) -> None:
    if folder.is_local:
        shutil.rmtree(folder.uri, ignore_errors=True)
        return
    files, path = folder.files()
    files.invalidate_cache()
    if files.exists(path):
        files.rm(path, recursive=True)
