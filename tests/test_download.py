"""Models and STAC items that a request names: read within a time, up to a size, and from no place that it may not name."""

import gzip
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.retries.standard import ExponentialBackoff
from misbehaving import raw_server
from test_deadline import DRIPS
from web_servers import file_of, redirecting, serving

import geotile
from geotile.core import internal_hosts
from geotile.detectors import onnx
from geotile.imagery import stac
from geotile.options import ServiceOptions
from geotile.service import notifications, outputs, sqs
from geotile.service.permissions import Permissions
from geotile.service.request import JobRequest
from geotile.storage import aws, download, folder
from geotile.storage.download import read_whole

pytestmark = pytest.mark.slow
SLOW = ["headers", "body", "body without a length", "chunks", "header of gzip", "nothing"]


def answering(content, *headers):
    def answer(handler):
        handler.send_response(200)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    return answer


@pytest.mark.parametrize("name", SLOW)
def test_a_download_has_a_deadline(name):
    started = time.monotonic()
    with raw_server(DRIPS[name]) as port, pytest.raises((OSError, TimeoutError)):
        read_whole(f"http://127.0.0.1:{port}/x", 2**20, 0.5)
    assert time.monotonic() - started < 5


def test_a_download_has_a_limit(tmp_path):
    bomb = gzip.compress(bytes(2**24))
    for answer in (answering(bytes(2**21)), answering(bomb, ("Content-Encoding", "gzip"))):
        with serving(answer) as (url, _), pytest.raises(OSError, match="has more than 1,048,576 bytes"):
            read_whole(f"{url}/x", 2**20, 10)
    (tmp_path / "large").write_bytes(bytes(2**21))
    (tmp_path / "whole").write_bytes(b"whole")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    assert read_whole(str(tmp_path / "whole"), 5, 1) == b"whole"
    for name, said in (("large", "more than"), ("pipe", "regular"), ("link", "regular"), (".", "regular")):
        with pytest.raises(OSError, match=said):
            read_whole(str(tmp_path / name), 2**20, 1)


def stranger(monkeypatch):
    """Take ``localhost`` for a host outside."""
    real = internal_hosts.internal_address
    for module in (download, __import__("geotile.service.permissions", fromlist=["permissions"])):
        monkeypatch.setattr(module, "internal_address", lambda host: None if host == "localhost" else real(host))


def test_a_redirect_does_not_lead_inside(monkeypatch):
    stranger(monkeypatch)
    with serving(answering(b"role-credentials")) as (inside, seen):
        with serving(redirecting(f"{inside}/latest")) as (url, _):
            assert read_whole(f"{url}/x", 100, 5) == b"role-credentials"  # it lies inside itself
            seen.clear()
            with pytest.raises(OSError, match="inside this machine or its cloud"):
                read_whole(f"{url.replace('127.0.0.1', 'localhost')}/x", 100, 5)
            with pytest.raises(geotile.ArgumentError, match="inside this machine or its cloud"):
                geotile.endpoint(f"onnx:{url.replace('127.0.0.1', 'localhost')}/x")
        with serving(redirecting("file:///etc/passwd")) as (url, _), pytest.raises(OSError, match="which is not read"):
            read_whole(f"{url}/x", 100, 5)
        with serving(redirecting("/again")) as (url, _), pytest.raises(OSError, match="more than 10 redirects"):
            read_whole(f"{url}/x", 100, 5)
    assert seen == []


def test_no_login_of_a_netrc_file_goes_to_whom_a_request_names(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(answering(b"a")) as (url, got):
        assert read_whole(f"{url}/x", 100, 5) == b"a"
        read_whole(f"{url.replace('//', '//me:mine@')}/x", 100, 5)
    assert [headers.get("Authorization") for _, _, headers in got] == [None, "Basic bWU6bWluZQ=="]


def test_a_model_of_a_request_is_not_redirected_to_what_is_not_allowed(monkeypatch):
    stranger(monkeypatch)
    with serving(answering(b"")) as (inside, seen), serving(redirecting(f"{inside}/x")) as (url, _):
        url = url.replace("127.0.0.1", "localhost")
        said = {
            "jobId": "a", "imageUrls": ["/a.tif"], "outputs": [{"type": "S3", "bucket": "bbb", "prefix": "p"}],
            "imageProcessor": {"name": f"onnx:{url}/m.onnx", "type": "GEOTILE_ENDPOINT"},
        }  # fmt: skip
        request = JobRequest.parse(json.dumps(said))
        for allowed in ([f"onnx:{url}/"], None):
            permissions = Permissions.of(ServiceOptions(allow_endpoints=allowed), True)
            with pytest.raises(geotile.ArgumentError, match=r"imageProcessor\.name, redirected"):
                permissions.check(request)
    assert seen == []


def test_models_and_items_do_not_wait_for_ever(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx, "_TOTAL_S", 0.5)
    monkeypatch.setattr(stac, "_TOTAL_S", 0.5)
    os.mkfifo(tmp_path / "item.json")
    started = time.monotonic()
    with raw_server(DRIPS["body"]) as port:
        with pytest.raises(geotile.ArgumentError, match="cannot be read"):
            geotile.endpoint(f"onnx:http://127.0.0.1:{port}/m.onnx")
        with pytest.raises(geotile.ImageOpenError, match="no complete answer") as late:
            geotile.open_image(f"http://127.0.0.1:{port}/item.json", asset="a")
    assert late.value.retryable
    for item in (tmp_path / "item.json", "/dev/zero"):
        with pytest.raises(geotile.ImageOpenError, match="not a regular file"):
            geotile.open_image(item, asset="a")
    assert time.monotonic() - started < 10


def test_an_item_over_http_has_relative_assets(write_tiff, noise, tmp_path):
    path = write_tiff(noise)
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "i", "geometry": None, "links": [], "properties": {"datetime": "2024-01-01T00:00:00Z"},
        "assets": {"b": {"href": f"./{os.path.basename(path)}"}},
    }  # fmt: skip
    local = os.path.join(os.path.dirname(path), "item.json")
    with open(local, "w") as file:
        json.dump(item, file)
    assert geotile.open_image(local, asset="b").shape == noise.shape
    with serving(lambda handler: file_of(path if handler.path.endswith(".tif") else local)(handler)) as (url, _):
        assert geotile.open_image(f"{url}/item.json", asset="b").shape == noise.shape


def test_folders_and_clients_of_aws_have_a_deadline(monkeypatch):
    monkeypatch.setattr(folder, "_TOTAL_S", 0.7)
    for module, name in ((sqs, "_CALL_S"), (notifications, "_SNS_S"), (outputs, "_KINESIS_S"), (aws, "_STS_S")):
        monkeypatch.setattr(module, name, 0.7)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)  # SQS is asked five times
    with raw_server(DRIPS["body"]) as port:
        url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        place = folder.Folder.at("s3://bbb/state", {"endpoint_url": url, "skip_instance_cache": True})
        calls = {
            "read": lambda: place.read("a.json"), "sqs": lambda: sqs.SqsQueue(f"{url}/1/q", check=False).receive(1, 1.0),
            "sns": lambda: notifications._Topic.at("sns://arn:aws:sns:us-west-2:1:t").client.publish(TopicArn="t", Message="m"),
            "kinesis": lambda: outputs.kinesis_client(None).list_streams(),
            "sts": lambda: aws.resolve(None, "arn:aws:iam::123456789012:role/r"),
        }  # fmt: skip
        started = time.monotonic()
        with ThreadPoolExecutor(len(calls)) as pool:  # all at once, as each waits
            futures = {name: pool.submit(call) for name, call in calls.items()}
        for name, future in futures.items():
            error = future.exception()
            assert error is not None, name
            assert re.search(r"\w", str(error)), name
        assert time.monotonic() - started < 60
