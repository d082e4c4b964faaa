"""Local files that GDAL may open for an image: no named pipes, devices or sockets.

GDAL opens a named pipe like any file, and holds Python's lock while it waits for a writer: the whole process stops. A
device may never end.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Before the path in names of GDAL: NITF_IM:0:, GTIFF_DIR:off:8:, J2K_SUBFILE:0,9,, /vsizip/{, /vsisubfile/8_9,
_AROUND = re.compile(r"(?:[A-Z0-9_]+:(?:(?:off:)?[Q\d,]+[:,])?|/vsi\w+/(?:[\d_]+,)?\{?)+")
_OF_PRODUCTS = (  # metadata whose names need not begin as that of the image
    ".att", ".dim", ".eph", ".imd", ".pass", ".pvl", ".rpb", ".rpc", ".txt", ".xml",
)  # fmt: skip


def check_kinds(name: str) -> None:
    """Raise OSError if a local image, or a file beside it that GDAL may open, is of a kind that could wait or not end.

    Parameters
    ----------
    name : str
        GDAL's name of the image. A name of remote storage is not checked.

    Examples
    --------
    >>> check_kinds("/dev/null")
    Traceback (most recent call last):
    OSError: /dev/null is neither a file nor a folder. Give the path of the image itself
    """
    if name.startswith("/vsistdin"):
        raise OSError("standard input cannot be read twice, as an image must be. Write it to a file")
    path = _file_of(name)
    if path is None:
        return
    if not _is_usual(path):
        raise OSError(f"{path} is neither a file nor a folder. Give the path of the image itself")
    for beside in _beside(path) if path.is_file() else ():
        if not _is_usual(beside):
            raise OSError(
                f"{beside} lies beside {path.name}, where GDAL would read it, and is neither a file nor a folder. "
                "Remove it"
            )


def _file_of(name: str) -> Path | None:
    """Return the local file that a name of GDAL names, also that which holds the image; None if there is none."""
    if "://" in name:
        return None
    path = Path(name if os.path.lexists(name) else _AROUND.sub("", name, count=1).replace("}", ""))
    return next((each for each in (path, *path.parents) if os.path.lexists(each)), None)


def _beside(path: Path) -> Iterator[Path]:
    """Yield what GDAL may read beside an image: what begins as its name does, and metadata of products."""
    stem = path.stem.lower()
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            name = entry.name.lower()
            of_product = name.endswith(_OF_PRODUCTS) and not name.endswith(".aux.xml")  # of another image
            if (of_product or name.startswith(stem)) and not entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _is_usual(path: Path) -> bool:
    """Return whether something is a regular file or a folder, or is not there, which GDAL notices."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
