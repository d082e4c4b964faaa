"""Leases in object storage: an object that is renewed, and written by conditional requests only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.storage import lease_holder
from geotile.storage.conditional import ConditionalObject
from geotile.storage.folder import Folder
from geotile.storage.lease_holder import Holder, Renewal

_log = logging.getLogger(__name__)
_ATTEMPTS = 5


class ObjectLease:
    """A lease in object storage, and the thread that renews it.

    Parameters
    ----------
    folder : Folder
        Where the object of the lease is.
    name : str
        Name of that object.
    what : str
        What is leased, for the errors.
    """

    def __init__(self, folder: Folder, name: str, what: str) -> None:
        self.folder, self.name, self.what = folder, name, what
        self.holder = Holder.of_this_process()
        self.etag: str | None = None
        """ETag of the object as this run last wrote it; None while it does not hold the lease."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease and renew it within the block."""
        with self._errors():
            self.object = self._object()
            self._take()
        renewal = Renewal(self._renew, self.what)
        try:
            renewal.start()
            yield
        finally:
            renewal.stop()
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
        holder = Holder.from_json(data)
        if holder is not None and holder.owner == self.holder.owner:
            return etag  # the response to the request that created it was lost
        if holder is not None and holder.is_live():
            raise OutputError(
                f"{self.what} is in use by another run ({holder}, which renewed its lease {holder.age_s:.0f} s ago). "
                f"Wait for it, or until {lease_holder.STALE_S:.0f} s after it died, or choose another place."
            )
        return self.object.replace(self._content(), etag)

    def _release(self) -> None:
        try:
            if self.etag is not None:
                self.object.remove(self.etag)
        except Exception as error:  # each file system has errors of its own; the lease expires by itself
            _log.warning("the lease of %s was not released: %s", self.what, redact(str(error)))

    def _renew(self) -> bool:
        if self.etag is not None:
            self.etag = self.object.replace(self._content(), self.etag) or self._own_etag()
        return self.etag is not None

    def _own_etag(self) -> str | None:
        """Return the ETag if the lease is this run's: the response to an earlier renewal may have been lost."""
        data, etag = self.object.read() or (None, None)
        holder = Holder.from_json(data)
        return etag if holder is not None and holder.owner == self.holder.owner else None

    def _content(self) -> bytes:
        return self.holder.to_json()

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
