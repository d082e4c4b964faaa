"""The Open Inference Protocol against KServe's own server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import bordered, means, noise
from web_servers import running

import geotile
from geotile import ArgumentError, EndpointError, ResponseError
from geotile.endpoints.oip_tensors import read_response


@pytest.fixture(scope="module")
def kserve(tmp_path_factory):
    pytest.importorskip("kserve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("kserve") / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("kserve_model.py"), str(port)],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}/v2/models/bright"
    for _ in range(600):
        try:
            if requests.get(f"{url}/ready", timeout=1).ok:
                break
        except requests.RequestException:
            assert server.poll() is None, Path(log.name).read_text()
            time.sleep(0.1)
    yield f"oip+{url}"
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    log.close()


@pytest.fixture
def image():
    """Four tiles of 64 px, three with a bright rectangle."""
    pixels = np.zeros((3, 128, 128), np.uint8)
    for y, x in ((10, 20), (80, 30), (90, 100)):
        pixels[:, y : y + 12, x : x + 20] = 255
    return xr.DataArray(pixels, dims=("band", "y", "x"))


@pytest.mark.slow
@pytest.mark.parametrize(("binary", "batch_size"), [(None, None), (True, 3), (False, 1)])
def test_tensors_go_and_come(kserve, image, binary, batch_size):
    found = geotile.detect(
        image, kserve, binary=binary, batch_size=batch_size, tile_size=64, overlap=0, merge=None, score_threshold=0.5
    )
    boxes = found[["xmin", "ymin", "xmax", "ymax"]].to_numpy().tolist()
    assert sorted(boxes) == [[20, 10, 40, 22], [30, 80, 50, 92], [100, 90, 120, 102]]
    report = found.attrs["report"]
    assert report.requests == {None: 1, 3: 2, 1: 4}[batch_size]
    assert (report.status, set(found["score"])) == ("SUCCESS", {0.75})
    assert set(found["label"]) <= {"1", "3", "4"}  # the model says how many came together


@pytest.mark.parametrize(("binary", "batch_size"), [(None, None), (True, 3), (False, 2)])
def test_rasters_and_vectors_are_those_of_a_function(kserve, binary, batch_size):
    image = xr.DataArray(noise(5, (3, 90, 100)), dims=("band", "y", "x"))
    spec, job = kserve.replace("bright", "encoder"), {"tile_size": 48, "overlap": 16}
    options = job | {"binary": binary, "batch_size": batch_size}
    found = geotile.predict(image, spec, output="scores", output_names={"output": "scores"}, **options)
    np.testing.assert_array_equal(found, geotile.predict(image, bordered, output="scores", **job))
    vectors = geotile.embed(image, spec, output_names={"output": "vectors"}, **options)["embedding"]
    np.testing.assert_array_equal(np.stack(vectors), np.stack(geotile.embed(image, means, **job)["embedding"]))


def test_a_tile_of_another_size_is_resized_and_the_boxes_are_its_own(kserve):
    tile = np.zeros((3, 128, 256), np.uint8)
    tile[:, 20:40, 60:100] = 255
    boxes, _, _ = geotile.endpoint(kserve).for_run().invoke([tile], "")[0]
    np.testing.assert_allclose(boxes, [[60, 20, 100, 40]], atol=4)


def test_check_names_what_is_wrong(kserve):
    assert geotile.endpoint(kserve).check()
    missing = geotile.endpoint(kserve.replace("bright", "dim")).check()
    assert "HTTP 404" in missing.message
    assert "output_names" in geotile.endpoint(kserve, output_names={"boxes": "b"}).check().message
    with pytest.raises(ArgumentError, match="endpoint must name a model"):
        geotile.endpoint("oip+http://127.0.0.1:9/bright")
    with pytest.raises(EndpointError, match="connection refused"):
        geotile.endpoint("oip+http://127.0.0.1:9/v2/models/bright").ready()
    with pytest.raises(ArgumentError, match="unknown option 'colour'"):
        geotile.endpoint(kserve, colour="red")
    assert "hunter2" not in repr(geotile.endpoint(kserve.replace("127", "me:hunter2@127")))


def test_a_server_that_stumbles_over_binary_is_sent_json(kserve, image):
    """MLServer 1.7 answers 500 to the binary extension; here a proxy in front of KServe does."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    kinds = []

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path.endswith("/config"):  # Triton's extension, which KServe's server has not
                self.send_response(200)
                self.send_header("Content-Length", "21")
                self.end_headers()
                self.wfile.write(b'{"max_batch_size": 3}')
                return
            self.reply(requests.get(back + self.path, timeout=5))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kinds.append(self.headers["Content-Type"])
            if kinds[-1] != "application/json":
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.reply(requests.post(back + self.path, data=body, headers={"Content-Type": kinds[-1]}, timeout=5))

        def reply(self, answer):
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *args):
            pass

    back = kserve.removeprefix("oip+").partition("/v2")[0]
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    with running(proxy):
        spec = f"oip+http://127.0.0.1:{proxy.server_port}/v2/models/bright"
        assert geotile.endpoint(spec).for_run().batch_size == 3
        found = geotile.detect(image, spec, tile_size=64, overlap=0, batch_size=1, score_threshold=0.5, concurrency=1)
    assert len(found) == 3
    assert kinds == ["application/octet-stream", *["application/json"] * 4]


GOOD = {"outputs": [{"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}


def test_a_binary_answer_is_read():
    head = json.dumps(GOOD).encode()
    body = head + np.array([1, 2], "<f4").tobytes()
    assert read_response(body, str(len(head)))["a"].tolist() == [1, 2]
    for wrong in (body[:-1], body[: len(head)], b"", b"[]", b'{"outputs": 3}', b"<html>"):
        with pytest.raises(ResponseError, match="does not follow the Open Inference Protocol"):
            read_response(wrong, str(len(head)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["outputs", "name", "datatype", "shape", "data", "parameters", "binary_data_size"]), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300)
@given(
    st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()),
    st.none() | st.text(max_size=3) | st.integers(-2, 90).map(str),
)
def test_any_bytes_give_arrays_or_a_response_error(body, length):
    try:
        found = read_response(body, length)
    except ResponseError:
        return
    assert all(isinstance(value, np.ndarray) for value in found.values())
