"""One deadline for the whole exchange, whichever part of it a server draws out."""

import concurrent.futures
import contextlib
import gzip
import itertools
import socket
import ssl
import subprocess
import threading
import time
import zlib

import pytest
from misbehaving import raw_server, read_request, replies

import geotile
from geotile import EndpointError, EndpointUnreachable, HttpEndpoint, ResponseError
from geotile.core.cancellation import cancel_run, working_for

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b'{"type": "FeatureCollection", "features": []}'
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def drips(first, parts):
    """Answer with ``first``, then with a part every 50 ms, for ever."""

    def talk(connection):
        read_request(connection)
        connection.sendall(first)
        for part in itertools.cycle(parts):
            connection.sendall(part)
            time.sleep(0.05)

    return talk


def shakes_hands_slowly(connection):
    """Send a TLS record of a handshake whose length is 16 KiB, byte by byte."""
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x40\x00")
    drips_on(connection)


def reads_slowly(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    while connection.recv(64):
        time.sleep(0.05)


def drips_on(connection):
    while True:
        connection.sendall(b"\x00")
        time.sleep(0.05)


DRIPS = {
    "status line": drips(b"HTTP/1.1 200 ", [b"O"]), "a header": drips(OK, [b"X"]), "headers": drips(OK, [b"A: b\r\n"]),
    "the interim responses": drips(b"", [b"HTTP/1.1 100 Continue\r\n\r\n"]),
    "body": drips(OK + b"Content-Length: 100000\r\n\r\n", [b" "]), "body without a length": drips(OK + b"\r\n", [b" "]),
    "size of a chunk": drips(CHUNKED, [b"0"]), "extension of a chunk": drips(CHUNKED + b"1;", [b"a"]),
    "chunks": drips(CHUNKED, [b"1\r\n \r\n"]), "trailers": drips(CHUNKED + b"0\r\n", [b"A: b\r\n"]),
    "header of gzip": drips(OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03", [b"n"]),
    "blocks of gzip without content": drips(
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], [b"\x00\x00\x00\xff\xff"]
    ),
    "nothing": drips(b"", [b""]), "the reading of the request": reads_slowly,
}  # fmt: skip


def failure(url, tile=b"tile", **options):
    started = time.monotonic()
    with pytest.raises(EndpointError) as caught:
        HttpEndpoint(url, **({"timeout_s": (0.6, 0.4)} | options)).invoke([tile], "image/tiff")
    return caught.value, time.monotonic() - started


def test_whatever_a_server_draws_out_ends_at_the_deadline():
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(32) as pool:
        ports = {name: stack.enter_context(raw_server(talk)) for name, talk in DRIPS.items()}
        tiles = {"the reading of the request": b"tile" * 2**21}
        asked = {
            name: pool.submit(failure, f"http://127.0.0.1:{port}/x", tiles.get(name, b"tile"))
            for name, port in ports.items()
        }
        port = stack.enter_context(raw_server(shakes_hands_slowly))
        asked["handshake of TLS"] = pool.submit(failure, f"https://127.0.0.1:{port}/x")
        for name, future in asked.items():
            error, seconds = future.result()
            assert isinstance(error, EndpointUnreachable), name
            assert error.timed_out, (name, error)
            assert error.retryable, name
            assert seconds < 2.5, name


def test_an_exchange_over_tls_ends_at_the_deadline(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def over_tls(connection):
        with contextlib.suppress(ssl.SSLError):
            drips(CHUNKED, [b"0"])(context.wrap_socket(connection, server_side=True))

    with raw_server(over_tls) as port:
        error, seconds = failure(f"https://127.0.0.1:{port}/x", verify=str(certificate))
    assert error.timed_out
    assert seconds < 2.5


@pytest.fixture
def sagemaker(monkeypatch):
    """Return the error of a SageMaker endpoint behind a port."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")

    def ask(port):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{port}")
        endpoint, started = (
            geotile.endpoint("sagemaker://planes?region=us-east-1", timeout_s=(0.6, 0.4)),
            time.monotonic(),
        )
        with pytest.raises(EndpointError) as caught:
            endpoint.invoke([b"tile"], "image/tiff")
        return caught.value, time.monotonic() - started

    return ask


@pytest.mark.parametrize("part", ["headers", "body without a length", "size of a chunk", "trailers"])
def test_an_exchange_with_sagemaker_ends_at_the_deadline(sagemaker, part):
    with raw_server(DRIPS[part]) as port:
        error, seconds = sagemaker(port)
    assert error.timed_out
    assert seconds < 2.5


@pytest.mark.parametrize("part", ["nothing", "headers", "body without a length", "size of a chunk"])
@pytest.mark.parametrize("kind", ["http", "oip", "sagemaker"])
def test_a_cancelled_run_aborts_its_requests(kind, part, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    run = f"{kind} {part}"
    with raw_server(DRIPS[part]) as port, working_for(run):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{port}")
        http = f"http://127.0.0.1:{port}/x"
        endpoint = geotile.endpoint(
            {"http": http, "oip": f"oip+{http}/v2/models/m", "sagemaker": "sagemaker://planes?region=us-east-1"}[kind],
            timeout_s=(30, 30),
        )
        threading.Timer(0.3, cancel_run, (run, "the run was stopped")).start()
        for _ in range(2):  # one that is in flight, and one that comes later
            started = time.monotonic()
            with pytest.raises(EndpointError, match="the run was stopped") as caught:
                endpoint.ready() if kind == "oip" else endpoint.invoke([b"tile"], "image/tiff")
            assert time.monotonic() - started < 2
            assert not caught.value.retryable


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 No\r\n\r\n\xff{", b"HTTP/1.1 500 No\r\n\r\n[1]", OK + b"\r\n{", b"SSH-2.0\r\n", b"HTTP/1.1 424 X\r\n\r\n" + b'{"OriginalStatusCode": "x"}'])  # fmt: skip
def test_any_answer_of_sagemaker_is_an_error_of_geotile(sagemaker, reply):
    with raw_server(replies(reply)) as port:
        sagemaker(port)


def test_a_connection_that_was_kept_is_not_cut_by_an_earlier_deadline():
    def keeps(connection):
        while True:
            read_request(connection)
            time.sleep(0.2)
            connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(EMPTY) + EMPTY)

    with raw_server(keeps) as port:
        endpoint = HttpEndpoint(f"http://127.0.0.1:{port}/x", timeout_s=(0.2, 0.4))
        for _ in range(6):
            endpoint.invoke([b"tile"], "image/tiff")


def compressed(body, times=1, encoding="gzip"):
    for _ in range(times):
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    return body


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (OK + b"Content-Encoding: gzip\r\n\r\n" + compressed(b" " * 2**28), "max_response_bytes"),
        (OK + b"Content-Encoding: deflate\r\n\r\n" + compressed(b" " * 2**28, encoding="zlib"), "max_response_bytes"),
        (OK + b"Content-Encoding: gzip, gzip\r\n\r\n" + compressed(b" " * 2**28, 2), "max_response_bytes"),
        (OK + b"Content-Encoding: " + b", ".join([b"gzip"] * 100) + b"\r\n\r\n" + compressed(EMPTY, 100), "did not respond"),
        (OK + b"\r\n[" + b"[]," * 2**22, "JSON values"), (OK + b"\r\n[" + b'{"a":1},' * 2**21, "JSON values"),
        (OK + b"\r\n" + b"[" * 2**22, "JSON values"), (OK + b"\r\n" + b"[" * 100_000, "nested too deeply"),
    ],
    ids=["gzip", "deflate", "gzip twice", "gzip 100 times", "empty lists", "objects", "open lists", "depth"],
)  # fmt: skip
def test_an_answer_takes_no_more_memory_than_is_allowed(reply, said):
    import tracemalloc

    with raw_server(replies(reply)) as port:
        tracemalloc.start()
        try:
            error, _ = failure(f"http://127.0.0.1:{port}/x", timeout_s=(5, 30), max_response_bytes=2**25)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert said in str(error), error
    assert peak < 2**26


def test_more_detections_than_are_allowed_are_refused():
    row = b'{"type": "Feature", "properties": {"imageBBox": [1, 2, 3, 4]}}'
    body = b'{"type": "FeatureCollection", "features": [' + b",".join([row] * 30) + b"]}"
    with raw_server(replies(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)) as port:
        url = f"http://127.0.0.1:{port}/x"
        error, _ = failure(url, max_detections=29)
        assert isinstance(error, ResponseError)
        assert "30 features, more than max_detections=29" in str(error)
        [found] = HttpEndpoint(url, max_detections=30).invoke([b"tile"], "image/tiff")
        assert len(found.detections) == 30


TOKEN = "k3yT0ken-9f8e7d"


@pytest.mark.parametrize("status", [b"HTTP/1.1 401 No\r\n", OK])
@pytest.mark.parametrize("options", [{"bearer": TOKEN}, {"headers": {"X-Api-Key": TOKEN}}, {"auth": ("me", TOKEN)}, {}])
def test_a_secret_that_a_server_repeats_is_not_quoted(status, options):
    def mirrors(connection):
        sent = b""
        while not sent.endswith(b"tile"):
            sent += connection.recv(65536)
        connection.sendall(status + b"\r\n<h1>You sent " + sent.replace(b"\r\n", b" ")[-190:])

    with raw_server(mirrors) as port:
        error, _ = failure(f"http://127.0.0.1:{port}/x?key={TOKEN}", **options)
    assert "You sent" in str(error)
    assert TOKEN not in str(error)
    assert "bWU6azN5VDBr" not in str(error)  # basic authentication


HEAD = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s"


@pytest.mark.parametrize(
    ("status", "header", "body", "said"),
    [
        (b"401 No", b"", b"", "HTTP 401 without a body"),
        (b"503 No", b"", b" \n", "HTTP 503 without a body"),
        (
            b"302 Found", b"Location: https://me:secret@login.example/?next=1\r\n", b"",
            "HTTP 302, a redirect to https://***@login.example/?next=***; redirects of tiles are not followed. Use the URL",
        ),
        (b"200 OK", b"", 99_999 * b"[", "JSON that is nested too deeply: [[["),
        (b"500 No", b"", b"\x1b[31mred\x9b1m", "HTTP 500: \\x1b[31mred"),
        (b"200 OK", b"", b"\x1b[31mred", "is not JSON (Expecting value: line 1 column 1 (char 0)): \\x1b[31mred"),
    ],
)  # fmt: skip
def test_an_error_says_what_a_server_said_and_can_be_printed(status, header, body, said):
    with raw_server(replies(HEAD % (status, len(body), header, body))) as port:
        error, _ = failure(f"http://127.0.0.1:{port}/x", timeout_s=(5, 5))
    assert said in str(error)
    assert str(error).isprintable() or "�" in str(error)
