"""Why a request received no response: each cause from a real server, resolver or file, with its retryability."""

import datetime
import errno
import http.client
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import requests
import trustme
import urllib3

from geotile import EndpointUnreachable, HttpEndpoint
from geotile.endpoints.failure_cause import failure_cause

PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY")

LINGER_0 = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # close() sends a reset


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@contextmanager
def listening(serve):
    """Call `serve(connection)` for each connection to a free port; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):  # the client hung up
                    serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def failure(url, **options):
    """Post a tile; return the error."""
    with pytest.raises(EndpointUnreachable) as caught:
        HttpEndpoint(url, **{"timeout_s": (2, 2)} | options).invoke([b"tile"], "image/tiff")
    return caught.value


def assert_cause(error, text, retryable):
    assert re.search(text, str(error)), str(error)
    assert error.retryable is retryable
    assert not error.timed_out


# --- plain HTTP ---


def read_request(connection):
    """Read a whole request: if bytes are left when the connection closes, the kernel sends a reset."""
    data = b""
    while not data.endswith(b"\r\n\r\ntile") and (part := connection.recv(65536)):
        data += part
    time.sleep(0.05)  # the client must wait for the response, not write


def reset(connection):
    read_request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)


def send(*parts):
    def serve(connection):
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return serve


def close_during_the_handshake(connection):
    connection.recv(65536)


def reset_in_the_body(connection):
    send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nxx")(connection)
    time.sleep(0.2)  # the client must read the head before the reset
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)


@pytest.mark.parametrize(
    ("serve", "text"),
    [
        (read_request, "the server closed the connection without a response"),
        (reset, "connection reset"),
        (reset_in_the_body, "connection reset"),
        (send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nxx"), "the response broke off"),
        (send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nxx"), "the response broke off"),
        (send(b"SSH-2.0-OpenSSH_9.6\r\n"), "the response is not valid HTTP"),
    ],
    ids=["closed", "reset", "reset in the body", "short body", "short chunk", "not HTTP"],
)
def test_a_broken_connection(serve, text):
    with listening(serve) as port:
        assert_cause(failure(f"http://127.0.0.1:{port}/invocations"), text, True)


def test_connection_refused():
    assert_cause(failure(f"http://127.0.0.1:{free_port()}/proxy-reset/x"), r"refused \(ConnectionError\)", True)


@pytest.mark.slow
def test_no_free_file_descriptors():
    """In a process of its own, where no other thread closes a descriptor meanwhile."""
    pytest.importorskip("resource")
    code = """
import contextlib, os, resource
from geotile import EndpointError, HttpEndpoint

def failure(endpoint):
    try:
        endpoint.invoke([b""], "image/tiff")
    except EndpointError as error:
        return error

endpoint = HttpEndpoint("http://127.0.0.1:9/x")
failure(endpoint)  # imports and the session need descriptors of their own
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
taken = []
with contextlib.suppress(OSError):
    while True:
        taken.append(os.dup(0))
error = failure(HttpEndpoint("http://127.0.0.1:9/x"))
for descriptor in taken:
    os.close(descriptor)
print(error.retryable, error.local, type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("True True EndpointError "), done.stderr
    assert "this process has no free file descriptors" in done.stdout


# --- host names ---


@pytest.mark.parametrize(
    ("code", "text", "retryable"),
    [
        (socket.EAI_AGAIN, "the host name cannot be resolved at the moment", True),
        (socket.EAI_NONAME, "the host name is unknown", False),
        (socket.EAI_NODATA, "the host name is unknown", False),
        (socket.EAI_FAIL, "the host name cannot be resolved", False),
    ],
)
def test_a_host_name_that_cannot_be_resolved(code, text, retryable, monkeypatch):
    def getaddrinfo(*args, **options):
        raise socket.gaierror(code, "a text in any language")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert_cause(failure("http://models.example/invocations"), rf"{text} \(", retryable)


def test_an_unknown_host_name():
    error = failure("http://no-such-host.invalid/invocations")
    assert re.search("the host name (is unknown|cannot be resolved)", str(error))


# --- proxies ---


def test_a_proxy_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert_cause(failure("http://models.example/invocations"), "the proxy cannot be reached", True)


def test_a_proxy_that_rejects_the_tunnel(monkeypatch):
    def reject(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with listening(reject) as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        assert_cause(failure("https://models.example/invocations"), "or it rejected the request", True)


def test_a_proxy_with_an_unknown_host_name(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://no-such-proxy.invalid:3128")

    def getaddrinfo(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert_cause(failure("http://models.example/invocations"), "the proxy's host name is unknown", False)


def test_a_proxy_url_without_a_host(monkeypatch):
    monkeypatch.setenv("http_proxy", "http:///")
    assert_cause(failure("http://models.example/invocations"), "the proxy cannot be reached", True)


# --- TLS ---


def tls_server(authority, *names, require_client=None, **issued):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **issued).configure_cert(context)
    if require_client is not None:
        require_client.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED

    def serve(connection):
        try:
            with context.wrap_socket(connection.dup(), server_side=True) as tls:
                tls.recv(65536)
        finally:
            time.sleep(0.3)  # the client must read the alert before the connection closes

    return listening(serve)


@pytest.fixture
def bundle(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("name", "days", "trusted", "text"),
    [
        ("127.0.0.1", -1, True, "certificate has expired"),
        ("127.0.0.2", 1, True, "certificate is for another host"),
        ("elsewhere.example", 1, True, "certificate is for another host"),
        ("127.0.0.1", 1, False, "certificate is not trusted; pass the file of its authority as verify"),
    ],
)
def test_a_server_certificate_that_cannot_be_used(name, days, trusted, text, authority, bundle):
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    with tls_server(authority, name, not_after=until) as port:
        error = failure(f"https://127.0.0.1:{port}/x", **({"verify": bundle} if trusted else {}))
    assert_cause(error, text, False)


def test_a_host_name_that_is_not_in_the_certificate(authority, bundle):
    with tls_server(authority, "elsewhere.example") as port:
        error = failure(f"https://localhost:{port}/x", verify=bundle)
    assert_cause(error, "certificate is for another host", False)


def test_a_client_certificate_that_is_missing(authority, bundle):
    with tls_server(authority, "127.0.0.1", require_client=authority) as port:
        error = failure(f"https://127.0.0.1:{port}/x", verify=bundle)
    assert_cause(error, "the server requires a client certificate; pass it as cert", False)


def test_a_client_certificate_of_an_unknown_authority(authority, bundle, tmp_path):
    stranger = trustme.CA().issue_cert("me@geotile.example")
    stranger.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    with tls_server(authority, "127.0.0.1", require_client=authority) as port:
        error = failure(f"https://127.0.0.1:{port}/x", verify=bundle, cert=str(tmp_path / "me.pem"))
    assert_cause(error, "TLS failed with .*UNKNOWN_CA; the server may require a client certificate", True)


def test_a_client_certificate_that_has_expired(authority, bundle, tmp_path):
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    mine = authority.issue_cert("me@geotile.example", not_after=yesterday)
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    with tls_server(authority, "127.0.0.1", require_client=authority) as port:
        error = failure(f"https://127.0.0.1:{port}/x", verify=bundle, cert=str(tmp_path / "me.pem"))
    assert_cause(error, "rejected the client certificate with .*CERTIFICATE_EXPIRED; check cert", False)


def test_a_server_without_tls(bundle):
    def answer_in_plain_text(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with listening(answer_in_plain_text) as port:
        error = failure(f"https://127.0.0.1:{port}/x", verify=bundle)
    assert_cause(error, "the server does not use TLS on this port", False)


def test_a_handshake_that_breaks_off():
    with listening(close_during_the_handshake) as port:
        assert_cause(failure(f"https://127.0.0.1:{port}/x"), "TLS failed with UNEXPECTED_EOF_WHILE_READING", True)


# --- certificate files ---


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"verify": "/nowhere/ca.pem"}, r"/nowhere/ca.pem \(verify\) does not exist"),
        ({"cert": "/nowhere/me.pem"}, r"/nowhere/me.pem \(cert\) does not exist"),
        ({"cert": (__file__, "/nowhere/me.key")}, r"/nowhere/me.key \(cert\) does not exist"),
        ({}, r"/nowhere/env.pem \(REQUESTS_CA_BUNDLE\) does not exist"),
    ],
)
def test_a_certificate_file_that_is_missing(options, text, monkeypatch):
    if not options:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/env.pem")
    assert_cause(failure("https://127.0.0.1:9/x", **options), text, False)


def test_a_certificate_file_without_a_certificate(authority, tmp_path):
    (tmp_path / "empty.pem").write_text("no certificate here")
    with tls_server(authority, "127.0.0.1") as port:
        error = failure(f"https://127.0.0.1:{port}/x", verify=str(tmp_path / "empty.pem"))
    assert_cause(error, "a certificate file contains no certificate; check verify", False)


# --- exceptions without a server ---


@pytest.mark.parametrize(
    ("error", "text", "retryable"),
    [
        (BrokenPipeError(errno.EPIPE, "x"), "connection reset", True),
        (OSError(errno.EHOSTUNREACH, "x"), "no route", True),
        (OSError(errno.ENFILE, "x"), "file descriptors", True),
        (urllib3.exceptions.ProtocolError("Connection aborted.", http.client.RemoteDisconnected("x")), "closed", True),
        (requests.exceptions.InvalidURL("x"), "URL or a header", False),
        (requests.exceptions.ContentDecodingError("x"), "ContentDecodingError", True),
    ],
)
def test_a_cause_without_a_server(error, text, retryable):
    cause = failure_cause(error)
    assert text in cause.text
    assert cause.retryable is retryable


def test_an_error_that_was_being_handled_is_not_the_cause():
    """A tile is sent alone while the failure of its batch is handled: that failure must not be reported again."""
    unknown = requests.exceptions.ConnectionError("unknown")
    unknown.__context__ = ConnectionRefusedError(errno.ECONNREFUSED, "of an earlier request")
    assert failure_cause(unknown).text == "ConnectionError"


def test_a_cycle_of_causes_ends():
    error = OSError("a")
    error.args = (OSError("b", error),)
    assert failure_cause(error).text == "OSError"


def test_no_cause_contains_the_url():
    for url in ("http://127.0.0.1:9/x?token=s3cr3t", "http://no-such-host.invalid/x?token=s3cr3t"):
        assert "s3cr3t" not in str(failure(url))
