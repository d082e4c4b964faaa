"""The table that workers write is the one that `detect` returns, as geopandas writes it."""

import io
import json

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geotile.errors import ArgumentError
from geotile.geometry.georeference import NO_GEOREFERENCE, Georeference, wkt_of
from geotile.geometry.placement import AffinePlacement
from geotile.merging.detections import concat, detections
from geotile.results.frame import FrameBuilder, parquet_bytes
from geotile.results.written_table import table_bytes, written_table


def place(crs, *transform):
    return Georeference(AffinePlacement(Affine(*transform)), wkt_of(crs) if crs else None)


PLACES = {
    "none": NO_GEOREFERENCE,
    "no CRS": place(None, 0.5, 0, 5e5, 0, -0.5, 5e6),
    "projected": place("EPSG:32631", 0.3, 0.4, 5e5, 0.4, -0.3, 5e6),
    "antimeridian": place("EPSG:4326", 1e-3, 0, 179.9, 0, -1e-3, 10),
    "pole": place("EPSG:3413", 1e3, 0, -1e5, 0, -1e3, 1e5),
    "partly off the Earth": place("+proj=laea +datum=WGS84", 2e5, 0, -2e7, 0, -2e5, 2e7),
}
TEXTS = st.sampled_from(["ship", "", 'a "big" one', "été", "\ud800", "nul\0", "船"]) | st.text(max_size=3)
SHAPES = [  # valid ones, whatever the box
    lambda x0, y0, x1, y1: None,
    lambda x0, y0, x1, y1: shapely.box(x0, y0, x1 + 1, y1 + 1),
    lambda x0, y0, x1, y1: shapely.Polygon([(x0, y0), (x1 + 1, y1), (x0, y1 + 1)]),
    lambda x0, y0, x1, y1: shapely.Polygon([(x0, y0), (x0 + 6, y0 + 8), (x0 - 2, y0 + 14), (x0 - 8, y0 + 6)]),
    lambda x0, y0, x1, y1: shapely.MultiPolygon(
        [shapely.box(x0, y0, x0 + 1, y1 + 1), shapely.box(x1 + 2, y1, 300, 250)]
    ),
    lambda x0, y0, x1, y1: shapely.LineString([(x0, y0), (x1 + 1, y1)]),
    lambda x0, y0, x1, y1: shapely.Point(x0, y0),
]


@st.composite
def rows(draw):
    """Detections of every kind: most are boxes; some of them have no width, no height, or neither."""
    n = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    corners, sizes = rng.uniform(0, 200, (n, 2)), rng.uniform(0.1, 40, (n, 2)) * (rng.random((n, 2)) < 0.9)
    boxes = np.hstack([corners, corners + sizes])
    kinds = rng.integers(1, len(SHAPES), n) * (rng.random(n) < draw(st.sampled_from([0, 0.5])))
    maybe = lambda value: draw(st.none() | value)  # noqa: E731
    return detections(
        boxes,
        draw(st.lists(st.floats(0, 1) | st.floats(allow_nan=False, allow_infinity=False), min_size=n, max_size=n)),
        draw(st.lists(TEXTS, min_size=n, max_size=n)),
        [SHAPES[kind](*box) for kind, box in zip(kinds, boxes.tolist(), strict=True)],
        classes=[maybe(st.just([{"iri": "a\ud800", "score": 0.25}, {"iri": "b", "score": 1e-7}])) for _ in range(n)],
        properties=[maybe(st.dictionaries(TEXTS, TEXTS | st.floats() | st.lists(TEXTS), max_size=2)) for _ in range(n)],
        oriented=kinds == 3,
        keypoints=[maybe(st.just([[1.0, 2.0], [3.0, 4.0]])) for _ in range(n)],
    )


def stored(data: bytes) -> tuple[pa.Table, dict]:
    table = pq.read_table(io.BytesIO(data))
    return table, {key: json.loads(value) for key, value in table.schema.metadata.items()}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("crs", [None, "EPSG:4326"])
@given(
    found=rows(), scale_yx=st.sampled_from([(1.0, 1.0), (4.0, 2.5)]), roi=st.sampled_from([None, "drop", "keep"]),
    portion=st.sampled_from([2**20, 3]),
)  # fmt: skip
@settings(max_examples=30)
def test_it_is_the_table_that_geopandas_writes(name, crs, found, scale_yx, roi, portion):
    georeference = PLACES[name]
    builder = FrameBuilder(
        georeference=georeference, crs=wkt_of(crs) if crs and georeference.crs else georeference.crs, scale_yx=scale_yx,
        roi=roi and shapely.box(50, 50, 150, 150), outside_roi=roi or "drop",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geotile.results.written_table._PORTION_ROWS", portion)
        table, metadata = stored(table_bytes(written_table(builder, found)))
    want, want_metadata = stored(parquet_bytes(builder.build(found)).getvalue())
    assert table.schema.equals(want.schema, check_metadata=False)
    assert [field.metadata for field in table.schema] == [field.metadata for field in want.schema]
    assert table.to_pylist() == want.to_pylist()
    assert metadata == want_metadata


def test_rows_without_a_position_and_no_rows_have_no_bounds():
    builder = FrameBuilder(georeference=PLACES["partly off the Earth"], crs=wkt_of("EPSG:4326"))
    far = detections(np.array([[0, 0, 5, 5]]), np.array([0.5]))
    for found in (far, concat([])):
        table, metadata = stored(table_bytes(written_table(builder, found)))
        assert table["geometry"].null_count == len(found) == table["bbox"].combine_chunks().field("xmin").null_count
        assert metadata[b"geo"]["columns"]["geometry"]["geometry_types"] == []
        assert "bbox" not in metadata[b"geo"]["columns"]["geometry"]
        assert len(gpd.read_parquet(io.BytesIO(table_bytes(table)))) == len(found)


def test_a_property_that_is_not_json_is_named():
    builder = FrameBuilder(georeference=NO_GEOREFERENCE, crs=None)
    found = detections(np.array([[0, 0, 2, 2]]), np.array([0.5]), properties=[{"a": object()}])
    with pytest.raises(ArgumentError, match="column 'properties' cannot be written"):
        written_table(builder, found)
