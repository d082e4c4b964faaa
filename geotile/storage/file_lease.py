"""Leases in file systems: the kernel's lock of a file, which ends with its process.

Other machines see such a lock only as far as their network file system passes it on. There the file also names its
holder, which renews it, and a lease that was not renewed for a minute is void.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.storage import lease_holder
from geotile.storage.lease_holder import Holder, Renewal
from geotile.storage.mounts import is_on_network

_WAIT_S = 0.2  # `is_leased` of another process may hold the lock for a moment
_SETTLE_S = 0.5  # the time of two writes on two machines without a common lock
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def file_lease(path: Path, what: str) -> Iterator[None]:
    """Hold the lease of a place in a file system within the block.

    Parameters
    ----------
    path : Path
        File of the lease.
    what : str
        What is leased, for the errors.

    Raises
    ------
    OutputError
        If another run holds the lease, or the file cannot be written.
    """
    lock, on_network, holder = _lock(path), False, Holder.of_this_process()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        on_network = is_on_network(path.parent)
        _acquire(lock, on_network)
        _claim(path, holder, on_network, what)
    except Timeout:
        holder_there = _holder(path) or "a process"
        raise OutputError(
            f"{what} is in use by another run ({holder_there}, which holds the lock of {path}). Wait for it, or choose "
            "another place."
        ) from None
    except OSError as error:
        lock.release()
        raise OutputError(f"cannot write {what}: {redact(str(error))}") from None
    except BaseException:
        lock.release()
        raise
    renewal = Renewal(lambda: _renew(path, holder), what)
    try:
        if on_network:
            renewal.start()
        yield
    finally:
        renewal.stop()
        _release(path, holder, lock)


def is_file_leased(path: Path) -> bool:
    """Return whether a live run holds the lease of a place in a file system."""
    if not path.exists():
        return False
    if is_on_network(path.parent):
        holder = _holder(path)
        return holder is not None and holder.is_live()
    try:
        with _lock(path).acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _lock(path: Path) -> FileLock:
    # Its file names the holder: filelock before 4.2.6 empties it when it is opened.
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _acquire(lock: FileLock, on_network: bool) -> None:
    try:
        lock.acquire(timeout=_WAIT_S, poll_interval=0.02)
    except OSError as error:
        if not on_network or error.errno not in _NO_LOCKS:
            raise  # else what the file says is all there is


def _claim(path: Path, holder: Holder, on_network: bool, what: str) -> None:
    """Write the holder into the file of a lease; refuse a place whose holder may be on another machine and live."""
    before = _holder(path) if on_network else None
    if before is not None and before.is_live():
        raise _in_use(what, path, before)
    path.write_bytes(holder.to_json())
    if before is not None:
        time.sleep(_SETTLE_S)
        if not _is_own(path, holder):
            raise _in_use(what, path, _holder(path))


def _renew(path: Path, holder: Holder) -> bool:
    if not _is_own(path, holder):
        return False
    path.write_bytes(holder.to_json())
    return True


def _release(path: Path, holder: Holder, lock: FileLock) -> None:
    with suppress(OSError):  # Windows cannot remove a file that is open; what remains is void
        if _is_own(path, holder):
            path.unlink()
    lock.release()


def _holder(path: Path) -> Holder | None:
    try:
        return Holder.from_json(path.read_bytes())
    except FileNotFoundError:
        return None


def _is_own(path: Path, holder: Holder) -> bool:
    found = _holder(path)
    return found is not None and found.owner == holder.owner


def _in_use(what: str, path: Path, holder: Holder | None) -> OutputError:
    age_s = 0.0 if holder is None else holder.age_s
    return OutputError(
        f"{what} is in use by another run ({holder or 'a process'}, which renewed its lease {path} {age_s:.0f} s ago). "
        f"Wait for it, or until {lease_holder.STALE_S:.0f} s after it died, or choose another place."
    )
