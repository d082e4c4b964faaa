"""Fuzz what models answer: any bytes give detections or a ResponseError.

``python tests/fuzz_answers.py -runs=1000000`` (libFuzzer's options; needs atheris).
"""

import json
import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(
    include=[
        "geotile.endpoints.decode",
        "geotile.endpoints.answer",
        "geotile.merging.detections",
        "geotile.endpoints.oip_tensors",
    ]
):
    from geotile.endpoints.answer import Answer
    from geotile.endpoints.decode import decode_bytes
    from geotile.endpoints.oip_tensors import read_response
    from geotile.errors import ResponseError

SEEDS = (
    b'{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": null, "id": "a1", "properties": '
    b'{"imageGeometry": {"type": "Polygon", "coordinates": [[[0, 0], [10, 2], [10, 12], [0, 0]]]}, "imageBBox": [0, 0, 10, 12], '
    b'"featureClasses": [{"iri": "aircraft", "score": 0.9}]}}]}',
    b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"bounds_imcoords": [0, 0, 1, 1], '
    b'"geom_imcoords": [[0, 0], [1, 1], [1, 0]], "detection": {"type": "Polygon", "pixelCoordinates": [[0, 0], [1, 1]]}, '
    b'"feature_types": {"car": 0.5}, "detection_score": 1}}]}',
    b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}',
    b'{"outputs": [{"name": "a", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}}]}\0\0\0\0\0\0\0\0',
)


KEYS = (
    "type", "features", "properties", "imageGeometry", "imageBBox", "featureClasses", "iri", "score", "coordinates",
    "bounds_imcoords", "geom_imcoords", "detection", "pixelCoordinates", "feature_types", "detection_score", "id", "x",
    "outputs", "name", "datatype", "shape", "data", "parameters", "binary_data_size",
)  # fmt: skip
WORDS = (
    "FeatureCollection",
    "Feature",
    "Polygon",
    "Point",
    "LineString",
    "MultiPolygon",
    "GeometryCollection",
    "FP32",
    "BOOL",
    "a",
)


def value(given: atheris.FuzzedDataProvider, depth: int):
    """Return some JSON value of the contracts' words."""
    kind = given.ConsumeIntInRange(0, 9 if depth else 6)
    if kind <= 1:
        return given.ConsumeIntInRange(-3, 40)
    if kind == 2:
        return given.ConsumeFloat()
    if kind == 3:
        return WORDS[given.ConsumeIntInRange(0, len(WORDS) - 1)]
    if kind <= 6:
        return (None, True, 10**400)[kind - 4]
    if kind == 7:
        return [value(given, depth - 1) for _ in range(given.ConsumeIntInRange(0, 5))]
    return {
        KEYS[given.ConsumeIntInRange(0, len(KEYS) - 1)]: value(given, depth - 1)
        for _ in range(given.ConsumeIntInRange(0, 5))
    }


def answer(data: bytes) -> None:
    """Decode bytes as they are, and what they make of the contracts' words in a good answer's place."""
    given = atheris.FuzzedDataProvider(data)
    feature = {
        "type": "Feature",
        "properties": {KEYS[given.ConsumeIntInRange(3, 16)]: value(given, 5) for _ in range(3)},
    }
    made = {"type": "FeatureCollection", "features": [feature], "outputs": [value(given, 3)]}
    for body in (data, json.dumps(made).encode()):
        with suppress(ResponseError):
            assert isinstance(decode_bytes(body), Answer)
        for length in (None, str(len(body) // 2), str(body.rfind(b"}") + 1)):
            with suppress(ResponseError):
                read_response(body, length)


if __name__ == "__main__":
    for seed in SEEDS:
        answer(seed)
    atheris.Setup(sys.argv, answer)
    atheris.Fuzz()
