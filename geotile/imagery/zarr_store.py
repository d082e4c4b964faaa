"""A Zarr store that is not trusted: metadata are checked whenever zarr reads them, chunks before they are decoded.

xarray and zarr read through this store only, in this process and in workers, so nothing that they use was not checked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from geotile.core.quiet_logs import quiet_urls
from geotile.errors import ImageReadError
from geotile.imagery.zarr_chunks import Coding, check_stored
from geotile.imagery.zarr_metadata import MAX_METADATA_BYTES, RefusedMetadata, checked_metadata

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_CODED_BYTES = 2**20  # what a chunk may take more in the store than in memory


class CheckedStore(WrapperStore[Store]):  # type: ignore[misc]  # zarr is optional
    """A read-only Zarr store whose metadata and chunks are checked.

    Parameters
    ----------
    store : zarr.abc.store.Store
    limit : int
        Maximum size of a chunk in bytes.
    total_s : float
        Maximum time for a whole answer in seconds.
    """

    def __init__(self, store: Store, limit: int, total_s: float) -> None:
        super().__init__(store)
        self.limit, self.total_s = limit, total_s
        self.codings: dict[str, Coding] = {}
        """How the chunks of each array are coded, by path."""

    def _with_store(self, store: Store) -> CheckedStore:
        copy = CheckedStore(store, self.limit, self.total_s)
        copy.codings = self.codings
        return copy

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:  # fmt: skip
        """Return the value of a key, after it is checked."""
        self._check_place(key)
        is_metadata = key.rpartition("/")[2] in _METADATA
        most = MAX_METADATA_BYTES if is_metadata else self.limit + _CODED_BYTES
        whole = byte_range is None
        if whole and self._may_exceed(key, most):
            byte_range = RangeByteRequest(0, most + 1)
        try:
            with quiet_urls():  # of zarr's thread
                async with asyncio.timeout(self.total_s):
                    value = await self._store.get(key, prototype, byte_range)
        except TimeoutError:
            raise TimeoutError(f"no complete answer within {self.total_s:g} s (total_timeout)") from None
        if value is None:
            return None
        if len(value) > most:
            error = RefusedMetadata if is_metadata else ImageReadError
            raise error(f"{key[:100]!r} has more than {most:,} bytes")
        if is_metadata:
            self.codings |= checked_metadata(key, value.to_bytes(), self.limit)
        else:
            check_stored(value.as_numpy_array().data, self._coding(key), self.limit, whole)
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the values of several keys, after they are checked."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    def _coding(self, key: str) -> Coding:
        path = key
        while path:
            path = path.rpartition("/")[0]
            if path in self.codings:
                return self.codings[path]
        return Coding()

    def _check_place(self, key: str) -> None:
        """Refuse a key of a local store that leads elsewhere, or is not a file: a named pipe would wait for ever."""
        inside = ".." not in key.split("/")
        if inside and isinstance(self._store, LocalStore):
            root = os.path.realpath(self._store.root)
            path = os.path.realpath(os.path.join(root, key))
            inside = os.path.commonpath([root, path]) == root
            if inside and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
                raise RefusedMetadata(f"{key[:100]!r} is not a file. Remove it")
        if not inside:
            raise RefusedMetadata(f"the key {key[:100]!r} lies outside the store")

    def _may_exceed(self, key: str, size: int) -> bool:
        if not isinstance(self._store, LocalStore):
            return True
        try:
            return os.path.getsize(os.path.join(self._store.root, key)) > size
        except OSError:
            return False


def checked_store(path: str, storage_options: dict[str, Any] | None, limit: int, total_s: float) -> CheckedStore:
    """Return the store of a local path or a URI."""
    if "://" in path:
        return CheckedStore(FsspecStore.from_url(path, storage_options=storage_options, read_only=True), limit, total_s)
    return CheckedStore(LocalStore(path, read_only=True), limit, total_s)
