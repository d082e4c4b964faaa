"""The detections and failed tiles of an image for its map: as many as a page can draw, evenly over the image.

::

    image is done ──▶ its outputs: GeoParquet, or GeoJSON          merged, in pixels of the file
    else          ──▶ finished regions in the job's checkpoint     before merging, in image pixels
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geotile.checkpoints.checkpoint import Checkpoint, stored_job
from geotile.core.digest import json_digest
from geotile.core.redact import redact
from geotile.core.regular_file import open_regular
from geotile.errors import ArgumentError, OutputError
from geotile.results.failures import TileFailure, counted_reasons, stored_failures
from geotile.results.frame import BOX_COLUMNS
from geotile.service.records import FINISHED, ImageRecord, JobRecord, Records
from geotile.storage.folder import Folder

MAX_SHAPES = 2000
_MAX_FAILED = 1000
_MAX_PARTS = 48  # row groups, or regions
_MAX_REGION_BYTES = 16 * 2**20
_BLOCKS, _BLOCK_BYTES = 64, 65_536  # of a GeoJSON file that is larger than all of them
_NO_REGION = "Detections are drawn region by region, once a region is finished; none is yet."
_REGION_COLUMNS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the map of an image shows."""

    boxes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    """Boxes of detections, (n, 4) float64, xyxy in image pixels; n is at most `MAX_SHAPES`."""
    labels: Sequence[str] = ()
    """Label of each box."""
    total: int | None = None
    """Number of all detections; None if that is not known."""
    failed: Sequence[Sequence[int]] = ()
    """Windows ``[y0, y1, x0, x1]`` of failed tiles, in image pixels."""
    reasons: Sequence[tuple[str, int]] = ()
    """The most frequent reasons of failed tiles, and the number of tiles of each."""
    note: str = ""
    """What the map does not show, for people."""


def found_in(records: Records, record: JobRecord, number: int) -> Found:
    """Return what the map of an image of a job shows.

    Parameters
    ----------
    records : Records
        The records of the service.
    record : JobRecord
        The record of the job.
    number : int
        Number of the image.
    """
    image = record.images[number]
    failed = Found(failed=image.failed_tiles, reasons=list(image.failure_reasons.items()))
    if record.task == "predict":
        return failed
    if record.task != "detect":
        return replace(failed, note="The outputs of this job are vectors, so only failed tiles are drawn.")
    if image.status in FINISHED:
        return _of_outputs(image, failed)
    return _of_checkpoint(records.work_folder(record.job_id).sub(str(number)).sub("checkpoint"), failed)


def _of_outputs(image: ImageRecord, failed: Found) -> Found:
    """Return the detections of the first output that can be read."""
    uris = [each for each in image.outputs.values() if each.endswith((".parquet", ".geojson"))]
    reasons: list[str] = []
    for uri in sorted(uris, key=lambda each: not each.endswith(".parquet")):
        try:
            with _opened(uri) as file:
                boxes, labels, total = (_of_parquet if uri.endswith(".parquet") else _of_geojson)(file)
            if total not in (None, image.detections):
                raise OutputError(
                    f"it holds {total:,} detections and the job wrote {image.detections:,}, so it was replaced"
                )
        except Exception as error:  # each file system and format has its own; the map says it
            reasons.append(f"{uri} cannot be read: {redact(str(error)) or type(error).__name__}")
            continue
        scaled = boxes / np.array([image.scale_yx[1], image.scale_yx[0]] * 2)
        return _sampled(scaled, labels, replace(failed, total=image.detections))
    note = "; ".join(reasons) or "No output of this image can be read again, so its detections are not drawn."
    return replace(failed, total=image.detections, note=note)


def _opened(uri: str) -> Any:
    """Open an output; whoever may write there may have put something else in its place, such as a named pipe."""
    if "***" in uri:
        raise ArgumentError("its address has a secret, which the record does not hold")
    if "://" not in uri:
        return open_regular(uri, follow=False)
    if "::" in uri:
        raise ArgumentError("fsspec would take the :: in its address for a chain of file systems")
    return fsspec.open(uri, "rb")


def _of_parquet(file: Any) -> tuple[NDArray[np.float64], list[str], int]:
    """Return boxes and labels of some row groups, and the number of all rows."""
    content = pq.ParquetFile(file)
    groups = _evenly(content.num_row_groups, _MAX_PARTS)
    tables = [content.read_row_group(each, [*BOX_COLUMNS, "label"]) for each in groups]
    return *_columns(tables, BOX_COLUMNS), content.metadata.num_rows


def _of_geojson(file: Any) -> tuple[NDArray[np.float64], list[str], int | None]:
    """Return boxes and labels of some features, which geotile writes one a line, and their number if these are all."""
    boxes, labels = [], []
    is_whole = file.seek(0, os.SEEK_END) <= _BLOCKS * _BLOCK_BYTES
    for line in _lines(file):
        try:
            properties = json.loads(line.strip().rstrip(b","))["properties"]
            boxes.append([float(each) for each in properties["imageBBox"]])
            labels.append(str(properties.get("label") or ""))
        except (ValueError, KeyError, TypeError):  # the head or the end of the collection
            continue
    return np.array(boxes, np.float64).reshape(-1, 4), labels, len(labels) if is_whole else None


def _lines(file: Any) -> Iterator[bytes]:
    """Yield the lines of a file, or whole lines of blocks that lie evenly in a large one."""
    size = file.seek(0, os.SEEK_END)
    if size <= _BLOCKS * _BLOCK_BYTES:
        file.seek(0)
        yield from file.read().split(b"\n")
        return
    for start in np.linspace(0, size - _BLOCK_BYTES, _BLOCKS).astype(np.int64).tolist():
        file.seek(start)
        yield from file.read(_BLOCK_BYTES).split(b"\n")[1:-1]


def _of_checkpoint(folder: Folder, failed: Found) -> Found:
    """Return detections of regions that are finished."""
    try:
        job = stored_job(folder)
        if job is None:
            return failed
        parts = Checkpoint(folder=folder, digest=json_digest(job["identity"])).parts
        sizes = {name: size for name, size in parts.names().items() if name.endswith(".parquet")}
        names = sorted(name for name, size in sizes.items() if size <= _MAX_REGION_BYTES)
        chosen = [names[each] for each in _evenly(len(names), _MAX_PARTS)]
        contents = [pq.ParquetFile(io.BytesIO(data)) for name in chosen if (data := parts.read(name)) is not None]
        boxes, labels = _columns([each.read([*_REGION_COLUMNS, "label"]) for each in contents], _REGION_COLUMNS)
        failures = [failure for each in contents for failure in _failures(each)]
    except (ArgumentError, OutputError, pa.ArrowException, ValueError, KeyError) as error:
        return replace(failed, note=f"The finished regions cannot be read: {redact(str(error))}")
    if not failed.failed:
        failed = Found(failed=[each.window for each in failures], reasons=counted_reasons(failures))
    note = "Detections of finished regions, before merging." if sizes else _NO_REGION
    if len(chosen) < len(sizes):
        note += f" {len(chosen):,} of {len(sizes):,} regions were looked at."
    return _sampled(
        boxes, labels, replace(failed, total=len(labels) if sizes and len(chosen) == len(sizes) else None, note=note)
    )  # fmt: skip


def _failures(content: pq.ParquetFile) -> tuple[TileFailure, ...]:
    notes = json.loads((content.schema_arrow.metadata or {})[b"geotile"])
    return stored_failures(notes["failures"])


def _columns(tables: Sequence[pa.Table], names: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    boxes = [np.stack([table[name].to_numpy() for name in names], axis=1) for table in tables if len(table)]
    labels = [str(label or "") for table in tables for label in table["label"].to_pylist()]
    return np.concatenate(boxes).astype(np.float64) if boxes else np.empty((0, 4)), labels


def _sampled(boxes: NDArray[np.float64], labels: Sequence[str], found: Found) -> Found:
    """Return what was found with some of its detections."""
    finite = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    chosen = finite[_evenly(len(finite), MAX_SHAPES)] if len(finite) else finite
    drawn = [labels[each] for each in chosen.tolist()]
    return replace(found, boxes=boxes[chosen], labels=drawn, failed=found.failed[:_MAX_FAILED])


def _evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` numbers, evenly.

    >>> _evenly(3, 5), _evenly(9, 3)
    ([0, 1, 2], [0, 4, 8])
    """
    return list(range(count)) if count <= most else np.linspace(0, count - 1, most).astype(np.int64).tolist()
