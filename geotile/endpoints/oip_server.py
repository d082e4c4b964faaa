"""A model behind a server that implements the Open Inference Protocol: its status, its metadata, its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from geotile.core.redact import redact
from geotile.core.timing import timed
from geotile.detectors import Tensor
from geotile.endpoints.base import Endpoint
from geotile.endpoints.client import Client
from geotile.endpoints.http import check_url
from geotile.endpoints.json_answer import excerpt, load_json
from geotile.endpoints.oip_tensors import (
    HEADER_LENGTH,
    MAX_CONTAINERS,
    binary_request,
    declared_tensors,
    json_request,
    read_response,
)
from geotile.errors import ArgumentError, EndpointError, ResponseError
from geotile.options import OipOptions, RetryPolicy


class OipServer(Endpoint):
    """Base class of the endpoints that speak the protocol.

    Parameters
    ----------
    spec : str
        ``oip+http://host/v2/models/NAME``, or ``…/NAME/versions/VERSION``; ``oip+https`` with TLS.
    options : OipOptions

    Raises
    ------
    ArgumentError
        If the spec is not such a URL.
    """

    wants_bytes = False

    def __init__(self, spec: str, options: OipOptions) -> None:
        url = spec.partition("+")[2].rstrip("/")
        check_url(url, "oip+http://host/v2/models/NAME")
        if "/v2/models/" not in url:
            raise ArgumentError(
                f"endpoint must name a model, for example oip+http://host/v2/models/NAME; got {redact(spec)!r}"
            )
        self._spec, self._options = spec, options
        self._client, self.display_url = Client(url, options), redact(spec)
        self._binary, self.retry_policy = options.binary, options.part(RetryPolicy)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.display_url!r})"

    def __str__(self) -> str:
        return self.display_url

    def identity(self) -> dict[str, Any]:
        """Return the model's URL, and the versions that the server reports."""
        version = self._get_json("").get("versions")
        return {"model": self.display_url, "version": version, **self._client.identity()}

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

    def _tensors(self, output: str | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Return the model's inputs and outputs; with the name of an output that it has, that one alone.

        So the others may have types that cannot be read.

        Raises
        ------
        EndpointError
            If the server does not describe them.
        """
        metadata = self._get_json("")
        try:
            outputs = [each for each in metadata["outputs"] if each["name"] == output] or metadata["outputs"]
            return declared_tensors(metadata["inputs"]), declared_tensors(outputs)
        except (KeyError, TypeError, ValueError) as error:
            raise ResponseError(
                f"the metadata of {self.display_url} cannot be decoded ({error}): {excerpt(metadata)}"
            ) from None

    def _max_batch_size(self) -> int | None:
        """Return Triton's ``max_batch_size`` if the server reports it."""
        try:
            size = self._get_json("/config").get("max_batch_size")
        except (EndpointError, AttributeError):
            return None  # /config is an extension of Triton's
        return size if isinstance(size, int) and size > 0 else None

    def _infer(self, feeds: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the network on input tensors; return the output tensors by name.

        Raises
        ------
        EndpointError
            If the request fails, or its answer cannot be read.
        """
        if self._binary is not False:
            try:
                outputs = self._post(*binary_request(feeds, names))
            except EndpointError as error:
                if self._binary or error.throttled or error.http_status in (None, 401, 403, 404):
                    raise
                # A server without the binary extension rejects the request: MLServer returns 400, 422 or 500.
            else:
                self._binary = True
                return outputs
        outputs = self._post(*json_request(feeds, names))
        self._binary = False
        return outputs

    def _post(self, body: bytes, headers: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        reply = self._client.send("POST", f"{self._client.url}/infer", data=body, headers=headers)
        if reply.status != 200:
            raise reply.error()
        with timed("parse"), self._client.quoting():
            return read_response(reply.body, reply.headers.get(HEADER_LENGTH))

    def _get_json(self, path: str) -> Any:
        reply = self._client.send("GET", self._client.url + path)
        if reply.status != 200:
            raise reply.error()
        with self._client.quoting():
            return load_json(reply.body, MAX_CONTAINERS, f"{MAX_CONTAINERS:,} values")
