"""The OSML contract, old words and new; and whatever else comes back."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geotile import ResponseError
from geotile.endpoints.answer import Answer
from geotile.endpoints.decode import decode_bytes


def collection(*properties, **extra):
    features = [{"type": "Feature", "geometry": None, "properties": each, **extra} for each in properties]
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def one(properties, **extra):
    found = decode_bytes(collection(properties, **extra)).detections
    assert len(found) == 1
    return found


def test_todays_words():
    sent = {
        "imageGeometry": {"type": "Polygon", "coordinates": [[[0, 0], [10, 2], [10, 12], [0, 12], [0, 0]]]},
        "imageBBox": [0, 0, 10, 12],
        "featureClasses": [{"iri": "airliner", "score": 0.75}, {"iri": "aircraft", "score": 0.90}],
        "modelMetadata": {"modelName": "m"},
    }
    found = one(sent, id="a1")
    assert found.boxes.tolist() == [[0, 0, 10, 12]]
    assert (found.labels[0], found.scores[0]) == ("aircraft", 0.9)
    assert found.classes[0] == sent["featureClasses"]
    assert found.geometries[0].geom_type == "Polygon"
    assert found.properties[0] == {"modelMetadata": {"modelName": "m"}, "id": "a1"}


@pytest.mark.parametrize(
    ("sent", "box", "kind"),
    [
        ({"bounds_imcoords": [1, 2, 3, 4]}, [1, 2, 3, 4], None),
        ({"geom_imcoords": [[0, 0], [4, 0], [4, 3], [0, 0]]}, [0, 0, 4, 3], "Polygon"),
        ({"detection": {"type": "Polygon", "pixelCoordinates": [[0, 0], [4, 0], [4, 3], [0, 0]]}}, [0, 0, 4, 3], "Polygon"),
        ({"detection": {"type": "Polygon", "pixelCoordinates": [[[0, 0], [4, 0], [4, 3], [0, 0]]]}}, [0, 0, 4, 3], "Polygon"),
        ({"detection": {"type": "Point", "pixelCoordinates": [4, 3]}}, [4, 3, 4, 3], "Point"),
        ({"imageGeometry": {"type": "Point", "coordinates": [4, 3]}}, [4, 3, 4, 3], "Point"),
        ({"imageGeometry": {"type": "LineString", "coordinates": [[0, 1], [4, 1]]}}, [0, 1, 4, 1], "LineString"),
        ({"imageGeometry": {"type": "MultiPoint", "coordinates": [[0, 1], [4, 1]]}}, [0, 1, 4, 1], "MultiPoint"),
    ],
)  # fmt: skip
def test_geometry_in_all_words(sent, box, kind):
    found = one(sent)
    assert found.boxes.tolist() == [box]
    assert getattr(found.geometries[0], "geom_type", None) == kind


def test_a_point_beside_a_box_is_the_shape_and_the_box_is_merged():
    found = one({"imageGeometry": {"type": "Point", "coordinates": [2.0, 3.0]}, "imageBBox": [1, 2, 3, 4]})
    assert found.geometries[0].wkt == "POINT (2 3)"
    placed = found.moved_to_image(3, 100, 200, 64, 64)
    assert placed.boxes.tolist() == [[101, 202, 103, 204]]
    assert placed.geometries[0].wkt == "POINT (102 203)"
    assert placed.tiles.tolist() == [3]


def test_classes_in_old_words():
    assert one({"imageBBox": [0, 0, 1, 1], "feature_types": {"a": 0.2, "b": 0.7}}).labels[0] == "b"
    assert one({"imageBBox": [0, 0, 1, 1], "detection_score": 0.4}).scores[0] == 0.4
    assert one({"imageBBox": [0, 0, 1, 1]}).scores[0] == 1.0  # OversightML keeps a feature without classes


def test_an_empty_answer_is_a_good_one():
    assert len(decode_bytes(b'{"type": "FeatureCollection", "features": []}').detections) == 0


BAD = [
    b"", b"\xff\xfe", b"not json", b"<html>Bad Gateway</html>", b"[]", b"null", b"5", b"[" * 100_000,
    b'{"type": "FeatureCollection"}', b'{"type": "FeatureCollection", "features": {}}',
    b'{"type": "FeatureCollection", "features": [null]}', b'{"type": "FeatureCollection", "features": [{"type": "Feature"}]}',
    collection({}), collection({"imageBBox": [0, 0, 1]}), collection({"imageBBox": [5, 0, 1, 1]}),
    collection({"imageBBox": [0, 0, True, 1]}), collection({"imageBBox": "0011"}),
    b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"imageBBox": [0, 0, NaN, 1]}}]}',
    b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"imageBBox": [0, 0, 1e999, 1]}}]}',
    collection({"imageBBox": [0, 0, 10**400, 1]}), collection({"imageGeometry": {"type": "Polygon", "coordinates": []}}),
    collection({"imageGeometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}),
    collection({"imageGeometry": {"type": "Blob"}}), collection({"imageGeometry": 7}),
    collection({"imageBBox": [0, 0, 1, 1], "featureClasses": [{"score": 1}]}),
    collection({"imageBBox": [0, 0, 1, 1], "featureClasses": [{"iri": 5, "score": 1}]}),
    collection({"imageBBox": [0, 0, 1, 1], "featureClasses": [{"iri": "a", "score": "high"}]}),
]  # fmt: skip


@pytest.mark.parametrize("body", BAD)
def test_bad_answers_are_response_errors_with_an_excerpt(body):
    with pytest.raises(ResponseError) as caught:
        decode_bytes(body)
    assert len(str(caught.value)) < 600


jsons = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["type", "features", "properties", "imageBBox", "imageGeometry", "coordinates", "featureClasses",
                         "iri", "score", "detection", "pixelCoordinates", "geom_imcoords", "feature_types"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(jsons)
@example({"imageGeometry": {"type": "Point", "coordinates": ["a", {}]}})
def test_any_feature_gives_detections_or_a_response_error(properties):
    answer = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": properties}]}
    try:
        found = decode_bytes(json.dumps(answer).encode()).detections
    except ResponseError:
        return
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.scores).all()


@given(st.binary(max_size=200))
def test_any_bytes_give_detections_or_a_response_error(body):
    with contextlib.suppress(ResponseError):
        assert isinstance(decode_bytes(body), Answer)


@pytest.mark.slow
def test_the_fuzzer_finds_nothing(tmp_path):
    pytest.importorskip("atheris")
    fuzzer = Path(__file__).with_name("fuzz_answers.py")
    done = subprocess.run(
        [sys.executable, fuzzer, "-runs=10000", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 10000 runs" in done.stderr
