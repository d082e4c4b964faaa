"""The page, health checks and metrics of a service over HTTP."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from waitress import create_server, wasyncore

from geotile.errors import ArgumentError
from geotile.service.health import Health
from geotile.service.page.app import UNKNOWN_HOST

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_log = logging.getLogger(__name__)
_AGE_S, _CROWDED_AGE_S, _DOWNLOAD_S = 10.0, 2.0, 60.0  # of connections; many leave no place for /healthz
_LIMITS: dict[str, Any] = {
    "threads": 8, "connection_limit": 256, "backlog": 1024,  # connections beyond the limit wait in the kernel
    "channel_timeout": 2, "cleanup_interval": 1,  # seconds without a byte, after which a connection is closed
    "max_request_header_size": 16_384, "max_request_body_size": 16_384,
    "asyncore_use_poll": True,  # select() takes no descriptors above 1,023
    "log_socket_errors": False,
}  # fmt: skip


@contextmanager
def serve_http(
    address: str, health: Health, is_ready: Callable[[], bool], registry: CollectorRegistry, page: Application,
    knows_host: Callable[[str], bool],
) -> Iterator[str]:  # fmt: skip
    """Serve ``/healthz``, ``/readyz``, ``/metrics`` and the page while the block runs.

    Parameters
    ----------
    address : str
        ``host:port``. Port 0 selects a free port.
    health : Health
        The loops of the service.
    is_ready : callable
        Function without arguments that returns whether the service accepts requests.
    registry : CollectorRegistry
        The metrics.
    page : callable
        WSGI application for all other paths.
    knows_host : callable
        Function that returns whether the service is known under a header ``Host``. Under others it gives only the
        status of ``/healthz`` and ``/readyz``.

    Yields
    ------
    str
        URL of the server.

    Raises
    ------
    ArgumentError
        If the address is invalid or cannot be used.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)  # a crowd of connections must not fill the log
    listening, connections = _bound(address), dict[int, Any]()
    server = create_server(
        _app(health, is_ready, registry, page, knows_host), connections, sockets=[listening], **_LIMITS
    )
    server.maintenance = partial(_close_slow, server, server.maintenance)
    closed = threading.Event()
    threading.Thread(target=_serve, args=(server.run, closed), name="geotile-web", daemon=True).start()
    try:
        host = address.rpartition(":")[0]
        yield f"http://{host}:{listening.getsockname()[1]}"
    finally:
        closed.set()
        server.trigger.pull_trigger(lambda: wasyncore.close_all(connections))
        server.task_dispatcher.shutdown()


def _close_slow(server: Any, close_silent: Callable[[float], None], now: float) -> None:
    """Close connections that are older than clients need: drips of bytes keep them from being silent.

    Parameters
    ----------
    server : waitress server
        The server, which calls this once a second.
    close_silent : callable
        What it does by itself at the time `now`: it closes connections on which nothing has happened.
    now : float
        Seconds since 1970.
    """
    close_silent(now)
    age_s = _CROWDED_AGE_S if len(server.active_channels) > _LIMITS["connection_limit"] // 2 else _AGE_S
    for channel in server.active_channels.values():
        limit_s = _DOWNLOAD_S if channel.total_outbufs_len else age_s
        if not channel.requests and now - channel.creation_time > limit_s:
            channel.will_close = True
            with suppress(OSError):  # the client has closed it
                channel.socket.shutdown(socket.SHUT_RDWR)  # whoever reads nothing would keep it open


def _serve(run: Callable[[], None], closed: threading.Event) -> None:
    """Run a server until it is closed, also after an error of its loop."""
    while not closed.is_set():
        try:
            run()
        except Exception:  # whatever it is, such as EINVAL of poll() with more descriptors than are allowed by now
            _log.exception("the server of /healthz")
        closed.wait(0.5)


def _app(
    health: Health, is_ready: Callable[[], bool], registry: CollectorRegistry, page: Application,
    knows_host: Callable[[str], bool],
) -> Application:  # fmt: skip
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, is_known = environ.get("PATH_INFO", ""), knows_host(environ.get("HTTP_HOST", ""))
        if path == "/metrics" and is_known:
            response: Iterable[bytes] = metrics(environ, start_response)
            return response
        if path not in ("/healthz", "/readyz", "/metrics"):
            return page(environ, start_response)
        lines = list[str]()
        if path == "/metrics":
            status, lines = "421 Misdirected Request", [UNKNOWN_HOST]
        elif path == "/healthz":
            late = health.late()
            status, lines = "503 Service Unavailable" if late else "200 OK", (late + health.failing()) * is_known
        else:
            status = "200 OK" if is_ready() else "503 Service Unavailable"
        body = "\n".join([status, *lines]).encode()
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return app


def _bound(address: str) -> socket.socket:
    """Return a socket that is bound to an address."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ArgumentError(f"address must be host:port; got {address!r}. Use, for example, 127.0.0.1:9100.")
    host = host.removeprefix("[").removesuffix("]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ArgumentError(f"the address {address} cannot be used: {error}. Use another host or port.") from None
