"""Health checks and metrics of a service over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from geotile.errors import ArgumentError


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Log nothing: probes arrive every few seconds."""


@contextmanager
def serve_http(
    address: str, is_alive: Callable[[], bool], is_ready: Callable[[], bool], registry: CollectorRegistry
) -> Iterator[str]:
    """Serve ``/healthz``, ``/readyz`` and ``/metrics`` while the block runs.

    Parameters
    ----------
    address : str
        ``host:port``. Port 0 selects a free port.
    is_alive, is_ready : callable
        Functions without arguments that return whether the process works, and whether it accepts requests.
    registry : CollectorRegistry
        The metrics.

    Yields
    ------
    str
        URL of the server.

    Raises
    ------
    ArgumentError
        If the address is invalid or cannot be used.
    """
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            response: Iterable[bytes] = metrics(environ, start_response)
            return response
        probe = {"/healthz": is_alive, "/readyz": is_ready}.get(path)
        status = "404 Not Found" if probe is None else "200 OK" if probe() else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain")])
        return [status.encode()]

    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ArgumentError(f"address must be host:port; got {address!r}. Use, for example, 127.0.0.1:9100.")
    try:
        server = make_server(host, int(port), app, server_class=_Server, handler_class=_SilentHandler)
    except OSError as error:
        raise ArgumentError(f"the address {address} cannot be used: {error}. Use another host or port.") from None
    threading.Thread(target=server.serve_forever, name="geotile-web", daemon=True).start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
