"""The Open Inference Protocol, version 2: KServe, Triton, OpenVINO Model Server, MLServer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import as_int
from geotile.core.redact import redact
from geotile.core.timing import timed
from geotile.detectors import Detector, Tensor
from geotile.endpoints.base import Endpoint, split_options
from geotile.endpoints.client import CLIENT_OPTIONS, Client
from geotile.endpoints.decode import excerpt
from geotile.endpoints.http import check_url
from geotile.errors import ArgumentError, EndpointError, ResponseError

_DTYPES = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(value): key for key, value in _DTYPES.items()}
_BATCH = 8
_OPTIONS = ("batch_size", "binary", "labels", "family", "output_names", "score_threshold", "nms_iou_threshold")
_HEADER = "Inference-Header-Content-Length"


class OipEndpoint(Endpoint):
    """A detector behind a server that speaks the Open Inference Protocol.

    Inputs, outputs and batches are read from the server's metadata.

    Parameters
    ----------
    spec : str
        ``oip+http://host/v2/models/NAME``, or ``…/NAME/versions/VERSION``; ``oip+https`` with TLS.
    batch_size : int, optional
        Most tiles in a request; by default what the model takes, or 8 where it takes any number.
    binary : bool, optional
        Send tensors by the binary extension; by default if the server takes it, which the first request tells.
    **options
        Those of `geotile.detectors.Detector` (``family``, ``output_names``, ``labels``,
        ``score_threshold``, ``nms_iou_threshold``), of `HttpEndpoint` (``auth``, ``headers``, ``verify`` ...)
        and of `RetryPolicy`.

    Raises
    ------
    ArgumentError
        If the spec or an option cannot be used.

    Examples
    --------
    >>> OipEndpoint("oip+https://models.example/v2/models/planes", family="yolov8")
    OipEndpoint('oip+https://models.example/v2/models/planes')
    """

    wants_bytes = False

    def __init__(
        self, spec: str, *, batch_size: int | None = None, binary: bool | None = None, **options: Any
    ) -> None:  # fmt: skip
        url = spec.partition("+")[2].rstrip("/")
        check_url(url, "oip+http://host/v2/models/NAME")
        if "/v2/models/" not in url:
            raise ArgumentError(f"endpoint={redact(spec)!r} names no model; give oip+http://host/v2/models/NAME")
        self.retry_policy = split_options(options, [*_OPTIONS, *CLIENT_OPTIONS], "an oip endpoint")
        asked = {name: options.pop(name) for name in CLIENT_OPTIONS if name in options}
        self._client, self.shown = Client(url, **asked), redact(spec)
        self._options, self._asked_batch, self._binary = options, batch_size, binary
        if batch_size is not None:
            as_int(batch_size, "batch_size", 1, unit="tiles")
        self._detector: Detector | None = None

    def __repr__(self) -> str:
        return f"OipEndpoint({self.shown!r})"

    def __str__(self) -> str:
        return self.shown

    def identity(self) -> dict[str, Any]:
        """Return the model's url, the versions that the server tells, and the decoder's options."""
        versions = self._asked("").get("versions")
        return {"model": self.shown, "version": versions, "options": repr(sorted(self._options.items()))}

    def ready(self) -> None:
        """Ask whether the server has the model ready.

        Raises
        ------
        EndpointError
            If it has not.
        """
        reply = self._client.probe(f"{self._client.url}/ready")
        if reply.status != 200:
            error = reply.error()
            error.retryable = error.retryable or (reply.status == 400 and b"not ready" in reply.body)  # Triton's word
            raise error
        try:
            said = json.loads(reply.body or b"{}")
        except ValueError:
            return
        if isinstance(said, Mapping) and said.get("ready") is False:
            raise _coming(f"{self.shown} is not ready yet")

    def with_score_threshold(self, score_threshold: float) -> OipEndpoint:
        """Return it with another minimum score."""
        changed: OipEndpoint = object.__new__(OipEndpoint)
        changed.__dict__.update(self.__dict__, _detector=None)
        changed._options = self._options | {"score_threshold": score_threshold}
        return changed

    def for_run(self, tile_threads: int = 1) -> OipEndpoint:
        """Return it with what the server's metadata say."""
        if self._detector is not None:
            return self
        told: OipEndpoint = object.__new__(OipEndpoint)
        told.__dict__.update(self.__dict__)
        said = self._asked("")
        try:
            inputs, outputs = (_tensors(said[key]) for key in ("inputs", "outputs"))
        except (KeyError, TypeError, ValueError) as error:
            raise ResponseError(f"{self.shown} has metadata that cannot be read ({error}): {excerpt(said)}") from None
        try:
            told._detector = Detector(inputs, outputs, **self._options)
        except ArgumentError as error:
            raise ArgumentError(f"{self.shown}: {error}") from None
        takes = told._detector.batch_size or self._most_in_a_batch()
        told.batch_size = self._asked_batch or takes
        told.sample_shape = (3, *(told._detector.size_yx or (512, 512)))
        return told

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Send tiles as one batch of tensors."""
        if self._detector is None:
            self.__dict__.update(self.for_run().__dict__)
        detector = self._detector
        assert detector is not None
        takes = detector.batch_size or len(tiles)
        with timed("encode"):
            feeds, placed = detector.feeds([*tiles, *[tiles[-1]] * max(0, takes - len(tiles))])
        outputs = self._inferred(feeds, detector.names)
        with timed("parse"):
            return detector.found(outputs, placed)[: len(tiles)]

    def _inferred(self, feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        if self._binary is not False:
            try:
                outputs = self._posted(*_binary_request(feeds, names))
            except EndpointError as error:
                if self._binary or error.throttled or error.http_status in (None, 401, 403, 404):
                    raise
                # MLServer says 400, 422 or 500 to what it cannot read
            else:
                self._binary = True
                return outputs
        outputs = self._posted(_json_request(feeds, names), {"Content-Type": "application/json"})
        self._binary = False
        return outputs

    def _posted(self, body: bytes, headers: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        reply = self._client.ask("POST", f"{self._client.url}/infer", data=body, headers=headers)
        if reply.status != 200:
            raise reply.error()
        with timed("parse"):
            return read_response(reply.body, reply.headers.get(_HEADER))

    def _asked(self, path: str) -> Any:
        reply = self._client.ask("GET", self._client.url + path)
        if reply.status != 200:
            raise reply.error()
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError):
            raise ResponseError(f"{self.shown}{path} is not JSON: {excerpt(reply.body)}") from None

    def _most_in_a_batch(self) -> int:
        """Return Triton's ``max_batch_size``, where the server tells it."""
        try:
            most = self._asked("/config").get("max_batch_size")
        except (EndpointError, AttributeError):
            return _BATCH  # an extension of Triton's that others do not have
        return most if isinstance(most, int) and most > 0 else _BATCH


def read_response(body: bytes, header_length: str | None) -> dict[str, NDArray[Any]]:
    """Read the tensors of an answer: any bytes give arrays or a ResponseError.

    Parameters
    ----------
    body : bytes
        JSON; with the binary extension, JSON and then tensors, little-endian, one after the other.
    header_length : str or None
        Length of the JSON, of the header ``Inference-Header-Content-Length``.

    Returns
    -------
    dict of str to numpy.ndarray

    Raises
    ------
    ResponseError
        With the first 200 characters of what it cannot read.
    """
    try:
        length = len(body) if header_length is None else int(header_length)
        if not 0 <= length <= len(body):
            raise ValueError(f"a header of {length} bytes in {len(body)}")
        said, rest = json.loads(body[:length]), memoryview(body)[length:]
        outputs = {}
        for each in said["outputs"]:
            size = (each.get("parameters") or {}).get("binary_data_size")
            outputs[str(each["name"])] = _array(each, None if size is None else rest[: int(size)])
            rest = rest[int(size or 0) :]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise ResponseError(f"the answer is none of the Open Inference Protocol ({error!r}): {excerpt(body)}") from None
    return outputs


def _array(said: Mapping[str, Any], raw: memoryview | None) -> NDArray[Any]:
    dtype, shape = np.dtype(_DTYPES[said["datatype"]]), [int(length) for length in said["shape"]]
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {shape}")
    values = np.asarray(said["data"]).astype(dtype).ravel() if raw is None else np.frombuffer(raw, dtype)
    if values.size != math.prod(shape):
        raise ValueError(f"{values.size} values for a shape of {shape}")
    return values.reshape(shape)


def _tensors(said: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    return [
        Tensor(
            str(each["name"]), np.dtype(_DTYPES[each["datatype"]]),
            tuple(int(length) if int(length) > 0 else None for length in each["shape"]),
        )
        for each in said
    ]  # fmt: skip


def _described(feeds: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "shape": list(each.shape), "datatype": _NAMES[each.dtype]} for name, each in feeds.items()]


def _json_request(feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> bytes:
    inputs = [
        said | {"data": each.ravel().tolist()} for said, each in zip(_described(feeds), feeds.values(), strict=True)
    ]
    return json.dumps({"inputs": inputs, "outputs": [{"name": name} for name in names]}).encode()


def _binary_request(feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    raw = [np.ascontiguousarray(each).tobytes() for each in feeds.values()]
    inputs = [
        said | {"parameters": {"binary_data_size": len(part)}}
        for said, part in zip(_described(feeds), raw, strict=True)
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in names]
    head = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}}).encode()
    return b"".join([head, *raw]), {"Content-Type": "application/octet-stream", _HEADER: str(len(head))}


def _coming(said: str) -> EndpointError:
    error = EndpointError(said)
    error.retryable = True
    return error
