"""Names of places as users write them: ~, file: URIs, chains; and files that are not what lies beside them."""

import asyncio
import shutil
import subprocess
import sys

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from helpers import crowd, save_onnx

import geotile
from geotile.errors import ArgumentError, ClusterError, GeotileError, ImageOpenError
from geotile.storage.location import locate
from geotile.storage.uris import expanded_path, output_uri

pytestmark = pytest.mark.slow

JOB = {"tile_size": 64, "overlap": 16}


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder, work = tmp_path / "home", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(work)
    return folder


def test_a_tilde_is_the_home_folder_everywhere(home, write_tiff, noise):
    shutil.copy(write_tiff(noise), home / "a.tif")
    geotile.detect_to("~/a.tif", crowd, "~/x.geojson", **JOB)
    geotile.detect_to("~/a.tif", crowd, "~/found/", checkpoint="~/cp", **JOB)
    found = geotile.detect("~/a.tif", crowd, **JOB)
    geotile.write(found, "~/y.parquet")
    assert sorted(each.name for each in home.iterdir()) == ["a.tif", "cp", "found", "x.geojson", "y.parquet"]
    assert list((home.parent / "work").iterdir()) == []


@pytest.mark.parametrize("form", ["file://{}", "uri", "file://localhost{}", "FILE://{}"])
def test_file_uris(tmp_path, write_tiff, noise, form):
    place = tmp_path / "Übersicht 1.tif"
    shutil.copy(write_tiff(noise), place)
    encoded = place.as_uri()
    uri = encoded if form == "uri" else form.format(encoded.removeprefix("file://"))
    assert len(geotile.detect(uri, crowd, **JOB)) == len(geotile.detect(place, crowd, **JOB))
    output = tmp_path / "a b.geojson"
    geotile.detect_to(uri, crowd, output.as_uri(), **JOB)
    assert output.exists()
    with pytest.raises(ArgumentError, match="of this machine"):
        geotile.open_image("file://otherhost/a.tif")
    for odd in ("file:///a#b.tif", "file:///a?b.tif"):
        with pytest.raises(geotile.ArgumentError, match="must write # as %23"):
            geotile.open_image(odd)
    for odd in ("onnx:file://otherhost/m.onnx", "onnx:file:///m#1.onnx", "onnx:file:///m?1.onnx"):
        with pytest.raises(geotile.ArgumentError, match="a file: URI must"):
            geotile.endpoint(odd)


@pytest.mark.parametrize("place", ["a::b.geojson", "memory://m.geojson", "memory://m/"])
def test_places_that_keep_nothing_are_refused(home, write_tiff, noise, place):
    with pytest.raises(GeotileError):
        geotile.detect_to(write_tiff(noise), crowd, place, **JOB)
    with pytest.raises(GeotileError):
        geotile.detect(write_tiff(noise), crowd, checkpoint=place, **JOB)
    assert list((home.parent / "work").iterdir()) == []


def test_uris_stay_as_they_are():
    assert expanded_path("/vsizip/a~.zip/~x") == "/vsizip/a~.zip/~x"
    assert (output_uri("s3://bucket/~a/"), output_uri("/a/b/")) == ("s3://bucket/~a/", "/a/b/")


@pytest.mark.parametrize("services", [False, True])
def test_the_endpoint_of_an_aws_profile(home, monkeypatch, services):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    (home / ".aws").mkdir()
    own = "services = there" if services else "endpoint_url = http://127.0.0.1:9"
    text = f"[profile onprem]\nregion = us-east-1\naws_access_key_id = AKID\naws_secret_access_key = hidden\n{own}\n"
    (home / ".aws" / "config").write_text(text + "[services there]\ns3 =\n  endpoint_url = http://127.0.0.1:9\n")

    def endpoint(**options):
        return dict(locate("s3://bucket/a.tif", {"profile": "onprem", **options}).settings).get("AWS_S3_ENDPOINT")

    assert endpoint() == "127.0.0.1:9"
    assert endpoint(endpoint_url="http://127.0.0.1:8") == "127.0.0.1:8"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:7")
    assert endpoint() == "127.0.0.1:7"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert endpoint() is None


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + bytes(9000), b"text", bytes(3 * 64 * 64 + 1)])
def test_a_header_beside_another_file_is_not_its(tmp_path, content):
    pixels = np.arange(3 * 64 * 64, dtype=np.uint32).astype(np.uint8).reshape(3, 64, 64)
    with rasterio.open(tmp_path / "scene.img", "w", driver="ENVI", count=3, height=64, width=64, dtype="uint8") as file:
        file.write(pixels)
    np.testing.assert_array_equal(geotile.open_image(tmp_path / "scene.img"), pixels)
    (tmp_path / "scene.dat").write_bytes(content)
    with pytest.raises(ImageOpenError, match="is not the file that the ENVI header"):
        geotile.open_image(tmp_path / "scene.dat")


def test_an_asynchronous_client_is_refused(write_tiff, noise):
    from distributed import Client

    async def run():
        async with Client(processes=False, asynchronous=True, dashboard_address="127.0.0.1:0", n_workers=1):
            return geotile.detect(write_tiff(noise), crowd, **JOB)

    with pytest.raises(ClusterError, match="asynchronous"):
        asyncio.run(asyncio.wait_for(run(), 60))


def test_a_cluster_that_is_asked_for_and_not_there_is_named(write_tiff, noise):
    """As an asynchronous client that fails to start leaves it."""
    with dask.config.set(scheduler="dask.distributed"), pytest.raises(ClusterError, match="no client is active"):
        geotile.detect(write_tiff(noise), crowd, **JOB)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"scheduler": "nonsense"}, "'nonsense' cannot be used"), ({"scheduler": 5}, "5 cannot be used"),
        ({"scheduler": ["threads"]}, "cannot be used"), ({"num_workers": -1}, "num_workers must be a whole number, 1 or more; got -1"),
        ({"num_workers": "x"}, "num_workers must be a whole number"),
    ],
)  # fmt: skip
def test_settings_of_dask_that_cannot_be_used_are_named(write_tiff, noise, setting, said):
    with dask.config.set(setting), pytest.raises(ClusterError, match=said):
        geotile.detect(write_tiff(noise), crowd, **JOB)


def test_a_client_is_found_in_whatever_form_it_is_set():
    from distributed import Client

    from geotile.core.dask_info import active_client

    with Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0", set_as_default=False) as client:
        assert active_client() is None
        with dask.config.set(scheduler=client):
            assert active_client() is client
    with (
        Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0") as client,
        dask.config.set(scheduler="Distributed"),
    ):
        assert active_client() is client


def test_a_forked_child_detects(tmp_path):
    code = """
import multiprocessing, dask, numpy as np, xarray as xr, geotile
image = xr.DataArray(np.zeros((1, 256, 256), np.uint8), dims=("band", "y", "x"))
def run(_=None):
    return len(geotile.detect(image, lambda tile: ([[5, 5, 20, 20]], [0.9]), tile_size=128, overlap=0))
with dask.config.set(scheduler="synchronous"):
    before = run()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(before, pool.apply_async(run, (0,)).get(60))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "4 4", done.stderr


FORK_OF_A_MODEL = """
import os, subprocess, sys, geotile
from geotile.testing import write_example
path, model = write_example(), "onnx:" + sys.argv[1]
geotile.detect(path, model, tile_size=64, overlap=0, threads=4)
subprocess.run(["true"], check=True, preexec_fn=int)  # Python's own fork, with the hooks of a fork
child = os.fork()
if not child:
    geotile.detect(path, model, tile_size=64, overlap=0, threads=4)
    os._exit(7)  # as multiprocessing ends; onnxruntime itself hangs at sys.exit
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_does_not_wait_for_the_threads_of_a_model(tmp_path):
    """A session of onnxruntime ends by joining its threads, which a forked process does not have."""
    path = save_onnx(tmp_path / "m.onnx", {"output0": np.zeros((1, 6, 84), np.float32)}, (1, 3, 64, 64))
    words = [sys.executable, "-W", "ignore", "-c", FORK_OF_A_MODEL, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "7\n", done


FORK = """
import multiprocessing, sys, geotile
from distributed import Client
from geotile.testing import ModelServer, bright_objects, write_example

def child(image, model, answers):
    try:
        answers.put(len(geotile.detect(image, model, tile_size=64, overlap=0)))
    except geotile.GeotileError as error:
        answers.put(str(error))

def forked(image, model):
    answers = multiprocessing.get_context("fork").Queue()
    process = multiprocessing.get_context("fork").Process(target=child, args=(image, model, answers))
    process.start()
    print(answers.get(timeout=20))
    process.join(20)

path, store = write_example(), sys.argv[1]
array = geotile.open_image(path).load()
array.rename("a").to_dataset().to_zarr(store)
with ModelServer(bright_objects) as server:
    for image in (path, store, array):
        for model in (bright_objects, server.url):
            print(len(geotile.detect(image, model, tile_size=64, overlap=0)))
            forked(image, model)
    with Client(n_workers=1, processes=False, dashboard_address="127.0.0.1:0"):
        print(len(geotile.detect(path, bright_objects, tile_size=64, overlap=0)))
        forked(path, bright_objects)
"""


def test_a_process_that_was_forked_after_a_run_works_or_says_what_to_do(tmp_path):
    """Its parent's threads, sockets and open files are not its own: it would wait for ever."""
    words = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "a.zarr")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    *rows, refusal = done.stdout.splitlines()
    assert rows == ["3"] * 13, done
    assert "get_context('spawn')" in refusal


def test_a_dataset_is_no_array(write_tiff, noise):
    image = xr.DataArray(np.zeros((3, 64, 64), np.uint8), dims=("band", "y", "x"))
    with pytest.raises(ArgumentError, match="Dataset"):
        geotile.detect(image.to_dataset(name="rgb"), crowd)
