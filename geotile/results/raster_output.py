"""Files of rasters, on disk or in object storage, that are written whole or not at all: COGs and Zarr stores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import xarray as xr
from fsspec.core import url_to_fs

from geotile.core.checks import Pair, check_path
from geotile.core.choices import OutputKind
from geotile.core.rasterio_env import WRITE_ERRORS
from geotile.core.redact import redact
from geotile.errors import ArgumentError, OutputError
from geotile.results.cog import category_file, write_cog
from geotile.results.raster_store import BLOCKS, ROOT, RasterStore
from geotile.storage.atomic import draft, draft_path, put_on_disk, remove, replace, restore
from geotile.storage.folder import Folder, Options
from geotile.storage.lease import lease
from geotile.storage.uris import output_uri
from geotile.storage.write_errors import as_output_error

_SUFFIXES = (".tif", ".tiff", ".zarr")
_OWNER = "raster"
_MARK = ".geotile-draft"  # in a store in object storage, while it is copied there


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
            of_pixels = ". What a pixel is, is chosen by --as" if Path(uri).name in get_args(OutputKind) else ""
            raise ArgumentError(f"output must end in one of {', '.join(_SUFFIXES)}; got {redact(uri)!r}{of_pixels}")
        sink = cls(uri, overwrite, tuple(sorted((options or {}).items())))
        if sink.folder.is_local and not Path(uri).parent.is_dir():
            raise OutputError(f"output {redact(uri)}: there is no folder {Path(uri).parent}. Create it first.")
        sink.check_free()
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
        self.check_free()

    def end(
        self, store: RasterStore, files: dict[str, bytes], template: xr.DataArray, chunk: int, kept: bool,
        regions_yx: Pair,
    ) -> None:  # fmt: skip
        """Make the output of the stored blocks, which a Zarr store takes with it unless they are kept.

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
            self.check_free()
            if not store.done(regions_yx).all():
                raise OutputError("blocks have disappeared during the run")
            if self.is_zarr:
                self._end_zarr(store, files, kept)
            else:
                self._end_cog(store, template, chunk)
        except Exception as error:  # each file system has errors of its own; all mean the same here
            text = str(error) if isinstance(error, (*WRITE_ERRORS, OutputError)) else f"{type(error).__name__}: {error}"
            reason, place = redact(text).rstrip("."), store.folder.display_name
            where = "" if place in reason else f". The blocks are in {place}"
            raise OutputError(f"cannot write {redact(self.uri)}: {reason}{where}") from None

    def _end_zarr(self, store: RasterStore, files: dict[str, bytes], kept: bool) -> None:
        """Move or copy a store to its place; the file that makes it complete is last."""
        if self.folder.is_local and store.folder.is_local and not kept:
            remove(Path(store.folder.uri) / BLOCKS)
            put_on_disk(Path(store.folder.uri))
            store.folder.write(ROOT, files[ROOT])
            replace(Path(store.folder.uri), Path(self.uri))
            return
        self._copy_store(store.folder, files[ROOT])
        if not kept:
            _remove_tree(store.folder)

    def put_store(self, store: Folder) -> None:
        """Copy a complete store to this output, a Zarr store: whole, or not at all.

        Raises
        ------
        OutputError
            If it cannot be copied, or another process is writing there.
        """
        try:
            with self.leased():
                self.begin()
                root = store.read(ROOT)
                if root is None:
                    raise OutputError(f"{store.display_name} has disappeared")
                self._copy_store(store, root)
        except OutputError:
            raise
        except Exception as error:  # each file system has errors of its own; all mean the same here
            raise OutputError(f"cannot write {redact(self.uri)}: {redact(str(error))}") from None

    def _copy_store(self, store: Folder, root: bytes) -> None:
        """Copy a store to its place; the file that makes it complete is last."""
        if self.folder.is_local:
            _copy(store, self.drafts, skip=(BLOCKS, ROOT))
            self.drafts.write(ROOT, root)
            replace(Path(self.drafts.uri), Path(self.uri))
            return
        target = self.folder
        target.write(_MARK, b"")
        target.remove(ROOT)  # what is replaced is complete no more, before any of it is
        _remove_tree(target, but=_MARK)
        _copy(store, target, skip=(BLOCKS, ROOT))
        target.write(ROOT, root)
        target.remove(_MARK)

    def _end_cog(self, store: RasterStore, template: xr.DataArray, chunk: int) -> None:
        """Write the COG, then the names of its classes beside it.

        GDAL keeps names and statistics beside a file: those of a file that is replaced are removed first, so at no time
        do names lie beside a file that they are not about.
        """
        with ExitStack() as stack:
            if self.folder.is_local:
                path = stack.enter_context(draft(Path(self.uri), "cog", "out.tif"))
            else:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out.tif"
            write_cog(store, template, chunk, path)
            self.put_names(None)
            if not self.folder.is_local:
                files, target = url_to_fs(self.uri, **dict(self.options))
                files.put_file(str(path), target)
        self.put_names(category_file(template))

    def put_names(self, content: bytes | None) -> None:
        """Write the file of the classes' names beside a COG, or remove the one that is there."""
        parent, _, name = self.uri.rpartition("/")
        folder, beside = Folder(parent or "/", self.options), f"{name}.aux.xml"
        if content is None:
            _remove_if_there(folder, beside)
        else:
            folder.write(beside, content)

    def check_free(self) -> None:
        """Check that nothing is in the way of the output.

        Raises
        ------
        OutputError
            If something is there that it may not replace, or that cannot be found out.
        """
        with as_output_error(self.uri):
            self._check_free()

    def _check_free(self) -> None:
        files, path = self.folder.files()
        if not self.is_zarr and files.isdir(path):
            raise OutputError(f"output {redact(self.uri)} is a folder. Name a file in it.")
        files.invalidate_cache()
        exists = files.exists(f"{path}/{ROOT}") or (files.exists(path) and not self.is_zarr)
        is_ours = exists or files.exists(f"{path}/{_MARK}")
        if self.is_zarr and not is_ours and files.exists(path) and files.ls(path):
            raise OutputError(f"output {redact(self.uri)} holds something else than a Zarr 3 store. Name a new folder")
        if exists and not self.overwrite:
            raise OutputError(f"output {redact(self.uri)} exists. Pass overwrite=True or another name.")

    def discard(self) -> None:
        """Remove the blocks that were written without a checkpoint."""
        _remove_tree(self.drafts)


def _copy(source: Folder, target: Folder, skip: Sequence[str]) -> None:
    for name in source.all_names():
        if name.split("/")[0] not in skip:
            content = source.read(name)
            if content is None:
                raise OutputError(f"{source.display_name}/{name} has disappeared. Run again")
            target.write(name, content)


def _remove_if_there(folder: Folder, name: str) -> None:
    """Remove a file if it exists; object storage may allow to write, and to remove nothing."""
    files, path = folder.files()
    if files.exists(f"{path}/{name}"):
        folder.remove(name)


def _remove_tree(folder: Folder, but: str = "") -> None:
    """Remove a folder; in object storage, without one of its files."""
    if folder.is_local:
        shutil.rmtree(folder.uri, ignore_errors=True)
        return
    files, path = folder.files()
    files.invalidate_cache()
    if found := [each for each in files.find(path) if each != f"{path}/{but}"]:
        files.rm(found)
