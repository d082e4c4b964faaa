"""A queue in a folder: each request is a JSON file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import EMFILE, ENFILE, ENOENT, ENOMEM
from pathlib import Path
from typing import Any

from geotile.core.digest import digest
from geotile.errors import ArgumentError, OutputError, ServiceError
from geotile.service.queue import Delivery
from geotile.service.request_checks import MAX_REQUEST_BYTES
from geotile.service.request_file import printable, read_request
from geotile.storage.folder import Folder

DONE, FAILED = "done", "failed"
_POLL_INTERVAL_S = 0.25
_MAX_WAIT_S = 1.0  # a service that is stopping has to wait this long
_SETTLE_S = 2.0  # a file that has changed since and is not valid JSON may still be being written
_RETRY_MOVE_S = 5.0
_MAX_STEM = 200  # bytes of a file's name in done/ and failed/: file systems allow 255
_IN_PROGRESS = float("inf")
_OF_THE_PROCESS = (EMFILE, ENFILE, ENOMEM)  # errors in reading a file that are not the file's


@dataclass
class FolderQueue:
    """Queue of ``*.json`` files, which are moved to ``done/`` or ``failed/``, each with a status file.

    Whatever else has such a name (a folder, a named pipe, a link) is delivered with an error, so that it ends in
    ``failed/`` as well.

    Parameters
    ----------
    path : Path
        The folder. It is created if it does not exist.

    Raises
    ------
    ArgumentError
        If the folder cannot be created.

    Examples
    --------
    >>> import tempfile
    >>> queue = FolderQueue(Path(tempfile.mkdtemp()))
    >>> queue.send("first", b'{"jobId": "first"}')
    >>> [each.name for each in queue.receive(10, 0.0)], queue.receive(10, 0.0)
    (['first.json'], [])
    """

    path: Path
    _hidden_until: dict[str, float] = field(default_factory=dict)
    """Monotonic time before which a file is not delivered again, by file name; infinity while it is in progress."""
    _seen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict)
    """Size and time of each file that is not valid JSON, and the monotonic time since when it has had them."""
    _taken: dict[str, os.stat_result] = field(default_factory=dict)
    """State of each file in progress when it was read: another one may take its place meanwhile."""
    _to_move: dict[str, tuple[Delivery, str, Mapping[str, Any], float]] = field(default_factory=dict)
    """Each finished request that could not be moved, its folder and status, and the time of the next attempt."""

    def __post_init__(self) -> None:
        """Create the folder."""
        self.display_name = str(self.path)
        self.once_wait_s = _POLL_INTERVAL_S
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                f"the queue folder {self.path} cannot be created: {error}. Use a path that is writable."
            ) from None

    def receive(self, max_count: int, wait_s: float) -> list[Delivery]:
        """Return up to `max_count` requests, oldest first; wait up to 1 s for the first."""
        deadline = time.monotonic() + min(wait_s, _MAX_WAIT_S)
        self._move_what_is_left()
        while True:
            with self._errors("read"):
                deliveries = self._take(max_count)
            if deliveries or time.monotonic() >= deadline:
                return deliveries
            time.sleep(min(_POLL_INTERVAL_S, max(0.0, deadline - time.monotonic())))

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: files in progress stay hidden until they are released."""

    def complete(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Move a request to ``done/``. What cannot be moved now is tried again by `receive`."""
        self._finish(delivery, DONE, status)

    def reject(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Move a request to ``failed/``. What cannot be moved now is tried again by `receive`."""
        self._finish(delivery, FAILED, status)

    def release(self, delivery: Delivery, delay_s: float) -> None:
        """Deliver a request again after `delay_s` seconds."""
        self._hidden_until[delivery.receipt] = time.monotonic() + delay_s

    def is_in_queue(self, delivery: Delivery) -> bool:
        """Return whether the file of a request is still there, with the same content.

        Raises
        ------
        ServiceError
            If the folder cannot be read.
        """
        with self._errors("read"):
            try:
                return not self._is_replaced(delivery)
            except FileNotFoundError:  # another process has ended its job
                return False

    def send(self, name: str, body: bytes) -> None:
        """Write a request to ``<name>.json``.

        Raises
        ------
        ArgumentError
            If a request with this name is in the queue.
        """
        if os.path.lexists(self.path / f"{name}.json"):
            raise ArgumentError(f"{self.path / name}.json is already in the queue. Use another jobId.")
        Folder.at(self.path).write(f"{name}.json", body)

    def waiting_count(self) -> int:
        """Return the number of files that are not in progress."""
        in_progress = {name for name, until in list(self._hidden_until.items()) if until == _IN_PROGRESS}
        return len(set(self.names()) - in_progress)

    def remaining_count(self) -> int:
        """Return the number of files.

        Raises
        ------
        ServiceError
            If the folder cannot be read, or a finished file could not be moved.
        """
        stuck = next(iter(self._to_move), None)
        if stuck is not None:
            raise ServiceError(f"{printable(str(self.path / stuck))} is finished and cannot be moved from the queue")
        return len(self.names())

    def names(self) -> list[str]:
        """Return the names of the files. Those that are not UTF-8 have surrogates, as `os.listdir` returns them.

        Raises
        ------
        ServiceError
            If the folder cannot be read.
        """
        with self._errors("read"):
            return [name for name in os.listdir(self.path) if name.endswith(".json") and not name.startswith(".")]

    def _available(self) -> Iterator[tuple[float, str, os.stat_result]]:
        """Yield the modification time, the name and the state of each file that may be delivered."""
        for name in self.names():
            if self._hidden_until.get(name, 0.0) <= time.monotonic():
                with suppress(FileNotFoundError):  # another process has moved it
                    state = os.lstat(self.path / name)
                    yield state.st_mtime, name, state

    def _take(self, max_count: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for sent, name, state in sorted(self._available(), key=lambda each: each[:2]):
            if len(deliveries) == max_count:
                break
            delivery = self._read(name, sent)
            if delivery is not None and (delivery.error or self._is_whole(name, delivery.body, state)):
                deliveries.append(delivery)
                self._taken[name] = state
        for each in deliveries:
            self._hidden_until[each.receipt] = _IN_PROGRESS
            self._seen.pop(each.receipt, None)
        return deliveries

    def _read(self, name: str, sent: float) -> Delivery | None:
        """Return a request, with an error if it cannot be read; None if it is no longer there."""
        body, reason = b"", None
        try:
            body = read_request(self.path / name)
        except ArgumentError as error:
            reason = str(error)
        except OSError as error:
            if error.errno == ENOENT:
                return None
            if error.errno in _OF_THE_PROCESS:
                raise
            reason = f"the request cannot be read: {error.strerror}. Put a file there that can be read"
        return Delivery(
            name=printable(name), body=body, sent=sent, error=reason, receipt=name, is_new_submission=True
        )  # fmt: skip

    def _is_whole(self, name: str, body: bytes, state: os.stat_result) -> bool:
        """Return whether a file is no longer being written."""
        if _is_json(body) or len(body) > MAX_REQUEST_BYTES:
            return True
        now = (state.st_size, state.st_mtime_ns)
        before, since = self._seen.get(name, (None, 0.0))
        if before != now:
            age_s = time.time() - state.st_mtime
            since = time.monotonic() - max(0.0, age_s)  # a clock of another machine may be ahead
            self._seen[name] = now, since
        return time.monotonic() - since >= _SETTLE_S

    def _move_what_is_left(self) -> None:
        for delivery, folder, status, due in list(self._to_move.values()):
            if time.monotonic() >= due:
                with suppress(ServiceError):  # it was reported the first time, and `remaining_count` reports it
                    self._finish(delivery, folder, status)

    def _finish(self, delivery: Delivery, folder: str, status: Mapping[str, Any]) -> None:
        name = delivery.receipt
        self._to_move[name] = delivery, folder, status, time.monotonic() + _RETRY_MOVE_S
        with self._errors("move a request of"):
            self._move(delivery, folder, status)
        del self._to_move[name]
        self._taken.pop(name, None)
        self._hidden_until.pop(name, None)

    def _move(self, delivery: Delivery, folder: str, status: Mapping[str, Any]) -> None:
        name = delivery.receipt
        source, stem, number = self.path / name, stem_of(name), 1
        target = stem
        while os.path.lexists(self.path / folder / f"{target}.json"):  # an earlier job's file must not be overwritten
            number += 1
            target = f"{stem}-{number}"
        if os.path.lexists(source):  # otherwise it has been moved before
            Folder.at(self.path / folder).write(f"{target}.status.json", json.dumps(status, indent=1).encode())
            if self._is_replaced(delivery):  # what lies there now is a request of its own
                Folder.at(self.path / folder).write(f"{target}.json", delivery.body)
            else:
                os.replace(source, self.path / folder / f"{target}.json")

    def _is_replaced(self, delivery: Delivery) -> bool:
        """Return whether another request has taken the place of a file since it was read."""
        now, before = os.lstat(self.path / delivery.receipt), self._taken.get(delivery.receipt)
        if before is None or _identity(now) == _identity(before):
            return False
        try:
            return read_request(self.path / delivery.receipt) != delivery.body
        except (ArgumentError, OSError):
            return True

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (OSError, OutputError) as error:
            raise ServiceError(f"cannot {action} the queue {self.path}: {error}. It is tried again") from None


def stem_of(name: str) -> str:
    """Return a file's name without its suffix, as text, and not too long for one with a number and another suffix."""
    stem = printable(name.removesuffix(".json"))
    if len(os.fsencode(stem)) <= _MAX_STEM:
        return stem
    return f"{os.fsencode(stem)[:_MAX_STEM].decode(errors='ignore')}-{digest(os.fsencode(name), 8)}"


def _identity(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except RecursionError:
        return True  # it is complete, and will be rejected
    except ValueError:
        return False
    return True
