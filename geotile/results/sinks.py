"""Detections on disk or in object storage: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import fsspec
import geopandas as gpd
import shapely
from fsspec.core import url_to_fs

from geotile.core.redact import redact
from geotile.errors import OutputError
from geotile.public import public
from geotile.results.dataset import DatasetOutput, write_part
from geotile.results.frame import with_text, write_parquet
from geotile.storage.folder import Folder, Options
from geotile.storage.lease import lease

_LONGITUDE_DIGITS = 9  # about 0.1 mm; RFC 7946, 11.2 asks for no more than is meant


@dataclass(frozen=True)
class Output:
    """A place that was found writable, and how its format is written."""

    uri: str
    overwrite: bool
    options: Options = field(default=(), repr=False)
    """Of its file system, in fsspec's words."""
    owner: str = ""
    """Names who writes there, one at a time: what it left behind when it was killed goes when it writes again."""

    @classmethod
    def reserve(
        cls, output: str | os.PathLike[str], *, overwrite: bool, options: Mapping[str, Any] | None = None,
        owner: str = "",
    ) -> Output:  # fmt: skip
        """Check an output before the work starts.

        Raises
        ------
        OutputError
            If its format is unknown, it exists, or nothing can be written there.
        """
        uri = str(os.fspath(output))
        if _suffix(uri) not in _WRITERS:
            raise OutputError(f"output {redact(uri)!r} must end in one of {', '.join(_WRITERS)}, or in / for a dataset")
        sink = cls(uri, overwrite, tuple(sorted((options or {}).items())), owner)
        sink.check()
        return sink

    @property
    def writer(self) -> Callable[[gpd.GeoDataFrame, str], None]:
        """The function that writes this format to a local path."""
        return _WRITERS[_suffix(self.uri)]

    def claimed(self) -> AbstractContextManager[None]:
        """Hold the place while a run writes there."""
        beside, _, name = (self.uri if "://" in self.uri else os.path.abspath(self.uri)).rpartition("/")
        place = Folder.at(beside or "/", dict(self.options))
        return lease(place, f".{name}.geotile-lease", f"the output {redact(self.uri)}")

    def check(self) -> None:
        """Raise OutputError if it exists or its place cannot be written."""
        try:
            files, path = url_to_fs(self.uri, **dict(self.options))
            if files.isdir(path):
                raise OutputError(f"output {redact(self.uri)} is a folder; name a file in it")
            if not self.overwrite and files.exists(path):
                raise OutputError(f"output {redact(self.uri)} exists; give overwrite=True or another name")
            probe = f"{path}.geotile-{os.getpid()}"
            if _is_local(files) and not Path(path).parent.is_dir():
                raise OutputError(f"output {redact(self.uri)}: there is no folder {Path(path).parent}")
            with files.open(probe, "wb"):
                pass
            files.rm_file(probe)
        except OutputError:
            raise
        except Exception as error:  # each file system has errors of its own; all mean the same here
            raise OutputError(
                f"cannot write {redact(self.uri)}: {redact(str(error)) or type(error).__name__}"
            ) from None

    def put(self, fill: Callable[[str], None]) -> None:
        """Write through a temporary file, so that the output is whole or absent.

        Raises
        ------
        OutputError
            If writing fails.
        """
        files, path = url_to_fs(self.uri, **dict(self.options))
        local = _is_local(files)
        try:
            with self._drafts(path if local else None) as folder:
                draft = os.path.join(folder, "draft" + _suffix(self.uri))
                fill(draft)
                if not self.overwrite and files.exists(path):
                    raise OutputError(f"output {redact(self.uri)} appeared during the run; it was left alone")
                if local:
                    os.replace(draft, path)
                else:
                    files.put_file(draft, path)
        except OSError as error:
            raise OutputError(f"cannot write {redact(self.uri)}: {redact(str(error))}") from None

    @contextmanager
    def _drafts(self, path: str | None) -> Iterator[str]:
        """Make a folder for drafts, beside the output where that is a local one."""
        if path is None or not self.owner:
            with tempfile.TemporaryDirectory(prefix=".geotile-", dir=path and str(Path(path).parent)) as folder:
                yield folder
            return
        mine = hashlib.sha256(self.owner.encode()).hexdigest()[:12]
        own = Path(path).with_name(f".{Path(path).name}.geotile-draft-{mine}")
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        try:
            yield str(own)
        finally:
            shutil.rmtree(own, ignore_errors=True)


@public
def write(detections: gpd.GeoDataFrame, output: str | os.PathLike[str] | Output, *, overwrite: bool = False) -> None:
    """Write what `detect` returned.

    Parameters
    ----------
    detections : geopandas.GeoDataFrame
        As `detect` returns them.
    output : str or path
        A path or any fsspec uri, ending in ``.geojson`` (RFC 7946: WGS 84, OSML's properties;
        ``geometry`` is null where the image has no CRS), ``.geojsonl``, ``.parquet`` (GeoParquet
        1.1 with a bbox column), ``.fgb`` or ``.gpkg``; or a folder, ending in ``/``: a GeoParquet dataset.
    overwrite : bool
        Replace an output that exists.

    Raises
    ------
    OutputError
        If it cannot be written, or exists.

    Examples
    --------
    >>> import geotile, tempfile
    >>> from geotile.testing import bright_objects, write_example
    >>> detections = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    >>> geotile.write(detections, tempfile.mkdtemp() + "/found.parquet")
    """
    if not isinstance(output, Output) and str(os.fspath(output)).endswith("/"):
        dataset = DatasetOutput.reserve(Folder.at(output), overwrite=overwrite)
        with dataset.claimed():
            dataset.begin()
            dataset.commit([write_part(dataset.drafts, "part-0.parquet", detections)])
        return
    sink = output if isinstance(output, Output) else Output.reserve(output, overwrite=overwrite)
    sink.put(lambda draft: sink.writer(detections, draft))


def features(detections: gpd.GeoDataFrame) -> Iterator[dict[str, Any]]:
    """Yield GeoJSON features as OSML writes them: WGS 84 longitude and latitude.

    An image without a CRS gives features without a place (``geometry`` null, RFC 7946, 3.2).
    """
    placed = detections.geometry.to_crs("OGC:CRS84") if detections.crs is not None else None
    boxes = detections[["xmin", "ymin", "xmax", "ymax"]].to_numpy()
    for i, row in enumerate(detections.itertuples(index=False)):
        shape = None if placed is None else _rounded(placed.iloc[i])
        feature: dict[str, Any] = {"type": "Feature", "geometry": None}
        if shape is not None:
            feature |= {"geometry": shapely.geometry.mapping(shape), "bbox": list(shape.bounds)}
        feature["properties"] = {
            "label": row.label,
            "score": row.score,
            "imageGeometry": shapely.geometry.mapping(row.image_geometry),
            **(row.properties or {}),
            "imageBBox": boxes[i].tolist(),
            "featureClasses": row.classes,
        }
        yield feature


def _rounded(shape: Any) -> Any:
    """Round to the digits that are meant and wind polygons as RFC 7946, 3.1.6 asks."""
    return shapely.orient_polygons(shapely.transform(shape, lambda xy: xy.round(_LONGITUDE_DIGITS)))


def _geojson(detections: gpd.GeoDataFrame, path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, feature in enumerate(features(detections)):
            file.write(",\n" if i else "\n")
            _dump(feature, file)
        file.write("\n]}\n")


def _geojsonl(detections: gpd.GeoDataFrame, path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for feature in features(detections):
            _dump(feature, file)
            file.write("\n")


def _dump(feature: dict[str, Any], file: TextIO) -> None:
    file.write(json.dumps(feature, allow_nan=False, ensure_ascii=False))


def _ogr(driver: str) -> Callable[[gpd.GeoDataFrame, str], None]:
    def write_ogr(detections: gpd.GeoDataFrame, path: str) -> None:
        table = with_text(detections, ["classes", "properties"])
        table["image_geometry"] = detections["image_geometry"].to_wkt()
        table.to_file(path, driver=driver, engine="pyogrio", layer="detections")

    return write_ogr


_WRITERS: dict[str, Callable[[gpd.GeoDataFrame, str], None]] = {
    ".geojson": _geojson,
    ".geojsonl": _geojsonl,
    ".parquet": write_parquet,
    ".fgb": _ogr("FlatGeobuf"),
    ".gpkg": _ogr("GPKG"),
}


def _suffix(uri: str) -> str:
    return os.path.splitext(uri)[1].lower()


def _is_local(files: fsspec.AbstractFileSystem) -> bool:
    protocol = files.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)
