"""OversightML's own comparison of feature collections, re-created: its integration tests call two collections equal so.

Facts of awslabs/osml-model-runner (``test/integ/validator.py``) and osml-imagery-toolkit (``features/geolocation.py``):
geometries are compared exactly after the geojson package has rounded them to six decimals, with three coordinates;
``imageGeometry`` and ``featureClasses`` exactly; the centre of the shape to 1e-8 degrees; ``sourceMetadata`` but for its
location and date.
"""

import json
import math

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

import geotile
from geotile.testing import ModelServer

pytestmark = pytest.mark.slow

NORTH_WEST, PIXEL = (85.0, 33.0), 2.7e-7 * 64
SIDE = 512


def hexagon(x, y, radius=25.6):
    """A shape as OversightML's test model "centerpoint" answers it."""
    turns = [math.pi / 2 + k * math.pi / 3 for k in range(6)]
    ring = [[round(x + radius * math.cos(t), 4), round(y + radius * math.sin(t), 4)] for t in turns]
    return [*ring, ring[0]]


def centerpoint(tile):
    _, height, width = tile.shape
    x, y = round(0.55 * width, 1), round(0.55 * height, 1)
    properties = {
        "imageGeometry": {"type": "Polygon", "coordinates": [hexagon(x, y)]},
        "imageBBox": [0.4 * width, 0.4 * height, 0.6 * width, 0.6 * height],
        "featureClasses": [{"iri": "sample_object", "score": 1.0}],
        "modelMetadata": {"modelName": "centerpoint", "ontologyName": "centerpoint", "ontologyVersion": "1.0.0"},
    }
    return {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": None, "id": "a1", "properties": properties}],
    }


def expected(image_format, title):
    """The features that OversightML writes for four tiles that share no pixels, by arithmetic alone."""
    features = []
    for y0 in (0, SIDE):
        for x0 in (0, SIDE):
            ring = hexagon(round(0.55 * SIDE, 1), round(0.55 * SIDE, 1))
            in_image = [[x + x0, y + y0] for x, y in ring]
            centre = shapely.Polygon(in_image).centroid
            box = [0.4 * SIDE + x0, 0.4 * SIDE + y0, 0.6 * SIDE + x0, 0.6 * SIDE + y0]
            (west, north), (east, south) = degrees(*box[:2]), degrees(*box[2:])
            properties = {
                "imageGeometry": {"type": "Polygon", "coordinates": [in_image]}, "imageBBox": box,
                "featureClasses": [{"iri": "sample_object", "score": 1.0}],
                "center_longitude": degrees(centre.x, centre.y)[0], "center_latitude": degrees(centre.x, centre.y)[1],
                "inferenceMetadata": {},
            }  # fmt: skip
            if image_format == "NITF":
                properties["sourceMetadata"] = [
                    {"location": "?", "format": "NITF", "category": "VIS", "sourceId": title, "sourceDT": "?"}
                ]
            geometry = {"type": "Polygon", "coordinates": [[[*degrees(x, y), 0.0] for x, y in in_image]]}
            features.append(
                {
                    "type": "Feature",
                    "id": "a1",
                    "bbox": [west, south, east, north],
                    "geometry": geometry,
                    "properties": properties,
                }
            )
    return features


def degrees(x, y):
    return NORTH_WEST[0] + x * PIXEL, NORTH_WEST[1] - y * PIXEL


def rounded(geometry):
    return json.loads(json.dumps(geometry), parse_float=lambda text: round(float(text), 6))


def equal(want, got):
    """Compare as OversightML does, and the bounds and the id, which it leaves out."""
    assert len(want) == len(got)
    by_shape = [sorted(each, key=lambda feature: str(feature["properties"]["imageGeometry"])) for each in (want, got)]
    for a, b in zip(*by_shape, strict=True):
        assert rounded(a["geometry"]) == rounded(b["geometry"])
        assert b["properties"]["inferenceMetadata"]["jobId"] == "job"
        for name in ("featureClasses", "imageGeometry"):
            assert a["properties"][name] == b["properties"][name]
        for name in ("center_longitude", "center_latitude"):
            assert math.isclose(a["properties"][name], b["properties"][name], abs_tol=1e-8)
        sources = [each["properties"].get("sourceMetadata", []) for each in (a, b)]
        kept = [
            [{k: v for k, v in one.items() if k not in ("location", "sourceDT")} for one in each] for each in sources
        ]
        assert kept[0] == kept[1]
        np.testing.assert_allclose(b["bbox"], a["bbox"], atol=1e-9)
        assert b["id"] == "a1"
    return True


@pytest.mark.parametrize(("image_format", "title"), [("GTiff", None), ("NITF", "a title"), ("NITF", "")])
def test_a_job_answers_what_oversightml_does(tmp_path, image_format, title):
    image = tmp_path / ("image.ntf" if title is not None else "image.tif")
    more = {} if title is None else {"FTITLE": title, "ICORDS": "D", "ICAT": "VIS"}
    with rasterio.open(
        image, "w", driver=image_format, count=1, height=2 * SIDE, width=2 * SIDE, dtype="uint8", crs="EPSG:4326",
        transform=from_origin(*NORTH_WEST, PIXEL, PIXEL), **more,
    ) as file:  # fmt: skip
        file.write(np.full((1, 2 * SIDE, 2 * SIDE), 9, np.uint8))
    with rasterio.open(image) as file:  # a NITF keeps its corners in decimals of a degree
        got = file.transform
    with ModelServer(centerpoint) as model:
        request = {
            "jobId": "job", "jobName": "test", "imageUrls": [str(image)], "imageProcessorTileSize": SIDE,
            "imageProcessorTileOverlap": 0, "imageProcessor": {"name": model.url, "type": "HTTP_ENDPOINT"},
            "outputs": [{"type": "File", "path": str(tmp_path / "out")}],
        }  # fmt: skip
        geotile.submit(request, tmp_path / "queue")
        geotile.serve(tmp_path / "queue", once=True)
    features = json.loads((tmp_path / "out" / "job.geojson").read_text())["features"]
    if image_format == "GTiff" or np.allclose(got[:6], from_origin(*NORTH_WEST, PIXEL, PIXEL)[:6], rtol=0, atol=1e-10):
        assert equal(expected(image_format, title), features)
    else:  # compare where the header of the NITF puts the pixels
        place = {"NORTH_WEST": (got.c, got.f)}
        assert place["NORTH_WEST"] == pytest.approx(NORTH_WEST, abs=1e-5)
        shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
        assert all(shape.has_z for shape in shapes)
        source = features[0]["properties"]["sourceMetadata"][0]
        assert (source["format"], source["category"], source["sourceId"]) == ("NITF", "VIS", title)
