"""An HTTP server for Python models, with the interface of OversightML's model containers."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from geotile.core.rasterio_env import ignore_georeference_warnings, memory_env
from geotile.endpoints.objects import decode_object
from geotile.merging.detections import Detections

Model = Callable[[NDArray[Any]], Any]


class ModelServer:
    """HTTP server of a model, which runs while the ``with`` block lasts.

    Tiles are posted to ``/invocations``; ``/ping`` reports health.

    Parameters
    ----------
    model : callable
        Function of a tile, a numpy.ndarray of shape (band, y, x). It returns what `geotile.detect` accepts from a
        callable, or a GeoJSON FeatureCollection as a dict.
    latency_s : float, default 0
        Delay before each response, in seconds.
    address : tuple of str and int, default ("127.0.0.1", 0)
        Host and port of the server. Port 0 selects a free port.
    arrays : bool, default False
        Whether the model answers rasters or vectors: its arrays are sent as `numpy.save` writes them, not as JSON.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> with ModelServer(bright_objects) as server:
    ...     detections = geotile.detect(write_example(), server.url, tile_size=128, overlap=32)
    >>> len(detections), server.requests
    (3, 9)
    """

    def __init__(
        self, model: Model, latency_s: float = 0.0, address: tuple[str, int] = ("127.0.0.1", 0), arrays: bool = False
    ) -> None:  # fmt: skip
        self.model, self.latency_s, self.arrays = model, latency_s, arrays
        self.requests = 0
        self._lock = threading.Lock()
        self._http = _Server(address, _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """URL to which tiles are posted."""
        return f"http://127.0.0.1:{self._http.server_port}/invocations"

    def __enter__(self) -> ModelServer:
        """Start the server."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self._http.shutdown()
        self._http.server_close()

    @property
    def content_type(self) -> str:
        """Content type of the responses."""
        return "application/x-npy" if self.arrays else "application/json"

    def respond(self, body: bytes) -> bytes:
        """Return the response to one encoded tile."""
        with self._lock:
            self.requests += 1
        time.sleep(self.latency_s)
        output = self.model(decode_tile(body))
        if self.arrays:
            content = io.BytesIO()
            np.save(content, np.asarray(output), allow_pickle=False)
            return content.getvalue()
        if not isinstance(output, dict):
            output = as_collection(decode_object(output).detections)
        return json.dumps(output).encode()


def decode_tile(body: bytes) -> NDArray[Any]:
    """Decode a tile in any of geotile's tile formats; return an array of shape (band, y, x)."""
    if body.startswith(b"\x93NUMPY"):
        return np.asarray(np.load(io.BytesIO(body), allow_pickle=False))
    with memory_env(), MemoryFile(body) as memory:
        with ignore_georeference_warnings():
            file = memory.open()
        with file:
            return np.asarray(file.read())


def as_collection(detections: Detections) -> dict[str, Any]:
    """Return the boxes, scores and labels of detections as a GeoJSON FeatureCollection in OversightML's format."""
    features = [
        {
            "type": "Feature",
            "geometry": None,
            "properties": {
                "imageBBox": box.tolist(),
                "featureClasses": [{"iri": label, "score": float(score)}],
            },
        }
        for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True)
    ]
    return {"type": "FeatureCollection", "features": features}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error unless the client has disconnected."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self._send(
                *((200, b"") if self.path == "/ping" else (405, b"this path accepts only POST requests with a tile"))
            )

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/invocations":
                return self._send(404, b"tiles must be posted to /invocations")
            try:
                self._send(200, server.respond(body))
            except Exception as error:  # like other servers, respond with status 500 if the model fails
                self._send(500, f"{type(error).__name__}: {error}".encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", server.content_type if status == 200 else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler
