"""Credentials go to the host that they were given for: of a service's endpoints, and of images that are redirected."""

from __future__ import annotations

import functools
import http.server

import numpy as np
import pytest
import xarray as xr
from helpers import cli, crowd
from web_servers import file_of, redirecting, running, serving

import geotile
from geotile.cli.options import service_endpoint_options
from geotile.imagery.redirects import same_origin
from geotile.options import ServiceOptions
from geotile.service.endpoint_settings import bound, options_of
from geotile.testing import ModelServer

SECRETS = {"bearer": "hush-1", "auth": ("me", "hush-2"), "headers": {"X-Api-Key": "hush-3"}, "params": {"TargetModel": "hush-4"}, "cert": "hush-5.pem"}  # fmt: skip


def request(image, url, output, job_id="a", kind="HTTP_ENDPOINT", **more):
    return {
        "jobId": job_id, "imageUrls": [image], "imageProcessor": {"name": url, "type": kind}, "outputs": [output],
        "imageProcessorTileSize": 128, "imageProcessorTileFormat": "GTIFF", **more,
    }  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_without_an_endpoint_is_refused(name, tmp_path):
    for allowed in (None, ["https://a/", "https://b/"]):
        with pytest.raises(geotile.ArgumentError, match=f"must bind {name} to an endpoint") as caught:
            geotile.serve(tmp_path, once=True, endpoint_options={name: SECRETS[name]}, allow_endpoints=allowed)
        assert "hush" not in str(caught.value)


def test_a_secret_belongs_to_the_one_endpoint_that_is_allowed():
    for allowed in ("https://models.example/a", ["https://models.example/a"]):
        given = bound(ServiceOptions(endpoint_options={"retries": 2, "bearer": "hush"}, allow_endpoints=allowed))
        assert options_of("https://models.example/a/x", given.endpoint_options) == {"retries": 2, "bearer": "hush"}
        for other in ("https://models.example/b", "https://models.example.evil.com/a", "http://models.example/a"):
            assert options_of(other, given.endpoint_options) == {"retries": 2}


def test_options_of_the_longest_prefix_count_most():
    given = {
        "retries": 1, "https://h/a/": {"bearer": "a", "retries": 2}, "https://h/": {"bearer": "h", "timeout_s": (1, 2)},
        "https://h/a/b": {"retries": 3}, "sagemaker://": {"profile": "p"},
    }  # fmt: skip
    assert options_of("https://h/a/b/c", given) == {"bearer": "a", "retries": 3, "timeout_s": (1, 2)}
    assert options_of("https://h/x", given) == {"bearer": "h", "retries": 1, "timeout_s": (1, 2)}
    assert options_of("https://h2/a/b", given) == options_of("https://h\\@h2/a", given) == {"retries": 1}
    assert options_of("sagemaker://planes", given) == {"retries": 1, "profile": "p"}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"https://h/": {"retrys": 2}}, "did you mean 'retries'"), ({"https://h/": 5}, "must hold a mapping under a prefix"),
        ({"https://h/": {"bearer": 5}}, "bearer must be a string"), ({"https://h/?x=1": {"bearer": "hush"}}, "without ? and #"),
        ({"https://h h/": {"bearer": "hush"}}, "is not a URL"), ({"bearers": "hush"}, "did you mean 'bearer'"),
    ],
)  # fmt: skip
def test_wrong_options_of_endpoints_are_refused_before_any_job(wrong, text, tmp_path):
    with pytest.raises(geotile.ArgumentError) as caught:
        geotile.serve(tmp_path, once=True, endpoint_options=wrong)
    assert text in str(caught.value)
    assert "hush" not in str(caught.value)


def test_the_command_line_binds_options():
    texts = [
        "retries=2",
        "https://h:8443/a/=bearer=x=y:z",
        "https://h:8443/a/=timeout_s=5,60",
        "sagemaker://=profile=p",
    ]
    assert service_endpoint_options([*texts, "headers=A=b:c"]) == {
        "retries": 2, "headers": {"A": "b:c"}, "https://h:8443/a/": {"bearer": "x=y:z", "timeout_s": [5.0, 60.0]},
        "sagemaker://": {"profile": "p"},
    }  # fmt: skip


@pytest.mark.slow
def test_a_file_of_settings_names_prefixes(tmp_path):
    (tmp_path / "settings.toml").write_text(
        f"""queue = "{tmp_path}"
once = true
allow_endpoint = ["https://h/", "sagemaker://"]
allow_image = "/data"
[option]
retries = 2
[option."https://h/"]
bearer = "hush"
timeout_s = [5, 60]
"""
    )
    cli("serve", "--config", tmp_path / "settings.toml")
    (tmp_path / "wrong.toml").write_text(f'queue = "{tmp_path}"\nonce = true\n[option]\nbearer = "hush"\n')
    said = cli("serve", "--config", tmp_path / "wrong.toml", status=2).stderr
    assert "must bind bearer to an endpoint" in said
    assert "hush" not in said
    (tmp_path / "wrong.toml").write_text(f'queue = "{tmp_path}"\nonce = true\nallow_output = [5]\n')
    assert (
        "must be a prefix or a list of prefixes" in cli("serve", "--config", tmp_path / "wrong.toml", status=2).stderr
    )


@pytest.mark.slow
def test_a_service_sends_a_token_to_its_endpoint_alone(tmp_path, write_tiff, noise):
    path, queue = write_tiff(noise), tmp_path / "queue"

    def refusing(handler):
        handler.send_error(400)

    with ModelServer(crowd) as model, serving(refusing) as (thief, stolen), serving(refusing) as (_, other):
        for name, url in (("good", model.url), ("thief", f"{thief}/invocations")):
            geotile.submit(request(path, url, {"type": "File", "path": str(tmp_path / "out")}, name), queue)
        words = ["serve", "--queue", queue, "--once", "--max-attempts", 1, "-O", "retries=0", "-O", "ready_timeout_s=1"]
        said = cli(*words, "-O", f"{model.url}=headers=X-Api-Key=hush", "-O", f"{model.url}=bearer=hush")
        assert other == []
    assert {each.job_id: each.status for each in geotile.jobs(queue)} == {"good": "SUCCESS", "thief": "FAILED"}
    assert stolen
    assert "hush" not in str(stolen)
    assert "hush" not in said.stdout + said.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"headers": {"X-Api-Key": "hush"}}, {"client_kwargs": {"headers": {"x-api-key": "hush", "Accept": "*/*"}}}]
)  # fmt: skip
def test_headers_of_an_image_do_not_go_to_another_host(options, write_tiff, noise):
    path = write_tiff(noise)
    with serving(file_of(path)) as (there, got), serving(redirecting(f"{there}/image.tif")) as (here, _):
        with serving(redirecting(f"{here}/image.tif")) as (first, _):
            for url in (here, first):
                with pytest.raises(
                    geotile.errors.ImageOpenError, match=r"redirects to another host, 127\.0\.0\.1"
                ) as caught:
                    geotile.open_image(f"{url}/image.tif", storage_options=options)
                assert "storage_options were given for this one only" in str(caught.value)
                assert "hush" not in str(caught.value)
        assert got == []
        image = geotile.open_image(f"{there}/image.tif", storage_options=options)
        assert (image.to_numpy() == noise).all()
        assert "hush" in str(got)


@pytest.mark.parametrize(
    "options", [{"auth": ("me", "hush")}, {"headers": {"Authorization": "Bearer hush", "Cookie": "hush=1", "Accept": "*/*"}}, {}]
)  # fmt: skip
def test_credentials_that_curl_leaves_out_do_not_forbid_a_redirect(options, write_tiff, noise):
    path = write_tiff(noise)
    with serving(file_of(path)) as (there, got), serving(redirecting(f"{there}/image.tif")) as (here, _):
        image = geotile.open_image(f"{here}/image.tif", storage_options=options)
        assert (image.to_numpy() == noise).all()
        assert got
        assert not [headers for *_, headers in got if "hush" in str(headers) or "Authorization" in headers]


def test_a_redirect_within_a_host_takes_the_headers_along(write_tiff, noise):
    path = write_tiff(noise)
    send = file_of(path)

    def answer(handler):
        redirecting("/new/image.tif")(handler) if handler.path.startswith("/old") else send(handler)

    with serving(answer) as (url, got):
        image = geotile.open_image(f"{url}/old/image.tif", storage_options={"headers": {"X-Api-Key": "key"}})
        assert (image.to_numpy() == noise).all()
        assert all(headers.get("X-Api-Key") == "key" for _, place, headers in got if place.startswith("/new"))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("https://h/a", "https://h:443/b", True), ("http://h/", "https://h/", True), ("https://h/", "http://h/", False),
        ("http://h:8080/", "https://h/", False), ("https://h/", "https://h.evil.com/", False), ("https://H/", "https://h/", True),
    ],
)  # fmt: skip
def test_origins(a, b, same):
    assert same_origin(a, b) is same


@pytest.mark.slow
def test_headers_of_a_zarr_store_do_not_go_to_another_host(tmp_path):
    xr.Dataset({"image": (("band", "y", "x"), np.ones((1, 8, 8), "u1"))}).to_zarr(tmp_path / "a.zarr", zarr_format=3)
    got = []

    class Files(http.server.SimpleHTTPRequestHandler):
        def send_head(self):
            got.append(dict(self.headers))
            return super().send_head()

        def log_message(self, *args):
            pass

    handler = functools.partial(Files, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    there = f"http://127.0.0.1:{server.server_port}"

    def away(handler):
        redirecting(there + handler.path)(handler)

    with running(server):
        options = {"headers": {"X-Api-Key": "hush"}}
        image = geotile.open_image(f"{there}/a.zarr", storage_options=options)
        assert image.to_numpy().all()
        assert "hush" in str(got)
        got.clear()
        with serving(away) as (here, _):
            with pytest.raises(geotile.errors.ImageOpenError, match="redirects to another host"):
                geotile.open_image(f"{here}/a.zarr", storage_options=options)
            assert "hush" not in str(got)
            assert geotile.open_image(f"{here}/a.zarr").to_numpy().all()  # without them it is followed
