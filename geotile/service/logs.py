"""Log records as lines of JSON, each with the job that it is about."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from geotile.core.redact import redact

_FIELDS = ("job_id", "image_id", "region", "tile", "run", "tiles", "seconds")


class RunNames(logging.Filter):
    """Adds ``job_id`` and ``image_id`` to records that tell their run."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, tuple[str, str]] = {}

    @contextmanager
    def noted(self, run: str, job_id: str, image_id: str) -> Iterator[None]:
        """Know whose a run is, while the block runs."""
        self._jobs[run] = job_id, image_id
        try:
            yield
        finally:
            del self._jobs[run]

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if (known := self._jobs.get(getattr(record, "run", ""))) is not None:
            record.job_id, record.image_id = known
        return True


class JsonLines(logging.Formatter):
    """A record as a line of JSON; passwords and query parameters of urls in it are masked.

    Examples
    --------
    >>> record = logging.LogRecord("geotile", logging.INFO, "", 0, "from %s", ("https://me:hush@host/a",), None)
    >>> json.loads(JsonLines().format(record))["message"]
    'from https://***@host/a'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname, "logger": record.name, "message": redact(record.getMessage()),
        }  # fmt: skip
        said |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            said["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(said, default=str)


@contextmanager
def logging_as_json(names: RunNames, level: int = logging.INFO) -> Iterator[None]:
    """Write the records of geotile and its libraries' warnings to standard error while the block runs."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(names)
    root, own = logging.getLogger(), logging.getLogger("geotile")
    before = own.level
    root.addHandler(handler)
    own.setLevel(level)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        own.setLevel(before)
        root.removeHandler(handler)
