"""The frame of detections as others use it: geopandas' own methods, files read back, columns of the user."""

import datetime
import json
import shutil
import tempfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr
from rasterio.crs import CRS
from rasterio.transform import from_origin

import geotile
from geotile.errors import GeotileError, OutputError

FILES = (".geojson", ".geojsonl", ".parquet", ".gpkg", ".fgb")
BOX = ["xmin", "ymin", "xmax", "ymax"]


def feature(box, confidence=0.5, **more):
    sent = {"imageBBox": box, "featureClasses": [{"iri": "car", "score": confidence}]}
    return {"type": "Feature", "properties": sent | more}


def model(tile):
    ring = [[5, 5], [20, 5], [20, 20], [5, 5]]
    shaped = feature(
        [5, 5, 20, 20], 0.9, imageGeometry={"type": "Polygon", "coordinates": [ring]}, area=np.float32(3.5)
    )
    return {
        "type": "FeatureCollection",
        "features": [shaped, feature([30, 30, 40, 44], 0.4, score=7, label="no", t=datetime.date(2024, 1, 1))],
    }


@pytest.fixture
def found(write_tiff, noise):
    return geotile.detect(write_tiff(noise[:, :64, :64]), model, tile_size=64, overlap=0)


def test_geopandas_own_methods(found, tmp_path):
    assert len(json.loads(found.to_json())["features"]) == 2
    json.dumps(found.__geo_interface__)
    for suffix in (".geojson", ".gpkg", ".fgb"):
        found.to_file(tmp_path / f"a{suffix}")
        assert len(gpd.read_file(tmp_path / f"a{suffix}")) == 2
    found.to_parquet(tmp_path / "a.parquet")
    assert len(found.to_arrow()) if hasattr(found.to_arrow(), "__len__") else True
    assert len(pd.concat([found, found])) == 4
    assert [name for name, dtype in found.dtypes.items() if dtype == "geometry"] == ["geometry"]


def test_geometries_in_pixels(found):
    shapes = geotile.image_geometry(found)
    assert shapes.crs is None
    assert [shape.wkt for shape in shapes] == ["POLYGON ((5 5, 20 5, 20 20, 5 5))", shapely.box(30, 30, 40, 44).wkt]
    assert pd.isna(found["image_geometry"].tolist()[1])
    with pytest.raises(geotile.ArgumentError, match=r"\['ymax'\] are missing"):
        geotile.image_geometry(found.drop(columns="ymax"))


@pytest.mark.parametrize("suffix", FILES)
def test_a_frame_that_was_read_back_is_written_again(found, tmp_path, suffix):
    geotile.write(found, tmp_path / "a.parquet")
    found.to_parquet(tmp_path / "b.parquet")  # nested columns as Arrow has them
    geotile.write(found, tmp_path / f"want{suffix}")
    for source in ("a", "b"):
        back = gpd.read_parquet(tmp_path / f"{source}.parquet")
        geotile.write(back, tmp_path / f"{source}{suffix}", overwrite=True)
        if source == "a" and suffix.startswith(".geojson"):
            assert (tmp_path / f"{source}{suffix}").read_text() == (tmp_path / f"want{suffix}").read_text()
        geotile.write(back[back.score > 0.5], tmp_path / f"few{suffix}", overwrite=True)
        geotile.write(back[back.score > 2], tmp_path / f"none{suffix}", overwrite=True)


def test_geojson_that_was_read_back_keeps_what_it_held(found, tmp_path):
    several = found.copy()
    several.at[0, "classes"] = [{"iri": "car", "score": 0.9}, {"iri": "van", "score": 0.1}]
    geotile.write(several, tmp_path / "a.geojson")
    geotile.write(gpd.read_file(tmp_path / "a.geojson"), tmp_path / "b.geojson")
    a, b = (json.loads((tmp_path / name).read_text())["features"] for name in ("a.geojson", "b.geojson"))
    odd = {"t": "2024-01-01T00:00:00"}, {"t": None, "area": None}  # geopandas' own: a date has a time, no value is None
    assert [each["properties"] | odd[0] for each in b] == [odd[1] | each["properties"] | odd[0] for each in a]
    assert [each["geometry"] for each in b] == [each["geometry"] for each in a]


@pytest.mark.parametrize("suffix", FILES)
def test_detections_without_a_place_are_written(found, tmp_path, suffix):
    for nowhere in (None, shapely.Polygon()):
        some, path = found.copy(), tmp_path / f"a{suffix}"
        some.loc[0, "geometry"] = nowhere
        geotile.write(some, path, overwrite=True)
        back = gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)
        assert sorted(back["score"]) == sorted(found["score"])
        assert (back.geometry.isna() | back.geometry.is_empty).sum() == 1


@pytest.mark.parametrize("suffix", [*FILES, "/"])
def test_columns_with_the_names_of_a_format_are_kept(found, tmp_path, suffix):
    for name, values in (
        ("bbox", ["a", "b"]),
        ("fid", [7, 7]),
        ("fid", ["x", "y"]),
        ("FID", [0.5, 1.5]),
        ("ogc_fid", [1, 2]),
    ):
        path = f"{tmp_path}/a{suffix}"
        geotile.write(found.assign(**{name: values}), path, overwrite=True)
        if suffix in (".geojson", ".gpkg", ".fgb"):
            assert sorted(gpd.read_file(path)[name]) == values
        elif suffix != ".geojsonl":
            assert sorted(gpd.read_parquet(path)[name]) == values
    geotile.write(found.set_index("label"), path, overwrite=True)
    if suffix in (".geojson", ".gpkg", ".fgb"):
        assert gpd.read_file(path)["label"].tolist() == ["car", "car"]
    with pytest.raises(geotile.ArgumentError, match="both have"):
        geotile.write(found.set_index("label").assign(label=1), path, overwrite=True)


@pytest.mark.parametrize("suffix", [*FILES, "/"])
def test_a_table_that_no_format_can_hold_is_an_error_of_geotile(found, tmp_path, suffix):
    twice = pd.concat([found, found[["label"]]], axis=1)
    for odd, said in ((twice, "twice"), (found.rename(columns={"label": 3}), "text; got 3"), (gpd.GeoDataFrame({"score": [1]}), "active"),
                      (found.assign(z=1j), "complex|type 15"), (found.assign(z=[object()] * 2), "JSON")):  # fmt: skip
        with pytest.raises(GeotileError, match=said):
            geotile.write(odd, f"{tmp_path}/a{suffix}")
    assert not list(tmp_path.glob("a*"))
    text = pd.Series(["\ud800"] * 2, dtype=object)  # pandas' own type of text refuses it
    more = found.assign(day=[pd.NaT, pd.Timestamp("2024-01-01")], text=text, took=[datetime.timedelta(seconds=5), None])
    geotile.write(more.astype({"took": object}), f"{tmp_path}/a{suffix}")


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize(
    "dropped",
    [["properties"], ["classes"], ["image_geometry"], BOX, ["score", "label"], ["properties", "classes", *BOX]],
)
def test_columns_may_be_added_and_dropped(found, tmp_path, suffix, dropped):
    frame = found.assign(area_px=found.area, tags=[["a"], {"b": 1}], when=pd.Timestamp("2024-01-01")).drop(
        columns=dropped
    )
    path = tmp_path / f"a{suffix}"
    geotile.write(frame, path)
    if suffix == ".geojsonl":
        kept = [json.loads(line)["properties"] for line in path.read_text().splitlines()]
    elif suffix == ".geojson":
        kept = [each["properties"] for each in json.loads(path.read_text())["features"]]
    else:
        kept = (gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)).to_dict("records")
    for name in ("area_px", "tags", "when"):
        assert all(name in row for row in kept)
    assert sorted(row["area_px"] for row in kept) == sorted(frame["area_px"])
    renamed = frame.rename_geometry("shape")
    geotile.write(renamed, path, overwrite=True)


def test_a_models_property_never_replaces_the_detections_own(found, tmp_path):
    geotile.write(found, tmp_path / "a.geojson")
    first, second = (each["properties"] for each in json.loads((tmp_path / "a.geojson").read_text())["features"])
    assert (first["score"], first["label"], first["area"]) == (0.9, "car", 3.5)
    assert (second["score"], second["label"], second["t"]) == (0.4, "car", "2024-01-01")


def odd_image(tmp_path, crs):
    path = tmp_path / "odd.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=64, width=640, dtype="uint8", crs=crs, transform=from_origin(10, 20, 0.01, 0.01)
    ) as file:  # fmt: skip
        file.write(np.full((1, 64, 640), 9, np.uint8))
    return path


@pytest.mark.parametrize(
    ("crs", "suffix", "written"),
    [
        ('LOCAL_CS["site grid",UNIT["metre",1]]', ".geojson", False), ('LOCAL_CS["site grid",UNIT["metre",1]]', ".parquet", True),
        ("+proj=eqc +a=3396190 +b=3396190 +units=m", ".geojsonl", False), ("+proj=longlat +a=1737400 +b=1737400", ".geojson", False),
        ("+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +lon_0=18 +R=6371229 +to_meter=0.0174532925199433", ".gpkg", False),
        ("+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +lon_0=18 +R=6371229 +to_meter=0.0174532925199433", ".fgb", False),
    ],
)  # fmt: skip
def test_what_an_output_cannot_hold_is_found_before_the_run(tmp_path, crs, suffix, written):
    calls = []

    def counted(tile):
        calls.append(1)
        return [[5, 5, 20, 20]], [0.9]

    image, output = odd_image(tmp_path, CRS.from_string(crs)), tmp_path / f"out{suffix}"
    if written:
        geotile.detect_to(image, counted, output, tile_size=64, overlap=0)
        assert len(gpd.read_parquet(output)) == 10
        return
    with pytest.raises(OutputError, match=r"cannot hold results of the CRS .* Write GeoParquet"):
        geotile.detect_to(image, counted, output, tile_size=64, overlap=0)
    assert not calls
    assert not output.exists()


@pytest.mark.parametrize("options", [{"crs": "EPSG:4326"}, {"roi": "POINT (0 0)"}, {"resolution": 0.5}])
@pytest.mark.parametrize("crs", ['LOCAL_CS["site grid",UNIT["metre",1]]', "+proj=longlat +a=1737400 +b=1737400"])
def test_a_crs_without_a_way_to_another_is_found_before_the_run(tmp_path, crs, options):
    def never(tile):
        raise AssertionError

    with pytest.raises(GeotileError):
        geotile.detect(
            odd_image(tmp_path, CRS.from_string(crs)), never, tile_size=64, overlap=0, errors="raise", **options
        )


@pytest.mark.parametrize("suffix", FILES)
def test_a_result_that_cannot_be_written_is_saved(tmp_path, write_tiff, noise, suffix, monkeypatch):
    folder, spare = tmp_path / "out", tmp_path / "spare"
    folder.mkdir()
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))

    def breaks(tile):
        shutil.rmtree(folder, ignore_errors=True)
        return [[5, 5, 20, 20]], [0.9]

    with pytest.raises(OutputError, match="The rows are saved in ") as caught:
        geotile.detect_to(write_tiff(noise), breaks, folder / f"a{suffix}", tile_size=64, overlap=0)
    [saved] = spare.glob("*.parquet")
    assert str(saved) in str(caught.value)
    assert not getattr(caught.value, "__notes__", [])  # nothing says that no result is kept
    folder.mkdir()
    geotile.write(gpd.read_parquet(saved), folder / f"a{suffix}")
    assert len(gpd.read_parquet(saved)) == 35


def test_results_without_a_crs_are_written_without_a_warning(tmp_path, recwarn):
    found = geotile.detect(
        xr.DataArray(np.zeros((1, 64, 64), np.uint8), dims=("band", "y", "x")), model, tile_size=64, overlap=0
    )
    for suffix in FILES:
        geotile.write(found, tmp_path / f"a{suffix}")
    assert [str(each.message) for each in recwarn if issubclass(each.category, UserWarning)] == []


def test_geojson_of_a_projected_image_is_cut_at_180_degrees(tmp_path):
    """EPSG:3832 counts metres from 150 degrees east; the antimeridian lies inside the image."""
    import pyproj

    x180, _ = pyproj.Transformer.from_crs(4326, 3832, always_xy=True).transform(180, 0)
    path = tmp_path / "pacific.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=64, width=128, dtype="uint8", crs="EPSG:3832",
        transform=from_origin(x180 - 64 * 100, 0, 100, 100),
    ) as file:  # fmt: skip
        file.write(np.full((1, 64, 128), 9, np.uint8))
    boxes = [[60, 10, 70, 20], [10, 10, 20, 20], [100, 10, 110, 20], [54, 30, 64, 40]]  # across, west, east, touching
    found = geotile.detect(path, lambda tile: (boxes, [0.9, 0.8, 0.7, 0.6]), tile_size=128, overlap=0)
    geotile.write(found, tmp_path / "a.geojson")
    across, west, east, touching = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert across["geometry"]["type"] == "MultiPolygon"
    assert across["bbox"][0] > 179.9 > -179.9 > across["bbox"][2]  # RFC 7946, 5.2: west is greater than east
    for each in (west, east, touching):
        shape = shapely.geometry.shape(each["geometry"])
        assert shape.geom_type == "Polygon"
        assert shape.bounds == tuple(each["bbox"])
        assert 0 < shape.area < 0.001
    assert sum(part.area for part in shapely.geometry.shape(across["geometry"]).geoms) == pytest.approx(
        shapely.geometry.shape(west["geometry"]).area, rel=0.01
    )
    assert len(gpd.read_file(tmp_path / "a.geojson")) == 4


@pytest.mark.parametrize("suffix", FILES)
def test_an_empty_result_opens_in_gdal(tmp_path, write_tiff, noise, suffix):
    path = tmp_path / f"a{suffix}"
    geotile.detect_to(write_tiff(noise), lambda tile: None, path, tile_size=64, overlap=0)
    if suffix == ".geojsonl":
        assert path.read_bytes() == b""  # lines of JSON have no header; GDAL opens no file without a line
    else:
        assert len(gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)) == 0
