"""Leases: of two runs that would write to the same place at once, the second one fails with an error."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from geotile.storage.file_lease import file_lease, is_file_leased
from geotile.storage.folder import Folder
from geotile.storage.lease_holder import Holder
from geotile.storage.object_lease import ObjectLease


def lease(folder: Folder, name: str, what: str) -> AbstractContextManager[None]:
    """Return a block that holds the lease of a place.

    In a local file system, the lease is a lock of the kernel and ends with its process, however that ends. In object
    storage and network file systems it is renewed every ten seconds, and is void when it has not been renewed for a
    minute. In object storage it is created, renewed, taken over and removed by conditional requests (If-None-Match,
    If-Match), so exactly one run holds it. Object stores without conditional writes are not supported.

    Parameters
    ----------
    folder : Folder
        Where the file of the lease is.
    name : str
        Name of that file.
    what : str
        What is leased, for the error.

    Raises
    ------
    OutputError
        If another run holds the lease, nothing can be written there, or the store has no conditional writes.
    """
    if folder.is_local:
        return file_lease(Path(folder.files()[1]) / name, what)
    return ObjectLease(folder, name, what).held()


def is_leased(folder: Folder, name: str) -> bool:
    """Return whether a live run holds the lease of a place."""
    if folder.is_local:
        return is_file_leased(Path(folder.files()[1]) / name)
    holder = Holder.from_json(folder.read(name))
    return holder is not None and holder.is_live()
