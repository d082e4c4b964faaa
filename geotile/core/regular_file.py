"""Local files that a user or a stranger names: read without waiting for a pipe, and not without end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFLNK: "a symbolic link", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class NotRegularFileError(OSError):
    """The file is a folder, a pipe, a device or something else that holds no content of its own."""

    def __init__(self, kind: str, path: str | os.PathLike[str]) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
        self.kind = kind


def read_regular(path: str | os.PathLike[str], max_bytes: int, *, follow: bool = True, cut: bool = False) -> bytes:
    """Return the content of a regular file.

    Parameters
    ----------
    path : str or path
    max_bytes : int
    follow : bool, default True
        Whether the file may be a symbolic link.
    cut : bool, default False
        Whether one byte more than `max_bytes` is returned of a file that is larger, in place of an error.

    Raises
    ------
    NotRegularFileError
        If it is something else.
    OSError
        If it cannot be read, or is larger than `max_bytes`.

    Examples
    --------
    >>> read_regular("/dev/zero", 10)
    Traceback (most recent call last):
    geotile.core.regular_file.NotRegularFileError: [Errno 22] it is a device, not a regular file: '/dev/zero'
    """
    with open_regular(path, follow=follow) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes and not cut:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", os.fspath(path))
    return content


@contextmanager
def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a regular file for reading while the block runs, without waiting for anything.

    Parameters
    ----------
    path : str or path
    follow : bool, default True
        Whether the file may be a symbolic link.

    Raises
    ------
    NotRegularFileError
        If it is something else.
    OSError
        If it cannot be opened.
    """
    refuse_other_kinds(path, os.stat(path, follow_symlinks=follow).st_mode)  # a device can act when it is opened
    flags = _FLAGS if follow else _FLAGS | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags), "rb") as file:
        refuse_other_kinds(path, os.fstat(file.fileno()).st_mode)  # another one may have taken its place
        yield file


def refuse_other_kinds(path: str | os.PathLike[str], mode: int) -> None:
    """Raise `NotRegularFileError` if the mode of a file is not that of a regular one."""
    if not stat.S_ISREG(mode):
        raise NotRegularFileError(_KINDS.get(stat.S_IFMT(mode), "of an unknown kind"), path)


def special_kind(path: str | os.PathLike[str]) -> str | None:
    """Return what a path is that would be waited for when it is read: a pipe, a socket or a device; else None.

    Examples
    --------
    >>> special_kind("/dev/zero"), special_kind("/dev"), special_kind("/no/such/file")
    ('a device', None, None)
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode))
