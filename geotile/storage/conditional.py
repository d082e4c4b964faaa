"""One object in S3 that is written and removed only if its state is the expected one.

S3 decides with each request, so of several processes that write at once exactly one succeeds: ``If-None-Match: *``
creates an object that must not exist, ``If-Match`` replaces or removes the state with a given ETag.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import fsspec

_EXISTS = {"PreconditionFailed", "412"}
_GONE = {"NoSuchKey", "404"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}  # two requests at once; S3 asks to try again
_UNSUPPORTED = {"NotImplemented", "501"}
_ATTEMPTS = 5
_NO_ETAG = '"00000000000000000000000000000000"'


@dataclass(frozen=True)
class ConditionalObject:
    """An object that is written under conditions.

    Parameters
    ----------
    files : fsspec.AbstractFileSystem
        An `s3fs.S3FileSystem`.
    path : str
        ``bucket/key``.

    Raises
    ------
    NotImplementedError
        If the file system has no conditional writes.
    """

    files: fsspec.AbstractFileSystem
    path: str

    def __post_init__(self) -> None:
        protocol = self.files.protocol
        if "s3" not in ((protocol,) if isinstance(protocol, str) else protocol):
            raise NotImplementedError("fsspec has conditional writes for S3 only")

    def read(self) -> tuple[bytes, str] | None:
        """Return the content and the ETag, or None if the object does not exist.

        The ETag is read first: if the object changes before its content is read, a write with the older ETag fails.
        """
        try:
            etag = str(self.files.info(self.path, refresh=True)["ETag"])
            return self.files.cat_file(self.path), etag
        except FileNotFoundError:
            return None

    def create(self, data: bytes) -> str | None:
        """Create the object and return its ETag; return None if it exists."""
        return self._put(data, mode="create")

    def replace(self, data: bytes, etag: str) -> str | None:
        """Replace the state with an ETag and return the new ETag; return None if the object has another state."""
        return self._put(data, IfMatch=etag)

    def remove(self, etag: str) -> None:
        """Remove the object if its state has this ETag.

        Stores that support conditional writes but not conditional removal exist, so the state is compared here too.
        """
        stored = self.read()
        if stored is None or stored[1] != etag:
            return
        bucket, key, _ = self.files.split_path(self.path)
        try:
            self.files.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=etag)
            self.files.invalidate_cache(self.path)
        except OSError as error:
            if _code(error) in _UNSUPPORTED:
                self.files.rm_file(self.path)
            elif _code(error) not in _EXISTS | _GONE:
                raise

    def check_conditions(self, data: bytes) -> None:
        """Check that the store does not ignore conditions: replacing a state that never was must fail.

        Raises
        ------
        NotImplementedError
            If the store writes all the same.
        """
        if self.replace(data, _NO_ETAG) is not None:
            raise NotImplementedError("the store ignores If-Match")

    def _put(self, data: bytes, **condition: Any) -> str | None:
        for attempt in range(_ATTEMPTS):
            try:
                # s3fs passes further arguments on to PutObject, and returns its response.
                return str(self.files.pipe_file(self.path, data, **condition)["ETag"])
            except FileExistsError:
                return None
            except OSError as error:
                if _code(error) in _EXISTS | _GONE:
                    return None
                if _code(error) in _UNSUPPORTED:
                    raise NotImplementedError(str(error)) from None
                if _code(error) not in _CONFLICT or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)
        return None


def _code(error: OSError) -> str:
    """Return the error code of S3 that s3fs has translated."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
