"""What a service says over HTTP: whether it lives, whether it takes jobs, what it counts."""

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


class _Quiet(WSGIRequestHandler):
    def log_message(self, *said: Any) -> None:
        """Say nothing: probes come every few seconds."""


@contextmanager
def answering(
    address: str, alive: Callable[[], bool], ready: Callable[[], bool], registry: CollectorRegistry
) -> Iterator[str]:
    """Answer ``/healthz``, ``/readyz`` and ``/metrics`` while the block runs.

    Parameters
    ----------
    address : str
        ``host:port``; port 0 takes a free one.
    alive, ready : callable
        Tell whether the process works, and whether it takes jobs.
    registry : CollectorRegistry
        What is counted.

    Yields
    ------
    str
        The url.
    """
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start)
            return answer
        probe = {"/healthz": alive, "/readyz": ready}.get(path)
        status = "404 Not Found" if probe is None else "200 OK" if probe() else "503 Service Unavailable"
        start(status, [("Content-Type", "text/plain")])
        return [status.encode()]

    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ArgumentError(f"address {address!r} is no host:port; give e.g. 127.0.0.1:9100")
    try:
        server = make_server(host, int(port), app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise ArgumentError(f"nothing can listen at {address}: {error}") from None
    threading.Thread(target=server.serve_forever, name="geotile-web", daemon=True).start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
