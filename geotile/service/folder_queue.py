"""Where requests wait: a folder of files, or an SQS queue."""

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
from geotile.service.queue import Delivery, Queue
from geotile.service.sqs import SqsQueue
from geotile.storage.folder import Folder

_POLL_S, _LONGEST_WAIT_S = 0.25, 1.0  # a service that stops waits for this
_SETTLE_S = 2.0  # a file that is no JSON and younger may still be being written


@dataclass
class FolderQueue:
    """A folder: ``*.json`` are requests, moved to ``done/`` or ``failed/`` with a status file beside each.

    Examples
    --------
    >>> import tempfile
    >>> queue = FolderQueue(Path(tempfile.mkdtemp()))
    >>> queue.send("first", b'{"jobId": "first"}')
    >>> [each.name for each in queue.receive(10, 0.0)], queue.receive(10, 0.0)
    (['first.json'], [])
    """

    path: Path
    _held: dict[str, float] = field(default_factory=dict)
    """Until when each is not to be given again; infinity while it is worked on."""

    def __post_init__(self) -> None:
        """Make the folder."""
        self.shown = str(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(f"--queue {self.path} is no folder, and cannot be made: {error}") from None

    def receive(self, most: int, wait_s: float) -> list[Delivery]:
        """Return up to `most` requests, oldest first, waiting for the first."""
        until = time.monotonic() + min(wait_s, _LONGEST_WAIT_S)
        while True:
            found = self._look(most)
            if found or time.monotonic() >= until:
                return found
            time.sleep(min(_POLL_S, max(0.0, until - time.monotonic())))

    def keep(self, held: Sequence[Delivery]) -> None:
        """Do nothing: a file stays where it is."""

    def done(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Move a request to ``done/``."""
        self._move(delivery, "done", status)

    def dead(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Move a request to ``failed/``."""
        self._move(delivery, "failed", status)

    def back(self, delivery: Delivery, delay_s: float) -> None:
        """Give a file again after a while."""
        self._held[delivery.name] = time.monotonic() + delay_s

    def send(self, name: str, body: bytes) -> None:
        """Write a request; the name must be free.

        Raises
        ------
        ArgumentError
            If a request of that name waits.
        """
        if (self.path / f"{name}.json").exists():
            raise ArgumentError(f"{self.path / name}.json waits already; give the job another jobId")
        Folder.at(self.path).write(f"{name}.json", body)

    def left(self) -> int:
        """Return how many files there are."""
        return len(self._names())

    def depth(self) -> int:
        """Return how many files wait."""
        return len(set(self._names()) - {name for name, until in self._held.items() if until == float("inf")})

    def _names(self) -> list[str]:
        return [each.name for each in self.path.glob("*.json") if not each.name.startswith(".")]

    def _free(self) -> Iterator[tuple[float, str]]:
        """Yield when files came that may be taken, and their names."""
        for name in self._names():
            if self._held.get(name, 0.0) <= time.monotonic():
                with suppress(OSError):  # another process has taken it
                    yield (self.path / name).stat().st_mtime, name

    def _look(self, most: int) -> list[Delivery]:
        found: list[Delivery] = []
        now = time.time()
        for sent, name in sorted(self._free()):
            if len(found) == most:
                break
            try:
                body = (self.path / name).read_bytes()
            except OSError:  # another process has taken it
                continue
            if _is_json(body) or now - sent > _SETTLE_S:
                found.append(Delivery(name=name, body=body, sent=sent, anew=True))
        self._held.update((each.name, float("inf")) for each in found)
        return found

    def _move(self, delivery: Delivery, to: str, status: Mapping[str, Any]) -> None:
        source, name, number = self.path / delivery.name, delivery.name.removesuffix(".json"), 1
        while (self.path / to / f"{name}.json").exists():  # of an earlier job: nothing is written over
            number += 1
            name = f"{delivery.name.removesuffix('.json')}-{number}"
        if source.exists():  # else it has been moved before
            Folder.at(self.path / to).write(f"{name}.status.json", json.dumps(status, indent=1).encode())
            os.replace(source, self.path / to / f"{name}.json")
        self._held.pop(delivery.name, None)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def as_queue(uri: str, dead_letters: str | None = None, *, checked: bool = True) -> Queue:
    """Return the queue of a uri: ``sqs://`` and an SQS queue's url or name, or a folder.

    Parameters
    ----------
    uri : str
    dead_letters : str, optional
        SQS queue for requests that fail for good; by default the one that the queue's redrive policy names.

    checked : bool
        See whether it is there, and find its dead letters.

    Raises
    ------
    ArgumentError
        If there is no such queue.
    """
    if uri.startswith("sqs://"):
        return SqsQueue(uri.removeprefix("sqs://"), dead_letters and dead_letters.removeprefix("sqs://"), checked)
    if "://" in uri:
        raise ArgumentError(f"--queue {uri} is neither sqs://QUEUE_URL nor a folder of this machine")
    if dead_letters is not None:
        raise ArgumentError(f"--dead-letters {dead_letters} is for SQS; a folder has failed/ for them")
    return FolderQueue(Path(uri).absolute())
