"""What other packages log of geotile's requests, without the queries and user names of URLs."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from geotile.core.redact import redact

_QUERY = re.compile(r"\?[^\s\"'<>]+")
_NAMES = {
    "urllib3": ("connection", "connectionpool", "poolmanager", "response", "util.retry"),
    "rasterio": ("_base", "_env", "_err", "_filepath", "_io", "_vsiopener", "_warp", "env", "io", "session"),
    "botocore": (
        "auth", "awsrequest", "client", "endpoint", "hooks", "httpchecksum", "httpsession", "parsers", "regions",
        "retryhandler", "retries.standard", "session", "signers", "utils",
    ),
}  # fmt: skip
_local = threading.local()


class _WithoutQueries(logging.Filter):
    """Masks the queries and user names in the records of threads that are in `quiet_urls`, and passes all records."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_local, "depth", 0):
            record.msg, record.args = _QUERY.sub("?***", redact(record.getMessage())), None
            if record.exc_info:
                text = logging.Formatter().formatException(record.exc_info)
                record.exc_info, record.exc_text = None, _QUERY.sub("?***", redact(text))
        return True


_filter = _WithoutQueries()
for _package, _modules in _NAMES.items():  # a filter of a logger does not see the records of the loggers below it
    for _name in (_package, *(f"{_package}.{each}" for each in _modules)):
        logging.getLogger(_name).addFilter(_filter)


@contextmanager
def quiet_urls() -> Iterator[None]:
    """Mask what urllib3, rasterio and botocore log in this thread within the block: a signed URL is a secret.

    Examples
    --------
    >>> record = logging.LogRecord("urllib3", 10, "", 0, '"GET %s HTTP/1.1"', ("/a.tif?signature=hush",), None)
    >>> with quiet_urls():
    ...     _filter.filter(record), record.getMessage()
    (True, '"GET /a.tif?*** HTTP/1.1"')
    """
    _local.depth = getattr(_local, "depth", 0) + 1
    try:
        yield
    finally:
        _local.depth -= 1
