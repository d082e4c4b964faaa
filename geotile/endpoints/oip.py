"""The Open Inference Protocol, version 2: KServe, Triton, OpenVINO Model Server, MLServer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.option import documents, with_options
from geotile.core.redact import redact
from geotile.core.timing import timed
from geotile.detectors import Detector, Tensor
from geotile.detectors.detector import decoder_identity
from geotile.endpoints.base import Endpoint
from geotile.endpoints.client import Client
from geotile.endpoints.http import check_url
from geotile.endpoints.json_answer import excerpt, load_json, turn
from geotile.errors import ArgumentError, EndpointError, ResponseError
from geotile.options import DecoderOptions, OipOptions, RetryPolicy

_DTYPES = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_DATATYPES = {np.dtype(value): key for key, value in _DTYPES.items()}
_DEFAULT_BATCH_SIZE = 8
_MAX_CONTAINERS = 1_000_000  # arrays and objects of a JSON answer; numbers are flat in it
_HEADER_LENGTH = "Inference-Header-Content-Length"


@documents(OipOptions)
class OipEndpoint(Endpoint):
    """A detector behind a server that implements the Open Inference Protocol.

    Inputs, outputs and the batch size are read from the server's metadata.

    Parameters
    ----------
    spec : str
        ``oip+http://host/v2/models/NAME``, or ``…/NAME/versions/VERSION``; ``oip+https`` with TLS.
    {options}

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
    takes_rgb = True

    @with_options(OipOptions).on_init
    def __init__(self, spec: str, options: OipOptions) -> None:
        url = spec.partition("+")[2].rstrip("/")
        check_url(url, "oip+http://host/v2/models/NAME")
        if "/v2/models/" not in url:
            raise ArgumentError(
                f"endpoint must name a model, for example oip+http://host/v2/models/NAME; got {redact(spec)!r}"
            )
        self.retry_policy = options.part(RetryPolicy)
        self._client, self.display_url = Client(url, options), redact(spec)
        self._decoding = options.part(DecoderOptions)
        self._batch_size, self._binary = options.batch_size, options.binary
        self._detector: Detector | None = None

    def __repr__(self) -> str:
        return f"OipEndpoint({self.display_url!r})"

    def __str__(self) -> str:
        return self.display_url

    def description(self) -> str:
        """Return the family, the classes and the input of the model, once the server has described it."""
        return "" if self._detector is None else self._detector.description()

    def doubts(self) -> Sequence[str]:
        """Return what looks wrong about the model."""
        return [] if self._detector is None else self._detector.doubts()

    def identity(self) -> dict[str, Any]:
        """Return the model's URL, the versions that the server reports, and the options of the decoder."""
        version = self._get_json("").get("versions")
        decoding = decoder_identity(self._decoding)
        return {"model": self.display_url, "version": version, "options": decoding, **self._client.identity()}

    def ready(self) -> None:
        """Check that the server has loaded the model.

        Raises
        ------
        EndpointError
            If the model is not ready.
        """
        reply = self._client.probe(f"{self._client.url}/ready")
        if reply.status != 200:
            error = reply.error()
            not_ready = reply.status == 400 and b"not ready" in reply.body  # Triton's response while it loads a model
            error.retryable = error.retryable or not_ready
            raise error
        try:
            content = json.loads(reply.body or b"{}")
        except (ValueError, RecursionError):
            return
        if isinstance(content, Mapping) and content.get("ready") is False:
            error = EndpointError(f"{self.display_url} is not ready yet")
            error.retryable = True
            raise error

    def with_score_threshold(self, score_threshold: float) -> OipEndpoint:
        """Return an endpoint with another minimum score."""
        changed: OipEndpoint = object.__new__(OipEndpoint)
        changed.__dict__.update(self.__dict__, _detector=None)
        changed._decoding = replace(self._decoding, score_threshold=score_threshold)
        return changed

    def for_run(self, tile_threads: int = 1) -> OipEndpoint:
        """Return an endpoint that has read the server's metadata."""
        if self._detector is not None:
            return self
        configured: OipEndpoint = object.__new__(OipEndpoint)
        configured.__dict__.update(self.__dict__)
        inputs, outputs = self._metadata()
        try:
            detector = Detector(inputs, outputs, **self._decoding.changed())
        except ArgumentError as error:
            raise ArgumentError(f"{self.display_url}: {error}") from None
        configured._detector = detector
        configured.batch_size = self._batch_size or detector.batch_size or self._max_batch_size()
        configured.input_yx, configured.resizes_tiles = detector.size_yx, detector.size_yx is not None
        configured.sample_shape = (3, *(detector.size_yx or (512, 512)))
        return configured

    def _metadata(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the model's inputs and outputs."""
        metadata = self._get_json("")
        try:
            return _tensors(metadata["inputs"]), _tensors(metadata["outputs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ResponseError(
                f"the metadata of {self.display_url} cannot be decoded ({error}): {excerpt(metadata)}"
            ) from None

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Send tiles as one batch of tensors."""
        if self._detector is None:
            self.__dict__.update(self.for_run().__dict__)
        detector = self._detector
        assert detector is not None
        size = detector.batch_size or len(tiles)
        with timed("encode"):
            inputs, positions = detector.inputs_for([*tiles, *[tiles[-1]] * max(0, size - len(tiles))])
        outputs = self._infer(inputs, [output.name for output in detector.outputs])
        with timed("parse"):
            return detector.detections_from(outputs, positions)[: len(tiles)]

    def _infer(self, feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the network on input tensors; return the output tensors by name."""
        if self._binary is not False:
            try:
                outputs = self._post(*_binary_request(feeds, names))
            except EndpointError as error:
                if self._binary or error.throttled or error.http_status in (None, 401, 403, 404):
                    raise
                # A server without the binary extension rejects the request: MLServer returns 400, 422 or 500.
            else:
                self._binary = True
                return outputs
        outputs = self._post(_json_request(feeds, names), {"Content-Type": "application/json"})
        self._binary = False
        return outputs

    def _post(self, body: bytes, headers: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        reply = self._client.send("POST", f"{self._client.url}/infer", data=body, headers=headers)
        if reply.status != 200:
            raise reply.error()
        with timed("parse"), self._client.quoting():
            return read_response(reply.body, reply.headers.get(_HEADER_LENGTH))

    def _get_json(self, path: str) -> Any:
        reply = self._client.send("GET", self._client.url + path)
        if reply.status != 200:
            raise reply.error()
        with self._client.quoting():
            return load_json(reply.body, _MAX_CONTAINERS, f"{_MAX_CONTAINERS:,} values")

    def _max_batch_size(self) -> int:
        """Return Triton's ``max_batch_size`` if the server reports it, else a default."""
        try:
            size = self._get_json("/config").get("max_batch_size")
        except (EndpointError, AttributeError):
            return _DEFAULT_BATCH_SIZE  # /config is an extension of Triton's
        return size if isinstance(size, int) and size > 0 else _DEFAULT_BATCH_SIZE


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
            header = load_json(body[:length], _MAX_CONTAINERS, f"{_MAX_CONTAINERS:,} arrays", (b"[", b"{", b":"))
            for each in header["outputs"]:
                size = (each.get("parameters") or {}).get("binary_data_size")
                outputs[str(each["name"])] = _array(each, None if size is None else rest[: int(size)])
                rest = rest[int(size or 0) :]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise ResponseError(
            f"the response does not follow the Open Inference Protocol ({error!r}): {excerpt(body)}"
        ) from None
    return outputs


def _array(output: Mapping[str, Any], raw: memoryview | None) -> NDArray[Any]:
    dtype, shape = np.dtype(_DTYPES[output["datatype"]]), [int(length) for length in output["shape"]]
    if any(length < 0 for length in shape):
        raise ValueError(f"a tensor has the negative shape {shape}")
    values = np.asarray(output["data"]).astype(dtype).ravel() if raw is None else np.frombuffer(raw, dtype)
    if values.size != math.prod(shape):
        raise ValueError(f"a tensor of shape {shape} has {values.size} values")
    return values.reshape(shape)


def _tensors(metadata: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    return [
        Tensor(
            str(each["name"]), np.dtype(_DTYPES[each["datatype"]]),
            tuple(int(length) if int(length) > 0 else None for length in each["shape"]),
        )
        for each in metadata
    ]  # fmt: skip


def _headers(feeds: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return what the request's JSON says about each input tensor."""
    return [
        {"name": name, "shape": list(each.shape), "datatype": _DATATYPES[each.dtype]} for name, each in feeds.items()
    ]


def _json_request(feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> bytes:
    inputs = [
        header | {"data": each.ravel().tolist()} for header, each in zip(_headers(feeds), feeds.values(), strict=True)
    ]
    return json.dumps({"inputs": inputs, "outputs": [{"name": name} for name in names]}).encode()


def _binary_request(feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    raw = [np.ascontiguousarray(each).tobytes() for each in feeds.values()]
    inputs = [
        header | {"parameters": {"binary_data_size": len(part)}}
        for header, part in zip(_headers(feeds), raw, strict=True)
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in names]
    head = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}}).encode()
    return b"".join([head, *raw]), {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}
