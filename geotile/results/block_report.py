"""What is kept with a block of a raster for the report of a later run, and the sizes and checksums of its chunks."""

from __future__ import annotations

import json
from typing import Any

from geotile.results.failures import stored_failures

_COUNTS = ("tiles", "without_data", "missing")
_FLAGS = ("is_touched", "unfinished")


def read_report(content: bytes) -> dict[str, Any]:
    """Return the report of a block.

    Parameters
    ----------
    content : bytes
        Content of its file. Earlier versions of geotile wrote no ``chunks``, the size and the CRC-32 of each file.

    Raises
    ------
    ValueError
        If it is something else, or damaged.

    Examples
    --------
    >>> read_report(b"{}")
    Traceback (most recent call last):
    ...
    ValueError: it is not the report of a block
    """
    try:
        report = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(report, dict) or not _has_fields(report):
        raise ValueError("it is not the report of a block")
    stored_failures(report.get("failures"))
    return report


def _has_fields(report: dict[str, Any]) -> bool:
    chunks = report.get("chunks", {})
    are_sums = isinstance(chunks, dict) and all(
        isinstance(each, list) and len(each) == 2 and all(map(_is_count, each)) for each in chunks.values()
    )
    are_flags = all(isinstance(report.get(name, False), bool) for name in _FLAGS) and "is_touched" in report
    return are_sums and are_flags and all(_is_count(report.get(name)) for name in _COUNTS)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
