"""Errors of file systems while an output is checked, as one of geotile's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from geotile.core.redact import redact
from geotile.errors import OutputError


@contextmanager
def as_output_error(uri: str) -> Iterator[None]:
    """Raise an OutputError in place of any other error of a block.

    Each file system has errors of its own, and all mean that the output at `uri` cannot be written.

    Examples
    --------
    >>> with as_output_error("found.parquet"):
    ...     raise ConnectionError("the store does not answer")
    Traceback (most recent call last):
    ...
    geotile.OutputError: cannot write found.parquet: the store does not answer
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:  # of any kind, see above
        raise OutputError(f"cannot write {redact(uri)}: {redact(str(error)) or type(error).__name__}") from None
