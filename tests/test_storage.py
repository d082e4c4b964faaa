"""Images in object storage: a real S3 API behind a proxy that counts, workers without credentials, faults."""

import itertools
import logging
import pickle
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from helpers import crowd
from object_store import (
    BUCKET,
    KEYS,
    CountingProxy,
    client,
    object_store,
    object_store_elsewhere,
    options,
    upload,
)

import geotile
from geotile import ArgumentError, ImageOpenError, open_image
from geotile.imagery.file_array import source_of
from geotile.imagery.file_version import version_of
from geotile.storage import location
from geotile.storage.location import locate
from geotile.testing import bright_objects, write_example

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store():
    with object_store() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def no_faults(request):
    yield
    if "store" in request.fixturenames:
        proxy = request.getfixturevalue("store")
        proxy.fault, proxy.latency_s = (lambda method, path: None), 0.0


@pytest.fixture(scope="module")
def cog(tmp_path_factory):
    """6,144 x 6,144 x 3, 512-px blocks, overviews; and the bytes of its full resolution."""
    folder = tmp_path_factory.mktemp("cog")
    size, rng = 6144, np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "count": 3, "height": size, "width": size, "dtype": "uint8", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "crs": "EPSG:32631", "transform": Affine(0.3, 0, 430_000, 0, -0.3, 5_780_000),
    }  # fmt: skip
    with rasterio.open(folder / "plain.tif", "w", **profile) as file:
        for y in range(0, size, 512):
            file.write(rng.integers(60, 62, (3, 512, size), np.uint8), window=rasterio.windows.Window(0, y, size, 512))
    path = str(folder / "cog.tif")
    rasterio.shutil.copy(folder / "plain.tif", path, driver="COG", compress="DEFLATE", blocksize=512, num_threads="2")
    (folder / "plain.tif").unlink()
    with rasterio.open(path) as file:
        sizes = [file.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1) for x in range(12) for y in range(12)]
    return path, sum(map(int, sizes))


def test_hardly_a_byte_twice_whatever_the_tiles(store, cog):
    path, full = cog
    uri = upload(store, path, "cog.tif")
    image = open_image(uri, storage_options=options(store))
    assert image.shape == (3, 6144, 6144)
    assert len(store.requests) <= 3
    for tile_size, overlap in ((512, 64), (1024, 128), (2048, 1024), (700, 333)):
        store.clear()
        found = geotile.detect(
            uri, lambda tile: ([], []), tile_size=tile_size, overlap=overlap, storage_options=options(store)
        )
        assert found.attrs["report"].status == "SUCCESS"
        assert found.attrs["report"].regions >= 4
        assert store.bytes <= 1.15 * full, (tile_size, overlap, store.bytes / full)


def test_refused_ranges_are_asked_for_again_alone(store, cog):
    """GDAL drops all ranges of a read if one is refused, and goes on block by block: four times the requests."""
    path, full = cog
    uri = upload(store, path, "refused.tif")
    want = open_image(uri, storage_options=options(store), chunks=2048)[:, :4096].compute()
    uri = upload(store, path, "refused-too.tif")
    image = open_image(uri, storage_options=options(store), chunks=2048)
    store.clear()
    number = itertools.count(1)
    store.fault = lambda method, path: (503, {}, b"SlowDown") if next(number) % 5 == 0 else None
    with dask.config.set(scheduler="threads", num_workers=2):
        np.testing.assert_array_equal(image[:, :4096], want)
    refused = sum(request.status == 503 for request in store.requests)
    assert refused >= 5
    assert len(store.requests) - refused <= 1.3 * 24  # as many as there are rows of blocks in the regions
    assert store.bytes <= 1.15 * full * 4096 / 6144


def test_a_regions_ranges_are_merged_and_asked_for_at_once(store, cog):
    path, _ = cog
    image = open_image(upload(store, path, "ranges.tif"), storage_options=options(store), chunks=4096)
    store.clear()
    store.latency_s, store.most_at_once = 0.05, 0
    with dask.config.set(scheduler="synchronous"):
        image[:, :4096, :4096].compute()  # 8 x 8 blocks
    assert 8 <= len(store.requests) <= 10  # a row of blocks lies together in the file
    assert store.most_at_once >= 6


def test_a_roi_fetches_its_part_alone(store, cog):
    path, full = cog
    uri = upload(store, path, "roi.tif")
    found = geotile.detect(
        uri, lambda tile: ([], []), tile_size=512, overlap=64, storage_options=options(store),
        roi=f"SRID=32631;POINT({430_000 + 0.3 * 4000} {5_780_000 - 0.3 * 4000})",
    )  # fmt: skip
    report = found.attrs["report"]
    assert report.requests + report.tiles_outside_roi == report.tiles
    assert 1 <= report.requests <= 4
    assert store.bytes < 0.05 * full


def test_empty_blocks_of_a_remote_file_are_no_data(store, tmp_path):
    path = tmp_path / "sparse.tif"
    profile = {"width": 1024, "height": 1024, "tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True}
    with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", **profile) as file:
        file.write(np.full((1, 64, 64), 9, np.uint8), window=rasterio.windows.Window(640, 128, 64, 64))
    uri, seen = upload(store, path, "sparse.tif"), []
    report = geotile.detect(
        uri,
        lambda tile: (seen.append(tile.max()), ([], []))[1],
        tile_size=128,
        overlap=0,
        # rasterio asks for the transform with the GIL held, and the server is in this process: if GDAL has lost its list of
        # the folder, as on a machine under load, its questions after world files end with the time-out only
        storage_options=options(store) | {"total_timeout": 10, "timeout": 2},
    ).attrs["report"]
    assert (seen, report.tiles_without_data) == ([9], 63)
    assert store.bytes < 64 * 1024


def test_an_image_inside_a_remote_file(store, shared):
    path = shared / "formats" / "gdal_two_images_jp2.ntf"
    uri = upload(store, path, "two.ntf")
    for number in (0, 1):
        image = open_image(uri, subdataset=number, storage_options=options(store))
        np.testing.assert_array_equal(image, open_image(path, subdataset=number))
        assert source_of(image.data).location.is_remote


def test_what_lies_beside_a_remote_image(shared, tmp_path):
    """Looked for where an image has no place of its own, or on request."""
    from geotile.geometry.georeference import georeference_of
    from geotile.geometry.placement import RpcPlacement

    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", width=50, height=50, count=1, dtype="uint8"
    ) as file:
        file.write(np.ones((1, 50, 50), np.uint8))
    masked = "riotiler_201404_13SED190110_201404_0x1500m_CL_1_extmask.tif"
    with object_store_elsewhere() as store:
        for ending in ("RPB", "IMD"):
            upload(store, shared / "formats" / f"gdal_md_dg.{ending}", f"beside/plain.{ending}")
        uri = upload(store, tmp_path / "plain.tif", "beside/plain.tif")
        image = open_image(uri, storage_options=options(store))
        assert isinstance(georeference_of(image).placement, RpcPlacement)
        assert not looks_alone(image)
        assert georeference_of(open_image(uri, storage_options=options(store), sidecars=False)).placement is None
        upload(store, shared / "formats" / f"{masked}.msk", f"mask/{masked}.msk")
        uri = upload(store, shared / "formats" / masked, f"mask/{masked}")
        for sidecars, seen in ((True, True), (None, False)):
            source = source_of(open_image(uri, storage_options=options(store), sidecars=sidecars).data)
            assert source.masked == seen
        uri = upload(store, tmp_path / "plain.tif", "alone/plain.tif")
        assert looks_alone(open_image(uri, storage_options=options(store)))


def looks_alone(image):
    """Whether threads that read pixels open the file without looking for others, which holds the GIL."""
    return dict(source_of(image.data).location.settings)["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"


def test_workers_need_nothing_of_their_own(store, monkeypatch, write_tiff, noise, workers):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    uri = upload(store, write_tiff(noise), "noise.tif")
    job = {"tile_size": 64, "overlap": 24, "region_size": 128, "storage_options": options(store)}
    alone = geotile.detect(uri, crowd, **job)
    with workers.as_current():
        spread = geotile.detect(uri, crowd, **job)
    assert spread.attrs["report"].failures == []
    spread.attrs = alone.attrs
    assert_geodataframe_equal(alone, spread)


def test_secrets_are_shown_nowhere(store, caplog, tmp_path):
    uri = upload(store, write_example(), "hush.tif")
    caplog.set_level(logging.DEBUG)
    how = options(store, token="test-token-hush")
    image = open_image(uri, storage_options=how)
    work = geotile.plan(uri, storage_options=how, tile_size=128, overlap=32)
    report = geotile.detect_to(
        uri, bright_objects, tmp_path / "found.geojson", tile_size=128, overlap=32, storage_options=how
    )
    geotile.detect_to(uri, bright_objects, tmp_path / "found.parquet", tile_size=128, overlap=32, storage_options=how)
    shown = [repr(image), image._repr_html_(), repr(work), work._repr_html_(), repr(report), str(dict(image.attrs))]
    shown += [repr(locate(uri, how)), repr(source_of(image.data)), str(image.spatial_ref.attrs)]
    shown += [str(key) for key in image.data.dask] + [repr(image.data.dask)]
    shown += [(tmp_path / name).read_bytes().decode("latin1") for name in ("found.geojson", "found.parquet")]
    store.fault = lambda method, path: (403, {}, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
    with pytest.raises(ImageOpenError) as error:
        open_image(f"s3://{BUCKET}/denied.tif", storage_options=how)
    shown += [str(error.value), repr(error.value), caplog.text]
    signed = f"{store.url}/{BUCKET}/x.tif?X-Amz-Signature=test-secret-hush&X-Amz-Credential=test-key-AKIA"
    with pytest.raises(ImageOpenError) as error:
        open_image(signed)
    shown += [str(error.value)]
    for text in shown:
        assert "hush" not in text.replace("hush.tif", "")
        assert KEYS["key"] not in text


def test_who_asks(store, tmp_path, monkeypatch):
    """Anonymous, requester-pays, profiles and roles, as S3 sees them."""
    uri = upload(store, write_example(), "who.tif")

    def asked(**more):
        store.clear()
        given = {name: value for name, value in (options(store) | more).items() if value is not None}
        with suppress(ImageOpenError):  # there is no such object: what was asked counts
            open_image(uri.replace("who", f"who-{len(more)}-{next(iter(more), '')}"), storage_options=given)
        return next(request.headers for request in store.requests if "who-" in request.path)

    assert KEYS["key"] in asked()["authorization"]
    assert "authorization" not in asked(anon=True, key=None, secret=None)
    assert asked(requester_pays=True)["x-amz-request-payer"] == "requester"
    assert asked(token="temporary")["x-amz-security-token"] == "temporary"
    config = tmp_path / "credentials"
    config.write_text("[field]\naws_access_key_id = AKIAFIELD\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(config))
    assert "AKIAFIELD" in asked(profile="field", key=None, secret=None)["authorization"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", store.url)
    headers = asked(role_arn="arn:aws:iam::123456789012:role/reader")
    assert headers["x-amz-security-token"]
    assert KEYS["key"] not in headers["authorization"]
    with pytest.raises(ArgumentError, match="none-such"):
        asked(profile="none-such", key=None, secret=None)


def test_temporary_credentials_are_renewed(store, monkeypatch):
    """A worker renews a role's credentials itself, once, with the keys that assumed it before."""
    from geotile.storage import aws

    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", store.url)
    aws._renewed.clear()
    first = aws.resolve(
        None, "arn:aws:iam::123456789012:role/reader", key=KEYS["key"], secret=KEYS["secret"]
    ).credentials
    now = time.time()
    assert first.fresh(now) is first
    travelled = pickle.loads(pickle.dumps(replace(first, expires=now + 10)))
    store.clear()
    renewed = [travelled.fresh(now) for _ in range(3)]
    assert len({each.token for each in renewed}) == 1
    assert renewed[0].token != first.token
    assert len(store.requests) == 1
    assert KEYS["secret"] not in repr(travelled)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    aws._renewed.clear()
    assert travelled.fresh(now) is travelled  # S3 will say what is wrong


def test_what_sts_answers_is_not_logged(store, monkeypatch, caplog):
    from geotile.storage import aws

    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", store.url)
    caplog.set_level(logging.DEBUG)
    role = {"key": KEYS["key"], "secret": KEYS["secret"], "token": "test-token-hush"}
    found = aws.resolve(None, "arn:aws:iam::123456789012:role/reader", **role).credentials
    assert found.token
    for secret in (found.key, found.secret, found.token, *role.values()):
        assert secret not in caplog.text
    logging.getLogger("botocore.auth").debug("of somebody else")
    assert "of somebody else" in caplog.text
    assert not logging.getLogger("botocore.auth").filters


def test_a_version_needs_nothing_of_the_machine(store, monkeypatch):
    """A worker may have no AWS configuration, another one, or a broken one."""
    uri = upload(store, write_example(), "a version ü+.tif")
    client(store).put_object_acl(Bucket=BUCKET, Key="a version ü+.tif", ACL="public-read")
    place, public = locate(uri, options(store)), locate(uri, {"anon": True, "endpoint_url": store.url})
    monkeypatch.setenv("AWS_PROFILE", "none-such")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert version_of(place) == version_of(place)
    assert version_of(place).startswith("etag")
    asked = store.requests[-1]
    assert (asked.method, KEYS["key"] in asked.headers["authorization"]) == ("HEAD", True)
    assert version_of(public).startswith("etag")
    assert "authorization" not in store.requests[-1].headers
    store.clear()
    store.fault = lambda method, path: (503, {}, b"")
    assert version_of(place).startswith("unknown")
    assert len(store.requests) <= 2


def test_web_servers_google_and_azure(store, tmp_path):
    path = write_example()
    upload(store, path, "folder/a.tif")
    client(store).put_object_acl(Bucket=BUCKET, Key="folder/a.tif", ACL="public-read")
    want = open_image(path).to_numpy()
    web = f"{store.url}/{BUCKET}/folder/a.tif"
    np.testing.assert_array_equal(open_image(web, storage_options={"headers": {"X-Team": "a, b"}}), want)
    assert store.requests[-1].headers["x-team"] == "a, b"
    assert len(open_image(web, storage_options={"client_kwargs": {"auth": ("me", "pw")}}).shape) == 3
    google = {"token": "anon", "endpoint_url": store.url}
    np.testing.assert_array_equal(open_image(f"gs://{BUCKET}/folder/a.tif", storage_options=google), want)
    azure = {
        "connection_string": f"DefaultEndpointsProtocol=http;AccountName={BUCKET};AccountKey=aGk=;BlobEndpoint={store.url}/{BUCKET}"
    }
    np.testing.assert_array_equal(open_image("az://folder/a.tif", storage_options=azure), want)
    assert locate("abfs://c@acc.dfs.core.windows.net/a.tif", {"account_key": "k"}).path == "/vsiaz/c/a.tif"


def test_a_token_of_the_environment_does_not_go_to_another_account(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sig=hush")
    uri = "abfs://c@acc.dfs.core.windows.net/a.tif"
    for account, sent in ((None, True), ("acc", True), ("other", False)):
        if account is not None:
            monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", account)
        assert ("AZURE_STORAGE_SAS_TOKEN" not in dict(locate(uri).settings)) == sent
    assert dict(locate(uri).settings)["AZURE_STORAGE_SAS_TOKEN"] == ""
    assert dict(locate(uri).settings)["AZURE_NO_SIGN_REQUEST"] == "YES"
    assert dict(locate(uri, {"sas_token": "mine"}).settings)["AZURE_STORAGE_SAS_TOKEN"] == "mine"
    assert locate("gs://b/a.tif", {"token": "key.json"}).path == "/vsigs/b/a.tif"


@pytest.mark.parametrize(
    ("uri", "given", "said"),
    [
        ("s3://b/a.tif", {"key": "k"}, "both key and secret"),
        ("s3://b/a.tif", {"key": "k", "secret": "s", "nonsense": 1}, "nonsense"),
        ("a.tif", {"anon": True}, "do not apply"),
        ("gs://b/a.tif", {"requester_pays": True}, "needs a project"),
        ("gs://b/a.tif", {"token": {"type": "x"}}, "path to a .json"),
    ],
)
def test_options_that_cannot_be_used(uri, given, said):
    with pytest.raises(ArgumentError, match=said):
        locate(uri, given)


def test_missing_denied_and_silent_hosts(store, monkeypatch):
    for name, value in (("GDAL_HTTP_MAX_RETRY", "1"), ("GDAL_HTTP_RETRY_DELAY", "0.05")):
        monkeypatch.setitem(location._REMOTE, name, value)
    how = options(store)
    with pytest.raises(ImageOpenError, match="does not exist") as caught:
        open_image(f"s3://{BUCKET}/none.tif", storage_options=how)
    assert not caught.value.retryable
    uri = upload(store, write_example(), "none.tif")  # it has come since
    assert open_image(uri, storage_options=how).shape[0] == 3
    store.fault = lambda method, path: (
        403,
        {},
        b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    )
    with pytest.raises(ImageOpenError, match=r"Access Denied|403"):
        open_image(f"s3://{BUCKET}/denied.tif", storage_options=how)
    store.fault = lambda method, path: None
    client(store).put_object(Bucket=BUCKET, Key="nothing.tif", Body=b"")
    with pytest.raises(ImageOpenError, match=r"nothing\.tif"):
        open_image(f"s3://{BUCKET}/nothing.tif", storage_options=how)
    with pytest.raises(ImageOpenError, match=r"resolve host|refused|connect"):
        open_image("https://no-such-host.invalid/a.tif", storage_options={"timeout": 1})
    store.latency_s = 3
    with pytest.raises(ImageOpenError, match="too slow") as caught:
        open_image(f"s3://{BUCKET}/slow.tif", storage_options=how | {"timeout": 1})
    assert caught.value.retryable
    store.latency_s = 0
    uri = upload(store, write_example(), "slow.tif")
    assert open_image(uri, storage_options=how).shape[0] == 3  # a host that was silent is not remembered
    uri = upload(store, write_example(), "busy.tif")
    for status, body in (
        (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
        (500, b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"),
    ):
        store.fault = lambda method, path, answer=(status, {}, body): answer
        with pytest.raises(ImageOpenError) as caught:
            open_image(uri, storage_options=how | {"timeout": 1})
        assert caught.value.retryable, caught.value
    store.fault = lambda method, path: None
    assert open_image(uri, storage_options=how).shape[0] == 3


def test_own_authorities_are_trusted_by_option_and_by_environment(tmp_path, monkeypatch):
    import ssl

    import trustme

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(bundle := str(tmp_path / "ca.pem"))
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with object_store() as proxy:
        uris = [upload(proxy, write_example(), f"{n}.tif") for n in range(4)]
        proxy._http.socket = context.wrap_socket(proxy._http.socket, server_side=True)
        how = options(proxy) | {"endpoint_url": proxy.url.replace("http:", "https:"), "client_kwargs": {}}
        with pytest.raises(ImageOpenError, match="certificate"):
            open_image(uris[0], storage_options=how)
        assert open_image(uris[0], storage_options=how | {"client_kwargs": {"verify": bundle}}).shape[0] == 3
        assert open_image(uris[1], storage_options=how | {"client_kwargs": {"verify": False}}).shape[0] == 3
        for uri, name in zip(uris[2:], ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"), strict=True):
            monkeypatch.setenv(name, bundle)
            assert int(open_image(uri, storage_options=how).max()) == 230
            assert version_of(locate(uri, how)).startswith("etag")
            monkeypatch.delenv(name)


def test_an_object_written_anew_is_opened_anew(store, write_tiff):
    """GDAL would read the new one by the old one's header, which it remembers."""
    first, second = (np.full((1, n, n), n % 200, np.uint8) for n in (256, 512))
    uri = upload(store, write_tiff(first), "anew.tif")
    old = open_image(uri, storage_options=options(store), chunks=-1)
    again = open_image(uri, storage_options=options(store), chunks=-1)
    assert old.data.name == again.data.name  # the same state of the same object
    np.testing.assert_array_equal(old, first)
    upload(store, write_tiff(second), "anew.tif")
    np.testing.assert_array_equal(open_image(uri, storage_options=options(store)), second)
    with ThreadPoolExecutor(1) as pool, pytest.raises(geotile.ImageReadError, match="changed since it was opened"):
        pool.submit(old.compute).result()  # a thread that has no file open yet
    np.testing.assert_array_equal(open_image(uri, storage_options=options(store)), second)
    other = upload(store, write_tiff(second), "web.tif")
    client(store).put_object_acl(Bucket=BUCKET, Key="web.tif", ACL="public-read")
    web = f"{store.url}/{BUCKET}/web.tif"
    assert open_image(web).shape == open_image(other, storage_options=options(store)).shape
    upload(store, write_tiff(first), "web.tif")
    client(store).put_object_acl(Bucket=BUCKET, Key="web.tif", ACL="public-read")
    np.testing.assert_array_equal(open_image(web), first)


def test_a_bucket_in_another_region_is_followed():
    with object_store() as store:
        client(store).create_bucket(Bucket="far-away")  # GDAL remembers by name where a bucket is
        client(store).upload_file(write_example(), "far-away", "a.tif")
        store.clear()
        malformed = (
            b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>x</Message><Region>eu-central-1</Region></Error>"
        )
        moved = (400, {"x-amz-bucket-region": "eu-central-1", "Content-Type": "application/xml"}, malformed)
        store.fault = lambda method, path: None if store.requests else moved
        assert open_image("s3://far-away/a.tif", storage_options=options(store)).shape == (3, 256, 256)
        last = [request for request in store.requests if request.method == "GET"][-1]
        assert "eu-central-1" in last.headers["authorization"]


FAULTS = {
    "every other request 503": lambda n: (503, {}, b"SlowDown") if n % 2 == 0 else None,
    "a short body": lambda n: (206, {}, b"xx") if n == 5 else None,
    "a proxy's page": lambda n: (200, {}, b"<html>hello</html>") if n == 5 else None,
    "denied under way": lambda n: (403, {}, b"no") if n > 4 else None,
    "gone under way": lambda n: (404, {}, b"no") if n > 4 else None,
}


@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_of_a_store_makes_a_wrong_pixel(store: CountingProxy, write_tiff, fault, compress):
    """GDAL with several threads of its own takes a refused range for zeros: the model would see black."""
    pixels = np.random.default_rng(0).integers(1, 255, (3, 512, 512), np.uint8)
    uri = upload(store, write_tiff(pixels, compress=compress), f"{zlib.crc32(fault.encode())}-{compress}.tif")
    store.clear()
    store.fault = lambda method, path: FAULTS[fault](len(store.requests) + 1)
    seen = []

    def look(tile):
        seen.append(tile.copy())
        return [], []

    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        image = open_image(uri, storage_options=options(store), chunks=256)
        report = geotile.detect(image, look, tile_size=128, overlap=0, region_size=256).attrs["report"]
    real = {pixels[:, y : y + 128, x : x + 128].tobytes() for y in range(0, 512, 128) for x in range(0, 512, 128)}
    assert all(tile.tobytes() in real for tile in seen)
    assert len(seen) + len(report.failures) == report.tiles == 16
    if fault.endswith("under way"):
        assert report.failures
