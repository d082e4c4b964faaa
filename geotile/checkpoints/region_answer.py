"""A region's answer as a small Parquet file, and back: every bit of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from geotile.errors import OutputError
from geotile.merging.detections import Detections
from geotile.results.report import TileFailure

_NOTES = b"geotile"


@dataclass(frozen=True, kw_only=True)
class RegionAnswer:
    """What the model said of a region's tiles, before merging."""

    found: Detections
    """In image pixels."""
    failures: tuple[TileFailure, ...] = ()
    without_data: int = 0
    """Tiles that were not sent, since they hold too little data."""

    def to_parquet(self) -> bytes:
        """Return a Parquet file: a row a detection, the rest in its metadata.

        Raises
        ------
        OutputError
            If the model's properties are no JSON.
        """
        found = self.found
        columns: dict[str, Any] = {name: found.boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
        columns |= {
            "score": found.scores,
            "label": pa.array(found.labels.tolist(), pa.string()),
            "geometry": pa.array(_as_wkb(found.geometries), pa.binary()),
            "classes": pa.array(_as_json(found.classes), pa.string()),
            "properties": pa.array(_as_json(found.properties), pa.string()),
            "tile": found.tiles,
            "ordinal": found.ordinals,
        }
        notes = {"failures": list(self.failures), "without_data": self.without_data}
        table = pa.table(columns).replace_schema_metadata({_NOTES: json.dumps(notes)})
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
        return out.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> RegionAnswer:
        """Return what `to_parquet` wrote.

        Raises
        ------
        ValueError
            If it is something else, or damaged.
        """
        try:
            table = pq.read_table(pa.BufferReader(data))
            notes = json.loads((table.schema.metadata or {})[_NOTES])
            columns = {name: table[name] for name in table.column_names}
            numbers = {name: columns[name].to_numpy() for name in ("x0", "y0", "x1", "y1", "score", "tile", "ordinal")}
            found = Detections(
                boxes=np.stack([numbers[name] for name in ("x0", "y0", "x1", "y1")], axis=1),
                scores=numbers["score"],
                labels=_column(columns["label"].to_pylist()),
                geometries=_column(shapely.from_wkb(columns["geometry"].to_pylist())),
                classes=_from_json(columns["classes"].to_pylist()),
                properties=_from_json(columns["properties"].to_pylist()),
                tiles=numbers["tile"],
                ordinals=numbers["ordinal"],
            )
            failures = tuple(TileFailure(**each) for each in notes.pop("failures"))
            return cls(found=found, failures=failures, **notes)
        except (pa.ArrowException, KeyError, TypeError, shapely.errors.ShapelyError) as error:
            raise ValueError(f"no region's answer: {error}") from None


def _column(values: Sequence[Any]) -> NDArray[np.object_]:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _as_wkb(shapes: NDArray[np.object_]) -> list[bytes | None]:
    return list(shapely.to_wkb(shapes)) if len(shapes) else []


def _as_json(values: NDArray[np.object_]) -> list[str | None]:
    try:
        return [None if value is None else json.dumps(value, allow_nan=False) for value in values]
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"the model's properties cannot be kept in a checkpoint: {error}; return JSON values, or leave "
            "checkpoint out"
        ) from None


def _from_json(values: list[str | None]) -> NDArray[np.object_]:
    return _column([None if value is None else json.loads(value) for value in values])
