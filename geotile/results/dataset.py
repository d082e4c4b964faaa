"""A GeoParquet dataset: the workers write parts of the settled detections, and `_metadata.parquet` is written last.

::

    out/
      _metadata.parquet                      no rows; schema, bounds and names of the parts: makes the dataset complete
      part-5d0c51a7-r00000-00004-c00000-00004.parquet   rows that a rectangle of regions settled

In a local file system the parts are written to a hidden draft beside the dataset, which takes its place at the end. In
object storage they are written to their final place, and count once `_metadata.parquet` is there. It is not the file
`_metadata` of Hive, since polars opens only folders whose files all end in `.parquet`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq

from geotile.core.checks import Pair
from geotile.core.redact import redact
from geotile.errors import GeotileError, OutputError
from geotile.merging.detections import Detections
from geotile.results.frame import FrameBuilder, parquet_bytes
from geotile.results.written_table import table_bytes, written_table
from geotile.storage.atomic import draft_path, remove, replace, restore
from geotile.storage.folder import Folder
from geotile.storage.lease import lease

PART_ROWS = 16_384  # minimum rows of a part, except the last one: many tiny files are slow to read
METADATA = "_metadata.parquet"
_PARTS = b"geotile:parts"  # key of the names of the parts in its metadata
_OWNER = "dataset"  # of the draft; the lease of the dataset lets one run at a time write it


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that was written."""

    name: str
    """File name."""
    rows: int
    """Number of rows."""
    size: int
    """Size of the file in bytes."""
    footer: bytes
    """Parquet metadata of the file."""


@dataclass(frozen=True, kw_only=True)
class PartWriter:
    """Writes parts where their rows were settled. Pickles."""

    folder: Folder
    """Folder of the parts."""
    builder: FrameBuilder
    """Builder of rows from detections."""
    prefix: str
    """Digest of the run's identity, which distinguishes its parts from those of another run."""
    min_rows: int = field(default_factory=lambda: PART_ROWS)
    """Minimum number of rows of a part, except the last one."""

    def write(self, detections: Detections, rows: Pair, columns: Pair, *, even_empty: bool) -> Part | None:
        """Write the detections that a rectangle of regions settled; return None if there are none.

        Parameters
        ----------
        detections : Detections
            Settled detections, in image pixels.
        rows, columns : tuple of int
            First and last row, first and last column of the regions.
        even_empty : bool
            Whether a part without rows is written.

        Raises
        ------
        OutputError
            If the part cannot be written.
        """
        table = written_table(self.builder, detections)
        if not len(table) and not even_empty:
            return None
        name = f"part-{self.prefix}-r{rows[0]:05d}-{rows[1]:05d}-c{columns[0]:05d}-{columns[1]:05d}.parquet"
        return write_part(self.folder, name, table, table_bytes)


def write_part(
    folder: Folder, name: str, table: gpd.GeoDataFrame | pa.Table,
    encode: Callable[[Any], bytes] = lambda table: parquet_bytes(table).getvalue(),
) -> Part:  # fmt: skip
    """Write a table as a part.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        data = encode(table)
    except GeotileError:
        raise
    except Exception as error:  # pandas and Arrow have errors of their own
        raise OutputError(f"cannot write {folder.display_name}: {redact(str(error))}") from None
    folder.write(name, data)
    footer = io.BytesIO()
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    metadata.write_metadata_file(footer)
    return Part(name=name, rows=len(table), size=len(data), footer=footer.getvalue())


@dataclass(frozen=True)
class DatasetOutput:
    """A dataset that detections are written to, in a place that was found writable."""

    folder: Folder
    """Folder of the dataset."""
    overwrite: bool
    """Whether a dataset that exists is replaced."""

    @classmethod
    def reserve(cls, folder: Folder, *, overwrite: bool) -> DatasetOutput:
        """Check an output before the run starts.

        Raises
        ------
        OutputError
            If the dataset exists, something else is there, or nothing can be written there.
        """
        output = cls(folder, overwrite)
        output._check_free("exists")
        probe = f".geotile-{uuid4().hex}"
        output.drafts.write(probe, b"")
        output.drafts.remove(probe)
        return output

    @property
    def drafts(self) -> Folder:
        """The folder that the parts are written to."""
        if not self.folder.is_local:
            return self.folder
        return Folder(str(draft_path(Path(self.folder.uri), _OWNER)), self.folder.options)

    def leased(self) -> AbstractContextManager[None]:
        """Return a block that holds the lease of the output."""
        parent, _, name = self.folder.uri.rpartition("/")
        return lease(
            Folder(parent, self.folder.options), f".{name}.geotile-lease", f"the output {self.folder.display_name}"
        )

    def begin(self) -> None:
        """Remove what a killed run left behind. Call it while holding the lease.

        Raises
        ------
        OutputError
            If the killed run had moved a dataset aside to replace it, and this run may not replace it.
        """
        if not self.folder.is_local:
            return
        try:
            remove(Path(self.drafts.uri))
            restore(Path(self.folder.uri))
        except OSError as error:
            raise OutputError(f"cannot write {self.folder.display_name}: {redact(str(error))}") from None
        self._check_free("exists")

    def end(self, parts: Sequence[Part], *, write: bool) -> None:
        """Complete the dataset, or discard its parts.

        In object storage, where the parts lie in place, a dataset that is replaced is completed in any case.

        Raises
        ------
        OutputError
            As `commit`; the message says where the parts are.
        """
        replaced = not self.folder.is_local and METADATA in self.folder.names()
        if write or replaced:
            try:
                self.commit(parts)
            except OutputError as error:
                raise OutputError(
                    f"{error} The detections are in the parts ({len(parts)} files part-*.parquet) in "
                    f"{self.drafts.display_name}; copy them before the next run of this output removes them"
                ) from None
        elif self.folder.is_local:
            remove(Path(self.drafts.uri))
        else:
            for part in parts:
                self.folder.remove(part.name)

    def commit(self, parts: Sequence[Part]) -> None:
        """Complete the dataset.

        Raises
        ------
        OutputError
            If a part is missing, the dataset has appeared during the run, or it cannot be written.
        """
        stored = self.drafts.names()
        self._check_parts(parts, stored)
        others = set(stored) - {part.name for part in parts}
        if self.folder.is_local:
            self._commit_local(parts, others)
            return
        self._check_free("appeared during the run and was left as it is")
        self.drafts.write(METADATA, _metadata(parts))
        for name in others:
            if name.endswith(".parquet"):  # parts of the dataset that was replaced, or of a killed run
                self.folder.remove(name)

    def _commit_local(self, parts: Sequence[Part], others: set[str]) -> None:
        for name in others:
            self.drafts.remove(name)
        self._check_free("appeared during the run and was left as it is")
        self.drafts.write(METADATA, _metadata(parts))
        try:
            replace(Path(self.drafts.uri), Path(self.folder.uri))
        except OSError as error:
            raise OutputError(f"cannot write {self.folder.display_name}: {redact(str(error))}") from None

    def _check_parts(self, parts: Sequence[Part], stored: dict[str, int]) -> None:
        for part in parts:
            if stored.get(part.name) != part.size:
                raise OutputError(
                    f"a worker has written {part.name} of {self.folder.display_name}, but this process does not see "
                    "it. Choose a place that the whole cluster shares, such as s3://."
                )

    def _check_free(self, problem: str) -> None:
        if self.folder.is_local and Path(self.folder.uri).is_file():
            raise OutputError(f"output {self.folder.display_name} is a file. Name a folder, or another file.")
        names = self.folder.names()
        if METADATA in names and not self.overwrite:
            raise OutputError(f"output {self.folder.display_name} {problem}. Pass overwrite=True or another name.")
        foreign = sorted(name for name in names if not name.startswith(("part-", METADATA, ".")))
        if foreign:
            raise OutputError(
                f"output {self.folder.display_name} holds {foreign[0]}, which is not part of a dataset. Name a "
                "new folder."
            )


def _metadata(parts: Sequence[Part]) -> bytes:
    """Return a Parquet file without rows that holds the schema, the bounds and the names of all parts."""
    footers = [pq.read_metadata(io.BytesIO(part.footer)) for part in parts]
    metadata = {key: value for key, value in footers[0].metadata.items() if key != b"ARROW:schema"}
    geo = _merged_geo([json.loads(footer.metadata[b"geo"]) for footer in footers])
    metadata |= {b"geo": json.dumps(geo).encode(), _PARTS: json.dumps([part.name for part in parts]).encode()}
    out = io.BytesIO()
    pq.write_metadata(footers[0].schema.to_arrow_schema().with_metadata(metadata), out)
    return out.getvalue()


def part_names(folder: Folder) -> list[str]:
    """Return the file names of the parts of a complete dataset, in their order."""
    return list(json.loads(_file_metadata(folder)[_PARTS]))


def geo_metadata(folder: Folder) -> bytes:
    """Return the GeoParquet metadata of a complete dataset, with the bounds of all its parts."""
    return _file_metadata(folder)[b"geo"]


def _file_metadata(folder: Folder) -> dict[bytes, bytes]:
    files, path = folder.files()
    with files.open(f"{path}/{METADATA}", "rb") as file:
        return dict(pq.read_metadata(file).metadata)


def _merged_geo(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the GeoParquet metadata of all parts: their geometry types, and the bounds of all."""
    geo = parts[0]
    for name, column in geo["columns"].items():
        columns: list[dict[str, Any]] = [part["columns"][name] for part in parts]
        column["geometry_types"] = sorted({kind for each in columns for kind in each["geometry_types"]})
        boxes = [each["bbox"] for each in columns if each.get("bbox") and each["bbox"][0] == each["bbox"][0]]  # not NaN
        if boxes:
            west, south, east, north = zip(*boxes, strict=True)
            column["bbox"] = [min(west), min(south), max(east), max(north)]
    return geo
