"""The rows of a run whose model answers vectors, as a table and as GeoParquet."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.geometry.georeference import Georeference
from geotile.results.frame import parquet_bytes


@dataclass(frozen=True, kw_only=True)
class EmbeddingTable:
    """Builder of rows. Pickles."""

    georeference: Georeference
    crs: str | None
    image: str
    datetime: str | None
    roi: Any
    """Region of interest, a shapely geometry in image pixels; footprints that do not intersect it are dropped."""

    def build(self, tiles: NDArray[np.int64], boxes: NDArray[np.float64], vectors: NDArray[Any]) -> gpd.GeoDataFrame:
        """Return a table.

        Parameters
        ----------
        tiles : numpy.ndarray
            (n,) int64, numbers of the tiles.
        boxes : numpy.ndarray
            (n, 4) float64, xyxy in image pixels, the footprints.
        vectors : numpy.ndarray
            (n, length) float32 or float16.
        """
        shapes = np.asarray(shapely.box(*boxes.T), object)
        if self.roi is not None:
            inside = shapely.intersects(self.roi, shapes)
            tiles, boxes, vectors, shapes = tiles[inside], boxes[inside], vectors[inside], shapes[inside]
        embedding = np.empty(len(tiles), object)
        embedding[:] = list(vectors)
        columns = {
            "tile": tiles, "xmin": boxes[:, 0], "ymin": boxes[:, 1], "xmax": boxes[:, 2], "ymax": boxes[:, 3],
            "embedding": embedding,
            "image": pd.array([self.image] * len(tiles), dtype="str"),
            "datetime": pd.to_datetime(pd.Series([self.datetime] * len(tiles)), utc=True),
        }  # fmt: skip
        geometry = self.georeference.to_world(shapes, self.crs)
        return gpd.GeoDataFrame(columns, geometry=geometry, crs=self.crs or self.georeference.crs)

    def sample(self, shape_yx: Pair) -> gpd.GeoDataFrame:
        """Return a table with one row, a box in the middle of the image: what can fail with the rows fails with it."""
        y, x = shape_yx[0] / 2, shape_yx[1] / 2
        box = np.array([[x - 0.5, y - 0.5, x + 0.5, y + 0.5]])
        return replace(self, roi=None).build(np.zeros(1, np.int64), box, np.zeros((1, 1), np.float32))


def vectors_parquet(table: gpd.GeoDataFrame, like: NDArray[Any]) -> bytes:
    """Return a table as a GeoParquet file whose vectors are Arrow lists of fixed size.

    The metadata of pandas are left out, since pandas cannot read what it writes there of such lists.

    Parameters
    ----------
    table : geopandas.GeoDataFrame
        Rows as `EmbeddingTable` builds them.
    like : numpy.ndarray
        (any, length), of the dtype and the length of the vectors.
    """
    vectors = np.concatenate([like[:0], *(each[None] for each in table["embedding"])])
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind)
    others = pq.read_table(pa.BufferReader(parquet_bytes(table.drop(columns="embedding")).getvalue()))
    whole = others.add_column(table.columns.get_loc("embedding"), "embedding", column)
    kept = {key: value for key, value in (others.schema.metadata or {}).items() if key != b"pandas"}
    out = io.BytesIO()
    pq.write_table(whole.replace_schema_metadata(kept), out, compression="zstd")
    return out.getvalue()


def write_vectors(table: gpd.GeoDataFrame, path: str, like: NDArray[Any]) -> None:
    """Write a table to a local file, as `vectors_parquet` has it."""
    Path(path).write_bytes(vectors_parquet(table, like))
