"""Local files and folders that appear under their name whole, or not at all.

::

    .found.gpkg.geotile-draft-1f0e6a4c2b3d    the draft: written first, beside its target
    found.gpkg                                the target: the draft takes its place by one rename

The name of a draft depends on its target and its owner alone. An owner writes to a target once at a time, so what it
finds under that name was left behind by a process that was killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from geotile.core.digest import digest

_MARK = ".geotile-draft-"
_SYNC_THREADS = 8  # the system puts files of several threads on the disk together
_MAX_NAME = 40  # characters of the target's name in that of its draft: file systems allow 255 bytes


@contextmanager
def draft(target: Path, owner: str, name: str | None = None) -> Iterator[Path]:
    """Yield the path of a draft, which replaces the target at the end of the block.

    If the block raises, the draft is removed and the target stays as it was. What a killed process of the same owner
    left behind is removed first.

    Parameters
    ----------
    target : Path
        A file; its parent must exist.
    owner : str
        Who writes to the target, once at a time.
    name : str, optional
        Name of the draft in a folder of its own: for writers that choose a format by the suffix, or that make other
        files beside the one that they write.

    Raises
    ------
    OSError
        If the draft cannot replace the target.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with draft(target, "me") as path:
    ...     _ = path.write_text("whole")
    >>> [each.name for each in target.parent.iterdir()], target.read_text()
    (['notes.txt'], 'whole')
    """
    path = draft_path(target, owner)
    remove(path)
    try:
        if name is None:
            yield path
            replace(path, target)
        else:
            path.mkdir()
            yield path / name
            replace(path / name, target)
    finally:
        remove(path)


def write_whole(target: Path, content: bytes, *, at_once: bool = True) -> None:
    """Write a file, which replaces the target when it is whole. Its folder is made if it is missing.

    Several processes may write the same target at once: each has a draft of its own.

    Parameters
    ----------
    target : Path
    content : bytes
    at_once : bool, default True
        Whether to wait until it is on the disk. Otherwise it may be damaged if the machine, not the process, fails
        before `put_on_disk`.

    Raises
    ------
    OSError
        If it cannot be written; the target then stays as it was.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "new" / "notes.txt"
    >>> write_whole(target, b"whole")
    >>> [each.name for each in target.parent.iterdir()], target.read_bytes()
    (['notes.txt'], b'whole')
    """
    path = draft_path(target, uuid4().hex)
    try:
        with _created(path) as file:
            file.write(content)
            if at_once:
                file.flush()
                os.fsync(file.fileno())  # so that the name never stands for less than its bytes
        os.replace(path, target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _created(path: Path) -> BinaryIO:
    """Return a new open file; its folder is made if it is missing."""
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")


def put_on_disk(folder: Path) -> None:
    """Wait until all files in a folder and its folders are on the disk.

    Raises
    ------
    OSError
        If one cannot be.
    """
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for place, _, names in os.walk(folder):
            list(pool.map(_sync, [os.path.join(place, name) for name in names]))  # raises what a thread raises


def _sync(path: str) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def draft_path(target: Path, owner: str) -> Path:
    """Return the path of an owner's draft of a target."""
    unique = digest(f"{target.name}\n{owner}".encode(), 12)
    return target.with_name(f".{target.name[:_MAX_NAME]}{_MARK}{unique}")


def is_draft(name: str) -> bool:
    """Return whether a file's name or path is that of a draft."""
    return _MARK in name.rpartition("/")[2]


def replace(path: Path, target: Path) -> None:
    """Move a finished file or folder to the place of the target, which it replaces.

    A folder cannot replace another one in one step. The old one is moved aside first, and `restore` puts it back if the
    process is killed between the two steps.

    Raises
    ------
    OSError
        If it cannot be moved.
    """
    if path.is_dir():
        restore(target)
        if target.exists():
            os.replace(target, _aside(target))
        os.replace(path, target)
        remove(_aside(target))
        return
    _sync(os.fspath(path))  # so that the name never stands for less than its bytes
    os.replace(path, target)


def restore(target: Path) -> None:
    """Put a folder back that `replace` had moved aside when its process was killed, or remove it if it was replaced.

    Raises
    ------
    OSError
        If it cannot be moved.
    """
    aside = _aside(target)
    if aside.exists() and not target.exists():
        os.replace(aside, target)
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts of all owners in a folder. Call it only while nobody else writes there.

    Raises
    ------
    OSError
        If a draft cannot be removed.
    """
    for path in folder.glob(f".*{_MARK}*"):
        remove(path)


def _aside(target: Path) -> Path:
    return draft_path(target, "replaced")
