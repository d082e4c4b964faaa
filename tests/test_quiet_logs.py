"""What other packages log of a run at DEBUG shows no signature and no password."""

import logging

import fsspec
import numpy as np
import pytest
import rasterio
from misbehaving import misbehaving, numbered
from object_store import BUCKET, KEYS, client, object_store
from silent_store import silent_store
from web_servers import file_of, serving

import geotile
from geotile import ImageOpenError, open_image
from geotile.storage.download import read_object, read_whole
from geotile.storage.folder import Folder

pytestmark = pytest.mark.slow
SIGNED = "?X-Amz-Signature=hush&hush"


@pytest.fixture
def folder(tmp_path):
    pixels = numbered(4, 4)
    profile = {"width": pixels.shape[2], "height": pixels.shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **profile) as file:
        file.write(pixels)
    return tmp_path


def test_signed_urls_of_images_and_models(folder, caplog):
    caplog.set_level(logging.DEBUG)
    with silent_store(folder) as store, misbehaving(lambda *call: True) as (model, server):
        store, model = (url.replace("//", "//me:hush@") for url in (store, model))
        with rasterio.Env(CPL_DEBUG=True):
            image = open_image(f"{store}/well/a.tif{SIGNED}")
            np.testing.assert_array_equal(image, numbered(4, 4))
            report = geotile.detect(image, model + SIGNED, tile_size=32, overlap=0, concurrency=2).attrs["report"]
            with pytest.raises(ImageOpenError):
                open_image(f"{store}/well/none.tif{SIGNED}")
    assert report.status == "SUCCESS"
    assert len(server.seen) == 16
    records = [record for record in caplog.records if record.name.startswith(("urllib3", "rasterio"))]
    assert {record.name.partition(".")[0] for record in records} == {"urllib3", "rasterio"}
    assert any("?***" in record.getMessage() for record in records if record.name == "urllib3.connectionpool")
    assert "hush" not in caplog.text


def test_signed_requests_of_botocore(folder, caplog):
    with object_store() as store:
        client(store).upload_file(str(folder / "a.tif"), BUCKET, "a.tif")
        client(store).put_object_acl(Bucket=BUCKET, Key="a.tif", ACL="public-read")
        caplog.set_level(logging.DEBUG)
        how = KEYS | {"token": "hush", "endpoint_url": store.url, "client_kwargs": {"region_name": "us-east-1"}}
        assert open_image(f"s3://{BUCKET}/a.tif", storage_options=how).shape == (1, 128, 128)
        url = client(store).generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a.tif"})
        caplog.clear()
        assert open_image(url).shape == (1, 128, 128)
        assert open_image(f"s3://{BUCKET}/a.tif", storage_options=how).shape == (1, 128, 128)
    ours = [record for record in caplog.records if record.name.startswith(("urllib3", "rasterio", "botocore"))]
    text = " ".join(record.getMessage() for record in ours)
    assert any(record.name.startswith("botocore") for record in ours)
    for secret in ("Signature=", KEYS["secret"], "hush"):
        assert secret not in text


def test_records_of_others_pass_as_they_are(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3.connectionpool").debug("GET %s", "/a?their=own")
    assert "/a?their=own" in caplog.text


def test_signed_urls_that_fsspec_reads(folder, caplog):
    caplog.set_level(logging.DEBUG)
    (folder / "state").write_bytes(b"{}")
    with serving(file_of(folder / "state")) as (url, _):
        url = url.replace("//", "//me:hush@")
        assert read_whole(f"{url}/state{SIGNED}", 100, 10) == b"{}"
        assert read_object(fsspec.filesystem("http"), f"{url}/state{SIGNED}", 100, 10) == b"{}"
        assert Folder.at(f"{url}/folder").read(f"state{SIGNED}") == b"{}"
        with pytest.raises(ImageOpenError):
            open_image(f"{url}/a.zarr")
    assert {"fsspec.http", "urllib3.connectionpool"} <= {record.name for record in caplog.records}
    assert "hush" not in caplog.text
