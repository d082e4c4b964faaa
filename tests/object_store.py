"""A real S3 API (moto's server) behind a proxy that counts, slows down and misbehaves on request."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

BUCKET = "imagery"
KEYS = {"key": "test-key-AKIA", "secret": "test-secret-hush"}


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    headers: dict[str, str]
    status: int
    bytes: int


class CountingProxy:
    """Forwards to a server on 127.0.0.1; `fault(method, path)` may give a (status, headers, body) of its own."""

    def __init__(self, port: int, latency_s: float = 0.0) -> None:
        self.port, self.latency_s = port, latency_s
        self.requests: list[Request] = []
        self.most_at_once = self._under_way = 0
        self.fault: Callable[[str, str], tuple[int, dict[str, str], bytes] | None] = lambda method, path: None
        self.around: Callable[..., tuple[int, dict[str, str], bytes]] | None = None
        """``around(sent, headers, forward)`` returns an answer; ``forward(sent)`` asks the server."""
        self.ignored_headers: tuple[str, ...] = ()
        """Headers that the store pays no heed to, in lower case: conditions, say."""
        self._lock = threading.Lock()
        self.writing = threading.Lock()
        """S3 decides a condition and writes in one step; moto's server does not."""
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def bytes(self) -> int:
        return sum(request.bytes for request in self.requests)

    def clear(self) -> None:
        self.requests.clear()

    def count(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is no news."""


def _handler(proxy: CountingProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def forward(self) -> None:
            with proxy.under_way():
                self.pass_on()

        def pass_on(self) -> None:
            time.sleep(proxy.latency_s)
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = proxy.fault(self.command, self.path)
            if answer is None and proxy.around is not None:
                answer = proxy.around(sent, headers, lambda body: self.ask(body, headers))
            if answer is None:
                answer = self.ask(sent, headers)
            status, given, body = answer
            proxy.count(Request(self.command, self.path, headers.get("range"), headers, status, len(body)))
            self.send_response(status)
            skipped = ("transfer-encoding", "connection", "content-length", "server", "date")
            for name, value in given.items():
                if name.lower() not in skipped:
                    self.send_header(name, value)
            size = given.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", size)
            self.end_headers()
            if self.command != "HEAD":
                try:
                    self.wfile.write(body)
                except OSError:  # the client has what it wanted
                    self.close_connection = True

        def ask(self, sent, headers):
            headers = {name: value for name, value in headers.items() if name not in proxy.ignored_headers}
            with proxy.writing if self.command in ("PUT", "DELETE") else nullcontext():
                return self.pass_to_server(sent, headers)

        def pass_to_server(self, sent, headers):
            behind = http.client.HTTPConnection("127.0.0.1", proxy.port)
            if sent is not None:
                headers = headers | {"content-length": str(len(sent))}
            behind.request(self.command, self.path, sent, headers)
            got = behind.getresponse()
            answer = got.status, dict(got.getheaders()), got.read()
            behind.close()
            return answer

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    return Handler


@contextmanager
def object_store(latency_s: float = 0.0) -> Iterator[CountingProxy]:
    """Serve an S3 API with one bucket; yields the proxy in front of it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        proxy = CountingProxy(server.get_host_and_port()[1], latency_s)
        client(proxy).create_bucket(Bucket=BUCKET)
        proxy.clear()
        yield proxy
        proxy.close()
    finally:
        server.stop()


class Elsewhere(NamedTuple):
    """An S3 API in a process of its own.

    rasterio holds the interpreter's lock while GDAL looks for what lies beside an image; a server in
    the same process could not answer.
    """

    url: str

    def clear(self) -> None: ...


@contextmanager
def object_store_elsewhere() -> Iterator[Elsewhere]:
    """Serve an S3 API with one bucket from another process."""
    code = (
        "import time; from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', 0, verbose=False); s.start(); "
        "print(s.get_host_and_port()[1], flush=True); time.sleep(200)"
    )
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **quiet) as server:
        try:
            store = Elsewhere(f"http://127.0.0.1:{server.stdout.readline().strip()}")
            client(store).create_bucket(Bucket=BUCKET)
            yield store
        finally:
            server.kill()


def client(proxy: CountingProxy | Elsewhere):
    import boto3

    return boto3.client(
        "s3", endpoint_url=proxy.url, region_name="us-east-1",
        aws_access_key_id=KEYS["key"], aws_secret_access_key=KEYS["secret"],
    )  # fmt: skip


def upload(proxy: CountingProxy | Elsewhere, path: str, key: str) -> str:
    """Put a file into the bucket; return its uri."""
    client(proxy).upload_file(str(path), BUCKET, key)
    proxy.clear()
    return f"s3://{BUCKET}/{key}"


def options(proxy: CountingProxy | Elsewhere, **more) -> dict:
    """The storage options that reach it."""
    return KEYS | {"endpoint_url": proxy.url, "client_kwargs": {"region_name": "us-east-1"}} | more
