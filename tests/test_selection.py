"""Which tiles are read and sent: regions of interest, nodata, masks, empty blocks."""

import json

import dask
import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from helpers import crowd
from hypothesis import given, settings
from hypothesis import strategies as st

import geotile
from geotile import ArgumentError, GeoreferenceError, TileGrid
from geotile.imagery.source import Source
from geotile.planning.roi import intersecting_tiles
from geotile.testing import bright_objects, write_example

pytestmark = pytest.mark.slow

UTM = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


def world(x0, y0, x1, y1):
    """A box of the test images, pixels to EPSG:32631."""
    return shapely.box(*(UTM @ (x0, y1)), *(UTM @ (x1, y0)))


@pytest.fixture
def windows_read(monkeypatch):
    """Windows that are read of the file."""
    read, real = [], Source.read
    monkeypatch.setattr(
        Source,
        "read",
        lambda self, window, valid=False, out=None: read.append(window) or real(self, window, valid, out),
    )
    return read


def sent(image, **options):
    """Upper-left pixels of the tiles that a model sees, by their content."""
    seen = []

    def look(tile):
        seen.append(tile.copy())
        return [], []

    report = geotile.detect(image, look, **options).attrs["report"]
    assert len(seen) == report.requests
    return seen, report


@settings(max_examples=60)
@given(
    st.tuples(st.integers(20, 200), st.integers(20, 200)), st.integers(8, 60), st.integers(0, 7),
    st.lists(st.tuples(st.integers(-20, 220), st.integers(-20, 220)), min_size=3, max_size=6),
)  # fmt: skip
def test_selected_tiles_are_those_that_share_area(shape, tile, overlap, corners):
    grid = TileGrid(shape, tile, overlap)
    area = shapely.MultiPoint(corners).convex_hull
    if area.geom_type != "Polygon":
        return
    want = [shapely.box(w.x0, w.y0, w.x1, w.y1).intersection(area).area > 1e-9 for _, w in grid.tiles()]
    assert intersecting_tiles(grid, area).ravel().tolist() == want


def forms():
    area = world(40, 40, 99, 99)
    lonlat = gpd.GeoSeries([area], crs="EPSG:32631").to_crs("OGC:CRS84")[0]
    return {
        "shapely in WGS 84": lonlat,
        "shapely with an SRID": shapely.set_srid(area, 32631),
        "WKT": lonlat.wkt,
        "EWKT": f"SRID=32631;{area.wkt}",
        "GeoJSON text": shapely.to_geojson(lonlat),
        "GeoJSON": shapely.geometry.mapping(lonlat),
        "a Feature": {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(lonlat)},
        "a FeatureCollection": json.loads(gpd.GeoSeries([lonlat]).to_json()),
        "GeoJSON of old, with its CRS": json.loads(gpd.GeoSeries([area], crs="EPSG:32631").to_json(show_bbox=False))
        | {"crs": {"type": "name", "properties": {"name": "EPSG:32631"}}},
        "a GeoDataFrame": gpd.GeoDataFrame(geometry=[area], crs="EPSG:32631"),
        "a GeoDataFrame in another CRS": gpd.GeoDataFrame(geometry=[area], crs="EPSG:32631").to_crs("EPSG:3857"),
        "a GeoSeries without a CRS": gpd.GeoSeries([lonlat]),
    }


@pytest.mark.parametrize("form", forms())
def test_a_roi_in_any_form(write_tiff, noise, form):
    path = write_tiff(noise)
    tiles, report = sent(path, tile_size=50, overlap=0, roi=forms()[form])
    grid = geotile.plan(path, tile_size=50, overlap=0).grid
    meet = [w for _, w in grid.tiles() if w.y0 < 99 and w.y1 > 40 and w.x0 < 99 and w.x1 > 40]
    assert {tile.tobytes() for tile in tiles} == {noise[:, *w.slices].tobytes() for w in meet}
    assert report.tiles_outside_roi == report.tiles - len(meet)
    work = geotile.plan(path, tile_size=50, overlap=0, roi=forms()[form])
    assert work.requests == len(meet)
    assert f"{len(meet)} of them" in repr(work)


def test_detections_outside_are_dropped_or_kept():
    path = write_example()
    place = rasterio.open(path).transform
    around_one = shapely.set_srid(shapely.box(*(place @ (25, 40)), *(place @ (60, 15))), 32631)  # of three objects
    job = {"tile_size": 256, "overlap": 32}
    whole = geotile.detect(path, bright_objects, **job)
    dropped = geotile.detect(path, bright_objects, roi=around_one, **job)
    kept = geotile.detect(path, bright_objects, roi=around_one, outside_roi="keep", **job)
    assert (len(whole), len(dropped), len(kept)) == (3, 1, 3)
    assert dropped[["xmin", "ymin"]].to_numpy().tolist() == [[30, 20]]


@pytest.mark.parametrize("computed", [False, True])
def test_a_roi_gives_what_the_whole_run_gives_there(write_tiff, noise, computed):
    """And only the chunks under it are computed."""
    path = write_tiff(noise)
    touched = []

    def note(block, block_info=None):
        touched.append(block_info[0]["chunk-location"][1:])
        return block

    image = geotile.open_image(path, chunks=64)
    if computed:
        image = image.copy(data=image.data.map_blocks(note, dtype=image.dtype, meta=image.data._meta))
    job = {"tile_size": 40, "overlap": 10, "region_size": 64, "merge": None}
    area = world(10, 10, 60, 60)
    whole = geotile.detect(path, crowd, **job)
    touched.clear()
    part = geotile.detect(image, crowd, roi=shapely.set_srid(area, 32631), outside_roi="keep", **job)
    grid = geotile.plan(path, tile_size=40, overlap=10, region_size=64).grid
    inside = [w for _, w in grid.tiles() if w.y0 < 60 and w.y1 > 10 and w.x0 < 60 and w.x1 > 10]
    assert part.attrs["report"].requests == len(inside)
    rows = {tuple(row) for row in whole[["xmin", "ymin", "xmax", "ymax", "score"]].to_numpy()}
    assert {tuple(row) for row in part[["xmin", "ymin", "xmax", "ymax", "score"]].to_numpy()} <= rows
    assert len(part) > 0
    if computed:
        assert set(touched) <= {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("roi", "error", "said"),
    [
        ("POLYGON EMPTY", ArgumentError, "empty"),
        ("nonsense", ArgumentError, "must be WKT or GeoJSON"),
        ("{nonsense", ArgumentError, "must be valid GeoJSON"),
        ({"type": "Nothing"}, ArgumentError, "must be a GeoJSON geometry"),
        (shapely.box(100, 10, 101, 11), ArgumentError, "must intersect the image"),
        (7, ArgumentError, "must be WKT, GeoJSON"),
    ],
)
def test_a_roi_that_cannot_be_used(write_tiff, noise, roi, error, said):
    with pytest.raises(error, match=said):
        geotile.plan(write_tiff(noise), roi=roi)


def test_a_roi_needs_a_place(noise):
    image = xr.DataArray(noise, dims=("band", "y", "x"))
    with pytest.raises(GeoreferenceError, match="Crop the image instead"):
        geotile.detect(image, crowd, roi="POINT(0 0)")
    with pytest.raises(ArgumentError, match="outside_roi"):
        geotile.detect(image, crowd, outside_roi="maybe")


def test_rois_of_rpc_and_gcp_images(shared):
    for name in ("rioxarray_test_rpcs.tif", "riotiler_cog_gcps.tif"):
        path = shared / "formats" / name
        whole = geotile.detect(
            path, lambda tile: ([[2, 2, 30, 30]], [1.0]), tile_size=100, overlap=0, skip_nodata=False, crs="OGC:CRS84"
        )
        one = whole.geometry[4]
        part = geotile.detect(
            path,
            lambda tile: ([[2, 2, 30, 30]], [1.0]),
            tile_size=100,
            overlap=0,
            skip_nodata=False,
            roi=one,
            crs="OGC:CRS84",
        )
        assert len(part) == 1
        assert part.geometry[0].equals_exact(one, 1e-9)


# nodata


def test_tiles_without_data_are_not_sent(write_tiff):
    pixels = np.zeros((2, 200, 200), np.uint8)
    pixels[0, :50, :50] = 9
    pixels[1, 60, 60] = 9  # one valid pixel, of one band
    path = write_tiff(pixels, nodata=0)
    tiles, report = sent(path, tile_size=50, overlap=0, region_size=100)
    assert len(tiles) == 2
    assert (report.tiles, report.tiles_without_data, report.status) == (16, 14, "SUCCESS")
    assert sent(path, tile_size=50, overlap=0, skip_nodata=0.5)[1].requests == 1
    assert sent(path, tile_size=50, overlap=0, skip_nodata=1.0)[1].requests == 1
    assert sent(path, tile_size=50, overlap=0, skip_nodata=False)[1].requests == 16
    computed = geotile.open_image(path) + np.uint8(0)
    assert sent(computed.rio.write_nodata(0), tile_size=50, overlap=0)[1].requests == 2
    with pytest.raises(ArgumentError, match=r"skip_nodata must be .* got 7"):
        geotile.detect(path, crowd, skip_nodata=7)


def test_nan_mask_and_alpha_are_no_data(write_tiff, tmp_path):
    floats = np.full((1, 100, 100), np.nan, np.float32)
    floats[0, :10, :10] = 1
    assert sent(write_tiff(floats), tile_size=50, overlap=0)[1].requests == 1
    pixels = np.full((3, 100, 100), 7, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[:10, 60:] = True
    path = write_tiff(pixels, "masked.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    tiles, report = sent(path, tile_size=50, overlap=0)
    assert report.tiles_without_data == 3
    assert len(tiles[0]) == 3
    rgba = np.concatenate([pixels, mask[None] * np.uint8(255)])
    tiles, report = sent(write_tiff(rgba, "rgba.tif", photometric="RGB", alpha="yes"), tile_size=50, overlap=0)
    assert report.tiles_without_data == 3
    assert len(tiles[0]) == 3  # alpha says where there is data; it is no colour


def test_real_masks(shared):
    for name in ("riotiler_cog_rgb_mask.tif", "riotiler_201404_13SED190110_201404_0x1500m_CL_1_extmask.tif"):
        path = shared / "formats" / name
        with rasterio.open(path) as file:
            mask = file.dataset_mask()
        grid = geotile.plan(path, tile_size=16, overlap=0).grid
        want = sum(mask[w.slices].all() for _, w in grid.tiles())
        assert want < grid.n_tiles
        assert sent(path, tile_size=16, overlap=0, skip_nodata=1.0)[1].requests == want
    report = sent(shared / "formats" / "rasterio_all-nodata.tif", tile_size=64, overlap=0)[1]
    assert (report.requests, report.tiles_without_data, report.status) == (0, report.tiles, "SUCCESS")


def test_blocks_that_the_file_does_not_hold_are_not_read(tmp_path, windows_read):
    """A sparse file without a nodata value: what it does not hold is no data, and is not even read."""
    path = str(tmp_path / "sparse.tif")
    profile = {"width": 2048, "height": 2048, "tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True}
    with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", **profile) as file:
        file.write(np.full((1, 64, 64), 5, np.uint8), window=rasterio.windows.Window(640, 640, 64, 64))
    tiles, report = sent(path, tile_size=128, overlap=0, region_size=512)
    assert report.requests == 1
    assert report.tiles_without_data == 255
    assert sum(np.prod(window.shape_yx) for window in windows_read) <= 128 * 128
    assert tiles[0].max() == 5
    assert sent(path, tile_size=128, overlap=0, skip_nodata=False)[1].requests == 256


@pytest.mark.parametrize("resampling", ["average", "nearest"])
def test_an_averaged_overview_tells_what_is_empty(write_tiff, windows_read, resampling):
    """Any other overview may have lost a small object: it is not asked."""
    pixels = np.zeros((1, 2048, 2048), np.uint8)
    pixels[0, 700:703, 900:903] = 9
    path = write_tiff(pixels, nodata=0, compress="deflate")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling[resampling])
    tiles, report = sent(path, tile_size=128, overlap=0, region_size=512)
    assert report.requests == 1
    assert report.tiles_without_data == 255
    assert tiles[0].max() == 9
    assert (sum(np.prod(window.shape_yx) for window in windows_read) < 2048 * 2048 / 8) == (resampling == "average")


def test_an_image_that_an_overview_shows_to_be_empty(write_tiff):
    path = write_tiff(np.zeros((1, 512, 512), np.uint8), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    steps = []
    found = geotile.detect(path, crowd, tile_size=64, overlap=0, progress=steps.append)
    report = found.attrs["report"]
    assert (report.requests, report.tiles_without_data, report.status) == (0, 64, "SUCCESS")
    assert {(step.done, step.tiles) for step in steps} == {(0, 0)}
    assert len(found) == 0


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(20, 70), st.integers(30, 200))
def test_what_is_skipped_does_not_depend_on_the_regions(seed, tile, region):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 255, (1, 150, 170), np.uint8) * (rng.random((150, 170)) < 0.0005)
    image = xr.DataArray(pixels.astype(np.uint8), dims=("band", "y", "x")).rio.write_nodata(0)
    with dask.config.set(scheduler="synchronous"):
        one = geotile.detect(image, crowd, tile_size=tile, overlap=5, region_size=10_000)
        many = geotile.detect(image, crowd, tile_size=tile, overlap=5, region_size=region)
    assert one.attrs["report"].tiles_without_data == many.attrs["report"].tiles_without_data
    assert one[["xmin", "ymin", "score"]].equals(many[["xmin", "ymin", "score"]])


@pytest.mark.parametrize("cut", [np.s_[:, :, :], np.s_[:, 20:280, 10:400]])
def test_the_images_own_nodata_holds(write_tiff, noise, cut):
    noise = noise.copy()
    noise[:, :150] = 0

    def tiles(image):
        return geotile.report(geotile.detect(image, crowd, tile_size=50, overlap=0)).tiles_without_data

    plain, marked = geotile.open_image(write_tiff(noise))[cut], geotile.open_image(write_tiff(noise, nodata=0))[cut]
    assert tiles(plain.rio.write_nodata(0)) == tiles(marked) == tiles(plain.compute().rio.write_nodata(0)) > 0
    assert tiles(marked.rio.write_nodata(7)) == tiles(plain) == tiles(marked.compute().rio.write_nodata(7)) == 0
    stretched = [
        geotile.stretch(each).compute()
        for each in (plain.rio.write_nodata(0), plain.compute().rio.write_nodata(0), marked)
    ]
    np.testing.assert_array_equal(stretched[0], stretched[2])


@pytest.mark.parametrize("position", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_alpha_is_validity_whatever_its_position_and_type(tmp_path, position, dtype):
    import rasterio
    from rasterio.enums import ColorInterp

    pixels = np.full((4, 64, 64), 9, dtype)
    pixels[position] = 1
    pixels[position, :32] = 0
    pixels[: 3 if position == 3 else 4, 48:] = 7  # the nodata value
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    colours.insert(position, ColorInterp.alpha)
    path = tmp_path / "alpha.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=4, height=64, width=64, dtype=dtype, nodata=7, photometric="MINISBLACK"
    ) as file:
        file.colorinterp = colours
        file.write(pixels)
    for options in ({}, {"bands": [2, 3]}):
        image = geotile.open_image(path, **options)
        assert image.sizes["band"] == (2 if options else 3)
        report = geotile.report(geotile.detect(image, crowd, tile_size=16, overlap=0))
        assert report.tiles_without_data == 12 if position == 3 else 8


@pytest.mark.parametrize("crs", [32631, 4326, 3031, 2056])
def test_the_world_is_a_region_of_interest_of_any_image(write_tiff, noise, crs):
    from rasterio.transform import from_origin

    places = {
        32631: (5e5, 5e6, 2, 2),
        4326: (3.0, 45.0, 1e-4, 1e-4),
        3031: (1e5, 2e5, 10, 10),
        2056: (2.6e6, 1.2e6, 1, 1),
    }
    path = write_tiff(noise, crs=f"EPSG:{crs}", transform=from_origin(*places[crs]))
    whole = geotile.plan(path, tile_size=64, overlap=0)
    for roi in (shapely.box(-180, -90, 180, 90), "POLYGON ((-180 -90, 180 -90, 180 90, -180 90, -180 -90))"):
        assert geotile.plan(path, tile_size=64, overlap=0, roi=roi).tiles == whole.tiles
    with pytest.raises(ArgumentError, match="must intersect the image"):
        geotile.plan(path, tile_size=64, overlap=0, roi=shapely.box(100, 10, 101, 11))


def test_a_roi_is_read_from_a_file(write_tiff, noise, tmp_path):
    import geopandas as gpd

    path = write_tiff(noise)
    area = gpd.GeoSeries([world(10, 10, 60, 60)], crs=32631)
    area.to_file(tmp_path / "area.gpkg")
    want = geotile.plan(path, tile_size=32, overlap=0, roi=area)
    for roi in (tmp_path / "area.gpkg", str(tmp_path / "area.gpkg")):
        np.testing.assert_array_equal(geotile.plan(path, tile_size=32, overlap=0, roi=roi).selected, want.selected)
    with pytest.raises(ArgumentError, match="there is no file"):
        geotile.plan(path, tile_size=32, overlap=0, roi=tmp_path / "none.gpkg")
