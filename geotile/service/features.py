"""A job's detections as GeoJSON features with OversightML's properties, one part of the dataset at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import geopandas as gpd
import pyarrow.parquet as pq

from geotile.core.redact import redact
from geotile.imagery.file_array import source_of
from geotile.imagery.open import opened
from geotile.imagery.open_files import open_file
from geotile.options import ImageOptions
from geotile.results.dataset import METADATA
from geotile.results.frame import from_text
from geotile.results.geojson import features
from geotile.storage.folder import Folder


def stored_features(
    folder: Folder, parts: Sequence[str], extra_properties: dict[str, Any], image_id: str
) -> Iterator[dict[str, Any]]:
    """Yield the features of a dataset in the order of its parts.

    Parameters
    ----------
    folder : Folder
        The dataset.
    parts : sequence of str
        File names of the parts, in order.
    extra_properties : dict
        Properties to add to each feature.
    image_id : str
        Prefix of each feature's ``id``. The number of the feature follows, so a feature that is sent twice has the
        same ``id``.

    Yields
    ------
    dict
        A GeoJSON feature.
    """
    number = 0
    for table in stored_tables(folder, parts):
        for feature in features(table):
            feature["id"] = f"{image_id}:{number}"
            feature["properties"] |= extra_properties
            number += 1
            yield feature


def stored_tables(folder: Folder, parts: Sequence[str]) -> Iterator[gpd.GeoDataFrame]:
    """Yield the parts of a dataset with the columns of `geotile.detect`."""
    files, path = folder.files()
    for name in parts:
        with files.open(f"{path}/{name}", "rb") as file:
            yield from_text(gpd.read_parquet(file))


def part_names(folder: Folder) -> list[str]:
    """Return the file names of a dataset's parts in the order of its ``_metadata``."""
    files, path = folder.files()
    with files.open(f"{path}/{METADATA}", "rb") as file:
        metadata = pq.read_metadata(file)
    names = [metadata.row_group(i).column(0).file_path for i in range(metadata.num_row_groups)]
    return list(dict.fromkeys(names))


def job_properties(
    job_id: str, started: float, source: dict[str, Any], feature_properties: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the properties that OversightML adds to each feature of a job.

    Parameters
    ----------
    job_id : str
        Id of the job.
    started : float
        Start time of the job, in seconds since 1970.
    source : dict
        Result of `source_metadata`.
    feature_properties : sequence of dict
        Properties of the request, which override the others.
    """
    time = datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    properties: dict[str, Any] = {
        "inferenceMetadata": {"jobId": job_id, "inferenceDT": time},
        "sourceMetadata": [source],
    }
    for each in feature_properties:
        properties |= each
    return properties


def source_metadata(url: str, options: ImageOptions) -> dict[str, Any]:
    """Return location and format of an image file, and the category, title and time of a NITF header.

    Parameters
    ----------
    url : str
        URL of the image; secrets in it are masked in the result.
    options : ImageOptions
        How the image is opened.
    """
    metadata: dict[str, Any] = {"location": redact(url)}
    source = source_of(opened(url, options).data)
    if source is None:
        return metadata
    metadata["format"] = {"GTiff": "TIFF"}.get(source.driver, source.driver)
    if source.driver != "NITF":
        return metadata
    with source.location.environment(), open_file(source.location, source.allow_vrt) as file:
        tags = file.tags()
    metadata |= {"category": tags.get("NITF_ICAT"), "sourceId": tags.get("NITF_FTITLE", "").strip() or None}
    try:
        metadata["sourceDT"] = datetime.strptime(tags.get("NITF_IDATIM", ""), "%Y%m%d%H%M%S").isoformat() + "Z"
    except ValueError:  # an unknown date consists of dashes
        metadata["sourceDT"] = None
    return {name: value for name, value in metadata.items() if value is not None}
