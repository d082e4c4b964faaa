"""JSON of a server, of which little may become gigabytes of Python objects.

Python's objects take 30 to 230 bytes for each JSON value of 2 to 8 bytes, whichever parser makes them (measured: json,
orjson and msgspec take 394 to 485 MiB for 16 MiB of ``[],``). So the values are counted before they are parsed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from geotile.errors import ResponseError

_LARGE = 2**20  # bytes; answers that are larger are decoded one after the other, so that memory is that of one
_large_answers = threading.Lock()


def excerpt(value: Any) -> str:
    """Return the first 200 characters of a value, for an error message."""
    text = value[:1000].decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def turn(body: bytes) -> Any:
    """Return a block in which an answer is decoded: large ones wait for each other."""
    return _large_answers if len(body) > _LARGE else nullcontext()


def load_json(body: bytes, max_values: int, limit: str, counted: Sequence[bytes] = (b",", b"[", b"{", b":")) -> Any:
    """Parse an answer.

    Parameters
    ----------
    body : bytes
    max_values : int
        Maximum number of the characters that are counted: about the number of JSON values.
    limit : str
        What the maximum is, for the error.
    counted : sequence of bytes
        Characters to count.

    Raises
    ------
    ResponseError
        If it is no JSON, or holds more values than that.

    Examples
    --------
    >>> load_json(b'{"a": [1, 2]}', 10, "10")
    {'a': [1, 2]}
    """
    values = sum(body.count(each) for each in counted)
    if values > max_values:
        raise ResponseError(f"the response has about {values:,} JSON values, more than {limit}: {excerpt(body)}")
    try:
        return json.loads(body, parse_constant=_reject_constant)
    except RecursionError:
        raise ResponseError(f"the response is JSON that is nested too deeply: {excerpt(body)}") from None
    except ValueError as error:
        raise ResponseError(f"the response is not JSON ({error}): {excerpt(body)}") from None


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a valid JSON number")
