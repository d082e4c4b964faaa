"""A model server that speaks the OSML contract, for any Python model; on 127.0.0.1 if nothing else is said."""

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
from geotile.endpoints.decode import decode_object
from geotile.merging.detections import Detections

Model = Callable[[NDArray[Any]], Any]


class ModelServer:
    """Serve a model over HTTP while the ``with`` block lasts.

    Parameters
    ----------
    model : callable
        ``model(tile)``, tile an ndarray (band, y, x), returning what `detect` takes of a callable.
    latency_s : float
        Seconds to wait before each answer.
    address : tuple of str and int
        Host and port to listen at; port 0 takes a free one.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> with ModelServer(bright_objects) as server:
    ...     found = geotile.detect(write_example(), server.url, tile_size=128, overlap=32)
    >>> len(found), server.requests
    (3, 9)
    """

    def __init__(self, model: Model, latency_s: float = 0.0, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.model, self.latency_s = model, latency_s
        self.requests = 0
        self._lock = threading.Lock()
        self._http = _Server(address, _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where tiles are posted."""
        return f"http://127.0.0.1:{self._http.server_port}/invocations"

    def __enter__(self) -> ModelServer:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, body: bytes) -> bytes:
        """Answer one encoded tile."""
        with self._lock:
            self.requests += 1
        time.sleep(self.latency_s)
        answer = self.model(decode_tile(body))
        if not isinstance(answer, dict):
            answer = as_collection(decode_object(answer))
        return json.dumps(answer).encode()


def decode_tile(body: bytes) -> NDArray[Any]:
    """Decode a tile of any of geotile's formats, (band, y, x)."""
    if body.startswith(b"\x93NUMPY"):
        return np.asarray(np.load(io.BytesIO(body), allow_pickle=False))
    with memory_env(), MemoryFile(body) as memory:
        with ignore_georeference_warnings():
            file = memory.open()
        with file:
            return np.asarray(file.read())


def as_collection(found: Detections) -> dict[str, Any]:
    """Return detections as the contract's FeatureCollection, boxes only."""
    features = [
        {
            "type": "Feature",
            "geometry": None,
            "properties": {
                "imageBBox": box.tolist(),
                "featureClasses": [{"iri": label, "score": float(score)}],
            },
        }
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]
    return {"type": "FeatureCollection", "features": features}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that are gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self._send(*((200, b"") if self.path == "/ping" else (405, b"POST a tile here")))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/invocations":
                return self._send(404, b"tiles are posted to /invocations")
            try:
                self._send(200, server.answer(body))
            except Exception as error:  # a model that fails is a 500, as behind any server
                self._send(500, f"{type(error).__name__}: {error}".encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent."""

    return Handler
