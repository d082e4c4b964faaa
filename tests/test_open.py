"""Opening: lazily, as rasterio reads, and clear about what cannot be opened."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine

import geotile
from geotile import ImageOpenError, open_image


def test_an_image_is_what_rasterio_says(write_tiff, noise):
    path = write_tiff(noise, nodata=7)
    image = open_image(path, chunks={"y": 128, "x": 200})
    assert image.dims == ("band", "y", "x")
    assert image.dtype == np.uint8
    assert image.chunks == ((3,), (128, 128, 44), (192, 192, 36))  # on block edges
    with rasterio.open(path) as file:
        assert image.rio.crs == file.crs
        assert image.rio.transform() == file.transform
        assert image.rio.nodata == 7
    np.testing.assert_array_equal(image.compute(), noise)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image))[:, 5:90, 3:300], noise[:, 5:90, 3:300])


def test_the_same_file_has_the_same_name_and_a_changed_one_has_not(write_tiff, noise):
    path = write_tiff(noise)
    first = open_image(path)
    assert first.data.name == open_image(path).data.name
    assert (first.compute() == noise).all()
    write_tiff(noise // 2)
    assert first.data.name != open_image(path).data.name
    np.testing.assert_array_equal(open_image(path), noise // 2)


def test_a_striped_file_gets_wide_low_regions(write_tiff):
    with dask.config.set({"array.chunk-size": "64 KiB"}):
        path = write_tiff(np.zeros((1, 1024, 512), np.uint8), tiled=False, blockxsize=512, blockysize=4)
        rows, columns = open_image(path).chunks[1:]
    assert columns == (512,)
    assert max(rows) * 512 <= 65_536
    assert all(row % 4 == 0 for row in rows)


def test_missing_denied_empty_and_no_image(tmp_path):
    with pytest.raises(ImageOpenError, match="no such image"):
        open_image(tmp_path / "none.tif")
    (tmp_path / "empty.tif").write_bytes(b"")
    with pytest.raises(ImageOpenError, match="empty"):
        open_image(tmp_path / "empty.tif")
    (tmp_path / "text.tif").write_text("no image at all")
    with pytest.raises(ImageOpenError, match="cannot open"):
        open_image(tmp_path / "text.tif")
    with pytest.raises(ImageOpenError, match="cannot open"):
        open_image(tmp_path)
    if os.geteuid() != 0:
        (tmp_path / "text.tif").chmod(0)
        with pytest.raises(ImageOpenError, match="permission"):
            open_image(tmp_path / "text.tif")


_KINDS = """
import os, sys
from contextlib import suppress
import geotile
os.chdir(sys.argv[1])
for name in sys.argv[2:]:
    link = name.startswith("@")
    name = name.removeprefix("@")
    os.symlink("/dev/zero", name) if link else os.mkfifo(name)
    for image in ("scene.tif", "NITF_IM:0:scene.tif") if name != "pipe" else ("pipe", "NITF_IM:0:pipe", "/vsigzip/pipe"):
        try:
            geotile.open_image(image)
        except geotile.ImageOpenError as error:
            print(name, name in str(error) and "neither a file nor a folder" in str(error))
    os.remove(name)
with suppress(geotile.ImageOpenError):
    geotile.open_image("/vsistdin/")
os.mkfifo("another.tif.aux.xml")
print(geotile.open_image("scene.tif").shape)
"""


def test_a_pipe_or_a_device_beside_an_image_stops_no_process(write_tiff, noise, tmp_path):
    os.rename(write_tiff(noise), tmp_path / "scene.tif")
    names = [
        "pipe", "scene.tif.aux.xml", "scene.tif.ovr", "scene.tif.msk", "scene.aux", "SCENE.TFW", "scene.RPB", "scene_rpc.txt",
        "scene.tif.AUX", "summary.txt", "METADATA.DIM", "@scene.tab",
    ]  # fmt: skip
    command = [sys.executable, "-c", _KINDS, str(tmp_path), *names]  # its own: GDAL waits with Python's lock held
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    expected = [f"{name.removeprefix('@')} True" for name in names for _ in range(3 if name == "pipe" else 2)]
    assert ended.stdout.splitlines() == [*expected, str(noise.shape)], ended.stderr


def test_a_pipe_that_appears_beside_an_image_fails_its_tiles(write_tiff, noise):
    path = write_tiff(noise)
    image = open_image(path)
    os.mkfifo(f"{path}.aux.xml")
    with pytest.raises(geotile.ImageReadError, match="neither a file nor a folder"):
        image.compute()


def test_a_truncated_file_lists_the_tiles_it_lost(write_tiff, noise):
    path = write_tiff(noise, compress="deflate")
    os.truncate(path, os.path.getsize(path) * 2 // 3)
    with pytest.warns(UserWarning, match="cannot read rows"):
        found = geotile.detect(path, lambda tile: ([[0, 0, 5, 5]], [1.0]), tile_size=64, overlap=0, merge=None)
    report = found.attrs["report"]
    assert report.status == "PARTIAL"
    assert len(found) == report.tiles - len(report.failures)


def test_complex_numbers_and_no_bands(shared):
    with pytest.raises(ImageOpenError, match="complex"):
        open_image(shared / "formats" / "gdal_cint_sar.tif")
    with pytest.raises(ImageOpenError, match="no bands"):
        open_image(shared / "formats" / "gdal_U_0006A.NTF")


def _can_be_read(path) -> bool:
    try:
        with rasterio.open(path) as file:
            return file.count > 0 and "complex" not in file.dtypes[0] and file.read() is not None
    except rasterio.errors.RasterioError:
        return False


@pytest.mark.slow
def test_every_format_reads_as_rasterio_reads_it(shared):
    read = 0
    for path in sorted((shared / "formats").iterdir()) + sorted((shared / "imagery").iterdir()):
        if path.suffix.lower() in (".imd", ".rpb", ".xml", ".csv", ".json", ".geojson", ".msk") or not _can_be_read(
            path
        ):
            continue
        with rasterio.open(path) as file:
            want = file.read()
        image = open_image(path, georeference=False, allow_vrt=True, bands=range(1, len(want) + 1), palette="index")
        np.testing.assert_array_equal(image.compute(), want, err_msg=path.name)
        read += 1
    assert read > 40


@pytest.mark.slow
def test_corrupt_files_end_cleanly(shared):
    """A clear error on opening, listed failed tiles, or plain reading; never worse than rasterio."""
    outcomes = {}
    for path in sorted((shared / "corrupt").iterdir()):
        if path.name == "gdal_many_blocks_truncated.tif":
            continue  # ends as it should (8,192 failed tiles, 730 MB), but takes 25 s
        try:
            image = open_image(path, georeference=False)
        except ImageOpenError:
            outcomes[path.name] = "refused"
            continue
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = geotile.detect(image, lambda tile: ([], []), tile_size=2048, overlap=0)
        outcomes[path.name] = found.attrs["report"].status
        assert (outcomes[path.name] == "SUCCESS") == _can_be_read(path), path.name
        assert found.attrs["report"].tiles_without_data == 0, path.name
    assert sum(outcome == "refused" for outcome in outcomes.values()) == 5


def test_regions_of_an_image_that_is_opened_again_are_those_of_the_threads_now(tmp_path, write_tiff):
    path = write_tiff(np.zeros((3, 4096, 4096), np.uint8))
    counts = []
    for workers in (1, 8, 1):
        with dask.config.set(scheduler="threads", num_workers=workers):
            counts.append(len(geotile.open_image(path).chunks[1]))
    assert counts[0] == counts[2] < counts[1]


def test_an_image_that_is_opened_again_is_as_its_files_are_now(tmp_path, write_tiff):
    """The lazy image is kept for as long as its header stays the same; each caller gets a copy."""
    path = write_tiff(np.zeros((1, 8, 8), np.uint8), crs=None, transform=None)
    first = open_image(path)
    first.attrs["note"] = "mine"
    again = open_image(path)
    assert "note" not in again.attrs
    assert again.rio.crs is None
    beside = Path(path).with_suffix(".tfw")
    beside.write_text("2\n0\n0\n-2\n1001\n1999\n")
    assert open_image(path).rio.transform() == Affine(2, 0, 1000, 0, -2, 2000)
    beside.write_text("3\n0\n0\n-3\n1001.5\n1998.5\n")
    assert open_image(path).rio.transform() == Affine(3, 0, 1000, 0, -3, 2000)
    assert open_image(path, bands=1, georeference=False).rio.transform() == Affine.identity()
