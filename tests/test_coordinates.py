"""Where arrays lie: coordinates that are a grid are placed right, others are refused by the name of their axis."""

import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

import geotile
from geotile.errors import GeoreferenceError
from geotile.geometry.georeference import georeference_of

GRID = Affine(10, 0, 500_000, 0, -10, 4_000_000)


def array(y, x, crs=32631, units=None):
    image = xr.DataArray(np.zeros((len(y), len(x)), np.uint8), dims=("y", "x"), coords={"y": y, "x": x})
    for axis, unit in (units or {}).items():
        image[axis].attrs["units"] = unit
    return image if crs is None else image.rio.write_crs(crs)


def stackstac(rows=100, columns=120):
    """Return an array as stackstac writes it: coordinates are the pixels' upper-left corners."""
    return xr.DataArray(
        np.zeros((1, rows, columns), np.uint8), dims=("band", "y", "x"),
        coords={"x": 500_000 + 10.0 * np.arange(columns), "y": 4_000_000 - 10.0 * np.arange(rows), "epsg": 32631},
        attrs={"crs": "epsg:32631", "transform": GRID, "resolution": 10.0},
    )  # fmt: skip


def named_otherwise(name="crs", text=None, **attributes):
    """Return an array whose grid mapping has a name of its own, as netCDF and Zarr files have it."""
    image = array(3_999_995 - 10.0 * np.arange(100), 500_005 + 10.0 * np.arange(120), crs=None)
    attributes = attributes or pyproj.CRS(32631).to_cf()
    return image.assign_coords({name: xr.Variable((), 0, attributes)}).assign_attrs(grid_mapping=text or name)


def test_a_grid_mapping_may_have_any_name(tmp_path):
    cf = {name: value for name, value in pyproj.CRS(32631).to_cf().items() if name != "crs_wkt"}
    for image in (named_otherwise(), named_otherwise("transverse_mercator", **cf), named_otherwise(text="crs: x y"),
                  named_otherwise(spatial_ref="EPSG:32631", GeoTransform="500000 10 0 4000000 0 -10")):  # fmt: skip
        assert (transform(image), pyproj.CRS(georeference_of(image).crs).to_epsg()) == (GRID, 32631)
        assert not geotile.plan(image, tile_size=64, overlap=8).notes
    named_otherwise().rename("a").to_dataset().to_zarr(tmp_path / "a.zarr")
    opened = geotile.open_image(tmp_path / "a.zarr")
    assert (transform(opened), pyproj.CRS(georeference_of(opened).crs).to_epsg()) == (GRID, 32631)
    bare = xr.open_zarr(tmp_path / "a.zarr", decode_coords=False)["a"]
    with pytest.raises(GeoreferenceError, match=r"grid mapping 'crs' and does not carry it.*decode_coords='all'"):
        georeference_of(bare)
    assert georeference_of(bare.rio.write_crs(32631)).crs
    del bare.attrs["grid_mapping"]
    assert georeference_of(bare).crs is None


def test_attributes_of_the_proj_convention_are_a_crs(tmp_path):
    image = array(3_999_995 - 10.0 * np.arange(100), 500_005 + 10.0 * np.arange(120), crs=None)
    crs = pyproj.CRS(32631)
    for name, value in (("proj:code", "EPSG:32631"), ("proj:epsg", 32631), ("proj:wkt2", crs.to_wkt()),
                        ("proj:projjson", crs.to_json_dict())):  # fmt: skip
        assert pyproj.CRS(georeference_of(image.assign_attrs({name: value})).crs).to_epsg() == 32631
    data = image.drop_vars(["y", "x"]).rename("a").to_dataset()
    data.attrs = {"proj:code": "EPSG:32631", "spatial:transform": [10, 0, 500_000, 0, -10, 4_000_000]}
    data.to_zarr(tmp_path / "a.zarr")
    assert georeference_of(geotile.open_image(tmp_path / "a.zarr")).transform == GRID
    for bad in (image.assign_attrs({"proj:code": "EPSG:1"}), image.assign_attrs(crs="nonsense"),
                named_otherwise(crs_wkt="nonsense")):  # fmt: skip
        with pytest.raises(GeoreferenceError, match="cannot be read"):
            georeference_of(bad)
    with pytest.raises(GeoreferenceError, match="'odd_mapping', cannot be read"):
        georeference_of(named_otherwise(grid_mapping_name="odd_mapping"))


def mapping(crs):
    return xr.DataArray(0, attrs=pyproj.CRS(crs).to_cf())


def metres():
    return array(3_999_995 - 10.0 * np.arange(100), 500_005 + 10.0 * np.arange(120), crs=None)


def epsg_of(image):
    crs = georeference_of(image).crs
    return None if crs is None else pyproj.CRS(crs).to_epsg()


@pytest.mark.parametrize(
    "text", ["ll: lat lon utm: x y", "utm: x y ll: lat lon", "utm: y x", "ll: lat lon\nutm: band x y", "utm"]
)
def test_of_several_grid_mappings_that_of_x_and_y_is_taken(text, tmp_path):
    image = metres().assign_coords(ll=mapping(4326), utm=mapping(32631)).assign_attrs(grid_mapping=text)
    assert epsg_of(image) == 32631
    image.rename("a").to_dataset().to_zarr(tmp_path / "a.zarr")
    assert epsg_of(geotile.open_image(tmp_path / "a.zarr")) == 32631


def test_a_zarr_store_may_name_its_axes_in_the_grid_mapping(tmp_path):
    image = metres().assign_coords(ll=mapping(4326), utm=mapping(32631)).rename(y="northing", x="easting")
    image = image.assign_attrs(grid_mapping="ll: lat lon utm: easting northing").rename("a")
    image.to_dataset().to_zarr(tmp_path / "a.zarr")
    assert epsg_of(geotile.open_image(tmp_path / "a.zarr")) == 32631
    odd = image.rename(northing="lat").assign_coords(y=("lat", np.arange(100.0))).rename("a")
    odd.to_dataset().to_zarr(tmp_path / "b.zarr")
    with pytest.raises(geotile.ImageOpenError, match="as a Zarr store"):
        geotile.open_image(tmp_path / "b.zarr")


def test_ambiguous_grid_mappings_are_refused():
    both = metres().assign_coords(ll=mapping(4326), utm=mapping(32631))
    for image in (both, both.assign_attrs(grid_mapping="ll: lat lon utm: a b")):
        with pytest.raises(GeoreferenceError, match="grid mapping"):
            georeference_of(image)


def test_a_crs_survives_arithmetic():
    """xarray drops attributes and encoding, but not coordinates."""
    assert epsg_of(named_otherwise() + 0) == 32631
    lost = stackstac() + np.uint8(0)
    lost.attrs = {}
    assert epsg_of(lost) == 32631
    assert "taken for centres of pixels" in geotile.plan(lost, tile_size=64, overlap=8).notes[0]
    assert not geotile.plan(stackstac(), tile_size=64, overlap=8).notes
    items = metres().assign_coords({"proj:epsg": 32631})
    assert epsg_of(items) is None
    assert "coordinate proj:epsg" in geotile.plan(items, tile_size=64, overlap=8).notes[0]


@pytest.mark.parametrize("name", ["crs_wkt", "spatial_ref", "epsg", "crs"])
def test_attributes_of_older_files_are_a_crs(name):
    value = 32631 if name == "epsg" else pyproj.CRS(32631).to_wkt()
    assert epsg_of(metres().assign_attrs({name: value})) == 32631
    assert epsg_of(metres().assign_attrs(crs=None)) is None


def test_coordinates_with_names_of_their_own_are_refused_where_there_is_a_crs():
    image = metres()
    named = image.drop_vars(["y", "x"]).assign_coords(lat=("y", image.y.data), lon=("x", image.x.data))
    assert georeference_of(named).placement is None
    with pytest.raises(GeoreferenceError, match=r"got 'lat' and 'lon'. Give image.assign_coords\(y=image\['lat'\]"):
        georeference_of(named.rio.write_crs(32631))


@pytest.mark.parametrize(
    ("crs", "units", "factor"),
    [
        (2263, "0.30480060960121924 metre", 1), (2263, "US_survey_foot", 1), (2263, "metre", 3937 / 1200), (32631, "1000 m", 1000),
        (4326, "degrees_N", 1), (4326, "degreeE", 1), (4807, "grad", 1), (4807, None, 1),
    ],
)  # fmt: skip
def test_units_that_other_libraries_write(crs, units, factor):
    given = {"y": units, "x": units} if units else {}
    image = array(40 - np.arange(9) / 8, 5 + np.arange(9) / 8, crs, given)
    assert transform(image).a == pytest.approx(factor / 8, rel=1e-9)
    only = array(40 - np.arange(9) / 8, 5 + np.arange(9) / 8, crs, {"y": units} if units else {})
    assert transform(only).a == pytest.approx(factor / 8, rel=1e-9)


def test_what_rioxarray_writes_is_read_or_refused():
    for crs in (2263, 2222, 27291, 24382, 3857, 4326):
        image = array(40 - np.arange(9) / 8, 5 + np.arange(9) / 8, crs)
        assert transform(image.rio.write_coordinate_system()).a == pytest.approx(1 / 8)
    grads = array(40 - np.arange(9) / 8, 5 + np.arange(9) / 8, 4807).rio.write_coordinate_system()
    with pytest.raises(GeoreferenceError, match="degrees_east"):  # rioxarray calls them degrees
        transform(grads)


def test_a_geotransform_may_be_numbers():
    image = metres().rio.write_crs(32631)
    for form in ([500_000, 10, 0, 4_000_000, 0, -10], np.array([500_000, 10, 0, 4_000_000, 0, -10.0])):
        image.spatial_ref.attrs["GeoTransform"] = form
        assert transform(image) == GRID


@pytest.mark.parametrize("value", [-9999, 300, np.nan, np.float32("nan"), 0.5])
def test_a_nodata_value_that_the_dtype_cannot_hold_is_none(value):
    image = metres().assign_attrs(_FillValue=value)
    assert geotile.report(geotile.detect(image, lambda tile: None, tile_size=64, overlap=8)).status == "SUCCESS"
    encoded = metres()
    encoded.encoding["_FillValue"] = 0
    assert geotile.report(geotile.detect(encoded, lambda tile: None, tile_size=64, overlap=8)).status == "SUCCESS"


@pytest.mark.parametrize("value", ["none", [0], (0, 0, 0)])
def test_a_nodata_value_that_is_no_number_is_refused(value):
    with pytest.raises(geotile.ArgumentError, match="nodata value of the image must be a number"):
        geotile.plan(metres().assign_attrs(_FillValue=value))


def test_degrees_without_a_crs_are_mentioned():
    image = array(50 - np.arange(9) / 8, 5 + np.arange(9) / 8, None, {"y": "degrees_north", "x": "degrees_east"})
    assert "names no CRS" in geotile.plan(image, tile_size=64, overlap=8).notes[0]
    found = geotile.detect(image, lambda tile: ([[0, 0, 4, 4]], [0.5]), tile_size=64, overlap=8)
    assert "names no CRS" in geotile.report(found).notes[0]
    assert not geotile.plan(image.rio.write_crs(4326), tile_size=64, overlap=8).notes


def transform(image):
    return georeference_of(image).transform


def test_corner_coordinates_are_recognised_by_the_arrays_transform():
    assert transform(stackstac()) == GRID
    assert transform(stackstac()[:, 7:, 5:]) == GRID @ Affine.translation(5, 7)
    assert transform(stackstac()[:, :1, 3:4]) == GRID @ Affine.translation(3, 0)
    centred = stackstac().assign_coords(x=500_005 + 10.0 * np.arange(120), y=3_999_995 - 10.0 * np.arange(100))
    assert transform(centred[:, 7:, 5:]) == GRID @ Affine.translation(5, 7)
    written = array(3_999_995 - 10.0 * np.arange(100), 500_005 + 10.0 * np.arange(120)).rio.write_transform(GRID)
    assert transform(written[7:, 5:]) == GRID @ Affine.translation(5, 7)
    with pytest.raises(GeoreferenceError, match="must be six numbers"):
        transform(stackstac().assign_attrs(transform="nonsense"))


@given(y0=st.integers(0, 90), x0=st.integers(0, 110), step=st.integers(1, 4), flip=st.booleans())
@settings(max_examples=60)
def test_slices_lie_where_their_pixels_do(y0, x0, step, flip):
    image = array(3_999_995 - 10.0 * np.arange(100), 500_005 + 10.0 * np.arange(120)).rio.write_transform(GRID)
    part = image[y0::step, x0::step][:: -1 if flip else 1]
    got = transform(part)
    for row, column in ((0, 0), (part.sizes["y"] - 1, part.sizes["x"] - 1)):
        x, y = got @ (column + 0.5, row + 0.5)
        assert (x, y) == pytest.approx((float(part.x[column]), float(part.y[row])), abs=1e-6)


Y, X = 50 - 0.01 * np.arange(100), 4 + 0.01 * np.arange(120)
EVEN = array(Y, X, 4326)


@pytest.mark.parametrize(
    ("image", "axis"),
    [
        (array(np.rad2deg(np.arcsin(np.linspace(0.99, -0.99, 100))), X, 4326), "y"),
        (array(np.r_[Y[:60], Y[61:]], X, 4326), "y"), (xr.concat([EVEN[:, 60:], EVEN[:, :60]], "x"), "x"),
        (EVEN.roll(x=30, roll_coords=True), "x"), (EVEN.pad(y=8), "y"), (EVEN[:, [0, 1, 5, 9]], "x"), (EVEN[[3, 1, 2]], "y"),
        (array(np.full(5, 4.0), X, 4326), "y"), (EVEN[:, np.r_[0:20, 100:120]], "x"), (array(Y, X.astype(str), 4326), "x"),
        (xr.concat([EVEN[:, :80], EVEN[:, 60:]], "x"), "x"), (array(Y, X, None).pad(x=1), "x"),
        (array(np.array([1, 2, np.inf]), X, 4326), "y"),
    ],
)  # fmt: skip
def test_coordinates_that_are_no_grid_are_refused(image, axis):
    with pytest.raises(GeoreferenceError, match=rf"the coordinates of {axis} must be"):
        geotile.plan(image, tile_size=32, overlap=0)
    plain = image.drop_vars(["y", "x", "spatial_ref"], errors="ignore")
    assert geotile.plan(plain, tile_size=64, overlap=0).encoder.georeference.crs is None


def test_pixels_of_a_file_that_are_no_grid_are_refused(write_tiff, noise):
    image = geotile.open_image(write_tiff(noise))
    turned = geotile.open_image(write_tiff(noise, transform=Affine.rotation(10) @ Affine.scale(2, -2)))
    for each in (image, turned):
        for odd in (xr.concat([each[:, :, :100], each[:, :, 150:]], "x"), each.isel(x=np.r_[0:20, 200:230])):
            with pytest.raises(GeoreferenceError, match="the coordinates of x must be evenly spaced"):
                geotile.plan(odd, tile_size=32, overlap=0)
        with pytest.raises(GeoreferenceError, match=r"finite|evenly"):
            geotile.plan(each.pad(x=(3, 4), mode="edge"), tile_size=32, overlap=0)


def test_rounded_coordinates_are_even():
    y = np.linspace(50.0, 49.0, 10_001, dtype=np.float32)
    x = np.linspace(120.0, 121.0, 10_001, dtype=np.float32)
    assert transform(xr.DataArray(np.zeros((10_001, 1), np.uint8), dims=("y", "x"), coords={"y": y, "x": x[:1]}).rio.write_crs(4326)).e == pytest.approx(-1e-4, rel=1e-3)  # fmt: skip
    assert transform(xr.DataArray(np.zeros((1, 10_001), np.uint8), dims=("y", "x"), coords={"y": y[:1], "x": x}).rio.write_crs(4326)).a == pytest.approx(1e-4, rel=1e-3)  # fmt: skip


@pytest.mark.parametrize(
    ("crs", "units", "factor"),
    [
        (32631, "m", 1), (32631, "km", 1000), (32631, "feet", 0.3048), (4326, "degrees_north", 1), (4326, "rad", np.rad2deg(1)),
        (2263, "US_survey_foot", 1), (2263, "m", 3937 / 1200), (32631, "", 1),
    ],
)  # fmt: skip
def test_units_become_those_of_the_crs(crs, units, factor):
    image = array(50.5 - np.arange(8.0), 4.5 + np.arange(9.0), crs, {"y": units, "x": units})
    assert transform(image)[:6] == pytest.approx(np.multiply((1, 0, 4, 0, -1, 51), factor))


@pytest.mark.parametrize(("crs", "units"), [(32631, "rad"), (32631, "degrees"), (4326, "m"), (32631, "furlongs")])
def test_units_of_another_kind_are_refused(crs, units):
    with pytest.raises(GeoreferenceError, match=f"the coordinates are in {units}"):
        transform(array(50.5 - np.arange(8.0), 4.5 + np.arange(9.0), crs, {"y": units, "x": units}))
    with pytest.raises(GeoreferenceError, match="m and rad"):
        transform(array(50.5 - np.arange(8.0), 4.5 + np.arange(9.0), 32631, {"y": "m", "x": "rad"}))


@pytest.mark.parametrize(
    "turned", [Affine(0, 10, 500_000, 10, 0, 3_999_000), Affine(0, -10, 500_000, -10, 0, 4_000_000), Affine(-10, 0, 501_200, 0, 10, 3_999_000), Affine(0, 10, 0, -10, 0, 0)]
)  # fmt: skip
def test_images_turned_by_right_angles(tmp_path, turned):
    import shapely

    path = tmp_path / "turned.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=100, width=120, dtype="uint8", crs="EPSG:32631", transform=turned
    ) as file:
        file.write(np.full((1, 100, 120), 9, np.uint8))
    want = shapely.Polygon([turned @ corner for corner in ((40, 30), (50, 30), (50, 36), (40, 36))])
    images = (path, geotile.open_image(path), rioxarray.open_rasterio(path))
    for image in images[:2] if turned.c == 0 else images:
        found = geotile.detect(image, lambda tile: ([[40, 30, 50, 36]], [0.9]), tile_size=128, overlap=0)
        assert found.geometry[0].symmetric_difference(want).area < 1e-6
    part = geotile.open_image(path)[:, 10:, 20:]
    found = geotile.detect(part, lambda tile: ([[20, 20, 30, 26]], [0.9]), tile_size=128, overlap=0)
    assert found.geometry[0].symmetric_difference(want).area < 1e-6


@pytest.mark.parametrize(
    "cut", [np.s_[:, :, :], np.s_[:, 15:, 10:], np.s_[:, :, ::-1], np.s_[:, ::-1], np.s_[:, 2::2, 1::3]]
)
def test_slices_of_rioxarrays_turned_arrays(tmp_path, cut):
    for turned in (
        Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(2, -2), Affine(0, 10, 5e5, 10, 0, 4e6),
    ):  # fmt: skip
        path = tmp_path / "turned.tif"
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=60, width=80, dtype="uint8", crs="EPSG:32633", transform=turned
        ) as file:
            file.write(np.full((1, 60, 80), 9, np.uint8))
        part = rioxarray.open_rasterio(path)[cut]
        y, x = (np.arange(n)[s] for n, s in zip((60, 80), (*cut, *[slice(None)] * (3 - len(cut)))[1:], strict=True))
        got = georeference_of(part).points_to_world(np.array([[0.5, 0.5], [len(x) - 0.5, len(y) - 0.5]]), None)
        want = [turned @ (x[0] + 0.5, y[0] + 0.5), turned @ (x[-1] + 0.5, y[-1] + 0.5)]
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_arrays_that_do_not_tell_their_part_are_refused(tmp_path):
    from rasterio.control import GroundControlPoint

    turned, gcps = tmp_path / "turned.tif", tmp_path / "gcps.tif"
    form = {"driver": "GTiff", "count": 1, "height": 60, "width": 80, "dtype": "uint8"}
    with rasterio.open(turned, "w", crs="EPSG:32631", transform=Affine(0, 10, 0, -10, 0, 0), **form) as file:
        file.write(np.full((1, 60, 80), 9, np.uint8))
    with rasterio.open(gcps, "w", **form) as file:
        file.write(np.full((1, 60, 80), 9, np.uint8))
        corners = [GroundControlPoint(r, c, 5e5 + c, 5e6 - r) for r in (0, 60) for c in (0, 80)]
        file.gcps = (corners, rasterio.crs.CRS.from_epsg(32633))
    for path in (turned, gcps):
        with pytest.raises(GeoreferenceError, match=r"which part of its file .* geotile\.open_image"):
            georeference_of(rioxarray.open_rasterio(path)[:, 10:])
        assert georeference_of(geotile.open_image(path)[:, 10:]).placement is not None


def test_one_row_in_other_units_and_one_axis_alone():
    image = array(50.5 - np.arange(8.0), 4.5 + np.arange(9.0), 32631, {"y": "km", "x": "km"}).rio.write_transform(
        Affine(1000, 0, 4000, 0, -1000, 51000)
    )
    assert transform(image[2:3, 4:])[:6] == pytest.approx((1000, 0, 8000, 0, -1000, 49000))
    with pytest.raises(GeoreferenceError, match="both y and x"):
        transform(image.drop_vars("y"))


def area(west, east, south=-10, north=10):
    return f"POLYGON (({west} {south}, {east} {south}, {east} {north}, {west} {north}, {west} {south}))"


def around_the_world(first):
    """Return an image of the whole world, a pixel per degree, whose first column begins at a longitude."""
    return array(89.5 - np.arange(180), first + 0.5 + np.arange(360), 4326)


def columns(image, roi, size=10):
    """Return the first columns of the tiles that are searched."""
    selected = geotile.plan(image, roi=roi, tile_size=size, overlap=0).selected
    return (np.flatnonzero(selected.any(axis=0)) * size).tolist()


@pytest.mark.parametrize("first", [-180, 0, -90, 180])
@pytest.mark.parametrize(("west", "east"), [(-10, 10), (-20, -10), (350, 360), (170, 190), (-190, -170), (5, 15), (-180, 180), (0, 360), (-540, 540)])  # fmt: skip
def test_a_region_of_interest_is_found_however_longitudes_are_counted(first, west, east):
    got = columns(around_the_world(first), area(west, east))
    middle = np.arange(first + 5, first + 365, 10)  # of the tiles; all edges of the areas lie between
    inside = [x - first - 5 for x in middle if any(west < x + 360 * turn + d < east for turn in range(-4, 5) for d in (-4.9, 4.9))]  # fmt: skip
    assert got == sorted(inside)


@pytest.mark.parametrize("crs", [3857, 3832, 3395, 4087])
def test_a_region_across_180_degrees_of_a_projected_image(crs):
    to_map = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    turn = (to_map.transform(0.5, 0)[0] - to_map.transform(-0.5, 0)[0]) * 360
    x180 = to_map.transform(179.999999, 0)[0]
    step = turn / 360 / 100  # a hundredth of a degree
    image = array(10 * step - step * np.arange(20), x180 - 99.5 * step + step * np.arange(200), crs)
    across = "MULTIPOLYGON (((179.6 -9, 180 -9, 180 9, 179.6 9, 179.6 -9)), ((-180 -9, -179.61 -9, -179.61 9, -180 9, -180 -9)))"
    for roi in (across, area(179.6, 180.39)):
        assert columns(image, roi, 20) == [60, 80, 100, 120]
    with pytest.raises(geotile.ArgumentError, match="must intersect"):
        columns(image, area(10, 20))
