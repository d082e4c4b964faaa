"""Who holds a lease, as its file or object says, and the threads that renew leases."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from geotile.core.redact import redact

_log = logging.getLogger(__name__)
RENEW_S, STALE_S = 10.0, 60.0  # where nobody sees whether a process still runs


@dataclass(frozen=True)
class Holder:
    """The run that holds a lease."""

    owner: str
    """``host:process:unique``."""
    at: float
    """When it last renewed the lease, in seconds since the epoch."""
    system: str = ""
    """Where its process id counts: the boot of the machine and the namespace of the ids."""
    begun: str = ""
    """When its process began, by the clock of that system: ids are used again."""

    @classmethod
    def of_this_process(cls) -> Holder:
        """Return a new holder in this process."""
        owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex}"
        return cls(owner, time.time(), _system(), _beginning(os.getpid()))

    @classmethod
    def from_json(cls, data: bytes | None) -> Holder | None:
        """Return the holder, or None if there is none: its process was killed before it wrote, or it is damaged."""
        try:
            content = json.loads(data or b"null")
            names = (str(content.get(name, "")) for name in ("system", "begun"))
            return cls(str(content["owner"]), float(content["at"]), *names)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def to_json(self) -> bytes:
        """Return the content of the lease, renewed now."""
        renewed = {"owner": self.owner, "at": time.time(), "system": self.system, "begun": self.begun}
        return json.dumps(renewed).encode()

    @property
    def age_s(self) -> float:
        """Seconds since the last renewal."""
        return time.time() - self.at

    @property
    def process(self) -> str:
        """Process id."""
        return (*self.owner.split(":"), "")[1]

    def is_live(self) -> bool:
        """Return whether it may still be writing."""
        return self.age_s < STALE_S and not self._died_here()

    def _died_here(self) -> bool:
        """Return whether it was a process that this one would see, and that no longer runs."""
        seen = bool(self.system) and self.system == _system()
        return seen and self.process.isdigit() and _beginning(int(self.process)) != self.begun

    def __str__(self) -> str:
        return f"process {self.process} on {self.owner.partition(':')[0]}"


def _system() -> str:
    """Return a name of the running system within which a process id means one process."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return "" if os.name == "nt" else platform.node()


def _beginning(process: int) -> str:
    """Return when a process began; empty if it does not run."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    try:  # a system without /proc
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "runs"
    return "runs"


class Renewal:
    """The thread that renews a lease.

    Parameters
    ----------
    renew : callable
        Renews the lease; returns False if another run has taken it over.
    what : str
        What is leased, for the log.
    """

    def __init__(self, renew: Callable[[], bool], what: str) -> None:
        self._renew, self._what, self._ended = renew, what, threading.Event()
        self._thread = threading.Thread(target=self._run, name="geotile-lease", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        _turned[self] = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        _turned.pop(self, None)

    def _run(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                if not self._renew():
                    _log.warning("another run has taken over the lease of %s, which had expired", self._what)
                    _turned.pop(self, None)
                    return
            except Exception as error:  # each file system has errors of its own; the next attempt may succeed
                _log.warning("the lease of %s was not renewed: %s", self._what, redact(str(error)))
            _turned[self] = time.monotonic()


_turned: dict[Renewal, float] = {}
"""When each renewing thread last turned."""


def renewal_age_s() -> float:
    """Return the seconds since the renewals of each lease of this process turned last; 0 if there are none."""
    return max((time.monotonic() - turned for turned in list(_turned.values())), default=0.0)
