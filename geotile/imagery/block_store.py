"""The parts of blocks that this process keeps for the regions that still need them, and who reads which block."""

from __future__ import annotations

import os
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

from geotile.core.cancellation import cancel_reason
from geotile.grid.tile_grid import Window
from geotile.imagery.pixels import Pixels

KEPT_BYTES = 128 * 2**20  # per process; enough for the halos of a row of regions of 32 MiB

Key = tuple[Any, ...]  # run, file, whether validity is needed, row and column of the block


class BlockPart(NamedTuple):
    """The pixels of a block that regions share."""

    pixels: Pixels
    area: Window
    """Where they lie in the image."""


@dataclass
class _Entry:
    part: BlockPart
    remaining: int
    """Number of reads that still need the block."""


class _BlockStore:
    """Shared blocks of this process."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.kept: OrderedDict[Key, _Entry] = OrderedDict()
        self.pending: dict[Key, Future[BlockPart]] = {}
        self.size_bytes = 0

    def take(self, key: Key) -> BlockPart | Future[BlockPart] | None:
        """Return a block, its future if another thread reads it, or None if the caller now has to read it."""
        with self.lock:
            if key in self.kept:
                return self._use(key)
            if key in self.pending:
                return self.pending[key]
            self.pending[key] = Future()
            return None

    def put(self, key: Key, part: BlockPart, remaining: int) -> None:
        """Store a block that was claimed with `take`, for the regions that still need it."""
        with self.lock:
            future = self.pending.pop(key)
            if remaining > 0 and cancel_reason(key[0]) is None:  # after a cancellation nothing would discard it
                self.kept[key] = _Entry(part, remaining)
                self.size_bytes += _size_bytes(part.pixels)
            while self.size_bytes > KEPT_BYTES:
                self._drop(next(iter(self.kept)))
        future.set_result(part)

    def fail(self, key: Key, error: BaseException) -> None:
        """Report that a claimed block could not be read."""
        with self.lock:
            future = self.pending.pop(key)
        future.set_exception(error)

    def count_use(self, key: Key) -> None:
        """Count a region that has received the block from a future."""
        with self.lock:
            if key in self.kept:
                self._use(key)

    def discard_run(self, run: str) -> None:
        """Drop the blocks of a run."""
        with self.lock:
            for key in [key for key in self.kept if key[0] == run]:
                self._drop(key)

    def _use(self, key: Key) -> BlockPart:
        entry = self.kept[key]
        entry.remaining -= 1
        if entry.remaining <= 0:
            self._drop(key)
        return entry.part

    def _drop(self, key: Key) -> None:
        self.size_bytes -= _size_bytes(self.kept.pop(key).part.pixels)


store = _BlockStore()
os.register_at_fork(after_in_child=store.__init__)  # type: ignore[misc]  # nobody reads there what is pending here


def _size_bytes(pixels: Pixels) -> int:
    return pixels.values.nbytes + (0 if pixels.valid is None else pixels.valid.nbytes)
