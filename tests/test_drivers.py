"""The formats that are opened without trust are a list, and no file of them makes GDAL read another file or ask a host."""

import json
import os
import shutil
import socket
import subprocess
import sys
import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.shutil import copy as copy_file

from geotile import ImageOpenError, open_image
from geotile.imagery.open_files import DRIVERS

pytestmark = pytest.mark.slow
NAMES = {
    "GTiff": "tif", "COG": "cog.tif", "NITF": "ntf", "JP2OpenJPEG": "jp2", "JPEG": "jpg", "PNG": "png", "WEBP": "webp",
    "GIF": "gif", "BIGGIF": "big.gif", "BMP": "bmp", "ENVI": "bin", "EHdr": "bil", "DTED": "dt1", "SRTMHGT": "hgt",
    "USGSDEM": "dem", "AAIGrid": "asc", "GRIB": "grb", "PNM": "pgm",
}  # fmt: skip
SECRET = b"a secret of this machine" * 1000
OPEN = """
import json, sys, geotile
for path, options in json.loads(sys.argv[1]):
    try:
        image = geotile.open_image(path, **options)
        small = [geotile.open_image(path, resolution=500, **options)] if image.rio.crs else []
        seen = [int(each[0, :50, :50].max()) for each in (image, *small)] if "big" not in path else [0]
        print(json.dumps([image.shape, str(image.rio.crs), seen]))
    except geotile.GeotileError as error:
        print(json.dumps(str(error)))
"""


def opened(*paths, **options):
    """What a process of its own sees: rasterio keeps the interpreter's lock while GDAL looks for overviews."""
    jobs = [path if isinstance(path, tuple) else (str(path), options) for path in paths]
    words = [sys.executable, "-W", "ignore", "-c", OPEN, json.dumps(jobs)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def listener():
    """A socket of which every connection is seen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def connections(server) -> int:
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def write(folder, driver) -> str:
    """Write 1201 x 1201 elevations with a georeference in a format."""
    path, model = str(folder / f"N50E003.{NAMES.get(driver, 'x')}"), str(folder / "model.tif")
    if driver == "BIGGIF":
        head = b"GIF89a\x30\x75\x30\x75\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x30\x75\x30\x75\0\x02\x02\x4c\x01\0;"
        (folder / "N50E003.big.gif").write_bytes(head)
        return path
    small = driver in ("DTED", "SRTMHGT", "USGSDEM", "AAIGrid", "GRIB")
    grid = Affine(1 / 1200, 0, 3 - 1 / 2400, 0, -1 / 1200, 51 + 1 / 2400)
    profile = {"crs": "EPSG:4326", "transform": grid, "dtype": "int16" if small else "uint8"}
    count = 3 if driver == "WEBP" else 1
    with rasterio.open(model, "w", driver="GTiff", width=1201, height=1201, count=count, **profile) as file:
        file.write(np.full((count, 1201, 1201), 7, profile["dtype"]))
    copy_file(model, path, driver=driver)
    return path


def test_the_drivers_are_a_list():
    assert set(NAMES) == set(DRIVERS)
    for each in (
        "VRT",
        "HFA",
        "PCIDSK",
        "RST",
        "MRF",
        "WMS",
        "DERIVED",
        "MEM",
        "netCDF",
        "HDF5",
        "GTI",
        "STACTA",
        "PDF",
    ):
        assert each not in DRIVERS


def test_what_any_other_driver_writes_is_refused(tmp_path):
    with rasterio.Env() as env:
        others = sorted(set(env.drivers()) - set(DRIVERS) - {"MEM", "Memory"})
    model, tried = write(tmp_path, "GTiff"), []
    for driver in others:
        path = tmp_path / f"{driver}.bin"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                copy_file(model, str(path), driver=driver)
                with rasterio.open(path) as file:
                    if file.driver in DRIVERS:
                        continue
        except Exception:
            continue  # the driver does not write, or not this
        tried.append(driver)
        with pytest.raises(ImageOpenError, match="allow_vrt=True"):
            open_image(path)
    assert {"VRT", "HFA", "PCIDSK"} <= set(tried)


AUX = (
    '<PAMDataset><SRS>{srs}</SRS><Metadata domain="{domain}"><MDI key="{key}">{named}</MDI>'
    '<MDI key="SUBDATASET_1_DESC">a</MDI></Metadata></PAMDataset>'
)


@pytest.fixture(scope="module")
def said(tmp_path_factory, listener):
    """What is seen of a file of each format, by driver: plain, and with metadata beside it that name something else."""
    root, jobs = tmp_path_factory.mktemp("formats"), []
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    (root / "secret.bin").write_bytes(SECRET)
    named = [
        "",
        f"/vsicurl/http://{host}/a.tif",
        str(root / "secret.bin"),
        f"vrt://{root}/secret.bin",
        ":::BASE:::../secret.bin",
    ]
    for driver in NAMES:
        (root / driver).mkdir()
        written = os.path.basename(write(root / driver, driver))
        for number, name in enumerate([*named, "subdataset"]):
            folder = shutil.copytree(root / driver, root / f"{driver}{number}")
            path, options = str(folder / written), {}
            words = {"domain": "OVERVIEWS", "key": "OVERVIEW_FILE", "named": name, "srs": ""}
            if name == "subdataset":
                words |= {
                    "domain": "SUBDATASETS",
                    "key": "SUBDATASET_1_NAME",
                    "named": named[1],
                    "srs": f"http://{host}/crs",
                }
                options = {"subdataset": 0}
            if name:
                (folder / f"{path}.aux.xml").write_text(AUX.format(**words))
            jobs.append((path, options))
    answers = opened(*jobs)
    each = len(named) + 1
    return {driver: answers[each * n : each * (n + 1)] for n, driver in enumerate(NAMES)}, connections(listener)


@pytest.mark.parametrize("driver", NAMES)
def test_what_lies_beside_a_file_makes_no_driver_read_elsewhere(said, driver):
    """The auxiliary metadata, which GDAL reads for every format, name a host, files, images inside and a CRS."""
    answers, connected = said
    plain, *others, inside = answers[driver]
    assert plain[0][1:] == [30_000, 30_000] if driver == "BIGGIF" else plain[2][0] in (6, 7, 8), plain
    assert all(each == plain if driver == "NITF" else "as its overviews" in each for each in others), others
    assert inside[0] == plain[0] or "ALLOW_NETWORK_ACCESS=NO" in inside, inside
    assert connected == 0


def test_no_tag_of_a_tiff_makes_it_read_elsewhere(tmp_path, listener):
    url = f"/vsicurl/http://127.0.0.1:{listener.getsockname()[1]}/a.tif"
    paths = []
    for domain, key in (
        ("OVERVIEWS", "OVERVIEW_FILE"),
        ("SUBDATASETS", "SUBDATASET_1_NAME"),
        ("GEOLOCATION", "X_DATASET"),
    ):
        path = write(tmp_path, "GTiff").replace(".tif", f"{domain}.tif")
        copy_file(str(tmp_path / "model.tif"), path, driver="GTiff")
        with rasterio.open(path, "r+") as file:
            file.update_tags(ns=domain, **{key: url, "SUBDATASET_1_DESC": "a"})
        paths.append(path)
    answers = opened(*paths, (paths[1], {"subdataset": 0}))
    assert "name another file" in answers[0]
    assert answers[1][2][0] == answers[2][2][0] == 7
    assert answers[3] == answers[1]  # the image of the file itself
    assert connections(listener) == 0


def test_a_jpeg_2000_asks_no_host_for_its_crs(tmp_path, listener):
    write(tmp_path, "GTiff")
    path = tmp_path / "a.jp2"
    copy_file(str(tmp_path / "model.tif"), str(path), driver="JP2OpenJPEG", GeoJP2="NO", GMLJP2="YES")
    name = b"http://www.opengis.net/def/crs/EPSG/0/4326"
    data = path.read_bytes()
    names = [each for each in (name, b"urn:ogc:def:crs:EPSG::4326") if each in data]
    assert names
    for each in names:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/".encode()
        data = data.replace(each, url.ljust(len(each), b"x")[: max(len(each), len(url))])
    path.write_bytes(data)
    opened(path)
    assert connections(listener) == 0


def test_an_aux_file_of_erdas_beside_an_image_is_not_followed(tmp_path):
    path = write(tmp_path, "GTiff")
    with rasterio.Env(USE_RRD="YES"), rasterio.open(path, "r+") as file:
        file.build_overviews([2], rasterio.enums.Resampling.nearest)
    with pytest.raises(ImageOpenError, match=r"N50E003\.aux beside it names other files"):
        open_image(path)
    assert open_image(path, allow_vrt=True).shape == (1, 1201, 1201)


def test_headers_of_raw_files_name_nothing_else(tmp_path, listener):
    """ENVI, EHdr and AAIGrid read texts beside the file: no line of them is a name."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(SECRET)
    url, paths = f"/vsicurl/http://127.0.0.1:{listener.getsockname()[1]}/a", []
    for driver, suffix in (("ENVI", ".hdr"), ("EHdr", ".hdr"), ("AAIGrid", ".prj"), ("EHdr", ".prj")):
        path = write(tmp_path, driver)
        beside = path.rpartition(".")[0] + suffix
        text = "".join(
            f"{key} = {value}\n"
            for key in ("data file", "DATAFILE", "ref. system", "spectra names")
            for value in (url, secret)
        )
        with open(beside, "a") as file:
            file.write(text)
        with open(path.rpartition(".")[0] + ".prj", "w") as file:
            file.write(f"http://127.0.0.1:{listener.getsockname()[1]}/crs")
        os.makedirs(folder := tmp_path / f"{driver}{suffix}")
        for each in {path, beside, path.rpartition(".")[0] + ".prj"}:
            shutil.move(each, folder)
        paths.append(folder / os.path.basename(path))
    answers = opened(*paths)
    assert all(isinstance(each, str) or each[2][0] == 7 for each in answers), answers
    assert connections(listener) == 0
