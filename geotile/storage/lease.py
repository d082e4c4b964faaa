"""A claim on a place: of two runs that write there at once, one is told."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import SoftFileLock, Timeout

from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
RENEW_S, STALE_S = 10.0, 60.0  # in object storage, where nobody sees whether a process lives
_SETTLE_S = 0.5


@contextmanager
def lease(folder: Folder, name: str, what: str) -> Iterator[None]:
    """Hold a place while a run writes there.

    In a local file system the claim of a process that died ends with it. In object storage a claim
    is an object, renewed every ten seconds, made by a conditional write; one that was not renewed for a
    minute is void.

    Parameters
    ----------
    folder : Folder
        Where the claim lies.
    name : str
        Of the file that is the claim.
    what : str
        What is claimed, for the error.

    Raises
    ------
    OutputError
        If another run holds it, or nothing can be written there.
    """
    held = _local(folder, name, what) if folder.is_local else _Object(folder, name, what).held()
    with held:
        yield


@contextmanager
def _local(folder: Folder, name: str, what: str) -> Iterator[None]:
    path = Path(folder.files()[1]) / name
    lock = SoftFileLock(path, timeout=0, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{what} is being written by another run (process {lock.pid}, says {path}); wait for it, choose another "
            "place, or remove that file if no such process is left on any machine"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write {what}: {redact(str(error))}") from None
    try:
        yield
    finally:
        lock.release()


class _Object:
    """A claim in object storage."""

    def __init__(self, folder: Folder, name: str, what: str) -> None:
        self.folder, self.name, self.what = folder, name, what
        self.token = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex}"
        self.over = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it, renewing it."""
        self.take()
        renewer = threading.Thread(target=self._renew, name="geotile-claim", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            self.over.set()
            renewer.join()
            if self._owner() == self.token:
                self.folder.remove(self.name)

    def take(self) -> None:
        """Make the claim.

        Raises
        ------
        OutputError
            If another one holds.
        """
        if self._create():
            return
        owner, age = self._owner(), self._age()
        if owner is not None and age < STALE_S and not _died_here(owner):
            host, process, _ = (*owner.split(":"), "", "")[:3]
            raise OutputError(
                f"{self.what} is being written by another run (process {process} on {host}, heard of {age:.0f} s ago); "
                f"wait for it, or {STALE_S:.0f} s after it died, or choose another place"
            )
        self.folder.remove(self.name)
        if not self._create():
            raise OutputError(f"{self.what} has just been taken by another run; choose another place")
        time.sleep(_SETTLE_S)  # two that found the same void claim: the later one holds
        if self._owner() != self.token:
            raise OutputError(f"{self.what} has just been taken by another run; choose another place")

    def _create(self) -> bool:
        """Write the claim if there is none; tell whether it was written."""
        files, folder = self.folder.files()
        path = f"{folder}/{self.name}"
        try:
            files.pipe_file(path, self._content(), mode="create")
        except FileExistsError:
            return False
        except NotImplementedError:  # a file system that has no conditional write
            if files.exists(path):
                return False
            files.pipe_file(path, self._content())
        except Exception as error:  # each file system has errors of its own
            if _says_exists(error):
                return False
            raise OutputError(f"cannot write {self.what}: {redact(str(error))}") from None
        return True

    def _content(self) -> bytes:
        return json.dumps({"owner": self.token, "at": time.time()}).encode()

    def _said(self) -> dict[str, Any]:
        said = self.folder.read(self.name)
        try:
            found = json.loads(said) if said else {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _owner(self) -> str | None:
        return self._said().get("owner")

    def _age(self) -> float:
        return time.time() - float(self._said().get("at", 0.0))

    def _renew(self) -> None:
        while not self.over.wait(RENEW_S):
            try:
                if self._owner() == self.token:
                    self.folder.write(self.name, self._content())
            except OutputError as error:  # the next time may go better; until then the claim ages
                _log.warning("the claim on %s was not renewed: %s", self.what, error)


def _died_here(owner: str) -> bool:
    """Tell whether a claim is of a process of this machine that is no more."""
    host, process, *_ = (*owner.split(":"), "")
    if host != socket.gethostname() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _says_exists(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}"
    return "PreconditionFailed" in text or "412" in text or "ConditionalRequestConflict" in text


def is_leased(folder: Folder, name: str) -> bool:
    """Tell whether a live run holds a place."""
    if folder.is_local:
        path = Path(folder.files()[1]) / name
        lock = SoftFileLock(path, timeout=0, thread_local=False)
        if not path.exists():
            return False
        try:
            with lock.acquire():
                return False
        except Timeout:
            return True
    claimed = _Object(folder, name, "")
    owner = claimed._owner()
    return owner is not None and claimed._age() < STALE_S and not _died_here(owner)
