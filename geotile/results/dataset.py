"""A GeoParquet dataset: parts written by the workers that settled their rows, `_metadata` last.

::

    out/
      _metadata                              schema and row groups of all parts: what makes it whole
      part-5d0c51a7-r00000-00004-c00000-00004.parquet   rows that a rectangle of regions settled

In a local file system the parts lie beside, hidden, until all are there; the folder then appears at once. In object
storage they lie in their place; readers that go by `_metadata` see the dataset whole or not at all.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import geopandas as gpd
import pyarrow.parquet as pq

from geotile.core.checks import Pair
from geotile.errors import OutputError
from geotile.merging.detections import Detections
from geotile.results.frame import FrameBuilder, parquet_bytes
from geotile.storage.folder import Folder
from geotile.storage.lease import lease

PART_ROWS = 16_384  # at least, but for the last part: many tiny files are slow to read
METADATA = "_metadata"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that was written."""

    name: str
    rows: int
    size: int
    """In bytes."""
    footer: bytes
    """Its Parquet metadata."""


@dataclass(frozen=True, kw_only=True)
class PartWriter:
    """Writes parts, wherever their rows were settled. Pickles."""

    folder: Folder
    builder: FrameBuilder
    prefix: str
    """Names the job, so that its parts are told from those of another."""
    least_rows: int = field(default_factory=lambda: PART_ROWS)

    def write(self, found: Detections, rows: Pair, columns: Pair, *, even_empty: bool) -> Part | None:
        """Write the rows that a rectangle of regions settled.

        Raises
        ------
        OutputError
            If they cannot be written.
        """
        table = self.builder.build(found)
        if not len(table) and not even_empty:
            return None
        name = f"part-{self.prefix}-r{rows[0]:05d}-{rows[1]:05d}-c{columns[0]:05d}-{columns[1]:05d}.parquet"
        return write_part(self.folder, name, table)


def write_part(folder: Folder, name: str, table: gpd.GeoDataFrame) -> Part:
    """Write a table as a part.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    data = parquet_bytes(table).getvalue()
    folder.write(name, data)
    footer = io.BytesIO()
    found = pq.ParquetFile(io.BytesIO(data)).metadata
    found.set_file_path(name)
    found.write_metadata_file(footer)
    return Part(name=name, rows=len(table), size=len(data), footer=footer.getvalue())


@dataclass(frozen=True)
class DatasetOutput:
    """A folder that was found writable."""

    folder: Folder
    overwrite: bool

    @classmethod
    def reserve(cls, folder: Folder, *, overwrite: bool) -> DatasetOutput:
        """Check the place before the work starts.

        Raises
        ------
        OutputError
            If something is there, or nothing can be written there.
        """
        output = cls(folder, overwrite)
        output._must_be_free("exists")
        probe = f".geotile-{uuid4().hex}"
        output.drafts.write(probe, b"")
        output.drafts.remove(probe)
        return output

    @property
    def drafts(self) -> Folder:
        """Where the parts are written."""
        if not self.folder.is_local:
            return self.folder
        path = Path(self.folder.uri)
        return Folder(str(path.with_name(f".{path.name}.geotile-draft")), self.folder.options)

    def claimed(self) -> AbstractContextManager[None]:
        """Hold the place while a run writes there."""
        beside, _, name = self.folder.uri.rpartition("/")
        return lease(Folder(beside, self.folder.options), f".{name}.geotile-lease", f"the output {self.folder.shown}")

    def begin(self) -> None:
        """Remove what a run that died has left."""
        if self.folder.is_local:
            shutil.rmtree(self.drafts.uri, ignore_errors=True)

    def commit(self, parts: Sequence[Part]) -> None:
        """Make the dataset whole.

        Raises
        ------
        OutputError
            If a part is missing, or it cannot be written.
        """
        there, drafts = self.drafts.names(), self.drafts
        for part in parts:
            if there.get(part.name) != part.size:
                raise OutputError(
                    f"{part.name} of {self.folder.shown} was written by a worker and is not seen here: give a place "
                    "that all of the cluster shares, such as s3://"
                )
        wanted = {part.name for part in parts}
        for name in set(there) - wanted if self.folder.is_local else ():
            drafts.remove(name)
        self._must_be_free("appeared during the run; it was left alone")
        drafts.write(METADATA, _metadata(parts))
        if self.folder.is_local:
            self._appear()
        for name in set(there) - wanted if not self.folder.is_local else ():
            if name.endswith(".parquet"):  # of what was there before, or of a run that died
                self.folder.remove(name)

    def _appear(self) -> None:
        """Put the folder in its place."""
        path, old = Path(self.folder.uri), Path(f"{self.drafts.uri}-old")
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(self.drafts.uri, path)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise OutputError(f"cannot write {self.folder.shown}: {error}") from None

    def _must_be_free(self, but: str) -> None:
        if self.folder.is_local and Path(self.folder.uri).is_file():
            raise OutputError(f"output {self.folder.shown} is a file; name a folder, or another file")
        names = self.folder.names()
        if METADATA in names and not self.overwrite:
            raise OutputError(f"output {self.folder.shown} {but}; give overwrite=True or another name")
        strangers = sorted(name for name in names if not name.startswith(("part-", METADATA, ".")))
        if strangers:
            raise OutputError(f"output {self.folder.shown} holds {strangers[0]}, which is no part; name a new folder")


def _metadata(parts: Sequence[Part]) -> bytes:
    """Return the metadata of all parts as one file, the geometry's bounds and types being those of all."""
    footers = [pq.read_metadata(io.BytesIO(part.footer)) for part in parts]
    said = {key: value for key, value in footers[0].metadata.items() if key != b"ARROW:schema"}
    notes = [json.loads(footer.metadata[b"geo"]) for footer in footers]
    geo = notes[0]
    for name, column in geo["columns"].items():
        alike: list[dict[str, Any]] = [note["columns"][name] for note in notes]
        column["geometry_types"] = sorted({kind for each in alike for kind in each["geometry_types"]})
        boxes = [
            each["bbox"] for each in alike if "bbox" in each and each["bbox"] and each["bbox"][0] == each["bbox"][0]
        ]
        if boxes:
            column["bbox"] = [
                f(values) for f, values in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)
            ]
    schema = footers[0].schema.to_arrow_schema().with_metadata({**said, b"geo": json.dumps(geo).encode()})
    out = io.BytesIO()
    pq.write_metadata(schema, out, metadata_collector=footers)
    return out.getvalue()
