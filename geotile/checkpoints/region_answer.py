"""The model's answer for a region, and its exact form as a small Parquet file."""

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

from geotile.merging.detections import Detections
from geotile.results.failures import NO_FLAWS, Flaws, TileFailure, stored_failures

_NOTES = b"geotile"


@dataclass(frozen=True, kw_only=True)
class RegionAnswer:
    """The model's answer for the tiles of a region, before merging."""

    detections: Detections
    """Detections, in image pixels."""
    failures: tuple[TileFailure, ...] = ()
    """Tiles that failed."""
    without_data: int = 0
    """Number of tiles that were not sent because they hold too little data."""
    rejected: Flaws = NO_FLAWS
    """Boxes that are not valid."""
    repaired: Flaws = NO_FLAWS
    """Shapes that were not valid and were made so."""

    def to_parquet(self) -> bytes:
        """Return a Parquet file with one row for each detection, and the rest in its metadata."""
        detections = self.detections
        columns: dict[str, Any] = {name: detections.boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
        columns |= {
            "score": detections.scores,
            "label": pa.array(detections.labels.tolist(), pa.string()),
            "geometry": pa.array(_as_wkb(detections.geometries), pa.binary()),
            "oriented": detections.oriented,
            "classes": pa.array(_as_json(detections.classes), pa.string()),
            "properties": pa.array(_as_json(detections.properties), pa.string()),
            "keypoints": pa.array(_as_json(detections.keypoints), pa.string()),
            "tile": detections.tiles,
            "ordinal": detections.ordinals,
        }
        notes = {"failures": list(self.failures), "without_data": self.without_data}
        notes |= {"rejected": self.rejected, "repaired": self.repaired}
        table = pa.table(columns).replace_schema_metadata({_NOTES: json.dumps(notes)})
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
        return out.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> RegionAnswer:
        """Return the answer that `to_parquet` wrote.

        Raises
        ------
        ValueError
            If the data are something else, or damaged.
        """
        try:
            table = pq.read_table(pa.BufferReader(data))
            notes = json.loads((table.schema.metadata or {})[_NOTES])
            columns = {name: table[name] for name in table.column_names}
            numbers = {name: columns[name].to_numpy() for name in ("x0", "y0", "x1", "y1", "score", "tile", "ordinal")}
            detections = Detections(
                boxes=np.stack([numbers[name] for name in ("x0", "y0", "x1", "y1")], axis=1),
                scores=numbers["score"],
                labels=_column(columns["label"].to_pylist()),
                geometries=_column(shapely.from_wkb(columns["geometry"].to_pylist())),
                oriented=columns["oriented"].to_numpy() if "oriented" in columns else np.zeros(len(table), bool),
                classes=_from_json(columns["classes"].to_pylist()),
                properties=_from_json(columns["properties"].to_pylist()),
                keypoints=_from_json(columns["keypoints"].to_pylist())
                if "keypoints" in columns
                else _column([None] * len(table)),
                tiles=numbers["tile"],
                ordinals=numbers["ordinal"],
            )
            failures = stored_failures(notes.pop("failures"))
            notes |= {name: Flaws(*notes.get(name, ())) for name in ("rejected", "repaired")}
            return cls(detections=detections, failures=failures, **notes)
        except (
            pa.ArrowException,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            shapely.errors.ShapelyError,
        ) as error:
            raise ValueError(f"not the answer for a region: {error}") from None


def _column(values: Sequence[Any]) -> NDArray[np.object_]:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _as_wkb(geometries: NDArray[np.object_]) -> list[bytes | None]:
    return list(shapely.to_wkb(geometries)) if len(geometries) else []


def _as_json(values: NDArray[np.object_]) -> list[str | None]:
    return [None if value is None else json.dumps(value, allow_nan=False) for value in values]


def _from_json(values: list[str | None]) -> NDArray[np.object_]:
    return _column([None if value is None else json.loads(value) for value in values])
