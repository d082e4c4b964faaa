"""A folder, local or in object storage, of small files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from geotile.core.quiet_logs import quiet_urls
from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.storage.atomic import is_draft, remove_drafts, write_whole
from geotile.storage.download import within
from geotile.storage.uris import output_uri

_TOTAL_S = 300.0  # for a file
_VERSION = ("mtime", "ino", "ETag", "LastModified", "etag", "updated", "last_modified")  # of fsspec's file systems
T = TypeVar("T")
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Folder:
    """A folder of small files. Pickles; opens nothing before it is used.

    Parameters
    ----------
    uri : str
        A path, or any fsspec URI.
    options : tuple of (str, value)
        Storage options of the file system, with fsspec's names. They are never shown.
    """

    uri: str
    options: Options = field(default=(), repr=False)

    @classmethod
    def at(cls, uri: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Folder:
        """Return the folder at a URI. A relative path becomes absolute, since workers may run in another folder."""
        return cls(output_uri(uri).rstrip("/") or "/", tuple(sorted((options or {}).items())))

    @property
    def display_name(self) -> str:
        """The URI without secrets."""
        return redact(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the folder is in a local file system."""
        return is_local(self.files()[0])

    def files(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system, and the path of the folder in it."""
        files, path = url_to_fs(self.uri, **dict(self.options))
        return files, str(path)

    def sub(self, name: str) -> Folder:
        """Return a folder in this one."""
        return Folder(f"{self.uri}/{name}", self.options)

    def write(self, name: str, data: bytes, *, at_once: bool = True) -> None:
        """Write a file whole, or not at all. It replaces a file of the same name.

        Parameters
        ----------
        name : str
        data : bytes
        at_once : bool, default True
            Whether to wait until it is on the disk, if the folder is local.

        Raises
        ------
        OutputError
            If it cannot be written; the previous file is then unchanged.
        """
        self._try("write", name, lambda files, path: _write(files, path, data, at_once))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist.

        Raises
        ------
        OutputError
            If it cannot be read.
        """

        def read(files: fsspec.AbstractFileSystem, path: str) -> bytes | None:
            try:
                content: bytes = _in_time(files, "cat_file", path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return content

        return self._try("read", name, read)

    def names(self) -> dict[str, int]:
        """Return the names of the files directly in the folder, and their sizes in bytes.

        Raises
        ------
        OutputError
            If the folder cannot be listed.
        """
        return {Path(each["name"]).name: int(each["size"] or 0) for each in self._entries()}

    def versions(self) -> dict[str, str]:
        """Return the names of the files directly in the folder, each with a text that differs once it was replaced.

        The text is empty where the file system does not tell.

        Raises
        ------
        OutputError
            If the folder cannot be listed.
        """
        return {Path(each["name"]).name: _version(each) for each in self._entries()}

    def _entries(self) -> list[dict[str, Any]]:
        """Return what the file system says of each file directly in the folder."""

        def entries(files: fsspec.AbstractFileSystem, path: str) -> list[dict[str, Any]]:
            return [each for each in _listed(files, "ls", path) or [] if each["type"] == "file"]

        return self._try("list", "", entries)

    def all_names(self) -> dict[str, int]:
        """Return the names of all files in the folder and its folders, relative to it, and their sizes in bytes.

        Drafts are left out: they are not whole.

        Raises
        ------
        OutputError
            If the folder cannot be listed.
        """

        def names(files: fsspec.AbstractFileSystem, path: str) -> dict[str, int]:
            found = _listed(files, "find", path) or {}
            sizes = {str(name).removeprefix(path).lstrip("/"): int(each["size"] or 0) for name, each in found.items()}
            return {name: size for name, size in sizes.items() if not is_draft(name)}

        return self._try("list", "", names)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Raises
        ------
        OutputError
            If it cannot be removed.
        """

        def remove(files: fsspec.AbstractFileSystem, path: str) -> None:
            with suppress(FileNotFoundError):
                _in_time(files, "rm_file", path)

        self._try("remove", name, remove)

    def remove_drafts(self) -> None:
        """Remove what killed processes left behind while they wrote. Call it only while nobody else writes here.

        Object storage keeps no drafts: an upload that is not completed is not visible.

        Raises
        ------
        OutputError
            If a draft cannot be removed.
        """
        if self.is_local:
            self._try("remove the drafts in", "", lambda files, path: remove_drafts(Path(path)))

    def _try(self, action: str, name: str, act: Callable[[fsspec.AbstractFileSystem, str], T]) -> T:
        try:
            files, path = self.files()
            return act(files, f"{path}/{name}" if name else path)
        except Exception as error:  # each file system has errors of its own; all mean the same here
            place = f"{self.display_name}/{name}" if name else self.display_name
            raise OutputError(f"cannot {action} {place}: {redact(str(error)) or type(error).__name__}") from None


def is_local(files: fsspec.AbstractFileSystem) -> bool:
    """Return whether a file system is a local one."""
    protocol = files.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _version(entry: Mapping[str, Any]) -> str:
    """Return what a listing says of the content of a file: its time and number, or its ETag."""
    known = [str(entry[name]) for name in _VERSION if entry.get(name) is not None]
    return " ".join([*known, str(entry["size"])]) if known else ""


def _in_time(files: fsspec.AbstractFileSystem, action: str, *arguments: Any, **options: Any) -> Any:
    """Return what a method of a file system returns; one that uses a network has a deadline."""
    if isinstance(files, AsyncFileSystem):
        with quiet_urls():
            return within(files, partial(getattr(files, f"_{action}"), *arguments, **options), _TOTAL_S)
    return getattr(files, action)(*arguments, **options)


def _listed(files: fsspec.AbstractFileSystem, action: str, path: str) -> Any:
    """Return what a file system lists now, not what it has kept; None if there is no such folder."""
    files.invalidate_cache()
    try:
        return _in_time(files, action, path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write(files: fsspec.AbstractFileSystem, path: str, data: bytes, at_once: bool) -> None:
    if not is_local(files):
        _in_time(files, "pipe_file", path, data)  # one PUT, or a multipart upload that is completed last
        return
    write_whole(Path(path), data, at_once=at_once)  # Dask may run a task twice, on two workers at once
