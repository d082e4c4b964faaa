"""The table of detections as files hold it, an Arrow table that is made of the columns.

It equals what `write_parquet` writes of the frame that `FrameBuilder.build` returns, in less than half the time, since
it needs no shapely objects of boxes, no lists of classes and no GeoDataFrame. geopandas decides the schema and the
metadata, once for each CRS.
"""

from __future__ import annotations

import io
import json
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from geotile.core.values import as_text
from geotile.geometry.georeference import NO_GEOREFERENCE
from geotile.geometry.rings import bounds_of_rings, wkb_of_rings
from geotile.merging.detections import Detections, concat
from geotile.results.frame import FrameBuilder, parquet_bytes, text_column
from geotile.results.report import Report, lasting

_PORTION_ROWS = 2**20  # an array of Arrow holds 2 GiB of text or WKB, and a box takes 93 bytes


def written_table(builder: FrameBuilder, detections: Detections) -> pa.Table:
    """Return detections, in image pixels, as an Arrow table with the metadata of GeoParquet.

    Raises
    ------
    ArgumentError
        If a property cannot be written as JSON.
    """
    ranked, schema = builder.ranked(detections), _schema(builder.crs)
    starts = range(0, max(1, len(ranked)), _PORTION_ROWS)
    portions = [_portion(builder, ranked.select(slice(start, start + _PORTION_ROWS)), schema) for start in starts]
    tables, bounds, kinds = zip(*portions, strict=True)
    metadata = _metadata(schema, np.concatenate(bounds), set().union(*kinds))
    return pa.concat_tables(tables).replace_schema_metadata(metadata)


def _portion(
    builder: FrameBuilder, ranked: Detections, schema: pa.Schema
) -> tuple[pa.Table, NDArray[np.float64], set[str]]:
    """Return ranked detections as a table, the bounds of their geometries, (n, 4) float64, and the types of these."""
    wkb, bounds, kinds = _geometries(builder, ranked)
    columns = builder.columns(ranked, _classes(ranked)) | {"geometry": wkb, "bbox": bounds}
    return pa.Table.from_arrays([_array(columns[field.name], field) for field in schema], schema=schema), bounds, kinds


def with_report(table: pa.Table, report: Report) -> pa.Table:
    """Return a table with the lasting part of a report, where pandas keeps the attributes of a frame."""
    attributes = json.dumps({"report": lasting(report)}).encode()
    return table.replace_schema_metadata({**table.schema.metadata, b"PANDAS_ATTRS": attributes})


def write_table(table: pa.Table, target: Any) -> None:
    """Write an Arrow table as Parquet to a path or a file object."""
    pq.write_table(table, target, compression="zstd")


def table_bytes(table: pa.Table) -> bytes:
    """Return an Arrow table as a Parquet file."""
    out = io.BytesIO()
    write_table(table, out)
    return out.getvalue()


@lru_cache(64)
def _schema(crs: str | None) -> pa.Schema:
    """Return the schema and the metadata that geopandas gives a table without rows."""
    empty = FrameBuilder(georeference=NO_GEOREFERENCE, crs=crs).build(concat([]))
    return pq.read_schema(parquet_bytes(empty))


def _metadata(schema: pa.Schema, bounds: NDArray[np.float64], kinds: set[str]) -> dict[bytes, bytes]:
    """Return the metadata of a table without rows with what depends on the rows."""
    geo, pandas = (json.loads(schema.metadata[key]) for key in (b"geo", b"pandas"))
    column = geo["columns"]["geometry"]
    column["geometry_types"] = sorted(kinds)
    known = bounds[~np.isnan(bounds).any(axis=1)]
    if len(known):
        column["bbox"] = [*known[:, :2].min(axis=0).tolist(), *known[:, 2:].max(axis=0).tolist()]
    pandas["index_columns"][0]["stop"] = len(bounds)
    return {**schema.metadata, b"geo": json.dumps(geo).encode(), b"pandas": json.dumps(pandas).encode()}


def _array(values: Any, field: pa.Field) -> pa.Array:
    """Return a column as an array of a field's type."""
    if isinstance(values, pa.Array):
        return values.cast(field.type)
    if pa.types.is_struct(field.type):
        fields = list(field.type)
        return pa.StructArray.from_arrays(list(map(_array, values.T, fields)), fields=fields)
    texts = values if values.dtype != object else text_column(values, field.name)
    return pa.array(texts, field.type, from_pandas=True)


def _geometries(builder: FrameBuilder, ranked: Detections) -> tuple[pa.Array, NDArray[np.float64], set[str]]:
    """Return the geometries as WKB, their bounds, (n, 4) float64, and the names of their types."""
    plain = np.flatnonzero(ranked.plain_boxes)
    rings = builder.georeference.rings_to_world(ranked.boxes[plain], builder.crs)
    whole = ~np.isnan(rings[:, 0, 0])
    rings, plain = rings[whole], plain[whole]
    others = np.delete(np.arange(len(ranked)), plain)
    shapes = builder.geometries(ranked.select(others))
    order = np.argsort(np.concatenate([plain, others]))
    wkb = pa.concat_arrays([wkb_of_rings(rings), pa.array(shapely.to_wkb(shapes, flavor="iso"), pa.binary())])
    bounds = np.concatenate([bounds_of_rings(rings), shapely.bounds(shapes)])
    _, first = np.unique(shapely.get_type_id(shapes), return_index=True)
    kinds = {shape.geom_type for shape in shapes[first] if shape is not None}
    return wkb.take(pa.array(order)), bounds[order], kinds | ({"Polygon"} if len(rings) else set())


def _classes(ranked: Detections) -> pa.Array:
    """Return the class lists as JSON: those that are not given have the label and the score alone."""
    names = {label: json.dumps(as_text(label, "label"), ensure_ascii=False) for label in set(ranked.labels.tolist())}
    starts = [f'[{{"iri": {names[label]}, "score": ' for label in ranked.labels.tolist()]
    texts = pc.binary_join_element_wise(pa.array(starts, pa.string()), _numbers_as_text(ranked.scores), "}]", "")
    given = ranked.classes != None  # noqa: E711 - element by element
    lists = text_column(ranked.classes[given], "classes")
    return pc.replace_with_mask(texts, pa.array(given), pa.array(lists, pa.string()))


def _numbers_as_text(numbers: NDArray[np.float64]) -> pa.Array:
    """Return numbers as `repr` writes them."""
    other = (numbers < 1e-4) | (numbers >= 1)  # Arrow writes others as `repr` does, and 0, 1 and 0.00001 for these
    texts = [repr(number) for number in numbers[other].tolist()]
    return pc.replace_with_mask(pa.array(numbers).cast(pa.string()), pa.array(other), pa.array(texts, pa.string()))
