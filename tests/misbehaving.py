"""A model server that misbehaves in every way of a table; its tiles are constant, and their value is their number."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from web_servers import running

from geotile.testing.server import decode_tile

POISON = 5


def numbered(rows: int = 4, columns: int = 4, side: int = 32) -> np.ndarray:
    """(1, y, x) uint8 of tiles of one value each, counted from 1."""
    numbers = np.arange(1, rows * columns + 1, dtype=np.uint8).reshape(rows, columns)
    return np.kron(numbers, np.ones((side, side), np.uint8))[None]


def good(number: int, box=(4, 4, 12, 12)) -> bytes:
    properties = {"imageBBox": list(box), "featureClasses": [{"iri": str(number), "score": 0.5}]}
    return json.dumps(
        {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": properties}]}
    ).encode()


class Server(ThreadingHTTPServer):
    """Answers each tile, but for what ``fault(handler, number, how often it came)`` does instead."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, fault, address=("127.0.0.1", 0)):
        super().__init__(address, Handler)
        self.fault, self.seen, self.lock = fault, {}, threading.Lock()
        self.open: set[socket.socket] = set()

    def process_request(self, request, client_address):
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.reply(200 if self.path == "/ping" else 405, b"")

    def do_POST(self):
        number = int(decode_tile(self.rfile.read(int(self.headers["Content-Length"])))[0, 0, 0])
        with self.server.lock:
            times = self.server.seen[number] = self.server.seen.get(number, 0) + 1
        if self.server.fault(self, number, times) is not True:
            return
        self.reply(200, good(number))

    def reply(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def raw(self, *parts, pause_s=0.0):
        """Write bytes to the socket, and leave the connection as it is."""
        for part in parts:
            self.connection.sendall(part)
            time.sleep(pause_s)
        self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def misbehaving(fault):
    """Serve; yields the url and the server."""
    server = Server(fault)
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}/invocations", server


# --- faults: return True for a good answer ---


def answers(status, body=b"", *, first=10**9, **headers):
    """The poisoned tile is answered so, the first times that it comes."""

    def fault(handler, number, times):
        if number != POISON or times > first:
            return True
        return handler.reply(status, body, **headers)

    return fault


def acts(act, first=10**9):
    def fault(handler, number, times):
        return True if number != POISON or times > first else act(handler)

    return fault


def reset_in_the_body(handler):
    handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", good(POISON)[:20])
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    handler.connection.close()


def endless_body(handler):
    handler.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    for _ in range(4096):
        handler.connection.sendall(chunk)  # ends when the client hangs up


def never(handler):
    time.sleep(4)
    handler.close_connection = True


def drip_body(handler):
    body = good(POISON)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    handler.raw(head, *(body[k : k + 1] for k in range(12)), pause_s=0.2)


def drip_head(handler):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    handler.raw(*(head[k : k + 1] for k in range(15)), pause_s=0.2)


def half_closed(handler):
    handler.connection.shutdown(socket.SHUT_WR)
    time.sleep(1)
    handler.close_connection = True


def one_in_ten(seed=1):
    rng, lock = random.Random(seed), threading.Lock()

    def fault(handler, number, times):
        with lock:
            bad = rng.random() < 0.1
        return handler.reply(500, b"bad luck") if bad else True

    return fault


def outage(server_box, after, seconds):
    """After so many answers nobody listens for a while, and all connections break."""
    count, lock = [0], threading.Lock()

    def fault(handler, number, times):
        with lock:
            count[0] += 1
            goes = count[0] == after
        if goes:
            threading.Thread(target=away, args=(handler.server, seconds, server_box), daemon=True).start()
        time.sleep(0.02)
        return True

    return fault


def away(server, seconds, server_box):
    address, fault, seen = server.server_address, server.fault, server.seen
    server.shutdown()
    server.server_close()
    for each in list(server.open):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    time.sleep(seconds)
    again = Server(fault, address)
    again.seen = seen
    server_box.append(again)
    again.serve_forever(0.02)


# --- servers below HTTP ---


@contextmanager
def raw_server(talk):
    """Run ``talk(connection)`` for each connection; yields the port."""
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    done = threading.Event()

    def serve(connection):
        with suppress(OSError), connection:
            talk(connection)

    def accept():
        while not done.is_set():
            with suppress(OSError):
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        done.set()
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


def read_request(connection):
    """Read a request with its body; the tile is the word tile."""
    data = b""
    while not data.endswith(b"tile"):
        part = connection.recv(65536)
        if not part:
            return
        data += part


def replies(reply):
    def talk(connection):
        read_request(connection)
        connection.sendall(reply)

    return talk
