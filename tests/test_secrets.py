"""Messages do not show what the user passed where it may be a secret; and types that file systems do not check."""

import json
from pathlib import Path

import pytest
from helpers import cli, crowd

import geotile
from geotile.cli.call import _stored_option
from geotile.cli.options import endpoint_options
from geotile.options import ImageOptions, RunOptions
from geotile.options.storage import storage_values
from geotile.testing import ModelServer, write_example


@pytest.mark.parametrize(
    "spec",
    [
        b"http://me:hush@host/x", ("http://me:hush@host/x",), 5, {"url": "http://me:hush@host/x"},
        "sagemaker://model?token=hush", "sagemaker://me:hush@model", "sagemaker://model?region=a&hush", "model.host?k=hush",
        "sagemaker://model#hush", "https://me:hush@:1/x", "oip+http://me:hush@host/x", "mine://me:hush@host/x",
    ],
)  # fmt: skip
def test_a_refused_endpoint_is_not_shown_with_its_secrets(spec):
    with pytest.raises(geotile.ArgumentError, match=r"^endpoint must ") as caught:
        geotile.endpoint(spec)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--headers", "Authorization Bearer hush"), "--headers"), (("--headers", "Bearer hush: x"), "--headers"),
        (("--headers", "A: b\r\nhush: x"), "headers must"), (("-O", "bearer:hush"), "--option"),
        (("-O", "bearer:hush=="), "--option"), (("--storage-options", "secret:hush"), "--storage-options"),
        (("--output-options", "hush"), "--output-options"), (("-O", 'headers={"Bearer hush": "x"}'), "headers must"),
        (("-O", "headers=hush"), "headers must"), (("--storage-options", "key=[\"hush\"]"), "storage_options must"),
    ],
)  # fmt: skip
def test_a_refused_flag_is_named_and_not_shown(words, flag, tmp_path):
    job = (
        "detect",
        write_example(),
        "http://127.0.0.1:9/x",
        "-o",
        tmp_path / "a.geojson",
        "--checkpoint",
        tmp_path / "cp",
    )
    said = cli(*job, *words, status=2).stderr
    assert flag.replace("_", "-") in said.replace("_", "-")
    assert "hush" not in said
    assert not (tmp_path / "cp" / "call.json").exists()


def test_a_header_is_named_by_its_option_alone():
    for headers in ({"Bearer hush": "x"}, {"hush\n": "x"}, {"": "x"}):
        with pytest.raises(geotile.ArgumentError, match=r"^headers must hold names") as caught:
            geotile.HttpEndpoint("http://127.0.0.1:9/x", headers=headers)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize("options", ["storage_options", "output_options"])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("key", 123456, "a string as key"), ("secret", b"123456", "a string as secret"), ("token", 123456, "token"),
        ("timeout", "123456s", "a number of seconds above 0 as timeout"), ("headers", "A: 123456", "headers"),
        ("client_kwargs", "123456", "a mapping of names to values as client_kwargs"), ("config_kwargs", "123456", "config_kwargs"),
        ("endpoint_url", 123456, "a string as endpoint_url"), ("client_kwargs", {"endpoint_url": 123456}, "client_kwargs.endpoint_url"),
        ("config_kwargs", {"s3": "123456"}, "config_kwargs.s3"), ("config_kwargs", {"read_timeout": "123456"}, "read_timeout"),
        ("headers", {"A": 123456}, "a mapping of strings to strings as headers"), ("anon", "123456", "True or False as anon"),
        ("account_key", 123456, "account_key"), ("client_kwargs", {123456: 1}, "client_kwargs"), ("verify", 123456, "verify"),
        ("auth", "me:123456", "auth"), ("profile", 123456, "profile"), ("use_ssl", 123456, "use_ssl"),
    ],
)  # fmt: skip
def test_options_of_file_systems_are_checked(options, name, value, words):
    group = ImageOptions if options == "storage_options" else RunOptions
    with pytest.raises(geotile.ArgumentError, match=f"^{options} must hold .*{words}; got a value of type") as caught:
        group(**{options: {name: value}})
    assert "123456" not in str(caught.value)


def test_credentials_of_google_may_be_objects_except_for_s3():
    ImageOptions(storage_options={"token": {"type": "service_account"}, "key": None})
    with pytest.raises(geotile.ArgumentError, match=r"^storage_options must hold a string as token"):
        geotile.open_image("s3://bucket/a.tif", storage_options={"key": "a", "secret": "b", "token": {"a": 1}})


def test_text_stays_text_on_the_command_line():
    given = ["bearer=12345", "retries=2", "family=null", 'cert=["a.pem", "b.pem"]', "verify=false", "labels=7", "x=7"]
    assert endpoint_options(given) == {
        "bearer": "12345", "retries": 2, "family": "null", "cert": ["a.pem", "b.pem"], "verify": False, "labels": "7", "x": 7,
    }  # fmt: skip
    assert endpoint_options(["bearer=null"]) == {"bearer": "null"}
    stored = ["key=123", "secret=true", "anon=true", "timeout=5", "token=1e5", 'client_kwargs={"verify": false}']
    assert storage_values(stored) == {
        "key": "123", "secret": "true", "anon": True, "timeout": 5, "token": "1e5", "client_kwargs": {"verify": False},
    }  # fmt: skip


def test_local_paths_of_endpoint_options_are_stored_as_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "certs").mkdir()
    for name in ("a.pem", "b.pem"):
        (tmp_path / "certs" / name).touch()
    (tmp_path / "yolov8").mkdir()
    pair = json.dumps([f"{tmp_path}/certs/a.pem", f"{tmp_path}/certs/b.pem"])
    assert _stored_option('cert=["certs/a.pem","certs/b.pem"]') == f"cert={pair}"
    assert _stored_option("verify=certs") == f"verify={tmp_path}/certs"
    assert _stored_option("cert=certs/a.pem") == f"cert={tmp_path}/certs/a.pem"
    assert [_stored_option(each) for each in ("family=yolov8", "verify=false", "labels=none.txt", "retries=3")] == [
        "family=yolov8", "verify=false", "labels=none.txt", "retries=3",
    ]  # fmt: skip
    assert _stored_option("bearer=hush") == "bearer"


def test_files_of_a_checkpoint_hold_no_secret(write_tiff, noise, tmp_path):
    folder = tmp_path / "cp"
    with ModelServer(crowd) as server:
        url = server.url.replace("http://", "http://me:p(hush@") + "?k*=hush&[hush]#token=hush"
        words = ["-o", tmp_path / "a.geojson", "--headers", "X-Key: hush", "--checkpoint", folder]
        failed = cli("detect", write_tiff(noise), url, *words, status=1)  # the server knows no parameters
    assert "hush" not in failed.stdout + failed.stderr
    kept = b"".join(each.read_bytes() for each in Path(folder).rglob("*") if each.is_file())
    assert b"hush" not in kept
    refused = cli(
        "detect", "a.tif", "http://127.0.0.1:9/x", "-o", "a.geojson", "--checkpoint", "s3://me:hush@b/x", status=2
    ).stderr
    assert "contains a secret" in refused.replace("\n", " ")
    assert "hush" not in refused
