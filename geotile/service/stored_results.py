"""What the run of an image has left in the folder of its job, and how it becomes a file: part by part."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geotile.results.dataset import geo_metadata
from geotile.results.frame import parquet_bytes
from geotile.service.features import ImagePlace, stored_features, stored_tables
from geotile.service.tasks import Format
from geotile.storage.folder import Folder


@dataclass(frozen=True, kw_only=True)
class StoredResult(ABC):
    """What the run of one image has left, and what is needed to write it to outputs."""

    folder: Folder
    """Folder of the result."""
    image_id: str
    """Id of the image."""
    name: str
    """Name of the image in outputs."""

    @abstractmethod
    def write(self, format: Format, path: str) -> None:
        """Write the result to a local file in one of the formats of its task."""


@dataclass(frozen=True, kw_only=True)
class StoredDetections(StoredResult):
    """The detections of one image in a dataset. The id of the image is the prefix of the features' ids."""

    parts: Sequence[str]
    """File names of the dataset's parts, in order."""
    extra_properties: dict[str, Any]
    """Properties to add to each feature."""
    job_id: str
    """Id of the job."""
    place: ImagePlace
    """Where the pixels of the image lie."""

    def features(self) -> Iterator[dict[str, Any]]:
        """Yield the detections as GeoJSON features."""
        return stored_features(self.folder, self.parts, self.extra_properties, self.image_id, self.place)

    def write(self, format: Format, path: str) -> None:
        """Write the detections as GeoJSON or GeoParquet."""
        if format == "geojson":
            self._write_geojson(path)
        else:
            _write_parquet(path, self._tables(), geo_metadata(self.folder))

    def _write_geojson(self, path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for i, feature in enumerate(self.features()):
                file.write(",\n" if i else "\n")
                file.write(to_json(feature))
            file.write("\n]}\n")

    def _tables(self) -> Iterator[pa.Table]:
        for table in stored_tables(self.folder, self.parts):
            table["properties"] = [(each or {}) | self.extra_properties for each in table["properties"]]
            yield pq.read_table(parquet_bytes(table))


@dataclass(frozen=True, kw_only=True)
class StoredVectors(StoredResult):
    """The vectors of one image in a dataset."""

    parts: Sequence[str]
    """File names of the dataset's parts, in order."""

    def write(self, format: Format, path: str) -> None:
        """Write the rows as GeoParquet."""
        _write_parquet(path, self._tables(), geo_metadata(self.folder))

    def _tables(self) -> Iterator[pa.Table]:
        files, place = self.folder.files()
        for name in self.parts:
            with files.open(f"{place}/{name}", "rb") as file:
                yield pq.read_table(file)


@dataclass(frozen=True, kw_only=True)
class StoredRaster(StoredResult):
    """The raster of one image, in each format that an output wants."""

    @staticmethod
    def file_name(format: str) -> str:
        """Return the name of the raster in a format."""
        return f"prediction.{format}"

    @property
    def store(self) -> Folder:
        """The raster as a Zarr store."""
        return self.folder.sub(self.file_name("zarr"))

    @property
    def names(self) -> bytes | None:
        """The file of the classes' names that lies beside a COG; None without names."""
        return self.folder.read(f"{self.file_name('tif')}.aux.xml")

    def write(self, format: Format, path: str) -> None:
        """Copy the raster as a file."""
        files, place = self.folder.files()
        files.get_file(f"{place}/{self.file_name(format)}", path)


def _write_parquet(path: str, tables: Iterable[pa.Table], geo: bytes) -> None:
    """Write tables into one file, one row group each; the bounds in its metadata are those of the whole dataset."""
    writer = None
    for table in tables:
        if writer is None:
            schema = table.schema.with_metadata({**table.schema.metadata, b"geo": geo})
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(table.cast(writer.schema))
    if writer is not None:
        writer.close()


def to_json(value: dict[str, Any]) -> str:
    """Return a feature as text, without NaN."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
