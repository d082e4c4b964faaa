"""A job's detections as GeoJSON features with OversightML's properties, one part of the dataset at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geotile.core.rasterio_env import READ_ERRORS, error_text
from geotile.core.redact import redact
from geotile.errors import ImageReadError
from geotile.geometry.georeference import WGS84, Georeference, scale_yx
from geotile.imagery.open_files import open_file
from geotile.imagery.source import Source
from geotile.planning.plan import Plan
from geotile.results.frame import from_text, image_geometry
from geotile.results.geojson import features
from geotile.storage.folder import Folder


@dataclass(frozen=True)
class ImagePlace:
    """Where the pixels of an image lie, for the properties that OversightML derives from them."""

    georeference: Georeference
    scale_yx: tuple[float, float]
    """Pixels of the full resolution per pixel of the image, down and across."""

    @classmethod
    def of_plan(cls, plan: Plan) -> ImagePlace:
        """Return the place of an image that was opened for a run."""
        return cls(plan.encoder.georeference, scale_yx(plan.image))

    def degrees(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return longitudes and latitudes of pixels of the full resolution, (n, 2); NaN off the Earth."""
        return self.georeference.points_to_world(xy / self.scale_yx[::-1], WGS84)

    def add_to(self, features: list[dict[str, Any]], table: gpd.GeoDataFrame) -> None:
        """Give features the ``bbox`` of their boxes, and the centres of their shapes, as OversightML does."""
        if self.georeference.placement is None or self.georeference.crs is None or not features:
            return
        boxes = np.array([each["properties"]["imageBBox"] for each in features], np.float64)
        corners = self.degrees(boxes[:, [0, 1, 0, 3, 2, 3, 2, 1]].reshape(-1, 2)).reshape(-1, 4, 2)
        centres = self.degrees(shapely.get_coordinates(image_geometry(table).centroid.to_numpy()))
        known = np.isfinite(corners).all(axis=(1, 2)) & np.isfinite(centres).all(axis=1)
        narrow = np.ptp(corners[:, :, 0], axis=1) < 180  # the others cross the antimeridian and keep the shape's bounds
        bounds = np.hstack([corners.min(axis=1), corners.max(axis=1)]).tolist()
        for number in np.flatnonzero(known):
            feature, (longitude, latitude) = features[number], centres[number].tolist()
            if feature["geometry"] is None:
                continue
            if narrow[number]:
                feature["bbox"] = bounds[number]
            feature["properties"] |= {"center_longitude": longitude, "center_latitude": latitude}


def stored_features(
    folder: Folder, parts: Sequence[str], extra_properties: dict[str, Any], image_id: str, place: ImagePlace
) -> Iterator[dict[str, Any]]:
    """Yield the features of a dataset in the order of its parts, as `job_features` does."""
    return job_features(stored_tables(folder, parts), extra_properties, image_id, place)


def job_features(
    tables: Iterable[gpd.GeoDataFrame], extra_properties: dict[str, Any], image_id: str, place: ImagePlace
) -> Iterator[dict[str, Any]]:
    """Yield detections as features in the form of OversightML's outputs.

    Rings are wound as the model returned them, coordinates have an elevation of 0, and ``bbox`` is that of the box.

    Parameters
    ----------
    tables : iterable of GeoDataFrame
        Detections with the columns of `geotile.detect`.
    extra_properties : dict
        Properties to add to each feature.
    image_id : str
        Prefix of the ``id`` of features to which the model gave none. The number of the feature follows, so a feature
        that is sent twice has the same ``id``.
    place : ImagePlace
        Where the pixels of the image lie.

    Yields
    ------
    dict
        A GeoJSON feature.
    """
    number = 0
    for table in tables:
        found = list(features(table, exact=True))
        place.add_to(found, table)
        for feature in found:
            feature.setdefault("id", f"{image_id}:{number}")
            feature["properties"] |= extra_properties
            number += 1
            yield feature


def stored_tables(folder: Folder, parts: Sequence[str]) -> Iterator[gpd.GeoDataFrame]:
    """Yield the parts of a dataset with the columns of `geotile.detect`."""
    files, path = folder.files()
    for name in parts:
        with files.open(f"{path}/{name}", "rb") as file:
            yield from_text(gpd.read_parquet(file))


def job_properties(
    job_id: str, started: float, source: dict[str, Any] | None, feature_properties: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the properties that OversightML adds to each feature of a job.

    Parameters
    ----------
    job_id : str
        Id of the job.
    started : float
        Start time of the job, in seconds since 1970.
    source : dict or None
        Result of `source_metadata`.
    feature_properties : sequence of dict
        Properties of the request, which override the others.
    """
    time = datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    properties: dict[str, Any] = {"inferenceMetadata": {"jobId": job_id, "inferenceDT": time}}
    if source is not None:
        properties["sourceMetadata"] = [source]
    for each in feature_properties:
        properties |= each
    return properties


def source_metadata(url: str, source: Source | None) -> dict[str, Any] | None:
    """Return location, format, category, title and time of a NITF; None for other formats, as in OversightML.

    Parameters
    ----------
    url : str
        URL of the image; secrets in it are masked in the result.
    source : Source or None
        File that the image is read from.

    Raises
    ------
    ImageReadError
        If the file cannot be opened.
    """
    if source is None or source.driver != "NITF":
        return None
    try:
        with source.location.environment(), open_file(source.location, source.allow_vrt) as file:
            tags = file.tags()
    except READ_ERRORS as error:
        raise ImageReadError(
            f"cannot read the metadata of {source.location.display_name}: {redact(error_text(error))}"
        ) from None
    try:
        time = datetime.strptime(tags.get("NITF_IDATIM", ""), "%Y%m%d%H%M%S").isoformat() + "Z"
    except ValueError:  # an unknown date consists of dashes
        time = None
    return {
        "location": redact(url), "format": "NITF", "category": tags.get("NITF_ICAT"),
        "sourceId": tags.get("NITF_FTITLE", ""), "sourceDT": time,
    }  # fmt: skip
