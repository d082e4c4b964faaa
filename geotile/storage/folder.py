"""A folder, local or in object storage: small files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs

from geotile.core.redact import redact
from geotile.errors import OutputError

T = TypeVar("T")
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Folder:
    """Where small files go. Pickles; opens nothing before it is used.

    Parameters
    ----------
    uri : str
        A path, or any fsspec uri.
    options : tuple of (str, value)
        Of the file system, in fsspec's words. Shown nowhere.
    """

    uri: str
    options: Options = field(default=(), repr=False)

    @classmethod
    def at(cls, uri: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Folder:
        """Return the folder of an absolute uri: workers may run elsewhere."""
        text = str(os.fspath(uri)).rstrip("/")
        if "://" not in text and "::" not in text:
            text = os.path.abspath(text)
        return cls(text, tuple(sorted((options or {}).items())))

    @property
    def shown(self) -> str:
        """The uri without secrets."""
        return redact(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether it lies in a file system of this machine."""
        protocol = url_to_fs(self.uri, **dict(self.options))[0].protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def files(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system, and the folder's path there."""
        files, path = url_to_fs(self.uri, **dict(self.options))
        return files, str(path)

    def sub(self, name: str) -> Folder:
        """Return a folder in it."""
        return Folder(f"{self.uri}/{name}", self.options)

    def write(self, name: str, data: bytes) -> None:
        """Write a file: whole or not at all, in the place of one that is there.

        Raises
        ------
        OutputError
            If it cannot be written; then what was there before still is.
        """
        self._try("write", name, lambda files, path: _write(files, path, data, self.is_local))

    def read(self, name: str) -> bytes | None:
        """Return what a file holds, None if there is none.

        Raises
        ------
        OutputError
            If it cannot be read.
        """

        def read(files: fsspec.AbstractFileSystem, path: str) -> bytes | None:
            try:
                found: bytes = files.cat_file(path)
            except FileNotFoundError:
                return None
            return found

        return self._try("read", name, read)

    def names(self) -> dict[str, int]:
        """Return the files right in it, and their sizes in bytes.

        Raises
        ------
        OutputError
            If it cannot be listed.
        """

        def names(files: fsspec.AbstractFileSystem, path: str) -> dict[str, int]:
            files.invalidate_cache()
            try:
                found = files.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            return {Path(each["name"]).name: int(each["size"] or 0) for each in found if each["type"] == "file"}

        return self._try("list", "", names)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

        def remove(files: fsspec.AbstractFileSystem, path: str) -> None:
            with suppress(FileNotFoundError):
                files.rm_file(path)

        self._try("remove", name, remove)

    def _try(self, what: str, name: str, act: Callable[[fsspec.AbstractFileSystem, str], T]) -> T:
        try:
            files, path = self.files()
            return act(files, f"{path}/{name}" if name else path)
        except Exception as error:  # each file system has errors of its own; all mean the same here
            place = f"{self.shown}/{name}" if name else self.shown
            raise OutputError(f"cannot {what} {place}: {redact(str(error)) or type(error).__name__}") from None


def _write(files: fsspec.AbstractFileSystem, path: str, data: bytes, local: bool) -> None:
    if not local:
        files.pipe_file(path, data)  # one PUT, or a multipart upload that is completed last
        return
    draft = Path(path).parent / f".draft-{uuid4().hex}"
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # so that the name never stands for less than its bytes
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
