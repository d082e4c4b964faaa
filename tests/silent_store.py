"""A web server of one folder, in a process of its own, that stops answering in several ways.

``python silent_store.py FOLDER``: it prints its port. ``/never/``, ``/head/`` (8 bytes of the headers a second), ``/body/`` (8 bytes
of the body a second) and ``/late/`` (the same after the first 16 kB of a file, or for chunks of a Zarr store) begin a path.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DRIP_S = 0.125


@contextmanager
def silent_store(folder) -> Iterator[str]:
    """Serve a folder; yields the URL."""
    with subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True) as server:
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


def _drip(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(DRIP_S)


def _answer(connection: socket.socket, request: str, folder: Path) -> None:
    method, path, *_ = request.split(" ")
    mode, _, name = path.partition("?")[0].strip("/").partition("/")
    file = folder / name
    if not file.is_file():
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    data = file.read_bytes()
    found = re.search(r"\r\nrange: bytes=(\d+)-(\d*)", request, re.IGNORECASE)
    first, last = (int(found[1]), min(int(found[2] or len(data)), len(data) - 1)) if found else (0, len(data) - 1)
    body = data[first : last + 1]
    head = (
        f'HTTP/1.1 {"206 Partial Content" if found else "200 OK"}\r\nContent-Length: {len(body)}\r\nETag: "a"\r\n'
        f"Accept-Ranges: bytes\r\nContent-Range: bytes {first}-{last}/{len(data)}\r\n\r\n"
    ).encode()
    if mode == "never":
        time.sleep(1000)
    (_drip if mode == "head" else socket.socket.sendall)(connection, head)
    if method != "HEAD":
        late = mode == "late" and (first > 0 or re.search(r"/[\d.]+$", path))
        (_drip if mode == "body" or late else socket.socket.sendall)(connection, body)


def _serve(connection: socket.socket, folder: Path) -> None:
    with suppress(OSError), connection:
        while True:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (part := connection.recv(65536)):
                    return
                request += part
            _answer(connection, request.decode(), folder)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=_serve, args=(listening.accept()[0], Path(sys.argv[1])), daemon=True).start()
