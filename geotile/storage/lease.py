"""Leases: of two runs that would write to the same place at once, the second one fails with an error."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from filelock import SoftFileLock, Timeout

from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.storage.conditional import ConditionalObject
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
RENEW_S, STALE_S = 10.0, 60.0  # in object storage, which does not show whether a process still runs
_ATTEMPTS = 5


def lease(folder: Folder, name: str, what: str) -> AbstractContextManager[None]:
    """Return a block that holds the lease of a place.

    In a local file system, the lease of a process that died ends with it. In object storage, the lease is an object
    that is renewed every ten seconds, and expires when it has not been renewed for a minute. It is created, renewed,
    taken over and removed by conditional requests (If-None-Match, If-Match), so exactly one run holds it. Object
    stores without conditional writes are not supported.

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
    return _local_lease(folder, name, what) if folder.is_local else _ObjectLease(folder, name, what).held()


def is_leased(folder: Folder, name: str) -> bool:
    """Return whether a live run holds the lease of a place."""
    if not folder.is_local:
        holder = _Holder.from_json(folder.read(name))
        return holder is not None and holder.is_live()
    path = Path(folder.files()[1]) / name
    if not path.exists():
        return False
    try:
        with SoftFileLock(path, timeout=0, thread_local=False).acquire():
            return False
    except Timeout:
        return True


@contextmanager
def _local_lease(folder: Folder, name: str, what: str) -> Iterator[None]:
    path = Path(folder.files()[1]) / name
    lock = SoftFileLock(path, timeout=0, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{what} is in use by another run (process {lock.pid}, according to {path}). Wait for it, choose another "
            "place, or remove that file if no machine runs such a process any more."
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write {what}: {redact(str(error))}") from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Holder:
    """The run that holds a lease in object storage."""

    owner: str
    """``host:process:unique``."""
    at: float
    """When it last renewed the lease, in seconds since the epoch."""

    @classmethod
    def from_json(cls, data: bytes | None) -> _Holder | None:
        """Return the holder, or None if the lease does not exist or is damaged."""
        try:
            content = json.loads(data or b"null")
            return cls(str(content["owner"]), float(content["at"]))
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def age_s(self) -> float:
        """Seconds since the last renewal."""
        return time.time() - self.at

    def is_live(self) -> bool:
        """Return whether it may still be writing."""
        return self.age_s < STALE_S and not self._died_here()

    def _died_here(self) -> bool:
        """Return whether it was a process of this machine that no longer runs."""
        host, process, *_ = (*self.owner.split(":"), "")
        if host != socket.gethostname() or not process.isdigit():
            return False
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class _ObjectLease:
    """A lease in object storage, and the thread that renews it."""

    def __init__(self, folder: Folder, name: str, what: str) -> None:
        self.folder, self.name, self.what = folder, name, what
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex}"
        self.etag: str | None = None
        """ETag of the object as this run last wrote it; None while it does not hold the lease."""
        self.released = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease and renew it within the block."""
        with self._errors():
            self.object = self._object()
            self._take()
        renewer = threading.Thread(target=self._renew, name="geotile-lease", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            self.released.set()
            renewer.join()
            self._release()

    def _object(self) -> ConditionalObject:
        files, folder = self.folder.files()
        return ConditionalObject(files, f"{folder}/{self.name}")

    def _take(self) -> None:
        """Create the lease, or take over one that expired."""
        for _ in range(_ATTEMPTS):
            self.etag = self.object.create(self._content()) or self._take_over()
            if self.etag is not None:
                break
        else:
            raise OutputError(f"{self.what} is being leased by several runs at once. Choose another place.")
        try:
            self.object.check_conditions(self._content())
        except NotImplementedError:
            self.folder.remove(self.name)
            raise

    def _take_over(self) -> str | None:
        """Return the ETag of an expired lease that is now this run's, or None if the state has changed meanwhile."""
        stored = self.object.read()
        if stored is None:
            return None  # it has just been released
        data, etag = stored
        holder = _Holder.from_json(data)
        if holder is not None and holder.owner == self.owner:
            return etag  # the response to the request that created it was lost
        if holder is not None and holder.is_live():
            host, process, *_ = (*holder.owner.split(":"), "")
            raise OutputError(
                f"{self.what} is in use by another run (process {process} on {host}, which renewed its lease "
                f"{holder.age_s:.0f} s ago). Wait for it, or until {STALE_S:.0f} s after it died, or choose another "
                "place."
            )
        return self.object.replace(self._content(), etag)

    def _release(self) -> None:
        try:
            if self.etag is not None:
                self.object.remove(self.etag)
        except Exception as error:  # each file system has errors of its own; the lease expires by itself
            _log.warning("the lease of %s was not released: %s", self.what, redact(str(error)))

    def _renew(self) -> None:
        while self.etag is not None and not self.released.wait(RENEW_S):
            try:
                self.etag = self.object.replace(self._content(), self.etag) or self._own_etag()
                if self.etag is None:
                    _log.warning("another run has taken over the lease of %s, which had expired", self.what)
            except Exception as error:  # each file system has errors of its own; the next attempt may succeed
                _log.warning("the lease of %s was not renewed: %s", self.what, redact(str(error)))

    def _own_etag(self) -> str | None:
        """Return the ETag if the lease is this run's: the response to an earlier renewal may have been lost."""
        data, etag = self.object.read() or (None, None)
        holder = _Holder.from_json(data)
        return etag if holder is not None and holder.owner == self.owner else None

    def _content(self) -> bytes:
        return json.dumps({"owner": self.owner, "at": time.time()}).encode()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except NotImplementedError as error:
            raise OutputError(
                f"{self.what} cannot be leased: its store has no conditional writes ({error}), without which two runs "
                "could write there at once. Use a local folder, Amazon S3, or a store that supports If-Match and "
                "If-None-Match, and copy the result."
            ) from None
        except Exception as error:  # each file system has errors of its own; all mean the same here
            raise OutputError(f"cannot write {self.what}: {redact(str(error)) or type(error).__name__}") from None
