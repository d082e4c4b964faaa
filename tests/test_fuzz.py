"""Fuzzers: any bytes of a server, a request or a text give a result or an error of geotile's.

They run for seconds here, and as long as one likes with ``python benchmarks/fuzz.py --minutes 10``.
"""

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from geotile import ArgumentError, EndpointError, JobRequest
from geotile.core.redact import redact, redact_answer
from geotile.endpoints.decode import decode_bytes
from geotile.endpoints.oip_tensors import read_response

REQUEST = {
    "jobName": "n", "jobId": "a", "imageUrls": ["s3://b/c.tif"], "imageProcessor": {"name": "m", "type": "SM_ENDPOINT", "assumedRole": "r"},
    "outputs": [{"type": "S3", "bucket": "out", "prefix": "x"}, {"type": "Kinesis", "stream": "s", "batchSize": 10}, {"type": "File", "path": "x"}],
    "imageProcessorTileSize": 512, "imageProcessorTileOverlap": 32, "imageProcessorTileFormat": "GTIFF",
    "imageProcessorTileCompression": "NONE", "imageProcessorParameters": {"CustomAttributes": "a"}, "imageReadRole": "r",
    "regionOfInterest": "POINT (1 2)", "featureProperties": [{"a": 1}], "geotile": {"bands": [1], "skip_nodata": True},
    "postProcessing": [{"step": "FEATURE_DISTILLATION", "algorithm": {"algorithmType": "NMS", "iouThreshold": 0.5}}],
}  # fmt: skip
ANSWER = {
    "type": "FeatureCollection", "features": [{"type": "Feature", "id": 1, "geometry": None, "properties": {
        "imageGeometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}, "imageBBox": [0, 0, 9, 9],
        "featureClasses": [{"iri": "car", "score": 0.9}], "detection": {"type": "Polygon", "pixelCoordinates": [[0, 0], [1, 1]]},
        "feature_types": {"car": 0.5}, "detection_score": 0.5, "bounds_imcoords": [0, 0, 1, 1], "geom_imcoords": [[0, 0]]}}],
}  # fmt: skip
OUTPUTS = {
    "outputs": [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2], "parameters": {"binary_data_size": 8}}]
}
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12) | st.sampled_from(["1", "x" * 5000, "\ud800", "a\0b", "../..", "http://[", "POLYGON ((", "file:///", "NaN"])  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)  # fmt: skip


def paths(value, at=()):
    """Return the paths of all parts of a JSON value."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [path for key, each in items for path in paths(each, (*at, key))]


def changed(value, path, to):
    """Return a copy of a JSON value with another part; without it where ``to`` is ``...``."""
    copy = json.loads(json.dumps(value))
    parent = copy
    for step in path[:-1]:
        parent = parent[step]
    if to is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = to
    return copy


def mutated(value):
    """Return a strategy of JSON texts near a value: one or two parts changed or left out, perhaps cut off."""
    part = st.tuples(st.sampled_from(paths(value)), VALUES | st.just(...))

    def apply(parts, cut):
        result = value
        for path, to in parts:
            with suppress(KeyError, IndexError, TypeError):  # the first change took the path of the second
                result = changed(result, path, to)
        text = json.dumps(result).encode()
        return text if cut is None else text[:cut]

    return st.builds(apply, st.lists(part, min_size=1, max_size=2), st.none() | st.integers(0, 400))


@given(mutated(REQUEST) | st.binary(max_size=60))
def test_any_request_is_parsed_or_refused(body):
    with suppress(ArgumentError):
        request = JobRequest.parse(body)
        assert len(request.digest) > 8
        assert len(request.output_names()) == len(request.image_urls)
        request.options()
        request.endpoint_options()


@given(mutated(ANSWER) | st.binary(max_size=60))
def test_any_answer_is_decoded_or_refused(body):
    with suppress(EndpointError):
        found = decode_bytes(body).detections
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
        json.dumps(found.properties.tolist(), allow_nan=False)


@given(mutated(OUTPUTS) | st.binary(max_size=60), st.none() | st.text(max_size=4) | st.integers(-5, 400).map(str))
def test_any_tensors_are_decoded_or_refused(body, header_length):
    with suppress(EndpointError):
        read_response(body, header_length)


@given(st.text(max_size=300) | st.text("/:@?#&=;%[]'\" \nhtps.ax", max_size=200))
def test_any_text_is_redacted(text):
    assert redact(redact(text)) == redact(text)
    redact_answer(text)
