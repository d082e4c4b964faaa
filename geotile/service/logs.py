"""Log records as lines of JSON, each with the job that it belongs to."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from geotile.core.redact import redact

_FIELDS = ("job_id", "image_id", "region", "tile", "run", "tiles", "seconds")


class JobContext(logging.Filter):
    """Filter that adds ``job_id`` and ``image_id`` to log records that have a ``run``."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, tuple[str, str]] = {}

    @contextmanager
    def of_run(self, run: str, job_id: str, image_id: str) -> Iterator[None]:
        """Add the ids to the log records of a run while the block runs."""
        self._jobs[run] = job_id, image_id
        try:
            yield
        finally:
            del self._jobs[run]

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids to a record; return True, so that every record passes."""
        if (ids := self._jobs.get(getattr(record, "run", ""))) is not None:
            record.job_id, record.image_id = ids
        return True


class JsonLines(logging.Formatter):
    """Formatter that turns a record into a line of JSON and masks passwords and query parameters of URLs.

    Examples
    --------
    >>> record = logging.LogRecord("geotile", logging.INFO, "", 0, "from %s", ("https://me:hush@host/a",), None)
    >>> json.loads(JsonLines().format(record))["message"]
    'from https://***@host/a'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname, "logger": record.name, "message": redact(record.getMessage()),
        }  # fmt: skip
        fields |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            fields["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields, default=str)


@contextmanager
def logging_as_json(context: JobContext, level: int = logging.INFO) -> Iterator[None]:
    """Write the log records of geotile and all Python warnings to standard error while the block runs."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(context)
    root, geotile_logger = logging.getLogger(), logging.getLogger("geotile")
    previous_level = geotile_logger.level
    root.addHandler(handler)
    geotile_logger.setLevel(level)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        geotile_logger.setLevel(previous_level)
        root.removeHandler(handler)
