"""Requests and responses of the Open Inference Protocol: tensors in JSON, or behind it by the binary extension."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.detectors import Tensor
from geotile.endpoints.json_answer import excerpt, load_json, turn
from geotile.errors import ResponseError

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_CONTAINERS = 1_000_000  # arrays and objects of a JSON answer; numbers are flat in it
_DTYPES = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_DATATYPES = {np.dtype(value): key for key, value in _DTYPES.items()}


def declared_tensors(metadata: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Return the inputs or outputs that a server's metadata declare.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they cannot be read.
    """
    return [
        Tensor(
            str(each["name"]), _dtype(each["datatype"]),
            tuple(int(length) if int(length) > 0 else None for length in each["shape"]),
        )
        for each in metadata
    ]  # fmt: skip


def json_request(feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request in JSON, with input tensors and the names of the outputs."""
    inputs = [
        header | {"data": each.ravel().tolist()} for header, each in zip(_headers(feeds), feeds.values(), strict=True)
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": name} for name in names]}).encode()
    return body, {"Content-Type": "application/json"}


def binary_request(feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request by the binary extension."""
    raw = [np.ascontiguousarray(each).tobytes() for each in feeds.values()]
    inputs = [
        header | {"parameters": {"binary_data_size": len(part)}}
        for header, part in zip(_headers(feeds), raw, strict=True)
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in names]
    head = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}}).encode()
    return b"".join([head, *raw]), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def read_response(body: bytes, header_length: str | None) -> dict[str, NDArray[Any]]:
    """Decode the tensors of a response: any bytes give either arrays or a ResponseError.

    Parameters
    ----------
    body : bytes
        JSON. With the binary extension, JSON followed by the tensors, little-endian and without gaps.
    header_length : str or None
        Length of the JSON in bytes: the value of the header ``Inference-Header-Content-Length``.

    Returns
    -------
    dict of str to numpy.ndarray

    Raises
    ------
    ResponseError
        If the response cannot be decoded. Its message contains the first 200 characters.
    """
    try:
        length = len(body) if header_length is None else int(header_length)
        if not 0 <= length <= len(body):
            raise ValueError(f"a JSON header of {length} bytes in a body of {len(body)} bytes")
        rest = memoryview(body)[length:]
        outputs = {}
        with turn(body):
            header = load_json(body[:length], MAX_CONTAINERS, f"{MAX_CONTAINERS:,} arrays", (b"[", b"{", b":"))
            for each in header["outputs"]:
                given = (each.get("parameters") or {}).get("binary_data_size")
                size = int(given or 0)
                if not 0 <= size <= len(rest):
                    raise ValueError(f"a tensor of {size} bytes, of which {len(rest)} are there")
                outputs[str(each["name"])] = _array(each, None if given is None else rest[:size])
                rest = rest[size:]
        if len(rest):
            raise ValueError(f"{len(rest)} bytes follow the last tensor")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise ResponseError(
            f"the response does not follow the Open Inference Protocol ({error!r}): {excerpt(body)}"
        ) from None
    return outputs


def _array(output: Mapping[str, Any], raw: memoryview | None) -> NDArray[Any]:
    dtype, shape = _dtype(output["datatype"]), [int(length) for length in output["shape"]]
    if any(length < 0 for length in shape):
        raise ValueError(f"a tensor has the negative shape {shape}")
    values = np.asarray(output["data"]).astype(dtype).ravel() if raw is None else np.frombuffer(raw, dtype)
    if values.size != math.prod(shape):
        raise ValueError(f"a tensor of shape {shape} has {values.size} values")
    return values.reshape(shape)


def _dtype(datatype: str) -> np.dtype[Any]:
    if datatype not in _DTYPES:
        raise ValueError(f"tensors must be one of {', '.join(_DTYPES)}; got {datatype}")
    return np.dtype(_DTYPES[datatype])


def _headers(feeds: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return what the request's JSON says about each input tensor."""
    return [
        {"name": name, "shape": list(each.shape), "datatype": _DATATYPES[each.dtype]} for name, each in feeds.items()
    ]
