"""Chunks of a raster store: what zarr itself would write, and nothing of an earlier run."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geotile.grid.tile_grid import Window
from geotile.results.raster_chunks import ChunkEncoder
from geotile.results.raster_store import RasterStore, store_files
from geotile.storage.atomic import put_on_disk, write_whole
from geotile.storage.folder import Folder


def store(path, shape, dtype, nodata, chunk):
    dims = ("y", "x") if len(shape) == 2 else ("band", "y", "x")
    template = xr.DataArray(np.zeros(shape, dtype), dims=dims, name="prediction").chunk().rio.write_nodata(nodata)
    files = store_files(template, chunk)
    made = RasterStore(folder=Folder.at(str(path)), array=files["prediction/zarr.json"])
    made.begin(files)
    return made


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from([("uint8", 255), ("uint16", 65535), ("float32", np.nan)]), st.sampled_from([(), (1,), (3,)]),
    st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(0, 2**32), st.booleans(),
)  # fmt: skip
def test_chunks_are_those_of_zarr(tmp_path_factory, kind, lead, height, width, chunk, seed, big_endian):
    """Byte for byte, also chunks at the end of the array and those that hold only nodata."""
    (dtype, nodata), rng = kind, np.random.default_rng(seed)
    values = rng.integers(0, 200, (*lead, height, width)).astype(dtype)
    values[..., rng.random((height, width)) < 0.2] = nodata
    values[..., : height // 2, :] = nodata
    path = tmp_path_factory.mktemp("store")
    own = store(path / "own.zarr", values.shape, dtype, nodata, chunk)
    own.write(
        Window(0, height, 0, width), values.astype(values.dtype.newbyteorder(">" if big_endian else "<")), 0, 0, {}
    )
    by_zarr = store(path / "zarr.zarr", values.shape, dtype, nodata, chunk)
    zarr.open_array(f"{path}/zarr.zarr", path="prediction", mode="r+")[...] = values

    def chunks(made):
        names = made.folder.sub("prediction").all_names()
        return {name: made.folder.sub("prediction").read(name) for name in names if name.startswith("c/")}

    assert chunks(own) == chunks(by_zarr)
    np.testing.assert_array_equal(zarr.open_array(f"{path}/own.zarr", path="prediction")[...], values)


def test_names_of_bands_are_kept_in_a_form_that_zarr_specifies(tmp_path):
    template = xr.DataArray(
        np.zeros((2, 8, 8), np.uint8), dims=("band", "y", "x"), coords={"band": ["high", "lów"]}, name="prediction"
    ).rio.write_nodata(255)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*does not have a Zarr V3 specification")
        files = store_files(template, 8)
    folder = Folder.at(str(tmp_path / "o.zarr"))
    for name, content in files.items():
        folder.write(name, content)
    assert xr.open_zarr(tmp_path / "o.zarr").band.values.tolist() == ["high", "lów"]


def test_a_block_that_is_written_again_leaves_nothing_of_the_first(tmp_path):
    made = replace(store(tmp_path / "o.zarr", (64, 64), "uint8", 255, 32), is_new=False)
    made.write(Window(0, 64, 0, 64), np.ones((64, 64), np.uint8), 0, 0, {})
    again = np.full((64, 64), 255, np.uint8)
    again[40:, 40:] = 7
    made.write(Window(0, 64, 0, 64), again, 0, 0, {})
    np.testing.assert_array_equal(made.read(Window(0, 64, 0, 64)), again)


def test_a_block_that_is_half_written_again_is_not_done(tmp_path, monkeypatch):
    """A kill between its chunks and its report leaves no report that holds for other chunks."""
    made = replace(store(tmp_path / "o.zarr", (64, 64), "uint8", 255, 32), is_new=False)
    made.write(Window(0, 64, 0, 64), np.ones((64, 64), np.uint8), 0, 0, {})
    assert made.done((1, 1)).all()
    write = Folder.write

    def killed(folder, name, data, **options):
        if folder.uri.endswith("blocks"):
            raise KeyboardInterrupt
        write(folder, name, data, **options)

    monkeypatch.setattr(Folder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        made.write(Window(0, 64, 0, 64), np.full((64, 64), 2, np.uint8), 0, 0, {})
    assert not made.done((1, 1)).any()


def test_an_array_in_another_form_is_refused(tmp_path):
    made = store(tmp_path / "o.zarr", (64, 64), "uint8", 255, 32)
    with pytest.raises(ValueError, match="must be encoded by"):
        ChunkEncoder.of(made.array.replace(b"zstd", b"gzip"))


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path):
    target = tmp_path / "new" / "a.bin"
    write_whole(target, b"first", at_once=False)
    with pytest.raises(TypeError):
        write_whole(target, "text")
    put_on_disk(tmp_path)
    assert target.read_bytes() == b"first"
    assert [each.name for each in target.parent.iterdir()] == ["a.bin"]
