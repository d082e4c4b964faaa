"""A queue in a folder: each request is a JSON file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geotile.errors import ArgumentError
from geotile.service.queue import Delivery
from geotile.storage.folder import Folder

_POLL_INTERVAL_S = 0.25
_MAX_WAIT_S = 1.0  # a service that is stopping has to wait this long
_SETTLE_S = 2.0  # a younger file that is not valid JSON may still be being written
_IN_PROGRESS = float("inf")


@dataclass
class FolderQueue:
    """Queue of ``*.json`` files, which are moved to ``done/`` or ``failed/``, each with a status file.

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

    def __post_init__(self) -> None:
        """Create the folder."""
        self.display_name = str(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                f"the queue folder {self.path} cannot be created: {error}. Use a path that is writable."
            ) from None

    def receive(self, max_count: int, wait_s: float) -> list[Delivery]:
        """Return up to `max_count` requests, oldest first; wait up to 1 s for the first."""
        deadline = time.monotonic() + min(wait_s, _MAX_WAIT_S)
        while True:
            deliveries = self._take(max_count)
            if deliveries or time.monotonic() >= deadline:
                return deliveries
            time.sleep(min(_POLL_INTERVAL_S, max(0.0, deadline - time.monotonic())))

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: files in progress stay hidden until they are released."""

    def complete(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Move a request to ``done/``."""
        self._move(delivery, "done", status)

    def reject(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Move a request to ``failed/``."""
        self._move(delivery, "failed", status)

    def release(self, delivery: Delivery, delay_s: float) -> None:
        """Deliver a request again after `delay_s` seconds."""
        self._hidden_until[delivery.name] = time.monotonic() + delay_s

    def send(self, name: str, body: bytes) -> None:
        """Write a request to ``<name>.json``.

        Raises
        ------
        ArgumentError
            If a request with this name is in the queue.
        """
        if (self.path / f"{name}.json").exists():
            raise ArgumentError(f"{self.path / name}.json is already in the queue. Use another jobId.")
        Folder.at(self.path).write(f"{name}.json", body)

    def waiting_count(self) -> int:
        """Return the number of files that are not in progress."""
        in_progress = {name for name, hidden_until in self._hidden_until.items() if hidden_until == _IN_PROGRESS}
        return len(set(self._names()) - in_progress)

    def remaining_count(self) -> int:
        """Return the number of files."""
        return len(self._names())

    def _names(self) -> list[str]:
        return [each.name for each in self.path.glob("*.json") if not each.name.startswith(".")]

    def _available(self) -> Iterator[tuple[float, str]]:
        """Yield the modification time and the name of each file that may be delivered."""
        for name in self._names():
            if self._hidden_until.get(name, 0.0) <= time.monotonic():
                with suppress(OSError):  # another process has moved it
                    yield (self.path / name).stat().st_mtime, name

    def _take(self, max_count: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        now = time.time()
        for sent, name in sorted(self._available()):
            if len(deliveries) == max_count:
                break
            try:
                body = (self.path / name).read_bytes()
            except OSError:  # another process has moved it
                continue
            if _is_json(body) or now - sent > _SETTLE_S:
                deliveries.append(Delivery(name=name, body=body, sent=sent, is_new_submission=True))
        self._hidden_until.update((each.name, _IN_PROGRESS) for each in deliveries)
        return deliveries

    def _move(self, delivery: Delivery, folder: str, status: Mapping[str, Any]) -> None:
        source, name, number = self.path / delivery.name, delivery.name.removesuffix(".json"), 1
        while (self.path / folder / f"{name}.json").exists():  # an earlier job's file must not be overwritten
            number += 1
            name = f"{delivery.name.removesuffix('.json')}-{number}"
        if source.exists():  # otherwise it has been moved before
            Folder.at(self.path / folder).write(f"{name}.status.json", json.dumps(status, indent=1).encode())
            os.replace(source, self.path / folder / f"{name}.json")
        self._hidden_until.pop(delivery.name, None)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except RecursionError:
        return True  # it is complete, and will be rejected
    except ValueError:
        return False
    return True
