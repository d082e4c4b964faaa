"""What requests may name is the operator's choice, however it is written."""

from __future__ import annotations

import json

import pystac
import pytest
from aws import aws
from helpers import cli, crowd
from service_process import request as whole_request
from web_servers import file_of, redirecting, serving

import geotile
from geotile.core.internal_hosts import internal_address
from geotile.service.admission import is_permanent
from geotile.service.permissions import Permissions
from geotile.service.request import JobRequest
from geotile.storage.place import Place
from geotile.testing import ModelServer

QUICK = {"once": True, "max_attempts": 1, "endpoint_options": {"retries": 0, "ready_timeout_s": 1}}


def request(image, url, output, job_id="a", kind="HTTP_ENDPOINT", **more):
    return whole_request(job_id, image, url, [output], **more) | {"imageProcessor": {"name": url, "type": kind}}


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("https://host/a/b", "https://host/a"), ("https://host/a", "https://host/a"), ("https://host/a/", "https://host/a"),
        ("https://HOST/a", "https://host"), ("HTTPS://host:443/a", "https://host/"), ("https://host./a", "https://host"),
        ("https://me:secret@host/a", "https://host/a"), ("https://host/%61/b?x=1#y", "https://host/a/"),
        ("https://host/b/../a/c", "https://host/a"), ("https://host/b/%2E%2e/a/c", "https://host/a"),
        ("https://host/a/x//y", "https://host/a"), ("http://[::1]:80/a", "http://[::1]/a"),
        ("s3://bucket/a/b.tif", "s3://bucket/a"), ("s3://bucket", "s3://"), ("sagemaker://planes", "sagemaker://planes"),
        ("sagemaker://planes", "sagemaker://"), ("oip+http://h/v2/models/m", "oip+http://h"), ("kinesis://s", "kinesis://s"),
        ("/data/a.tif", "/data"), ("/data/../data/x/a b.tif", "/data/"), ("file:///data/a%20b", "/data"), ("/a", "/"),
        ("onnx:/models/a.onnx", "onnx:/models"), ("onnx:s3://b/a.onnx", "onnx:s3://b"),
    ],
)  # fmt: skip
def test_what_lies_below_a_prefix(text, prefix):
    assert Place.of(text).below(Place.of(prefix))


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("https://host.evil.com/a", "https://host"), ("https://hostile/a", "https://host"), ("https://host@evil.com/a", "https://host"),
        ("https://host:443@evil.com/", "https://host"), ("https://evil.com/https://host/", "https://host"),
        ("https://evil.com#@host/", "https://host"), ("https://evil.com?@host/", "https://host"),
        ("http://host/a", "https://host"), ("https://host:444/a", "https://host"), ("https://host/ab", "https://host/a"),
        ("https://host/a/../b", "https://host/a"), ("https://host/a/%2e%2e/b", "https://host/a"), ("https://host/a/%2E./b", "https://host/a"),
        ("https://host/a/..%2fb", "https://host/a"), ("https://host/a%2f..%2fb", "https://host/a"), ("https://host/a//../b", "https://host/a"),
        ("https://host/b/..//a/x", "https://host/a"), ("https://host//a", "https://host/a"), ("https://host/x%2f..%2fa/y", "https://host/a"),
        ("https://host/A", "https://host/a"), ("https://host", "https://host/a"), ("https://host/%2561", "https://host/a"),
        ("s3://bucket-evil/a", "s3://bucket"), ("s3://bucket/ab", "s3://bucket/a"), ("s3://bucket/a/../b", "s3://bucket/a"),
        ("s3://BUCKET/a", "s3://bucket"), ("sagemaker://planes2", "sagemaker://planes"), ("s3://bucket/a", "gs://bucket"),
        ("/data2/a.tif", "/data"), ("/data/../etc/passwd", "/data"), ("file:///data/%2e%2e/etc", "/data"), ("data/a", "/data"),
        ("onnx:/models/../etc/x", "onnx:/models"), ("/models/a.onnx", "onnx:/models"), ("onnx:https://evil.com", "onnx:/"),
    ],
)  # fmt: skip
def test_what_only_looks_as_if_it_lay_below_a_prefix(text, prefix):
    assert not Place.of(text).below(Place.of(prefix))


@pytest.mark.parametrize(
    "text",
    [
        "https://host\\@evil.com/", "https://evil.com\\.host/", "https://ho st/", "https://host\t/", "https://host:port/", "https://host:99999/",
        "https://hóst/", "https://１２７.0.0.1/", "https://%68ost/", "https://[::1/", "/vsicurl/https://host/a.tif", "/vsizip//vsicurl/http://h/a.zip",
        "/vsicurl?url=http%3A%2F%2Fhost", "GTIFF_DIR:1:/vsis3/b/k", "GTIFF_DIR:1:https://host/a", "https:/host/a", "https:host/a",
        "simplecache::https://host/a.zarr", "zip://a::https://host/x", "file://host/a",
        "http:///127.0.0.1/x", "HTTP:////127.0.0.1/x", "https://", "http://@/x", "http://:80/x", "oip+http:///127.0.0.1/x", "onnx:https:///127.0.0.1/x",
    ],
)  # fmt: skip
def test_what_programs_read_in_different_ways_is_no_place(text):
    with pytest.raises(geotile.ArgumentError):
        Place.of(text)


def test_links_do_not_lead_out_of_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    allowed = Place.of(str(tmp_path / "in"))
    assert not Place.of(str(tmp_path / "in" / "link" / "a.tif")).below(allowed)
    assert Place.of(str(tmp_path / "in" / "loop" / "a.tif")).below(allowed)
    assert Place.of(str(tmp_path / "in" / "link" / "in" / "a.tif")).below(allowed)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.9.8.7", "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.1", "0", "0.0.0.0", "localhost", "LOCALHOST",
        "localhost.", "127.0.0.1.", "::1", "[::1]", "::", "[::ffff:127.0.0.1]", "::ffff:a9fe:a9fe", "169.254.169.254", "2852039166",
        "169.254.170.2", "fe80::1", "[fe80::1%25lo]", "fe80::1%lo", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fd00:ec2::254", "168.63.129.16",
    ],
)  # fmt: skip
def test_addresses_inside(host):
    assert internal_address(host) is not None


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "169.253.0.1", "128.0.0.1", "::ffff:10.0.0.1"]
)
def test_addresses_outside(host):
    assert internal_address(host) is None


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".example", ""])
def test_nobody_knows_where_a_name_leads_that_cannot_be_resolved(host):
    with pytest.raises(OSError, match=r"\w"):
        internal_address(host)


def refusal(fields, **options):
    """Why a request is refused; empty if it is not."""
    said = request("/data/a.tif", "https://192.0.2.1/x", {"type": "File", "path": "/out"}) | fields
    remote = options.pop("from_network", False)
    try:
        Permissions.of(geotile.service.ServiceOptions(**options), remote).check(JobRequest.parse(json.dumps(said)))
    except geotile.ArgumentError as error:
        return str(error)
    return ""


MODEL = "imageProcessor"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({MODEL: {"name": "https://evil.com/", "type": "HTTP_ENDPOINT"}}, "imageProcessor.name names 'https://evil.com/', which this service does not allow"),
        ({MODEL: {"name": "planes"}}, "--allow-endpoint PREFIX"), ({MODEL: {"name": "onnx:/data/x", "type": "GEOTILE_ENDPOINT"}}, "--allow-endpoint PREFIX"),
        ({"imageUrls": ["/data/a.tif", "/data/../etc/x.tif"]}, "imageUrls[1] names '/data/../etc/x.tif', which this service does not allow"),
        ({"imageUrls": ["https://data/a.tif?token=hush"]}, "--allow-image PREFIX"), ({"imageUrls": ["/vsis3/other/a.tif"]}, "--allow-image PREFIX"),
        ({"imageUrls": ["/vsicurl/https://data/a.tif"]}, "names what this service cannot check"),
        ({"geotile": {"dem": "/etc/dem.tif"}}, "geotile.dem names '/etc/dem.tif'"),
        ({"outputs": [{"type": "File", "path": "/out/../x"}]}, "--allow-output PREFIX"), ({"outputs": [{"type": "S3", "bucket": "found2"}]}, "outputs[0] names 's3://found2/a.geojson'"),
        ({"outputs": [{"type": "Kinesis", "stream": "other"}]}, "outputs[0] names 'kinesis://other'"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_the_flag(fields, text):
    allowed = {
        "allow_endpoints": ["https://192.0.2.1/"], "allow_images": ["/data", "s3://imagery"],
        "allow_outputs": ["/out", "s3://found", "kinesis://found"],
    }  # fmt: skip
    reason = refusal(fields, **allowed)
    assert text in reason
    assert "hush" not in reason
    assert refusal({}, **allowed) == refusal(fields) == ""
    good = {
        "imageUrls": ["s3://imagery/a.tif", "/vsis3/imagery/b.tif"], "geotile": {"dem": "/data/dem.tif"},
        "outputs": [{"type": "S3", "bucket": "found", "prefix": "x"}, {"type": "Kinesis", "stream": "found"}],
    }  # fmt: skip
    assert refusal(good, **allowed) == ""


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "http://2852039166/x", "https://[::ffff:169.254.169.254]/x", "http://localhost./x", "http://me@127.1:80/x"]
)  # fmt: skip
def test_requests_of_others_name_no_host_inside(url):
    model = {MODEL: {"name": url, "type": "HTTP_ENDPOINT"}}
    for fields, flag in ((model, "--allow-endpoint"), ({"imageUrls": [url]}, "--allow-image"), ({"geotile": {"dem": url}}, "--allow-image")):  # fmt: skip
        reason = refusal(fields, from_network=True)
        assert "inside this machine or its cloud" in reason
        assert flag in reason
    assert (
        "169" in refusal({MODEL: {"name": f"oip+{url}/v2/models/m", "type": "GEOTILE_ENDPOINT"}}, from_network=True)
        or "169" not in url
    )
    assert (
        refusal(model)
        == refusal(model, from_network=True, allow_endpoints=[url])
        == refusal({}, from_network=True)
        == ""
    )
    assert "cannot check" in refusal({"imageUrls": [f"/vsicurl/{url}"]}, from_network=True)
    assert refusal({"imageUrls": ["/vsis3/imagery/a.tif"]}, from_network=True) == ""


@pytest.mark.parametrize(
    "url", ["http:///127.0.0.1/x.tif", "HTTP:///localhost/x.tif", "/vsicurl/http:////127.0.0.1/x.tif"]
)
def test_a_url_without_a_host_is_no_way_around(url):
    """curl skips slashes until it finds a host; urlsplit finds none."""
    for fields in ({"imageUrls": [url]}, {"geotile": {"dem": url}}):
        assert "names what this service cannot check" in refusal(fields, from_network=True)
        assert "names what this service cannot check" in refusal(
            fields, allow_images=["http://", "/"], allow_endpoints=["http://", "https://"]
        )
    with pytest.raises(geotile.ArgumentError, match="must have a host after two slashes"):
        geotile.open_image(url)


def test_a_host_that_cannot_be_resolved_is_tried_again():
    fields = {"imageUrls": ["https://nowhere.invalid/x.tif"]}
    assert refusal(fields) == refusal(fields, allow_images=["https://nowhere.invalid"], from_network=True) == ""
    said = request("https://nowhere.invalid/x.tif", "https://192.0.2.1/x", {"type": "File", "path": "/out"})
    with pytest.raises(geotile.ServiceError, match="cannot be resolved") as refused:
        Permissions(from_network=True).check(JobRequest.parse(json.dumps(said)))
    assert not is_permanent(refused.value)


@pytest.mark.parametrize("wrong", [["https://host/?x=1"], ["https://a b/"], [""], [], ["https://host/#x"], 5])
def test_prefixes_are_checked_before_any_job_is_taken(wrong, tmp_path):
    for name in ("allow_endpoints", "allow_images", "allow_outputs"):
        with pytest.raises(geotile.ArgumentError, match=f"^{name} must be "):
            geotile.serve(tmp_path, once=True, **{name: wrong})


@pytest.mark.slow
def test_a_service_asks_and_reads_only_what_it_may(tmp_path, write_tiff, noise):
    """Redirects of endpoints are not followed, and those of images lead to nothing that is not allowed."""
    path, queue, out = write_tiff(noise), tmp_path / "queue", {"type": "File", "path": str(tmp_path / "out")}
    with (
        ModelServer(crowd) as model,
        serving(redirecting(model.url)) as (away, _),
        serving(file_of(path)) as (files, read),
    ):
        with serving(redirecting(f"{files}/image.tif")) as (moved, _):
            jobs = {
                "good": (path, model.url), "endpoint": (path, f"{away}/x"), "image": (f"{moved}/image.tif", model.url),
                "asset": (f"{tmp_path}/item.json", model.url), "other": (str(tmp_path / "other.tif"), model.url),
            }  # fmt: skip
            item = {
                "type": "Feature", "stac_version": "1.0.0", "id": "i", "geometry": None, "links": [], "properties": {"datetime": "2024-01-01T00:00:00Z"},
                "assets": {"b": {"href": f"{files}/image.tif"}},
            }  # fmt: skip
            (tmp_path / "item.json").write_text(json.dumps(item))
            pystac.Item.from_file(tmp_path / "item.json")  # the first one silences a warning, which threads cannot do
            for name, (image, url) in jobs.items():
                more = {"geotile": {"asset": "b"}} if name == "asset" else {}
                geotile.submit(request(image, url, out, name, **more), queue)
            words = [
                "serve", "--queue", queue, "--once", "--max-attempts", 1, "-O", "retries=0", "-O", "ready_timeout_s=1", "--allow-endpoint",
                model.url, "--allow-endpoint", away, "--allow-image", path, "--allow-image", moved, "--allow-image", f"{tmp_path}/item.json",
                "--allow-output", tmp_path,
            ]  # fmt: skip
            cli(*words)
        records = {each.job_id: each for each in geotile.jobs(queue)}
        assert read == []
        assert model.requests == records["good"].images[0].requests
    assert [name for name, each in records.items() if each.status == "SUCCESS"] == ["good"]
    reasons = {name: each.reasons[0] for name, each in records.items() if each.reasons}
    assert f"imageUrls[0], redirected, names '{files}/image.tif', which this service does not allow" in reasons["image"]
    assert f"the asset of imageUrls[0] names '{files}/image.tif', which this service does not allow" in reasons["asset"]
    assert "--allow-image PREFIX" in reasons["other"]
    assert "302" in reasons["endpoint"]
    assert [len(records[name].attempts) for name in ("image", "asset", "other")] == [0, 0, 0]


@pytest.mark.slow
def test_a_queue_in_sqs_is_filled_by_others(tmp_path, write_tiff, noise, monkeypatch):
    path = write_tiff(noise)
    with aws() as cloud, ModelServer(crowd) as model:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        cloud.setup("others")
        out = {"type": "S3", "bucket": cloud.bucket, "prefix": "out"}
        for job, allowed in (("refused", None), ("allowed", [model.url])):
            cloud.send(request(path, model.url, out, job))
            geotile.serve(f"sqs://{cloud.queue}", state=tmp_path / "state", allow_endpoints=allowed, **QUICK)
            if allowed is None:
                assert model.requests == 0
        records = {each.job_id: each for each in geotile.jobs(f"sqs://{cloud.queue}", tmp_path / "state")}
    assert records["allowed"].status == "SUCCESS"
    assert "whose address 127.0.0.1 is inside" in records["refused"].reasons[0]
    assert "--allow-endpoint PREFIX" in records["refused"].reasons[0]
