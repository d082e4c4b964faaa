"""Files of detections, on disk or in object storage, that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import geopandas as gpd
from fsspec.core import url_to_fs

from geotile.core.checks import check_path
from geotile.core.redact import redact
from geotile.core.values import as_text
from geotile.errors import ArgumentError, GeotileError, OutputError
from geotile.public import public
from geotile.results.dataset import DatasetOutput, write_part
from geotile.results.frame import write_parquet
from geotile.results.geojson import write_geojson, write_geojson_lines
from geotile.results.ogr_files import check_names, write_flatgeobuf, write_geopackage
from geotile.storage.atomic import draft
from geotile.storage.folder import Folder, Options, is_local
from geotile.storage.lease import lease
from geotile.storage.uris import output_uri
from geotile.storage.write_errors import as_output_error


@dataclass(frozen=True)
class Output:
    """A file that detections are written to, in a place that was found writable."""

    uri: str
    """Path, or fsspec URI."""
    overwrite: bool
    """Whether a file that exists is replaced."""
    options: Options = field(default=(), repr=False)
    """Storage options of the file system, with fsspec's names."""
    owner: str = ""
    """Who writes there, once at a time: what it leaves behind when it is killed is removed when it writes again."""

    @classmethod
    def reserve(
        cls, output: str | os.PathLike[str], *, overwrite: bool, options: Mapping[str, Any] | None = None,
        owner: str = "",
    ) -> Output:  # fmt: skip
        """Check an output before the run starts.

        Raises
        ------
        ArgumentError
            If its format is unknown.
        OutputError
            If it exists, or its place cannot be written.
        """
        uri = output_uri(check_path(output, "output"))
        if _suffix(uri) not in _WRITERS:
            name, dataset = (owner, "") if owner == "polygons" else ("output", ", or in / for a dataset")
            raise ArgumentError(f"{name} must end in one of {', '.join(_WRITERS)}{dataset}; got {redact(uri)!r}")
        sink = cls(uri, overwrite, tuple(sorted((options or {}).items())), owner)
        sink.check()
        return sink

    @property
    def writer(self) -> Callable[[gpd.GeoDataFrame, str], None]:
        """The function that writes this format to a local path."""
        return _WRITERS[_suffix(self.uri)]

    @property
    def in_wgs84(self) -> bool:
        """Whether the format holds longitude and latitude only."""
        return _suffix(self.uri) in (".geojson", ".geojsonl")

    @property
    def is_parquet(self) -> bool:
        """Whether the format is GeoParquet."""
        return _suffix(self.uri) == ".parquet"

    def leased(self) -> AbstractContextManager[None]:
        """Return a block that holds the lease of the output."""
        parent, _, name = self.uri.rpartition("/")
        folder = Folder.at(parent or "/", dict(self.options))
        return lease(folder, f".{name}.geotile-lease", f"the output {redact(self.uri)}")

    def check(self) -> None:
        """Check that the output does not exist and that its place can be written.

        Raises
        ------
        OutputError
            If it exists, or nothing can be written there.
        """
        with as_output_error(self.uri):
            self._check()

    def _check(self) -> None:
        files, path = url_to_fs(self.uri, **dict(self.options))
        if files.isdir(path):
            raise OutputError(f"output {redact(self.uri)} is a folder. Name a file in it.")
        if not self.overwrite and files.exists(path):
            raise OutputError(f"output {redact(self.uri)} exists. Pass overwrite=True or another name.")
        if is_local(files) and not Path(path).parent.is_dir():
            raise OutputError(f"output {redact(self.uri)}: there is no folder {Path(path).parent}. Create it first.")
        probe = f"{path}.geotile-{os.getpid()}"
        with files.open(probe, "wb"):
            pass
        files.rm_file(probe)

    def try_out(self, sample: gpd.GeoDataFrame) -> None:
        """Write a sample to a temporary file: what the format cannot hold is found before the run.

        Raises
        ------
        OutputError
            If it cannot be written, for example since the format cannot hold the CRS.
        """
        with tempfile.TemporaryDirectory(prefix=".geotile-") as folder:
            try:
                self.writer(sample, os.path.join(folder, "draft" + _suffix(self.uri)))
            except Exception as error:  # GDAL, PROJ and Arrow have errors of their own
                crs = "" if sample.crs is None else f" of the CRS {sample.crs.name!r}"
                raise OutputError(
                    f"output {redact(self.uri)} cannot hold results{crs}: {error}. Write GeoParquet (.parquet), or "
                    "give another crs"
                ) from None

    def put(self, fill: Callable[[str], None]) -> None:
        """Write the output whole, or not at all.

        Parameters
        ----------
        fill : callable
            ``fill(path)`` writes a local file, which then becomes the output.

        Raises
        ------
        OutputError
            If it cannot be written, or has appeared during the run.
        """
        files, path = url_to_fs(self.uri, **dict(self.options))

        def fill_if_free(local_path: str) -> None:
            fill(local_path)
            if not self.overwrite and files.exists(path):
                raise OutputError(
                    f"output {redact(self.uri)} appeared during the run and was left as it is. Pass overwrite=True or "
                    "another name."
                )

        name = "draft" + _suffix(self.uri)
        try:
            if is_local(files):
                with draft(Path(path), self.owner or uuid4().hex, name) as own:
                    fill_if_free(str(own))
                return
            with tempfile.TemporaryDirectory(prefix=".geotile-") as folder:
                fill_if_free(os.path.join(folder, name))
                files.put_file(os.path.join(folder, name), path)
        except GeotileError:
            raise
        except Exception as error:  # each format and file system has errors of its own
            raise OutputError(f"cannot write {redact(self.uri)}: {redact(str(error))}") from None


def write_or_save(rows: Any, sink: Output, fill: Callable[[Any, str], None] | None = None) -> None:
    """Write the result of a run; if that fails, save it as GeoParquet where it can be, since it was paid for.

    ``fill(rows, path)`` writes a local GeoParquet file of rows that `write` would not keep as they are.

    Raises
    ------
    OutputError
        If the output cannot be written. The message says where the rows are.
    """
    try:
        if fill is None:
            write(rows, sink)
        else:
            sink.put(partial(fill, rows))
    except OutputError as error:
        parent = os.path.dirname(os.path.abspath(sink.uri)) if "://" not in sink.uri else tempfile.gettempdir()
        for folder in (parent, tempfile.gettempdir()):
            path = os.path.join(folder, f"geotile-rows-{uuid4().hex[:8]}.parquet")
            try:
                (fill or write_parquet)(rows, path)
            except Exception as second:  # this place cannot be written either; the next one is tried
                error.add_note(f"The rows could not be saved in {folder} either: {second}")
                continue
            again = f"write them again with geotile.write(geopandas.read_parquet({path!r}), ...)"
            raise OutputError(
                f"{error} The rows are saved in {path}; {again if fill is None else 'copy this file to its place'}"
            ) from None
        raise


@public
def write(detections: gpd.GeoDataFrame, output: str | os.PathLike[str] | Output, *, overwrite: bool = False) -> None:
    """Write detections to a file or a GeoParquet dataset, whole or not at all.

    Parameters
    ----------
    detections : geopandas.GeoDataFrame
        Detections as `detect` returns them.
    output : str or path
        Path or fsspec URI of a file, whose suffix sets the format: ``.geojson`` (RFC 7946: WGS 84 without heights, with
        OSML's properties; ``geometry`` is null if the image has no CRS), ``.geojsonl``, ``.parquet`` (GeoParquet 1.1
        with a bbox column), ``.fgb`` (which orders rows by place) or ``.gpkg``; or of a folder, ending in ``/``, for a
        GeoParquet dataset.
    overwrite : bool
        Whether an output that exists is replaced.

    Raises
    ------
    ArgumentError
        If the detections are not a GeoDataFrame with a geometry and columns that have unique names of their own (in a
        GeoPackage also without regard to case), a value cannot be written, or the output is not a path.
    OutputError
        If the output exists or cannot be written.

    Examples
    --------
    >>> import geotile, tempfile
    >>> from geotile.testing import bright_objects, write_example
    >>> detections = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    >>> geotile.write(detections, tempfile.mkdtemp() + "/detections.parquet")
    """
    if not isinstance(detections, gpd.GeoDataFrame):
        raise ArgumentError(
            f"detections must be a GeoDataFrame, as geotile.detect returns it; got {type(detections).__name__}"
        )
    detections = _with_index(detections)
    _check_columns(detections)
    if not isinstance(output, Output) and check_path(output, "output").endswith("/"):
        dataset = DatasetOutput.reserve(Folder.at(output), overwrite=overwrite)
        with dataset.leased():
            dataset.begin()
            dataset.commit([write_part(dataset.drafts, "part-0.parquet", detections)])
        return
    sink = output if isinstance(output, Output) else Output.reserve(output, overwrite=overwrite)
    if _suffix(sink.uri) == ".gpkg":
        check_names(list(detections.columns))
    sink.put(lambda draft: sink.writer(detections, draft))


def _with_index(detections: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return a table whose index has become columns, if it has names: not every format has an index."""
    names = [name for name in detections.index.names if name is not None]
    if double := sorted(set(names) & set(detections.columns)):
        raise ArgumentError(f"the index and the columns of detections must have names of their own; both have {double}")
    return detections.reset_index(level=names) if names else detections


def _check_columns(detections: gpd.GeoDataFrame) -> None:
    if detections.active_geometry_name is None:
        raise ArgumentError("detections must have an active geometry column; set it with set_geometry")
    names = list(detections.columns)
    if odd := [name for name in names if not isinstance(name, str)]:
        raise ArgumentError(f"the columns of detections must have names that are text; got {odd[0]!r}. Rename them")
    if odd := [name for name in names if as_text(name, "name") != name]:
        raise ArgumentError(
            "the columns of detections must have names without lone surrogates and NUL, which files cannot hold; got "
            f"{odd[0]!r}. Rename them"
        )
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ArgumentError(f"the columns of detections must have names of their own; {double} occur twice")


_WRITERS: dict[str, Callable[[gpd.GeoDataFrame, str], None]] = {
    ".geojson": write_geojson,
    ".geojsonl": write_geojson_lines,
    ".parquet": write_parquet,
    ".fgb": write_flatgeobuf,
    ".gpkg": write_geopackage,
}


def _suffix(uri: str) -> str:
    return os.path.splitext(uri)[1].lower()
