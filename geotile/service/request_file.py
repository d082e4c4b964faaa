"""The file of a request: a regular file of a limited size, read without waiting for anything."""

from __future__ import annotations

import os
from pathlib import Path

from geotile.core.regular_file import NotRegularFileError, read_regular
from geotile.errors import ArgumentError
from geotile.printable import printable as without_control
from geotile.service.request_checks import MAX_REQUEST_BYTES


def read_request(path: Path) -> bytes:
    """Return the content of a request, one byte more than allowed where it is too large.

    Parameters
    ----------
    path : Path
        Anything that may lie in a folder.

    Raises
    ------
    ArgumentError
        If it is not a regular file.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> read_request(Path("/dev"))
    Traceback (most recent call last):
    geotile.ArgumentError: a request must be a regular file; /dev is a folder. Put the file itself there
    """
    try:
        return read_regular(path, MAX_REQUEST_BYTES, follow=False, cut=True)
    except NotRegularFileError as error:
        raise ArgumentError(
            f"a request must be a regular file; {printable(str(path))} is {error.kind}. Put the file itself there"
        ) from None


def printable(name: str) -> str:
    r"""Return a file name that may not be UTF-8 or hold control characters as text that can be stored and shown.

    >>> printable(b"a\xff\x1b[1m.json".decode(errors="surrogateescape"))
    'a\\xff\\x1b[1m.json'
    """
    return without_control(os.fsencode(name).decode(errors="backslashreplace"))
