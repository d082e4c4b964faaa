"""Which file systems other machines can write to."""

from __future__ import annotations

import os
from pathlib import Path

_NETWORK = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "afs", "ocfs2", "gfs2",
    "9p", "virtiofs",
)  # fmt: skip


def is_on_network(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether a folder is in a file system that other machines may see, as far as the system tells.

    Parameters
    ----------
    folder : Path
        A folder that exists.
    mounts : Path
        Linux's list of mounts. Without it, the answer is False.

    Examples
    --------
    >>> is_on_network(Path("/proc"))
    False
    """
    try:
        device = os.stat(folder).st_dev
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return False
    number = b"%d:%d" % (os.major(device), os.minor(device))
    kinds = [line.partition(b" - ")[2].split(b" ")[0].decode() for line in lines if line.split(b" ")[2] == number]
    return any(kind in _NETWORK or kind.startswith("fuse.") for kind in kinds)
