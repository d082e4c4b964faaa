"""A job's detections as OversightML's features, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import geopandas as gpd
import pyarrow.parquet as pq

from geotile.imagery.file_array import source_of
from geotile.imagery.open import opened
from geotile.imagery.source import open_file
from geotile.options import ImageOptions
from geotile.results.dataset import METADATA
from geotile.results.frame import from_text
from geotile.results.sinks import features
from geotile.storage.folder import Folder


def stored_features(
    folder: Folder, parts: Sequence[str], added: dict[str, Any], image_id: str
) -> Iterator[dict[str, Any]]:
    """Yield the features of a dataset in the order of its parts.

    Parameters
    ----------
    folder : Folder
        The dataset.
    parts : sequence of str
        Names of its parts, in order.
    added : dict
        Properties that each feature gets.
    image_id : str
        Begins each feature's ``id``, which ends in its number: the same however often it is sent.

    Yields
    ------
    dict
        A GeoJSON feature.
    """
    number = 0
    for table in stored_tables(folder, parts):
        for feature in features(table):
            feature["id"] = f"{image_id}:{number}"
            feature["properties"] |= added
            number += 1
            yield feature


def stored_tables(folder: Folder, parts: Sequence[str]) -> Iterator[gpd.GeoDataFrame]:
    """Yield the parts of a dataset as `geotile.detect` gives them."""
    files, path = folder.files()
    for name in parts:
        with files.open(f"{path}/{name}", "rb") as file:
            yield from_text(gpd.read_parquet(file))


def part_names(folder: Folder) -> list[str]:
    """Return the names of a dataset's parts, as its ``_metadata`` orders them."""
    files, path = folder.files()
    with files.open(f"{path}/{METADATA}", "rb") as file:
        said = pq.read_metadata(file)
    names = [said.row_group(i).column(0).file_path for i in range(said.num_row_groups)]
    return list(dict.fromkeys(names))


def added_properties(
    job_id: str, began: float, source: dict[str, Any], own: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the properties that OversightML gives each feature of a job."""
    moment = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said: dict[str, Any] = {
        "inferenceMetadata": {"jobId": job_id, "inferenceDT": moment},
        "sourceMetadata": [source],
    }
    for each in own:
        said |= each
    return said


def source_metadata(url: str, opening: dict[str, Any]) -> dict[str, Any]:
    """Return what a file's header says of its origin: NITF's category, title and time.

    Parameters
    ----------
    url : str
        Without secrets.
    opening : dict
        How it is opened, as `geotile.open_image` takes it, and its ``uri``.
    """
    said: dict[str, Any] = {"location": url}
    source = source_of(opened(opening.pop("uri"), ImageOptions(**opening)).data)
    if source is None:
        return said
    said["format"] = {"GTiff": "TIFF"}.get(source.driver, source.driver)
    if source.driver != "NITF":
        return said
    with source.location.environment(), open_file(source.location, source.trusted) as file:
        tags = file.tags()
    said |= {"category": tags.get("NITF_ICAT"), "sourceId": tags.get("NITF_FTITLE", "").strip() or None}
    try:
        said["sourceDT"] = datetime.strptime(tags.get("NITF_IDATIM", ""), "%Y%m%d%H%M%S").isoformat() + "Z"
    except ValueError:  # some days are written as dashes
        said["sourceDT"] = None
    return {name: value for name, value in said.items() if value is not None}
