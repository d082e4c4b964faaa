"""The main job on real input: real pictures, real ONNX models, over real HTTP."""

import json
import subprocess
import sys

import geopandas as gpd
import pytest
import shapely
from shapely.geometry import box

import geotile
from geotile.cli.demo import run_demo
from geotile.detectors import OnnxDetector
from geotile.testing import ModelServer, match


def coco_model(shared, name, score_threshold):
    models = shared / "models"
    return OnnxDetector(models / name, models / "coco.names", score_threshold=score_threshold)


def over_http(image, model, **options):
    with ModelServer(model) as server:
        found = geotile.detect(image, server.url, **options)
        assert server.requests == found.attrs["report"].tiles
    return found


@pytest.mark.parametrize(("tile_size", "overlap"), [(224, 96), (224, 128), (192, 64)])
def test_two_airliners_are_two_whatever_the_tiles(shared, tile_size, overlap):
    model = coco_model(shared, "nanodet_m.onnx", 0.3)
    found = over_http(shared / "imagery" / "2_planes.tiff", model, tile_size=tile_size, overlap=overlap)
    planes = found[found["label"] == "aeroplane"]
    assert len(planes) == 2
    boxes = [box(*b) for b in planes[["xmin", "ymin", "xmax", "ymax"]].to_numpy()]
    for plane in (box(150, 127, 300, 210), box(185, 262, 343, 345)):  # measured on the picture
        assert max(plane.intersection(b).area / b.area for b in boxes) > 0.8
    assert found.crs is None


@pytest.mark.slow
def test_cars_on_a_road(shared):
    model = coco_model(shared, "nanodet_m.onnx", 0.3)
    small = over_http(shared / "imagery" / "small-vehicles1.jpeg", model, tile_size=256, overlap=64)
    large = over_http(shared / "imagery" / "small-vehicles1.jpeg", model, tile_size=512, overlap=64)
    assert 20 <= (small["label"] == "car").sum() <= 32
    assert 10 <= (large["label"] == "car").sum() <= 20


@pytest.mark.slow
def test_people_whole_and_cut(shared):
    """Halves of cut objects survive plain suppression; the default merge joins them."""
    truth = json.loads((shared / "imagery" / "sahi_terrain1_coco.json").read_text())
    human = {c["id"] for c in truth["categories"] if c["name"] in ("human", "person")}
    boxes = [a["bbox"] for a in truth["annotations"] if a["category_id"] in human]
    real = gpd.GeoDataFrame(
        [{"label": "person", "xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h} for x, y, w, h in boxes]
    )
    model = coco_model(shared, "yolox_nano.onnx", 0.3)

    def people(**options):
        found = over_http(shared / "imagery" / "sahi_terrain1.jpg", model, **options)
        return match(real, found[found["label"] == "person"], iou=0.4)

    assert people(tile_size=2048, overlap=0) == (1.0, 1.0)
    cut_precision, cut_recall = people(tile_size=256, overlap=64, merge="nms")
    whole_precision, whole_recall = people(tile_size=256, overlap=64)
    assert cut_recall == 1.0
    assert whole_recall >= 6 / 7
    assert whole_precision > cut_precision + 0.2


def test_coloured_squares_lie_where_the_labels_say(shared):
    """raster-vision's synthetic scene has exact coordinates, in longitude and latitude."""
    from geotile.testing import bright_objects

    found = geotile.detect(
        shared / "imagery" / "rastervision_od_image.tif", bright_objects, tile_size=300, overlap=120,
    )  # fmt: skip
    labels = gpd.read_file(shared / "imagery" / "rastervision_od_labels.json")
    assert found.crs == "EPSG:4326"
    assert len(labels) > 0
    for square in labels.geometry:
        shares = shapely.area(shapely.intersection(found.geometry.to_numpy(), square)) / square.area
        assert shares.max() > 0.9


def test_fastestdet_finds_people(shared):
    model = coco_model(shared, "fastestdet.onnx", 0.4)
    found = over_http(shared / "imagery" / "sahi_terrain1.jpg", model, tile_size=512, overlap=64)
    assert (found["label"] == "person").sum() >= 3


def test_an_onnx_model_pickles_and_a_wrong_one_is_named(shared, tmp_path):
    import pickle

    model = OnnxDetector(shared / "models" / "nanodet_m.onnx")
    assert repr(pickle.loads(pickle.dumps(model))) == "OnnxDetector('nanodet_m.onnx', nanodet)"
    with pytest.raises(geotile.ArgumentError, match="there is no ONNX model"):
        OnnxDetector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(geotile.ArgumentError, match="not an ONNX model that onnxruntime can open"):
        OnnxDetector(tmp_path / "bad.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(("tile_size", "overlap"), [(None, None), (512, 64), (256, 64)])
def test_the_demo_finds_what_was_painted(tmp_path, tile_size, overlap):
    result = run_demo(tmp_path, size=1536, tile_size=tile_size, overlap=overlap)
    assert (result.precision, result.recall) == (1, 1)
    report = result.report
    assert report.status == "SUCCESS"
    assert report.requests == report.tiles > 9
    assert report.regions > 1
    assert report.detections_before > report.detections_after > 50
    assert set(result.detections["label"]) == {"car", "truck", "ship", "building"}
    buildings = geotile.image_geometry(result.detections)[result.detections["label"] == "building"]
    assert (buildings.area < 0.8 * buildings.envelope.area).all()  # the L, not the box around it
    assert (buildings.bounds["maxx"] - buildings.bounds["minx"]).max() > 256
    for path in result.files:
        assert path.stat().st_size > 10_000
    assert len(gpd.read_parquet(tmp_path / "detections.parquet")) == report.detections_after
    assert len(gpd.read_file(tmp_path / "detections.geojson")) == report.detections_after


ONLY_DEMO = """
import re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

installed, todo = set(), [("geotile", ("demo",))]
while todo:
    name, extras = todo.pop()
    if (name, extras) in installed:
        continue
    installed.add((name, extras))
    try:
        needed = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        continue
    for each in needed:
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            todo.append((canonicalize_name(each.name), tuple(sorted(each.extras))))
names = {name for name, _ in installed}
for module, owners in packages_distributions().items():
    if not names & {canonicalize_name(owner) for owner in owners}:
        sys.modules[module] = None  # importing it fails
assert sys.modules.get("pystac", 0) is None and sys.modules.get("sarkit", 0) is None
from geotile.cli.demo import run_demo
assert (run_demo(sys.argv[1], size=1024).recall) == 1
"""


@pytest.mark.slow
def test_the_demo_needs_nothing_but_its_extra(tmp_path):
    """The README says: pip install '.[demo]' && geotile demo."""
    done = subprocess.run([sys.executable, "-c", ONLY_DEMO, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_demo_takes_the_users_own(shared, tmp_path):
    models = shared / "models"
    result = run_demo(
        tmp_path,
        shared / "imagery" / "2_planes.tiff",
        models / "nanodet_m.onnx",
        options={"labels": models / "coco.names"},
    )
    assert "aeroplane" in set(result.detections["label"])
    assert all(path.exists() for path in result.files)
    with pytest.raises(geotile.ArgumentError, match="--model"):
        run_demo(tmp_path, shared / "imagery" / "2_planes.tiff")
    with pytest.raises(geotile.ArgumentError, match="--model"):
        run_demo(tmp_path, options={"family": "yolox"})
