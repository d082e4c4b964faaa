"""What other packages log of geotile's requests, without the queries and user names of URLs."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from geotile.core.redact import redact

_QUERY = re.compile(r"\?[^\s\"'<>]+")
_NAMES = {
    "urllib3": ("connection", "connectionpool", "poolmanager", "response", "util.retry"),
    "fsspec": ("asyn", "http"),
    "aiohttp": ("client",),
    "rasterio": ("_base", "_env", "_err", "_filepath", "_io", "_vsiopener", "_warp", "env", "io", "session"),
    "botocore": (
        "auth", "awsrequest", "client", "endpoint", "hooks", "httpchecksum", "httpsession", "parsers", "regions",
        "retryhandler", "retries.standard", "session", "signers", "utils",
    ),
}  # fmt: skip
_LOOP = "fsspecIO"  # the thread in which fsspec sends what another thread has asked for
_local = threading.local()


class _WithoutQueries(logging.Filter):
    """Masks queries and user names in the records of threads in `quiet_urls` and of fsspec's, and passes all."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_local, "depth", 0) or threading.current_thread().name == _LOOP:
            record.msg, record.args = _QUERY.sub("?***", redact(record.getMessage())), None
            if record.exc_info:
                text = logging.Formatter().formatException(record.exc_info)
                record.exc_info, record.exc_text = None, _QUERY.sub("?***", redact(text))
        return True


_filter = _WithoutQueries()
# A filter of a logger does not see the records of the loggers below it.
_loggers = [logging.getLogger(f"{package}.{name}") for package, names in _NAMES.items() for name in names]
_loggers += [logging.getLogger(name) for name in ("fsspec", "s3fs")]
_lock, _inside = threading.Lock(), 0


def _enter(change: int) -> None:
    """Count a thread in or out; the filter is attached while there is one."""
    global _inside
    with _lock:
        before, _inside = _inside, _inside + change
        for logger in _loggers if not (before and _inside) else ():
            (logger.addFilter if _inside else logger.removeFilter)(_filter)


def _after_fork() -> None:
    """Count anew: the child has none of its parent's other threads."""
    global _lock, _inside
    _lock, _inside = threading.Lock(), int(bool(getattr(_local, "depth", 0)))


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def quiet_urls() -> Iterator[None]:
    """Mask what urllib3, fsspec, rasterio and botocore log in this thread within the block: a signed URL is a secret.

    Examples
    --------
    >>> record = logging.LogRecord("urllib3", 10, "", 0, '"GET %s HTTP/1.1"', ("/a.tif?signature=hush",), None)
    >>> with quiet_urls():
    ...     _filter.filter(record), record.getMessage()
    (True, '"GET /a.tif?*** HTTP/1.1"')
    """
    _local.depth = getattr(_local, "depth", 0) + 1
    if _local.depth == 1:
        _enter(1)
    try:
        yield
    finally:
        _local.depth -= 1
        if not _local.depth:
            _enter(-1)
