"""Free space where a run will write."""

from __future__ import annotations

import shutil
from pathlib import Path

from geotile.storage.folder import Folder


def note_of_space(folder: Folder, needed: int) -> str | None:
    """Return a note if a local folder has less free space than a result can take; None if it has, or is elsewhere.

    Parameters
    ----------
    folder : Folder
        Folder that will be written to; it need not exist.
    needed : int
        Size of the result in bytes, before compression.

    Examples
    --------
    >>> note_of_space(Folder("/tmp/results"), 1000), note_of_space(Folder("/tmp/results"), 10**18)[:54]
    (None, 'the output has up to 1,000,000.0 TB before compression')
    """
    if not folder.is_local:
        return None
    there = next(each for each in (Path(folder.files()[1]), *Path(folder.files()[1]).parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free >= needed:
        return None
    return (
        f"the output has up to {_size(needed)} before compression, and {there} has {_size(free)} free. With "
        "checkpoint= a run whose disk fills up resumes when there is room"
    )


def _size(n: int) -> str:
    unit, name = next(((unit, name) for unit, name in ((1e12, "TB"), (1e9, "GB")) if n >= unit), (1e6, "MB"))
    return f"{n / unit:,.1f} {name}"
