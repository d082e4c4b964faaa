"""SageMaker by the real botocore client, against a server on 127.0.0.1 that speaks the runtime's protocol."""

import numpy as np
import pytest
import xarray as xr
from helpers import crowd
from rasters import encoded, means
from sagemaker_service import Service, serving

import geotile
from geotile import ArgumentError


@pytest.fixture
def service(monkeypatch):
    made = Service()
    with serving(made) as url:
        for name in ("SAGEMAKER_RUNTIME", "SAGEMAKER", "STS"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAME")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        yield made


@pytest.fixture
def image(noise):
    return xr.DataArray(noise, dims=("band", "y", "x"))


JOB = {"tile_size": 64, "overlap": 16, "region_size": 128, "backoff_s": 0.01}
SPEC = "sagemaker://planes?region=us-west-2"
COLUMNS = ["xmin", "ymin", "xmax", "ymax", "score", "label"]


@pytest.mark.slow
def test_the_answer_is_that_of_the_model_and_every_parameter_arrives(service, image):
    params = {
        "CustomAttributes": "a=1", "TargetModel": "m.tar.gz", "TargetContainerHostname": "second", "InferenceId": "id-1",
        "EnableExplanations": "`true`", "SessionId": "s1", "Accept": "application/json",
    }  # fmt: skip
    found = geotile.detect(image, f"{SPEC}&variant=green", params=params, tile_format="GTIFF", **JOB)
    local = geotile.detect(image, crowd, **{name: JOB[name] for name in ("tile_size", "overlap", "region_size")})
    assert found[COLUMNS].equals(local[COLUMNS])
    sent = {name.lower(): value for name, value in service.invocations[0][0].items()}
    wanted = {
        "custom-attributes": "a=1", "target-model": "m.tar.gz", "target-container-hostname": "second", "inference-id": "id-1",
        "enable-explanations": "`true`", "session-id": "s1", "target-variant": "green",
    }  # fmt: skip
    assert {name: sent[f"x-amzn-sagemaker-{name}"] for name in wanted} == wanted
    assert (sent["content-type"], sent["accept"]) == ("image/tiff", "application/json")
    assert "Credential=AKIAME/" in sent["authorization"]
    component = geotile.endpoint(SPEC, params={"InferenceComponentName": "part"}).check(image.values[:, :64, :64])
    assert component
    assert service.invocations[-1][0]["X-Amzn-SageMaker-Inference-Component"] == "part"


@pytest.mark.slow
def test_a_variant_is_chosen_once_a_run_by_the_weights(service, image):
    chosen = []
    for _ in range(12):
        service.invocations.clear()
        geotile.detect(image, SPEC, tile_size=300, overlap=0, backoff_s=0.01)
        names = {headers["X-Amzn-SageMaker-Target-Variant"] for headers, _ in service.invocations}
        assert len(names) == 1
        chosen.extend(names)
    assert chosen.count("blue") >= 6  # 0.9 of them: fewer is one in 5,000
    service.variants = [("only", 1.0)]
    geotile.detect(image, SPEC, tile_size=300, overlap=0)
    assert "X-Amzn-SageMaker-Target-Variant" not in service.invocations[-1][0]


@pytest.mark.slow
def test_a_role_is_assumed(service, image):
    geotile.detect(image, f"{SPEC}&variant=blue", role_arn="arn:aws:iam::1:role/runner", **JOB)
    assert set(service.roles) == {"arn:aws:iam::1:role/runner"}
    assert "Credential=ASIAROLE/" in service.invocations[0][0]["Authorization"]


@pytest.mark.slow
def test_tiles_over_the_body_limit_are_refused_in_the_plan(service):
    large = xr.DataArray(np.zeros((3, 2048, 2048), np.uint8), dims=("band", "y", "x"))
    with pytest.raises(
        ArgumentError,
        match=r"12,58\d,\d+ bytes as GTIFF; .* at most 6,291,456 .*'JPEG', .*'PNG' \(fits only if .*\) or tile_size=1433",
    ):
        geotile.plan(large, tile_size=2048, endpoint=SPEC)
    with pytest.raises(ArgumentError, match="max_request_bytes="):
        geotile.detect(large, SPEC, tile_size=2048)
    assert not service.invocations
    floats = xr.DataArray(np.zeros((1, 1280, 1280), np.float32), dims=("band", "y", "x"))
    with pytest.raises(ArgumentError, match="at most 6,291,456"):
        geotile.plan(floats, tile_size=1280, endpoint=SPEC)
    assert geotile.plan(large, tile_size=1433, endpoint=SPEC).tiles
    bigger = geotile.endpoint(SPEC, max_request_bytes=26_214_400)
    assert geotile.plan(large, tile_size=2048, endpoint=bigger).tiles == 1
    grey = xr.DataArray(np.zeros((1, 2600, 2600), np.uint8), dims=("band", "y", "x"))
    with pytest.raises(ArgumentError, match="Use tile_format='JPEG'"):
        geotile.plan(grey, tile_size=2600, endpoint=SPEC)
    geotile.plan(large, tile_size=2048, endpoint=SPEC, tile_format="PNG")  # by content
    noise = xr.DataArray(np.random.default_rng(0).integers(0, 255, (3, 2048, 2048), np.uint8), dims=("band", "y", "x"))
    with pytest.warns(UserWarning, match="more than max_request_bytes=6,291,456"):
        geotile.detect(noise, f"{SPEC}&variant=blue", tile_size=2048, tile_format="PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "requests"),
    [
        ((429, "ModelNotReadyException", "loading"), 2),
        ((503, "ServiceUnavailable", "busy"), 2),
        ((400, "ThrottlingException", "slow down"), 2),
        ((424, "ModelError", "the container says 500"), 1),
        ((400, "ValidationError", "no such model"), 1),
    ],
)
def test_what_may_pass_is_tried_again(service, image, first, requests):
    service.answer = lambda number: first if number == 1 else None
    if requests == 2:
        report = geotile.detect(image, f"{SPEC}&variant=blue", tile_size=420, backoff_s=0.01).attrs["report"]
    else:
        with pytest.warns(UserWarning, match=first[1]):
            report = geotile.detect(image, f"{SPEC}&variant=blue", tile_size=420, backoff_s=0.01).attrs["report"]
    assert len(service.invocations) == report.requests == report.tiles + requests - 1


@pytest.mark.slow
def test_check_and_what_it_shows(service):
    endpoint = geotile.endpoint(SPEC, params={"CustomAttributes": "token=s3cr3t"})
    assert endpoint.check()
    assert "s3cr3t" not in repr(endpoint)
    assert "hunter2" not in repr(endpoint)
    service.status = "Failed"
    assert "its status is Failed" in endpoint.check().message
    service.status = "denied"
    assert endpoint.check()  # one may invoke without being allowed to describe
    service.status = "InService"
    assert "Could not find endpoint" in geotile.endpoint("sagemaker://none?region=us-west-2").check().message


def test_rasters_and_vectors_are_read_by_their_content_type(service, image):
    def bright(tile):
        return (tile[:1] > 128).astype(np.uint8)

    image, job = image[:, :200, :220], {"tile_size": 128, "overlap": 16}
    want = geotile.predict(image, bright, **job).values
    endpoint = geotile.endpoint(SPEC, params={"Accept": "application/x-npy"})
    for kind in ("application/x-npy", "image/tiff", "image/png"):
        service.body = lambda tile, kind=kind: (kind, encoded(kind, bright(tile)))
        found = geotile.predict(image, endpoint, **job)
        np.testing.assert_array_equal(found, want)
        assert found.attrs.get("class_names") == (["dark", "bright"] if kind == "image/tiff" else None)
        sent = {(each["Accept"], each["X-Amzn-SageMaker-Target-Variant"]) for each, _ in service.invocations}
        assert sent in ({("application/x-npy", "blue")}, {("application/x-npy", "green")})
        service.invocations.clear()
    service.body = lambda tile: ("application/x-npy", encoded("application/x-npy", means(tile)))
    found, want = (geotile.embed(image, model, **job)["embedding"] for model in (endpoint, means))
    np.testing.assert_array_equal(np.stack(found), np.stack(want))


ODD = [
    (("application/json", b"{}"), "must be image/tiff, image/png or application/x-npy; got the content type 'application/json'"),
    (("image/png", b"rubbish"), "not a PNG that can be read"), (("application/x-npy", b"\x93NUMPY"), "not an array as numpy.save writes it"),
    (("application/x-npy", encoded("application/x-npy", np.full((2, 64, 64), np.nan, np.float32))), "returned NaN as a score"),
    (("application/x-npy", encoded("application/x-npy", np.zeros((2, 60, 64), np.float32))), "must have the size of the tile, 64 x 64"),
    (("application/x-npy", encoded("application/x-npy", np.zeros((3, 64, 64), np.float32))), "must have the form of the first one"),
]  # fmt: skip


def test_a_body_that_cannot_be_right_fails_its_tile(service, image, tmp_path):
    good = "application/x-npy", encoded("application/x-npy", np.zeros((2, 64, 64), np.float32))
    answers = {2 * number + 3: odd for number, (odd, _) in enumerate(ODD)}  # every second request
    service.body = lambda tile: answers.get(len(service.invocations), good)
    part = image[:, :256, :256]
    with pytest.warns(geotile.FailedTilesWarning, match="6 of 16 tiles failed"):
        report = geotile.predict_to(
            part, SPEC, tmp_path / "a.zarr", tile_size=64, overlap=0, output="scores", retries=0, concurrency=1
        )
    reasons = [each.reason for each in report.failures]
    assert [said for _, said in ODD if not any(said in reason for reason in reasons)] == []


def test_wrong_specs(service):
    for spec, options, said in (
        ("sagemaker://", {}, "must have the form sagemaker://endpoint-name"),
        ("sagemaker://planes?colour=red", {}, "must have the form sagemaker://endpoint-name"),
        ("sagemaker://planes", {}, "no AWS region is configured"),
        (SPEC, {"params": {"Colour": "red"}}, r"unknown parameters \['Colour'\] in params"),
        (SPEC, {"profile": "nobody"}, "nobody"),
        (SPEC, {"verify": False}, "option 'verify' does not apply"),
    ):
        with pytest.raises(ArgumentError, match=said):
            geotile.endpoint(spec, **options)


def test_a_url_signed_for_aws(service, monkeypatch, noise):
    from geotile.testing import ModelServer

    seen = []
    with ModelServer(crowd) as server:
        handler = server._http.RequestHandlerClass
        post = handler.do_POST
        monkeypatch.setattr(handler, "do_POST", lambda self: (seen.append(dict(self.headers)), post(self)))
        image = xr.DataArray(noise, dims=("band", "y", "x"))
        found = geotile.detect(image, server.url, auth=geotile.SigV4("eu-west-1", "lambda"), **JOB)
    assert found.attrs["report"].status == "SUCCESS"
    assert "/eu-west-1/lambda/aws4_request" in seen[0]["Authorization"]
    assert "content-type;host;x-amz-date" in seen[0]["Authorization"]


def test_a_url_that_nothing_can_sign_for_is_named(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    made = geotile.endpoint("http://127.0.0.1:9/invocations", auth=geotile.SigV4("eu-west-1"))
    assert "no AWS credentials were found" in made.check().message
