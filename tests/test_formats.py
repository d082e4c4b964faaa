"""Every kind of image: bands, subdatasets, STAC, Zarr, arrays in any order; formats that read badly; VRTs."""

import json
import pickle
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from helpers import crowd
from rasterio.shutil import copy as copy_file

import geotile
from geotile import ArgumentError, ImageOpenError, open_image
from geotile.imagery.file_array import source_of
from geotile.imagery.source import Source

pytestmark = pytest.mark.slow

COLUMNS = ["xmin", "ymin", "xmax", "ymax", "score", "label"]


@pytest.fixture
def counted(monkeypatch):
    """Pixels asked of the file, band by band."""
    asked = []
    real = Source.read_file

    def raw(self, window, valid, out=None):
        asked.append(window)
        return real(self, window, valid, out)

    monkeypatch.setattr(Source, "read_file", raw)
    return asked


# bands


def test_bands_by_number_and_name(write_tiff, noise):
    path = write_tiff(noise, photometric="RGB")
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("", "", "Coastal")
    for bands, want in (([3, 1], [2, 0]), ("green", [1]), (["coastal", "red"], [2, 0]), (2, [1]), ((1, 1), [0, 0])):
        image = open_image(path, bands=bands)
        np.testing.assert_array_equal(image, noise[want])
        assert image.band.to_numpy().tolist() == [w + 1 for w in want]
    assert open_image(path).attrs["long_name"] == ("red", "green", "Coastal")
    for bands in ([0], [4], "nir", [], [True]):
        with pytest.raises(ArgumentError, match="bands"):
            open_image(path, bands=bands)
    found = geotile.detect(path, crowd, bands=[2], tile_size=64, overlap=16)
    one = geotile.detect(xr.DataArray(noise[1], dims=("y", "x")), crowd, tile_size=64, overlap=16)
    assert found[COLUMNS].equals(one[COLUMNS])


def test_only_the_bands_asked_for_are_decoded_of_a_planar_file(write_tiff):
    values = np.random.default_rng(0).integers(0, 255, (6, 128, 128), np.uint8)
    path = write_tiff(values, interleave="band")
    assert source_of(open_image(path).data).interleave == "band"
    np.testing.assert_array_equal(open_image(path, bands=[5, 2]), values[[4, 1]])
    broken = write_tiff(values, "broken.tif", interleave="band", compress="deflate")
    with rasterio.open(broken) as file:
        spans = [
            (int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=band)), int(file.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=band)))
            for band in (1, 3, 4, 6)
        ]  # fmt: skip
    with open(broken, "r+b") as raw:
        for offset, size in spans:
            raw.seek(offset)
            raw.write(b"\0" * size)
    np.testing.assert_array_equal(open_image(broken, bands=[5, 2]), values[[4, 1]])
    with pytest.raises(geotile.ImageReadError):
        open_image(broken).compute()


def test_a_band_that_is_there_makes_a_block_of_a_sparse_planar_file_one(tmp_path):
    path = str(tmp_path / "sparse.tif")
    profile = {"width": 128, "height": 128, "tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True}
    with rasterio.open(path, "w", driver="GTiff", count=2, dtype="uint8", interleave="band", **profile) as file:
        file.write(np.full((64, 64), 9, np.uint8), 2, window=rasterio.windows.Window(64, 0, 64, 64))
    seen = []
    report = geotile.detect(path, lambda tile: (seen.append(tile.max()), ([], []))[1], tile_size=64, overlap=0).attrs[
        "report"
    ]
    assert (seen, report.tiles_without_data) == ([9], 3)


def test_mixed_dtypes_need_a_choice(tmp_path, write_tiff, noise):
    vrt = tmp_path / "mixed.vrt"
    path = write_tiff(noise)
    vrt.write_text(f"""<VRTDataset rasterXSize="420" rasterYSize="300">
      <VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>
      <VRTRasterBand dataType="UInt16" band="2"><SimpleSource><SourceFilename>{path}</SourceFilename><SourceBand>2</SourceBand></SimpleSource></VRTRasterBand>
    </VRTDataset>""")
    with pytest.raises(ImageOpenError, match="must have one dtype"):
        open_image(vrt, allow_vrt=True)
    np.testing.assert_array_equal(open_image(vrt, allow_vrt=True, bands=2), noise[1:2])


# images inside files


def test_image_segments_of_a_nitf(shared):
    for name in ("gdal_two_images_jp2.ntf", "osmlio_nitf21-multisegment-2img-1txt-1des.ntf"):
        path = shared / "formats" / name
        with rasterio.open(path) as file:
            inside = file.subdatasets
        assert len(inside) == 2
        for number in (0, 1):
            with rasterio.open(inside[number]) as file:
                want = file.read()
            np.testing.assert_array_equal(open_image(path, subdataset=number), want)
            np.testing.assert_array_equal(open_image(path, subdataset=inside[number]), want)
        with pytest.raises(ArgumentError, match=r"subdataset must be .*; got 2"):
            open_image(path, subdataset=2)
    with pytest.raises(ArgumentError, match="one image and no subdatasets"):
        open_image(shared / "formats" / "RGB.byte.tif", subdataset=3)
    np.testing.assert_array_equal(
        open_image(shared / "formats" / "gdal_tiff_with_subifds.tif", subdataset=1).shape[0], 1
    )


@pytest.mark.parametrize(("code", "exact"), [("NC", True), ("C3", False), ("C8", True)])
def test_nitfs_of_every_compression(tmp_path, code, exact):
    """Uncompressed, JPEG and JPEG 2000, written with GDAL."""
    values = (np.add.outer(np.arange(300), np.arange(400))[None] // 4 % 200 + np.arange(3)[:, None, None]).astype(
        np.uint8
    )
    path, plain = str(tmp_path / "a.ntf"), str(tmp_path / "a.tif")
    with rasterio.open(
        plain, "w", driver="GTiff", width=400, height=300, count=3, dtype="uint8", photometric="RGB"
    ) as file:
        file.write(values)
    lossless = (
        {"QUALITY": "100", "JPEG2000_DRIVER": "JP2OpenJPEG", "PROFILE": "NPJE_NUMERICALLY_LOSSLESS"}
        if code == "C8"
        else {}
    )
    copy_file(plain, path, driver="NITF", IC=code, **lossless)
    image = open_image(path)
    assert source_of(image.data).driver == "NITF"
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(image, file.read())
    assert np.abs(image.to_numpy().astype(int) - values).max() <= (0 if exact else 30)
    found = geotile.detect(path, crowd, tile_size=128, overlap=16, region_size=128)
    want = geotile.detect(xr.DataArray(image.to_numpy(), dims=("band", "y", "x")), crowd, tile_size=128, overlap=16)
    assert found[COLUMNS].equals(want[COLUMNS])


@pytest.mark.parametrize("kind", ["object", "mapping", "file"])
def test_a_stac_items_asset(tmp_path, write_tiff, noise, kind):
    import datetime

    import pystac

    path = write_tiff(noise)
    item = pystac.Item("scene-1", None, None, datetime.datetime(2026, 1, 1), {})
    item.add_asset("visual", pystac.Asset("./image.tif", media_type=pystac.MediaType.COG))
    item.add_asset("meta", pystac.Asset("./none.xml"))
    href = str(tmp_path / "item.json")
    item.set_self_href(href)
    with open(href, "w") as file:
        json.dump(item.to_dict(include_self_link=False), file)
    if kind == "mapping":
        item.assets["visual"].href = path
    given = {"object": item, "mapping": item.to_dict(transform_hrefs=False), "file": href}[kind]
    np.testing.assert_array_equal(open_image(given, asset="visual"), noise)
    found = geotile.detect(given, crowd, asset="visual", tile_size=64, overlap=16)
    assert found[COLUMNS].equals(geotile.detect(path, crowd, tile_size=64, overlap=16)[COLUMNS])
    with pytest.raises(ArgumentError, match=r"visual.*; got 'nir'"):
        open_image(given, asset="nir")
    with pytest.raises(ImageOpenError, match="cannot read the STAC item"):
        open_image(tmp_path / "none.json", asset="visual")


def test_zarr(tmp_path, noise):
    image = xr.DataArray(
        noise, dims=("band", "y", "x"), name="reflectance",
        coords={"band": ["red", "green", "blue"], "y": 5_000_000 - 0.5 * np.arange(300) - 0.25, "x": 500_000 + 0.5 * np.arange(420) + 0.25},
    ).rio.write_crs("EPSG:32631")  # fmt: skip
    path = str(tmp_path / "scene.zarr")
    image.chunk(y=128, x=128).to_dataset().to_zarr(path)
    opened = open_image(path)
    assert opened.chunks is not None
    np.testing.assert_array_equal(opened, noise)
    found = geotile.detect(path, crowd, tile_size=64, overlap=16)
    assert found.crs == "EPSG:32631"
    assert found[COLUMNS].equals(geotile.detect(image, crowd, tile_size=64, overlap=16)[COLUMNS])
    np.testing.assert_array_equal(open_image(path, bands=["blue", "red"]), noise[[2, 0]])
    np.testing.assert_array_equal(open_image(path, bands=2), noise[[1]])
    with pytest.raises(ArgumentError, match="nir"):
        open_image(path, bands="nir")
    image.to_dataset().assign(other=image.astype("float32")).to_zarr(tmp_path / "two.zarr")
    assert open_image(tmp_path / "two.zarr", subdataset="other").dtype == np.float32
    with pytest.raises(ArgumentError, match=r"subdataset must be .*; got None"):
        open_image(tmp_path / "two.zarr")
    with pytest.raises(ImageOpenError, match="Zarr"):
        open_image(tmp_path / "none.zarr")
    for unused in ({"georeference": False}, {"resolution": 2.0}, {"dem": "dem.tif"}, {"height": 3.0}, {"chunks": 100}):
        with pytest.raises(ArgumentError, match=f"{next(iter(unused))} cannot be applied to a Zarr store"):
            open_image(path, **unused)


@pytest.mark.parametrize("dims", [("band", "y", "x"), ("y", "x", "band"), ("x", "band", "y")])
@pytest.mark.parametrize("lazy", [True, False])
def test_arrays_with_dims_in_any_order(noise, dims, lazy):
    image = xr.DataArray(noise, dims=("band", "y", "x")).transpose(*dims)
    image = image.chunk(y=100, x=130) if lazy else image
    want = geotile.detect(xr.DataArray(noise, dims=("band", "y", "x")), crowd, tile_size=64, overlap=16)
    assert geotile.detect(image, crowd, tile_size=64, overlap=16)[COLUMNS].equals(want[COLUMNS])


# VRTs and what may be opened


def test_a_vrt_opens_where_it_is_trusted(tmp_path, write_tiff, noise):
    path = write_tiff(noise)
    vrt = str(tmp_path / "a.vrt")
    copy_file(path, vrt, driver="VRT")
    disguised = tmp_path / "innocent.tif"
    disguised.write_bytes((tmp_path / "a.vrt").read_bytes())
    for name in (vrt, disguised):
        with pytest.raises(ImageOpenError, match="allow_vrt=True"):
            open_image(name)
        with pytest.raises(ImageOpenError, match="allow_vrt=True"):
            geotile.detect(name, crowd)
        np.testing.assert_array_equal(open_image(name, allow_vrt=True), noise)
    found = geotile.detect(vrt, crowd, allow_vrt=True, tile_size=64, overlap=16)
    assert found[COLUMNS].equals(geotile.detect(path, crowd, tile_size=64, overlap=16)[COLUMNS])


@pytest.mark.parametrize(
    "named",
    [
        "vrt://{path}", "<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>", "DERIVED_SUBDATASET:AMPLITUDE:{path}",
        "MEM:::DATAPOINTER=1,PIXELS=1,LINES=1", "<GDAL_WMS></GDAL_WMS>", "STACTA:{path}",
    ],
)  # fmt: skip
def test_names_that_reach_elsewhere_are_refused(write_tiff, noise, named):
    with pytest.raises(ImageOpenError):
        open_image(named.format(path=write_tiff(noise)))


def test_gdals_other_drivers_are_not_asked(shared):
    with pytest.raises(ImageOpenError, match="not recognized"):
        open_image(shared / "formats" / "rasterio_issue1446.geojson")


# formats that read badly


def reasons(path, **options):
    work = geotile.plan(path, **options)
    for reason in work.advice:
        assert reason in repr(work)
    return work, " ".join(work.advice)


@pytest.mark.parametrize("driver", ["JPEG", "PNG"])
def test_a_file_that_reads_from_the_top_is_decoded_once(tmp_path, counted, driver):
    values = np.random.default_rng(0).integers(0, 255, (3, 700, 900), np.uint8)
    path = str(tmp_path / "a.img")
    with rasterio.open(path, "w", driver=driver, width=900, height=700, count=3, dtype="uint8") as file:
        file.write(values)
    work, slow = reasons(path, tile_size=128, overlap=32)
    assert work.regions == 1
    assert "decoded from the top" in slow
    counted.clear()
    assert geotile.detect(path, lambda tile: ([], []), tile_size=128, overlap=32).attrs["report"].status == "SUCCESS"
    assert [window.shape_yx for window in counted] == [(700, 900)]


def test_strips_are_decoded_once(write_tiff, counted):
    path = write_tiff(np.zeros((1, 4000, 3000), np.uint8), tiled=False, blockxsize=3000, blockysize=2)
    work, slow = reasons(path, tile_size=256, overlap=32, region_size=(512, 512))
    assert work.grid.regions_yx[1] == 1
    assert "strips" in slow
    geotile.detect(path, lambda tile: ([], []), tile_size=256, overlap=32, region_size=(512, 512))
    assert sum(window.shape_yx[0] for window in counted) == 4000


@pytest.mark.slow
def test_one_huge_strip_is_decoded_once(write_tiff, counted):
    values = np.random.default_rng(0).integers(0, 3, (3, 5000, 5000), np.uint8)
    path = write_tiff(values, tiled=False, blockxsize=5000, blockysize=5000, compress="deflate")
    work, slow = reasons(path, tile_size=512, overlap=64)
    assert work.regions == 1
    assert "one strip is decoded from the top" in slow
    counted.clear()
    report = geotile.detect(path, lambda tile: ([], []), tile_size=512, overlap=64).attrs["report"]
    assert len(counted) == 1
    assert report.tiles_without_data == 0  # GDAL shows the strip as rows, of which all but one have no place


def test_one_huge_block_is_decoded_once(write_tiff, counted):
    path = write_tiff(np.ones((3, 4800, 4800), np.uint8), blockxsize=4800, blockysize=4800, compress="deflate")
    work, slow = reasons(path, tile_size=512, overlap=64)
    assert work.regions == 1
    assert "decoded whole" in slow
    geotile.detect(path, lambda tile: ([], []), tile_size=512, overlap=64)
    assert len(counted) == 1


def test_a_jpeg2000_of_one_tile(tmp_path, counted):
    """Made with OpenJPEG. GDAL cuts it into blocks; none is decoded twice."""
    values = np.add.outer(np.arange(2100), np.arange(2600))[None] % 200
    path = str(tmp_path / "one.jp2")
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=2600, height=2100, count=1, dtype="uint8"
    ) as file:
        file.write(values.astype(np.uint8))
    copy_file(
        str(tmp_path / "a.tif"),
        path,
        driver="JP2OpenJPEG",
        QUALITY="100",
        REVERSIBLE="YES",
        BLOCKXSIZE="4096",
        BLOCKYSIZE="4096",
    )
    counted.clear()
    work, slow = reasons(path, tile_size=512, overlap=64)
    assert "JPEG 2000 of one tile" in slow
    seen = []
    geotile.detect(path, lambda tile: (seen.append(tile.sum()), ([], []))[1], tile_size=512, overlap=64)
    assert len(seen) == work.tiles
    np.testing.assert_array_equal(open_image(path)[0, 1000:1100, 900:1100], values[0, 1000:1100, 900:1100])


def test_what_reads_well_says_nothing(shared):
    assert geotile.plan(shared / "formats" / "rasterio_cogeo.tif", tile_size=256, overlap=32).advice == ()
    assert "other" in " ".join(
        geotile.plan(shared / "formats" / "RGB.byte.tif", bands=[1], tile_size=256, overlap=32).advice
    )


# bad input


def test_absurd_headers(tmp_path):
    """No header makes anybody allocate, or count, what it claims."""
    vrt = tmp_path / "huge.vrt"
    band = '<VRTRasterBand dataType="Byte" band="1"></VRTRasterBand>'
    for size, error, said in (
        (2**31 - 1, ImageOpenError, "claims"),
        (2**24, ArgumentError, "regions, and the maximum is"),
    ):
        vrt.write_text(f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}">{band}</VRTDataset>')
        with pytest.raises(error, match=said):
            geotile.plan(vrt, allow_vrt=True)
    path = str(tmp_path / "blocks.tif")
    profile = {"width": 10**7, "height": 10**7, "count": 3, "dtype": "uint8", "sparse_ok": True, "bigtiff": "yes"}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, blockxsize=65536, blockysize=65536, **profile):
        pass
    with pytest.raises(ImageOpenError, match="a block takes"):
        geotile.plan(path)
    with pytest.raises(ArgumentError, match="a region would take"):
        geotile.plan(path, max_block_bytes=2**40)
    with rasterio.open(
        path, "w", driver="GTiff", tiled=True, blockxsize=4096, blockysize=4096, **(profile | {"width": 10**6})
    ):
        pass
    assert geotile.plan(path).tiles > 10**7


def test_wrong_extensions_read_by_content(tmp_path, write_tiff, noise):
    path = write_tiff(noise)
    (tmp_path / "a.jp2").write_bytes(Path(path).read_bytes())
    np.testing.assert_array_equal(open_image(tmp_path / "a.jp2"), noise)


def test_a_broken_block_in_the_middle_fails_its_tiles_alone(write_tiff, noise):
    path = write_tiff(noise, compress="deflate")
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_2_2", "TIFF", bidx=1))
        size = int(file.get_tag_item("BLOCK_SIZE_2_2", "TIFF", bidx=1))
    with open(path, "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\0" * size)
    for region in (64, 128, 1000):
        with pytest.warns(UserWarning, match="cannot read rows"):
            report = geotile.detect(path, crowd, tile_size=64, overlap=10, region_size=region).attrs["report"]
        grid = geotile.plan(path, tile_size=64, overlap=10).grid
        hit = [n for n, w in grid.tiles() if w.y0 < 192 and w.y1 > 128 and w.x0 < 192 and w.x1 > 128]
        assert [failure.tile for failure in report.failures] == hit


def test_a_source_pickles_and_its_options_are_its_own(write_tiff, noise):
    image = open_image(write_tiff(noise), bands=[1])
    again = pickle.loads(pickle.dumps(image))
    assert source_of(again.data) == source_of(image.data)
    assert dask.base.tokenize(again.data) == dask.base.tokenize(image.data)
    with pytest.raises(ArgumentError, match=r"Pass it to geotile\.open_image"):
        geotile.detect(image, crowd, bands=[1])
