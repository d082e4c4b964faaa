"""Where pixels lie: against GDAL's own transformers and pyproj, in pixels, both ways."""

import pickle

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer

import geotile
from geotile import ArgumentError, GeoreferenceError, ImageOpenError, open_image
from geotile.geometry.georeference import NO_GEOREFERENCE, WGS84, Georeference, georeference_of, wkt_of
from geotile.geometry.ground import geodesics
from geotile.geometry.placement import AffinePlacement, GcpPlacement, RpcPlacement


def lattice(image) -> np.ndarray:
    """(n, 2) x, y pixels over an image and a little beyond."""
    height, width = image.shape[1:]
    y, x = np.meshgrid(np.linspace(-3, height + 3, 17), np.linspace(-3, width + 3, 19), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def world_of(image, xy, crs=None) -> np.ndarray:
    place = georeference_of(image)
    return shapely.get_coordinates(place.to_world(shapely.points(xy), crs))


@pytest.mark.parametrize(
    "name", ["RGB.byte.tif", "rasterio_rotated.tif", "riotiler_inverted_lat.tif", "riotiler_cog_hirise_mars.tif"]
)
def test_affine_images(shared, name):
    image = open_image(shared / "formats" / name)
    with rasterio.open(shared / "formats" / name) as file:
        transform, crs = file.transform, file.crs
    xy = lattice(image)
    want = np.array([transform @ tuple(p) for p in xy])
    place = georeference_of(image)
    np.testing.assert_allclose(place.placement.to_world(xy), want, rtol=1e-12)
    np.testing.assert_allclose(place.placement.to_pixels(want), xy, atol=0.01)
    assert (place.crs is None) == (crs is None)
    if name == "RGB.byte.tif":
        lonlat = np.stack(pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(*want.T), axis=1)
        np.testing.assert_allclose(world_of(image, xy, wkt_of(WGS84)), lonlat, atol=1e-12)


@pytest.mark.parametrize("name", ["riotiler_cog_gcps.tif", "odcgeo_au-gcp.tif", "RGB.byte.gcp.vrt"])
def test_ground_control_points(shared, name):
    path = shared / "formats" / name
    image = open_image(path, allow_vrt=True)
    with rasterio.open(path) as file:
        gcps, crs = file.gcps
    xy = lattice(image)
    with GCPTransformer(gcps) as fit:
        x, y = fit.xy(xy[:, 1], xy[:, 0], offset="ul")
        want = np.stack([x, y], axis=1)
        rows, columns = fit.rowcol(x, y, op=np.asarray)
    place = georeference_of(image).placement
    np.testing.assert_array_equal(place.to_world(xy), want)
    assert np.abs(place.to_pixels(want) - np.stack([columns, rows], axis=1)).max() < 0.01
    assert image.rio.crs == crs
    found = geotile.detect(image, lambda tile: ([[10, 20, 30, 50]], [1.0]), tile_size=4096, overlap=0)
    corner = place.to_world(np.array([[10.0, 20.0]]))[0]
    ring = shapely.get_coordinates(found.geometry[0])
    assert np.abs(ring - corner).sum(axis=1).min() < 1e-9


@pytest.mark.parametrize("height", [None, 0.0, 500.0])
def test_rpcs_at_a_height(shared, height):
    path = shared / "formats" / "rioxarray_test_rpcs.tif"
    image = open_image(path, height=height)
    with rasterio.open(path) as file:
        rpcs = file.rpcs
    xy = lattice(image)
    with RPCTransformer(rpcs, RPC_HEIGHT=rpcs.height_off if height is None else height) as fit:
        lon, lat = fit.xy(xy[:, 1], xy[:, 0], offset="ul")
    place = georeference_of(image)
    np.testing.assert_array_equal(place.placement.to_world(xy), np.stack([lon, lat], axis=1))
    assert np.abs(place.placement.to_pixels(np.stack([lon, lat], axis=1)) - xy).max() < 0.1
    by_definition = rpc_pixels(rpcs, np.asarray(lon), np.asarray(lat), rpcs.height_off if height is None else height)
    assert np.abs(by_definition - xy).max() < 0.1
    assert pyproj.CRS(place.crs).is_geographic
    found = geotile.detect(image, lambda tile: ([[10, 20, 30, 50]], [1.0]), tile_size=512, overlap=0, skip_nodata=False)
    assert found.crs == wkt_of(WGS84)
    centre = place.placement.to_world(np.array([[20.0, 35.0]]))[0]
    np.testing.assert_allclose(np.array(found.geometry[0].centroid.coords[0]), centre, atol=1e-6)


def rpc_pixels(rpcs: RPC, lon, lat, height) -> np.ndarray:
    """RPC00B by its definition (STDI-0002, appendix E), from the centre of the first pixel."""
    p, q = (lat - rpcs.lat_off) / rpcs.lat_scale, (lon - rpcs.long_off) / rpcs.long_scale
    h = np.full_like(p, (height - rpcs.height_off) / rpcs.height_scale)
    terms = np.stack([
        np.ones_like(p), q, p, h, q * p, q * h, p * h, q * q, p * p, h * h, p * q * h, q**3, q * p * p, q * h * h,
        q * q * p, p**3, p * h * h, q * q * h, p * p * h, h**3,
    ])  # fmt: skip
    line = (rpcs.line_num_coeff @ terms) / (rpcs.line_den_coeff @ terms) * rpcs.line_scale + rpcs.line_off
    sample = (rpcs.samp_num_coeff @ terms) / (rpcs.samp_den_coeff @ terms) * rpcs.samp_scale + rpcs.samp_off
    return np.stack([sample + 0.5, line + 0.5], axis=1)


def dem_file(tmp_path, lonlat, heights, name="dem.tif"):
    x0, y0 = lonlat.min(axis=0) - 0.05
    x1, y1 = lonlat.max(axis=0) + 0.05
    n = heights.shape[0]
    path = tmp_path / name
    with rasterio.open(
        path, "w", driver="GTiff", width=n, height=n, count=1, dtype="float32", crs="EPSG:4326", nodata=-9999,
        transform=Affine((x1 - x0) / n, 0, x0, 0, -(y1 - y0) / n, y1),
    ) as file:  # fmt: skip
        file.write(heights[None].astype(np.float32))
    return path


def test_rpcs_over_an_elevation_model(shared, tmp_path):
    path = shared / "formats" / "rioxarray_test_rpcs.tif"
    flat = georeference_of(open_image(path, height=700.0))
    xy = lattice(open_image(path))
    lonlat = flat.placement.to_world(xy)
    level = dem_file(tmp_path, lonlat, np.full((50, 50), 700.0))
    over = georeference_of(open_image(path, dem=level))
    np.testing.assert_allclose(over.placement.to_world(xy), lonlat, atol=1e-7)
    slope = dem_file(tmp_path, lonlat, 700 + np.linspace(0, 800, 2500).reshape(50, 50), "slope.tif")
    hilly = georeference_of(open_image(path, dem=slope))
    there = hilly.placement.to_world(xy)
    assert np.abs(there - lonlat).max() > 1e-4
    assert np.abs(hilly.placement.to_pixels(there) - xy).max() < 0.1
    empty = georeference_of(
        open_image(path, dem=dem_file(tmp_path, lonlat, np.full((9, 9), -9999.0), "e.tif"), height=700.0)
    )
    np.testing.assert_allclose(empty.placement.to_world(xy), lonlat, atol=1e-6)
    with pytest.raises(ImageOpenError, match=r"^dem cannot be opened: no such image.*none.tif"):
        open_image(path, dem=tmp_path / "none.tif")
    with pytest.raises(ArgumentError, match="dem applies"):
        open_image(shared / "formats" / "RGB.byte.tif", dem=level)


def test_rpc_sidecars_and_which_place_wins(shared, tmp_path):
    """A sidecar's RPCs are found; an affine transform goes before RPCs, except a NITF's IGEOLO."""
    import shutil

    for name in ("gdal_md_dg.tif", "gdal_md_dg.RPB", "gdal_md_dg.IMD"):
        shutil.copy(shared / "formats" / name, tmp_path / name.replace("gdal_", ""))
    assert isinstance(georeference_of(open_image(tmp_path / "md_dg.tif")).placement, AffinePlacement)
    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", width=50, height=50, count=1, dtype="uint8"
    ) as file:
        file.write(np.ones((1, 50, 50), np.uint8))
    shutil.copy(shared / "formats" / "gdal_md_dg.RPB", tmp_path / "plain.RPB")
    shutil.copy(shared / "formats" / "gdal_md_dg.IMD", tmp_path / "plain.IMD")
    assert isinstance(georeference_of(open_image(tmp_path / "plain.tif")).placement, RpcPlacement)
    nsif = open_image(shared / "formats" / "gdal_fake_nsif.ntf")  # corners alone
    assert isinstance(georeference_of(nsif).placement, AffinePlacement)


def test_a_nitf_with_rpcs_and_corners_goes_by_its_rpcs(shared, tmp_path):
    """Made with GDAL's NITF writer: RPC00B and IGEOLO in one file."""
    from geotile.encoding.nitf import rpc00b

    with rasterio.open(shared / "formats" / "rioxarray_test_rpcs.tif") as file:
        metadata = file.tags(ns="RPC")
    path = tmp_path / "rpc.ntf"
    corners = "394500N0464000E394500N0465000E394000N0465000E394000N0464000E"
    with rasterio.open(
        path, "w", driver="NITF", width=232, height=274, count=1, dtype="uint8", ICORDS="G", IGEOLO=corners,
        TRE=f"RPC00B={rpc00b(metadata)}",
    ) as file:  # fmt: skip
        file.write(np.ones((1, 274, 232), np.uint8))
    with rasterio.open(path) as file:
        assert not file.transform.is_identity
    placement = georeference_of(open_image(path)).placement
    assert isinstance(placement, RpcPlacement)
    assert float(dict(placement.metadata)["LINE_OFF"]) == 2295


@pytest.mark.parametrize("cut", [np.s_[:, 7:200, 13:100], np.s_[:, ::2, ::4]])
def test_a_cut_image_keeps_its_place(shared, cut):
    for name in ("rioxarray_test_rpcs.tif", "riotiler_cog_gcps.tif"):
        image = open_image(shared / "formats" / name)
        part = pickle.loads(pickle.dumps(image[cut])) + np.uint16(0)
        step_y, step_x = cut[1].step or 1, cut[2].step or 1
        xy = np.array([[0.0, 0.0], [20.0, 31.0]])
        full = xy * [step_x, step_y] + [cut[2].start or 0, cut[1].start or 0] - np.array([step_x - 1, step_y - 1]) / 2
        whole = georeference_of(image).placement
        # a polynomial of a resampled image is fitted anew: the same to a hundredth of a pixel
        back = whole.to_pixels(georeference_of(part).placement.to_world(xy))
        np.testing.assert_allclose(back, whole.to_pixels(whole.to_world(full)), atol=0.01)


def test_lost_rpcs_are_said(shared):
    image = open_image(shared / "formats" / "rioxarray_test_rpcs.tif")
    image.spatial_ref.encoding.clear()
    with pytest.raises(GeoreferenceError, match="open it again"):
        geotile.plan(image)


def test_points_that_no_polynomial_fits(shared):
    with pytest.raises(GeoreferenceError, match="georeference=False"):
        GcpPlacement(((1.0, 1.0, 5.0, 5.0, 0.0),) * 4).to_world(np.zeros((1, 2)))
    plain = open_image(shared / "formats" / "gdal_byte_2gcps.jp2", georeference=False)
    found = geotile.detect(plain, lambda tile: ([[0, 0, 5, 5]], [1.0]))
    assert found.crs is None
    assert found.total_bounds.tolist() == [0, 0, 5, 5]


def placed(crs, transform, boxes, to="OGC:CRS84"):
    place = Georeference(AffinePlacement(transform), wkt_of(crs))
    return place.to_world(np.asarray(shapely.box(*np.array(boxes, float).T)), wkt_of(to))


def test_across_the_antimeridian():
    """UTM zone 1 starts at 180 degrees: a box across its edge is two, one on each side."""
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", "EPSG:32601", always_xy=True).transform(-179.999, 20.0)
    shapes = placed("EPSG:32601", Affine(10, 0, x - 1000, 0, -10, y + 1000), [[0, 0, 200, 200], [150, 50, 160, 60]])
    assert shapes[0].geom_type == "MultiPolygon"
    assert shapes[0].is_valid
    west, _, east, _ = shapes[0].bounds
    assert (west, east) == (-180, 180)
    lon = shapely.get_coordinates(shapes[0])[:, 0]
    assert ((np.abs(lon) > 179.9) & (np.abs(lon) <= 180)).all()
    areas = [pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(s))[0] for s in shapes]
    np.testing.assert_allclose(areas, [2000 * 2000, 100 * 100], rtol=2e-3)
    assert shapes[1].geom_type == "Polygon"


def test_around_a_pole():
    shapes = placed("EPSG:3995", Affine(1000, 0, -100_000, 0, -1000, 100_000), [[50, 50, 150, 150], [0, 0, 20, 20]])
    assert all(shape.is_valid for shape in shapes)
    assert shapes[0].bounds[3] == 90
    assert shapes[0].contains(shapely.Point(10, 89.9))
    assert shapes[0].contains(shapely.Point(-170, 89.9))
    assert shapes[1].bounds[3] < 90


def test_longitudes_of_0_to_360_and_points():
    shapes = placed("OGC:CRS84", Affine(1, 0, 175, 0, -1, 10), [[0, 0, 10, 2], [6, 0, 8, 2]])
    assert shapes[0].geom_type == "MultiPolygon"
    assert shapes[1].bounds == (-179, 8, -177, 10)
    place = Georeference(AffinePlacement(Affine.identity()), wkt_of("OGC:CRS84"))
    point, line = place.to_world(np.array([shapely.Point(190, 1), shapely.LineString([(179, 0), (181, 0)])]), None)
    assert point.coords[0] == (-170, 1)
    assert line.geom_type == "MultiLineString"


def test_pixels_off_the_earth_lose_their_geometry_alone():
    image = xr.DataArray(
        np.zeros((1, 100, 100), np.uint8), dims=("band", "y", "x"),
        coords={"y": np.linspace(7e6, -7e6, 100), "x": np.linspace(-7e6, 7e6, 100)},
    ).rio.write_crs("+proj=ortho +lat_0=0 +lon_0=0")  # fmt: skip
    boxes = [[0, 0, 4, 4], [48, 48, 52, 52]]  # a corner in space, the middle on Earth
    found = geotile.detect(image, lambda tile: (boxes, [0.9, 0.8]), tile_size=100, overlap=0, crs="EPSG:4326")
    assert found.geometry.isna().tolist() == [True, False]
    assert found["xmin"].tolist() == [0, 48]


def test_gcps_of_rioxarray(shared):
    import rioxarray

    path = shared / "formats" / "riotiler_cog_gcps.tif"
    with pytest.raises(geotile.GeoreferenceError, match="which part of its file"):  # it has no coordinates
        georeference_of(rioxarray.open_rasterio(path))
    assert isinstance(georeference_of(geotile.open_image(path)).placement, GcpPlacement)


def test_ground_control_points_that_fit_nothing_are_found_in_the_plan(tmp_path):
    import rasterio
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS

    path = tmp_path / "gcps.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=64, width=64, dtype="uint8") as file:
        file.write(np.full((1, 64, 64), 9, np.uint8))
        file.gcps = ([GroundControlPoint(r, c, 3, 45) for r in (0, 64) for c in (0, 64)], CRS.from_epsg(4326))
    with pytest.raises(geotile.GeoreferenceError, match="no polynomial fits"):
        geotile.plan(path, tile_size=32, overlap=0)
    assert geotile.plan(path, tile_size=32, overlap=0, georeference=False).tiles == 4


@pytest.mark.parametrize("crs", [None, wkt_of("EPSG:4326"), wkt_of("EPSG:3857")])
@pytest.mark.parametrize(
    ("transform", "own"),
    [
        (Affine(0.5, 0, 5e5, 0, -0.5, 5e6), "EPSG:32631"),
        (Affine(0.3, 0.4, 5e5, 0.4, -0.3, 5e6), "EPSG:32631"),
        (Affine(1e-3, 0, 179.9, 0, -1e-3, 10), "EPSG:4326"),  # across the antimeridian
        (Affine(1e3, 0, -1e5, 0, -1e3, 1e5), "EPSG:3413"),  # around the pole
        (Affine(1e7, 0, 0, 0, -1e7, 0), "EPSG:3413"),  # partly off the Earth
    ],
)
def test_boxes_are_placed_as_their_polygons(transform, own, crs):
    place = Georeference(AffinePlacement(transform), wkt_of(own))
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (50, 2))
    boxes = np.hstack([corners, corners + rng.uniform(0.1, 40, (50, 2))])
    found, want = place.boxes_to_world(boxes, crs), place.to_world(shapely.box(*boxes.T), crs)
    assert [each is None for each in found] == [each is None for each in want]
    assert shapely.to_wkb(found).tolist() == shapely.to_wkb(want).tolist()
    assert len(place.boxes_to_world(boxes[:0], crs)) == 0
    assert shapely.equals(NO_GEOREFERENCE.boxes_to_world(boxes, None), shapely.box(*boxes.T)).all()


@pytest.mark.filterwarnings("error")
def test_one_point_is_no_number_to_pyproj():
    place = Georeference(AffinePlacement(Affine(0.5, 0, 5e5, 0, -0.5, 5e6)), wkt_of("EPSG:32631"))
    one, two = (place.points_to_world(np.full((n, 2), 100.0), "EPSG:4326") for n in (1, 2))
    np.testing.assert_array_equal(one, two[:1])
    azimuth, metres = geodesics(pyproj.Geod(ellps="WGS84"), one, one + np.array([0, 1]))
    assert (azimuth.tolist(), metres.shape) == ([0.0], (1,))


def test_boxes_a_hundred_turns_around_the_earth_have_no_geometry():
    """Whether they are far to the east or far to the north, and by either way of converting them."""
    place = Georeference(AffinePlacement(Affine(1e-4, 0, 11, 0, -1e-4, 50)), WGS84)
    boxes = np.array([[0.0, 0, 9, 9], [4e9, 0, 5e9, 9], [0, 4e9, 9, 5e9]])
    for found in (place.boxes_to_world(boxes, WGS84), place.to_world(shapely.box(*boxes.T), WGS84)):
        assert [each is None for each in found] == [False, True, True]
