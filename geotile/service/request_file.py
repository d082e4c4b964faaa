"""The file of a request: a regular file of a limited size, read without waiting for anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from geotile.core.printable import printable as without_control
from geotile.errors import ArgumentError
from geotile.service.request_checks import MAX_REQUEST_BYTES

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFLNK: "a symbolic link", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def read_request(path: Path) -> bytes:
    """Return the content of a request, one byte more than allowed where it is too large.

    Parameters
    ----------
    path : Path
        Anything that may lie in a folder.

    Raises
    ------
    ArgumentError
        If it is no regular file.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> read_request(Path("/dev"))
    Traceback (most recent call last):
    geotile.ArgumentError: a request must be a regular file; /dev is a folder. Put the file itself there
    """
    _refuse_other_kinds(path, os.lstat(path).st_mode)  # a device can act when it is opened
    with open(os.open(path, _FLAGS), "rb") as file:
        _refuse_other_kinds(path, os.fstat(file.fileno()).st_mode)  # another one may have taken its place
        return file.read(MAX_REQUEST_BYTES + 1)


def _refuse_other_kinds(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ArgumentError(
            f"a request must be a regular file; {printable(str(path))} is {_KINDS.get(stat.S_IFMT(mode), 'none')}. "
            "Put the file itself there"
        )


def printable(name: str) -> str:
    r"""Return a file name that may not be UTF-8 or hold control characters as text that can be stored and shown.

    >>> printable(b"a\xff\x1b[1m.json".decode(errors="surrogateescape"))
    'a\\xff\\x1b[1m.json'
    """
    return without_control(os.fsencode(name).decode(errors="backslashreplace"))
