"""Polygons of rasters: those of a flat tracing, however the raster is chunked."""

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rioxarray
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import shapes
from rasters import bordered, scene

import geotile


def raster(values, chunks=None, **attrs):
    data = values if chunks is None else da.from_array(values, chunks)
    dims = ("y", "x") if values.ndim == 2 else ("band", "y", "x")
    return xr.DataArray(data, dims=dims, attrs=attrs).rio.write_nodata(255)


def flat(values, connectivity=4):
    traced = shapes(values.astype(np.int32), values != 255, connectivity=connectivity)
    return [(shapely.geometry.shape(shape), int(value)) for shape, value in traced]


@st.composite
def rasters(draw):
    size = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    values = rng.choice(
        [0, 1, 2, 255], size, p=draw(st.sampled_from([[0.5, 0.5, 0, 0], [0.3, 0.3, 0.3, 0.1], [0.9, 0.1, 0, 0]]))
    )
    return values.astype(np.uint8), tuple(draw(st.integers(1, n)) for n in size)


@settings(max_examples=40)
@given(rasters())
def test_the_polygons_are_those_of_a_flat_tracing(case):
    values, chunks = case
    found = geotile.polygonize(raster(values, chunks))
    want = flat(values)
    assert len(found) == len(want)
    tree = shapely.STRtree([shape for shape, _ in want])
    for shape, value in zip(found.geometry, found["class"], strict=True):
        assert shape.is_valid
        assert any(want[k][1] == value and want[k][0].equals(shape) for k in tree.query(shape))
    whole = geotile.polygonize(raster(values))
    assert [shape.normalize().wkt for shape in whole.geometry] == [shape.normalize().wkt for shape in found.geometry]


def test_small_areas_and_holes_go_and_outlines_are_simplified():
    values = np.zeros((60, 60), np.uint8)
    values[10:50, 10:50] = 1
    values[20:22, 20:22] = 0
    values[30:40, 30:40] = 0
    values[55:57, 55:57] = 1
    found = geotile.polygonize(
        raster(values, 16, class_names=["nothing", "field"]), classes=["field"], min_area_px=5, min_hole_px=5
    )
    assert found["label"].tolist() == ["field"]
    assert found.area.tolist() == [1500]
    slant = np.tri(60, dtype=np.uint8)
    (simple,) = geotile.polygonize(raster(slant, 16), classes=[1], simplify_px=2).geometry
    assert shapely.get_num_coordinates(simple) < 8
    assert abs(simple.area - slant.sum()) < 0.05 * slant.sum()


def test_places_and_areas_are_those_on_the_ground():
    values = np.zeros((40, 40), np.uint8)
    values[10:20, 10:30] = 1
    placed = raster(values, 16).rio.write_crs(32631).rio.write_transform(rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6))
    found = geotile.polygonize(placed, classes=[1])
    assert found.crs == "EPSG:32631"
    assert found.geometry[0].equals(shapely.box(5e5 + 5, 5e6 - 10, 5e5 + 15, 5e6 - 5))
    assert found.area_m2[0] == pytest.approx(50, rel=1e-3)
    assert geotile.polygonize(raster(values), classes=[1]).area_m2.isna().all()


def test_scores_take_a_threshold_and_bands_are_classes():
    scores = np.zeros((2, 30, 30), np.uint8)
    scores[0, :10], scores[1, 20:] = 200, 100
    given = raster(scores, (2, 8, 8), scale_factor=1 / 254, add_offset=0.0).assign_coords(band=["water", "trees"])
    high = geotile.polygonize(given, threshold=0.5)
    assert (high["label"].tolist(), high["class"].tolist(), high.area.tolist()) == (["water"], [0], [300])
    both = geotile.polygonize(given, threshold=0.3)
    assert both["label"].tolist() == ["water", "trees"]
    assert geotile.polygonize(given, threshold=0.3, classes=["trees"])["label"].tolist() == ["trees"]
    each = geotile.polygonize(given, threshold={"water": 0.9, "trees": 0.3})
    assert each["label"].tolist() == ["trees"]
    several = raster((scores > 0).astype(np.uint8), (2, 8, 8)).assign_coords(band=["water", "trees"])
    assert geotile.polygonize(several).area.tolist() == [300, 300]


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (np.zeros((3, 3)), {}, "must be a DataArray with dims .* or the path"), (xr.DataArray(np.zeros(3), dims="x"), {}, "must be a DataArray with dims"),
        (raster(np.zeros((3, 3), np.uint8)), {"threshold": 0.5}, "threshold would have no effect"),
        (raster(np.zeros((2, 3, 3), np.float32)), {}, "holds scores; give threshold="), (raster(np.zeros((3, 3), np.float32)), {"threshold": 0.5}, "must have the dims"),
        (raster(np.zeros((2, 3, 3), np.float32)), {"threshold": 2}, "threshold must be"), (raster(np.zeros((2, 3, 3), np.float32)), {"threshold": {"0": 0.5}}, "threshold has no number for ..1.."),
        (raster(np.zeros((2, 3, 3), np.float32)), {"threshold": {"x": 0.5, "*": 1}}, "names classes that do not exist, ..x..; they are"), (raster(np.zeros((3, 3), np.uint8)), {"classes": ["x"]}, "classes must be of"),
        (raster(np.full((3, 3), -1, np.int32)), {}, "class numbers must be 0 to"), (raster(np.full((3, 3), 2**40)), {}, "class numbers must be 0 to"),
        (raster(np.full((3, 3, 3), 7, np.uint8)), {}, "must hold 0 and 1, whether a pixel is of its class; got 7. Photographs"),
        (raster(np.zeros((3, 3), np.uint8)), {"classes": [1.5]}, "classes must be of"), (raster(np.zeros((1, 3, 3), np.uint8)), {}, "can hold class numbers, or one class"),
        (raster(np.zeros((0, 3), np.uint8)), {}, "at least one pixel"), (raster(np.zeros((2, 3, 3), np.uint8), scale_factor="x"), {}, "scale_factor of the raster must be a number above 0"),
        (raster(np.zeros((2, 3, 3), np.uint8), scale_factor=0), {"threshold": 0.5}, "scale_factor of the raster must be a number above 0"),
        (raster(np.zeros((3, 3), np.uint8), class_names=["a"]), {"classes": 5}, "classes must be of"),
        (raster(np.zeros((3, 3), np.uint8)), {"min_area_px": -1}, "min_area_px must be 0 or more"), (raster(np.zeros((3, 3), np.uint8)), {"simplify_px": "a"}, "simplify_px must be"),
    ],
)  # fmt: skip
def test_what_cannot_be_traced_is_refused(given, options, said):
    with pytest.raises(geotile.ArgumentError, match=said):
        geotile.polygonize(given, **options)


@pytest.mark.parametrize("name", ["p.parquet", "p.fgb", "p.gpkg", "p.geojson"])
def test_a_run_writes_polygons_beside_its_raster(tmp_path, name):
    path, _ = scene(tmp_path)
    options = {"tile_size": 64, "overlap": 16, "classes": ["dark", "bright"]}
    how = {"min_area_px": 3, "min_hole_px": 2, "simplify_px": 1.5}
    report = geotile.predict_to(
        path, halves, tmp_path / "a.tif", polygons=tmp_path / name, polygon_classes=["bright"], **how, **options
    )
    want = geotile.polygonize(geotile.predict(path, halves, **options), classes=["bright"], **how)
    found = gpd.read_parquet(tmp_path / name) if name.endswith("parquet") else gpd.read_file(tmp_path / name)
    assert len(want) > 20
    assert report.notes[-1] == f"{len(want):,} polygons were written to {tmp_path / name}"
    if name.endswith("geojson"):
        want = want.to_crs(4326)
    shapes = [sorted(table.geometry.normalize().values, key=lambda shape: shape.wkt[:60]) for table in (found, want)]
    assert all(one.equals_exact(other, 1e-6) for one, other in zip(*shapes, strict=True))
    assert set(found["label"]) == {"bright"}


def halves(tile):
    return (tile[0] > 128).astype(np.uint8)


def test_polygons_get_a_crs_and_those_of_bands_one_label_each(tmp_path):
    path, _ = scene(tmp_path)
    geotile.predict_to(
        path, bordered, tmp_path / "a.zarr", polygons=tmp_path / "p.parquet", threshold={"a": 0.4, "*": 0.8}, crs=4326,
        classes=["a", "b"], polygon_classes=[0], tile_size=64, overlap=16,
    )  # fmt: skip
    found = gpd.read_parquet(tmp_path / "p.parquet")
    assert found.crs == 4326
    assert set(found["label"]) == {"a"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"polygons": "p.parquet", "output": "scores"},
            "polygons must be given with output='classes'; got output='scores'",
        ),
        ({"min_area_px": 3}, "min_area_px would have no effect without polygons"),
        ({"polygons": "p.txt"}, "must end in one of"),
        ({"crs": 4326}, "crs would have no effect: a raster has the CRS of its image"),
        ({"polygons": "p.geojson", "crs": 3857}, "crs has no effect on GeoJSON"),
        (
            {"polygons": "p.parquet", "polygon_classes": ["c"], "classes": ["a", "b"]},
            "polygons: polygon_classes must be of",
        ),
        ({"polygons": "p.parquet", "simplify_px": -1}, "simplify_px must be 0 or more pixels"),
        ({"polygons": "p.parquet", "crs": "EPSG:0"}, "crs"),
    ],
)
def test_polygons_that_cannot_be_are_refused_before_the_run(tmp_path, options, said):
    path, _ = scene(tmp_path)
    asked = []

    def model(tile):
        asked.append(1)
        return bordered(tile)

    if "polygons" in options:
        options = options | {"polygons": tmp_path / options["polygons"]}
    with pytest.raises(geotile.ArgumentError, match=said):
        geotile.predict_to(path, model, tmp_path / "a.tif", tile_size=64, overlap=16, **options)
    assert len(asked) <= 1
    assert [each.name for each in tmp_path.iterdir()] == ["scene.tif"]


def test_polygons_without_a_crs_are_not_geojson(tmp_path):
    path, _ = scene(tmp_path, crs=None, transform=None)
    with pytest.raises(geotile.ArgumentError, match="polygons cannot be GeoJSON, since the image has no CRS"):
        geotile.predict_to(path, halves, tmp_path / "a.tif", polygons=tmp_path / "p.geojson", tile_size=64, overlap=16)
    geotile.predict_to(path, halves, tmp_path / "a.tif", polygons=tmp_path / "p.parquet", tile_size=64, overlap=16)
    assert gpd.read_parquet(tmp_path / "p.parquet").crs is None


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_the_raster_is_there_if_its_polygons_cannot_be_written(tmp_path, name, monkeypatch):
    path, _ = scene(tmp_path, (100, 120))

    trace = geotile.polygons.trace

    def full(data, *rest):
        if data.size > 1:  # one pixel is tried before the run
            raise OSError("disk full")
        return trace(data, *rest)

    monkeypatch.setattr(geotile.polygons, "trace", full)
    with pytest.raises(OSError, match="disk full"):
        geotile.predict_to(path, halves, tmp_path / name, polygons=tmp_path / "p.parquet", tile_size=64, overlap=16)
    monkeypatch.undo()
    assert len(geotile.polygonize(tmp_path / name)) > 0
    assert sorted(each.name for each in tmp_path.iterdir() if "geotile" in each.name) == []


def test_polygons_of_a_run_that_was_stopped_are_those_of_the_whole(tmp_path):
    path, _ = scene(tmp_path)
    options = {"tile_size": 64, "overlap": 16, "checkpoint": tmp_path / "done", "polygons": tmp_path / "p.parquet"}
    (tmp_path / "p.parquet").write_bytes(b"in the way")
    with pytest.raises(geotile.OutputError, match=r"p\.parquet exists"):
        geotile.predict_to(path, halves, tmp_path / "a.tif", **options)
    geotile.predict_to(path, halves, tmp_path / "a.tif", **options, overwrite=True)
    whole = gpd.read_parquet(tmp_path / "p.parquet")
    geotile.predict_to(path, halves, tmp_path / "b.tif", **options | {"polygons": tmp_path / "again.parquet"})
    assert gpd.read_parquet(tmp_path / "again.parquet").equals(whole)


def test_a_map_of_classes_names_what_it_shows(tmp_path):
    from matplotlib.figure import Figure

    path, _ = scene(tmp_path)
    geotile.predict_to(
        path, halves, tmp_path / "a.tif", polygons=tmp_path / "p.parquet", classes=["dark", "bright"], tile_size=64,
        overlap=16,
    )  # fmt: skip
    read = rioxarray.open_rasterio(tmp_path / "a.tif").squeeze("band", drop=True)
    ax = geotile.plot_classes(read, polygons=gpd.read_parquet(tmp_path / "p.parquet"), ax=Figure().subplots())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dark", "bright"]
    assert ax.images[0].get_extent() == [5e5, 5e5 + 210, 5e6 - 150, 5e6]
    alone = geotile.plot_classes(raster(np.array([[0, 3], [255, 3]], np.uint8)), ax=Figure().subplots())
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["0", "3"]
    assert alone.images[0].get_array()[1, 0, 3] == 0  # nodata is transparent
    with pytest.raises(geotile.ArgumentError, match=r"integers with dims \(y, x\); got dims"):
        geotile.plot_classes(raster(np.zeros((2, 3, 3), np.uint8)))


@pytest.mark.parametrize("how", [{}, {"simplify_px": 1.5}, {"min_area_px": 4, "min_hole_px": 3, "simplify_px": 2}])
def test_simplified_polygons_do_not_depend_on_the_chunks(how):
    values = np.random.default_rng(3).integers(0, 3, (20, 24)).repeat(3, 0).repeat(3, 1)
    values[np.random.default_rng(4).random(values.shape) < 0.05] = 1
    whole = geotile.polygonize(raster(values.astype(np.uint8)), **how)
    for chunks in ((7, 9), (60, 5), (13, 72)):
        parts = geotile.polygonize(raster(values.astype(np.uint8), chunks), **how)
        assert parts.geometry.to_wkb().tolist() == whole.geometry.to_wkb().tolist()
