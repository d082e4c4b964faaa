"""Fuzzer of HTTP responses: any bytes give an answer or an error of geotile's."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from misbehaving import raw_server, replies

from geotile import EndpointError, HttpEndpoint

HEADER = st.sampled_from(
    ["Retry-After", "Set-Cookie", "Location", "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "X-A", "Date"]
)  # fmt: skip
VALUE = st.binary(max_size=40) | st.sampled_from(
    ["²".encode(), b"9" * 400, b"-1", b"1e9", b"Mon, 99 Foo 99999999 99:99:99 +9999", b"http://[", b"//[::1", b"gzip, br, x", b"\xff\xfe", b"a=b; expires=never; Max-Age=x"]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=st.sampled_from([200, 302, 307, 401, 429, 503]), headers=st.lists(st.tuples(HEADER, VALUE), max_size=4), body=st.binary(max_size=60))  # fmt: skip
def test_any_bytes_of_a_response_are_an_answer_or_an_error(any_response, status, headers, body):
    any_response.reply = (
        b"HTTP/1.1 %d X\r\n" % status
        + b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
        + b"\r\n" + body
    )  # fmt: skip
    with contextlib.suppress(EndpointError):
        HttpEndpoint(any_response.url, timeout_s=(2, 2)).invoke([b"tile"], "image/tiff")


@pytest.fixture(scope="module")
def any_response():
    class Box:
        reply = b""

    box = Box()
    with raw_server(lambda connection: replies(box.reply)(connection)) as port:
        box.url = f"http://127.0.0.1:{port}/x"
        yield box
