"""The contract over real HTTP, with a server that misbehaves."""

import pickle
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
import pytest
import requests
import xarray as xr
from helpers import crowd
from web_servers import running

import geotile
from geotile import ArgumentError, EndpointError, EndpointUnreachable, HttpEndpoint, ResponseError, traffic
from geotile.testing import ModelServer
from geotile.traffic import Gate, TrafficSettings
from geotile.traffic.coordinator import Coordinator

GOOD = b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"imageBBox": [1, 2, 3, 4]}}]}'


@contextmanager
def serving(*script, ping=200):
    """Answer the n-th POST with the n-th entry, the last one for ever: (status, headers, body) or a function."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.reply(ping if self.path == "/ping" else 405, {}, b"")

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((dict(self.headers), body, time.monotonic()))
            entry = script[min(len(seen), len(script)) - 1]
            if callable(entry):
                entry(self)
            else:
                self.reply(*entry)

        def reply(self, status, headers, body):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}/invocations", seen


def broken_off(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(GOOD[:20])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def slow(handler):
    time.sleep(1.5)
    handler.reply(200, {}, GOOD)


def ask(url, **options):
    """Ask as a run does: with retries, through a gate."""
    endpoint = HttpEndpoint(url, **({"backoff_s": 0.01} | options))
    coordinator = Coordinator(TrafficSettings(concurrency=4, ready_timeout_s=20, outage_timeout_s=20))
    gate = Gate(lambda report: coordinator.update(report, time.monotonic()), endpoint.ready, endpoint.invoke, "run")
    with gate.expecting(1):
        outcome = traffic.send_with_retries(endpoint, gate, lambda: [b"tile"], "image/tiff")
    return Answer(outcome.answers[0], outcome.attempts)


class Answer(NamedTuple):
    found: object
    attempts: int


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        (408, {}, b""),
        (425, {}, b""),
        (429, {"Retry-After": "0"}, b""),
        (500, {}, b"boom"),
        (502, {}, b""),
        (503, {}, b"busy"),
        (504, {}, b""),
        broken_off,
        slow,
    ],
)
def test_what_may_pass_is_tried_again(first):
    with serving(first, (200, {}, GOOD)) as (url, seen):
        answer = ask(url, timeout_s=(5, 1))
    assert answer.attempts == len(seen) == 2
    assert answer.found.detections.boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        ((400, {}, b"no"), EndpointError, "HTTP 400: no"),
        ((413, {}, b"too large"), EndpointError, "HTTP 413"),
        ((422, {}, b"no such bands"), EndpointError, "HTTP 422: no such bands"),
        ((200, {}, b"<html>a proxy's page"), ResponseError, "not JSON.*<html>a proxy"),
        ((200, {}, b'{"type": "FeatureCollection"}'), ResponseError, "must have a list of features"),
        ((302, {"Location": "http://elsewhere.example/"}, b""), EndpointError, "HTTP 302"),
    ],
)
def test_what_will_not_pass_is_not(reply, error, said):
    with serving(reply) as (url, seen), pytest.raises(error, match=said) as caught:
        ask(url)
    assert len(seen) == caught.value.attempts == 1


@pytest.mark.slow
def test_retries_end_and_are_counted():
    with serving((500, {}, b"boom")) as (url, seen), pytest.raises(EndpointError, match="HTTP 500: boom") as caught:
        ask(url, retries=3)
    assert len(seen) == caught.value.attempts
    assert len(seen) >= 4  # nobody else was answered: it was tried more often, alone
    with serving((500, {}, b"boom")) as (url, seen), pytest.raises(EndpointError, match="HTTP 500: boom"):
        ask(url, retries=0)
    assert len(seen) == 1


@pytest.mark.slow
def test_retry_after_is_honoured():
    with serving((429, {"Retry-After": "1"}, b""), (200, {}, GOOD)) as (url, seen):
        ask(url)
    assert seen[1][2] - seen[0][2] >= 1


def test_a_body_without_end_is_cut_off():
    with (
        serving((200, {}, b" " * 200_000 + GOOD)) as (url, _),
        pytest.raises(ResponseError, match="max_response_bytes"),
    ):
        ask(url, max_response_bytes=100_000)


def test_headers_params_and_auth_arrive():
    with serving((200, {}, GOOD)) as (url, seen):
        ask(
            url.replace("127.0.0.1", "me:s%40cret@127.0.0.1"), headers={"X-Key": "k"},
            params={"CustomAttributes": "a=1", "TargetModel": "m"},
        )  # fmt: skip
    sent, body, _ = seen[0]
    assert sent["Authorization"] == "Basic bWU6c0BjcmV0"
    assert (sent["X-Key"], sent["X-Amzn-SageMaker-Custom-Attributes"], sent["TargetModel"]) == ("k", "a=1", "m")
    assert (sent["Content-Type"], body) == ("image/tiff", b"tile")


def test_connections_are_kept():
    peers = set()

    def note(handler):
        peers.add(handler.client_address)
        handler.reply(200, {}, GOOD)

    with serving(note) as (url, _):
        endpoint = HttpEndpoint(url)
        for _ in range(5):
            pickle.loads(pickle.dumps(endpoint)).invoke([b"tile"], "image/tiff")
    assert len(peers) == 1


def test_no_secret_shows():
    url = "http://me:hunter2@127.0.0.1:9/invocations?token=s3cr3t"
    endpoint = HttpEndpoint(url, retries=0, headers={"Authorization": "Bearer t0ps"})
    with pytest.raises(EndpointUnreachable) as ping:
        endpoint.ready()
    with pytest.raises(EndpointUnreachable) as post:
        endpoint.invoke([b""], "image/tiff")
    shown = f"{endpoint!r} {endpoint} {ping.value!r} {post.value!r}"
    assert "refused" in shown
    for secret in ("hunter2", "s3cr3t", "t0ps"):
        assert secret not in shown


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://host:99999/x", "/invocations", "http://host:x/"])
def test_a_wrong_url_is_named(url):
    with pytest.raises(ArgumentError, match=r"endpoint must be an HTTP\(S\) URL"):
        HttpEndpoint(url)


def test_an_unknown_option_is_named():
    with pytest.raises(ArgumentError, match="timeout"):
        HttpEndpoint("http://host/x", timeout=3)


@pytest.mark.slow
def test_an_endpoint_that_is_not_there_is_found_out_before_the_run():
    image = xr.DataArray(np.zeros((1, 64, 64), np.uint8), dims=("band", "y", "x"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointUnreachable, match="connection refused"):
        geotile.detect(image, f"http://127.0.0.1:{port}/invocations", ready_timeout_s=0.3)
    with pytest.raises(EndpointUnreachable, match="host name is unknown"):
        geotile.detect(image, "http://no-such-host.invalid/invocations")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server), pytest.raises(EndpointError, match="check the URL"):
        geotile.detect(image, f"http://127.0.0.1:{server.server_port}/wrong")


def test_tls_is_verified_and_a_private_authority_can_be_named(tmp_path):
    import ssl

    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ModelServer(crowd) as server:
        server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(
            EndpointUnreachable, match="certificate is not trusted; pass the file of its authority as verify"
        ):
            HttpEndpoint(url).ready()
        with pytest.raises(EndpointUnreachable, match="certificate"):
            HttpEndpoint(url).invoke([b""], "image/tiff")
        HttpEndpoint(url, verify=str(tmp_path / "ca.pem")).ready()
        image = xr.DataArray(np.zeros((1, 64, 64), np.uint8), dims=("band", "y", "x"))
        found = geotile.detect(image, url, verify=str(tmp_path / "ca.pem"))
        assert found.attrs["report"].status == "SUCCESS"


@pytest.mark.slow
def test_over_http_as_in_process(write_tiff, noise):
    path, job = write_tiff(noise), {"tile_size": 64, "overlap": 16, "region_size": 128}
    local = geotile.detect(path, crowd, **job)
    for tile_format in ("GTIFF", "NITF", "PNG", "NPY"):
        with ModelServer(crowd) as server:
            found = geotile.detect(path, server.url, tile_format=tile_format, **job)
            report = found.attrs["report"]
            assert report.requests == server.requests == report.tiles
        box = ["xmin", "ymin", "xmax", "ymax", "score", "label"]
        assert found[box].equals(local[box])


@pytest.mark.slow
def test_each_bad_answer_fails_its_tile_alone(noise):
    image = xr.DataArray(noise, dims=("band", "y", "x"))
    script = [
        (400, {}, b"no"), (200, {}, b"text"), (200, {}, b'{"type": "FeatureCollection"}'), (422, {}, b""),
        (413, {}, b""), (200, {}, b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"imageBBox": [0, 0, NaN, 1]}}]}'),
        (200, {}, GOOD.replace(b"[1, 2, 3, 4]", b"[5, 2, 3, 4]")), (200, {}, GOOD.replace(b"[1, 2, 3, 4]", b"[9000, 0, 9010, 9]")),
        (503, {"Retry-After": "0"}, b""), (200, {}, GOOD),
    ]  # fmt: skip
    with serving(*script) as (url, seen), pytest.warns(UserWarning, match="8 of 54 tiles failed"):
        found = geotile.detect(image, url, tile_size=64, overlap=16, concurrency=1, merge=None, backoff_s=0.01)
    report = found.attrs["report"]
    assert (report.tiles, report.requests, report.retries, report.throttled) == (54, 55, 1, 1)
    assert report.status == "PARTIAL"
    assert len(report.failures) == 8
    assert len(found) == 54 - 8
    assert len(seen) == 55


def test_no_more_requests_in_flight_than_asked_for(noise):
    image = xr.DataArray(noise, dims=("band", "y", "x")).chunk(y=64, x=64)
    flying, most, lock = 0, 0, threading.Lock()

    def model(tile):
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.01)
        with lock:
            flying -= 1
        return [], []

    with ModelServer(model) as server:
        geotile.detect(image, server.url, tile_size=32, overlap=0, concurrency=5, region_size=64)
    assert most == 5


def test_a_bearer_goes_before_a_netrc_and_cookies_stick(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving((200, {"Set-Cookie": "AWSALB=replica-3; Path=/"}, GOOD)) as (url, seen):
        endpoint = HttpEndpoint(url, bearer="t0ken")
        for _ in range(2):
            endpoint.invoke([b"tile"], "image/tiff")
        HttpEndpoint(url, headers={"Authorization": "Key k"}).invoke([b"tile"], "image/tiff")
    assert [sent["Authorization"] for sent, _, _ in seen] == ["Bearer t0ken", "Bearer t0ken", "Key k"]
    assert [sent.get("Cookie") for sent, _, _ in seen] == [None, "AWSALB=replica-3", None]
    with pytest.raises(ArgumentError, match="pass one of them"):
        HttpEndpoint(url.replace("127", "me:pw@127"), bearer="t0ken")


def test_any_auth_of_requests_is_taken():
    from requests.auth import HTTPDigestAuth

    def challenge(handler):
        handler.reply(401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}, b"")

    with serving(challenge, (200, {}, GOOD)) as (url, seen):
        endpoint = HttpEndpoint(url, auth=HTTPDigestAuth("me", "pw"))
        endpoint.invoke([b"tile"], "image/tiff")
        endpoint.invoke([b"next"], "image/tiff")
    assert seen[1][0]["Authorization"].startswith('Digest username="me"')
    assert [body for _, body, _ in seen] == [b"tile", b"tile", b"next"]


def test_the_newest_cookie_is_sent():
    """A load balancer moves a client to another node by a new cookie; one that was deleted is sent no more."""

    def node(number):
        return 200, {"Set-Cookie": f"node={number}; Path=/"}, GOOD

    gone = 200, {"Set-Cookie": "node=; Path=/; Max-Age=0"}, GOOD
    with serving(node(1), node(2), gone, (200, {}, GOOD)) as (url, seen):
        endpoint = HttpEndpoint(url)
        endpoint.ready()
        for _ in range(4):
            endpoint.invoke([b"tile"], "image/tiff")
    assert [sent.get("Cookie") for sent, _, _ in seen] == [None, "node=1", "node=2", None]


def test_cookies_of_a_challenge_are_kept():
    from requests.auth import HTTPDigestAuth

    def challenge(handler):
        challenged = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"', "Set-Cookie": "session=1; Path=/"}
        handler.reply(401, challenged, b"")

    with serving(challenge, (200, {}, GOOD)) as (url, seen):
        endpoint = HttpEndpoint(url, auth=HTTPDigestAuth("me", "pw"))
        for _ in range(2):
            endpoint.invoke([b"tile"], "image/tiff")
    assert [sent.get("Cookie") for sent, _, _ in seen] == [None, "session=1", "session=1"]


@pytest.mark.parametrize("fails", ["raise", "none"])
def test_an_auth_that_fails_is_blamed_at_once(fails):
    def auth(request):
        if fails == "raise":
            raise KeyError("MY_TOKEN is not set")

    with serving((200, {}, GOOD)) as (url, seen):
        endpoint = HttpEndpoint(url, auth=auth, retries=0)
        with pytest.raises(EndpointError, match="no request can be sent, since the auth raised") as caught:
            endpoint.ready()
        assert not isinstance(caught.value, EndpointUnreachable)
        with pytest.raises(EndpointError, match="MY_TOKEN" if fails == "raise" else "NoneType"):
            endpoint.invoke([b"tile"], "image/tiff")
    assert not seen


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    with serving((200, {}, GOOD)) as (url, seen):
        monkeypatch.setenv("HTTP_PROXY", url.rpartition("/")[0])
        monkeypatch.setenv("NO_PROXY", "inside.example")
        HttpEndpoint("http://model.example/invocations").invoke([b"tile"], "image/tiff")
        assert seen[0][0]["Host"] == "model.example"
        with pytest.raises(EndpointUnreachable):
            HttpEndpoint("http://inside.example:9/x", timeout_s=(1, 1)).invoke([b"tile"], "image/tiff")
    assert len(seen) == 1


def test_only_who_asks_for_buffers_gets_them(write_tiff):
    """Models of users get bytes; an auth that signs them gets bytes too."""
    seen = []

    class Mine(geotile.Endpoint):
        remote = False

        def invoke(self, tiles, content_type):
            seen.extend(map(type, tiles))
            return [([], []) for _ in tiles]

    class Signing(requests.auth.AuthBase):
        def __call__(self, request):
            if request.body is not None:
                seen.append(type(request.body))
            return request

    path = write_tiff(np.zeros((3, 64, 64), np.uint8))
    job = {"tile_size": 64, "overlap": 0, "skip_nodata": False}
    geotile.detect(path, Mine(), **job)
    with ModelServer(lambda tile: ([], [])) as server:
        geotile.detect(path, server.url, auth=Signing(), **job)
        assert set(seen) == {bytes}
        geotile.detect(path, server.url, **job)


@pytest.mark.parametrize("status", [404, 501])
def test_a_server_that_knows_no_ping_is_asked(status):
    """Python's own server answers 501 to each method that its handler does not have."""
    with serving((200, {}, GOOD), ping=status) as (url, _):
        HttpEndpoint(url, retries=0).ready()
