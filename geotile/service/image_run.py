"""The run of one image of a job, into the folder of the image, and what it leaves there for the outputs.

::

    work/<job>/0/
      checkpoint/                        finished regions, and the status of the run
      detections/ or vectors/            a GeoParquet dataset
      prediction.tif, prediction.zarr    a raster, in each format that an output wants
      result.json                        written last: the model is not asked again
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geotile.embedding import embed_to_dataset
from geotile.endpoints import Endpoint
from geotile.geometry.georeference import georeference_of, scale_yx
from geotile.imagery.file_array import source_of
from geotile.imagery.open import opened
from geotile.options import DetectToOptions
from geotile.options.raster import PredictToOptions
from geotile.pipeline import detect_to_dataset
from geotile.planning.plan import Plan
from geotile.prediction import predict_into
from geotile.results.dataset import part_names
from geotile.results.raster_output import RasterOutput
from geotile.results.report import Report
from geotile.running.hooks import RunHooks
from geotile.service.features import ImagePlace, job_properties, source_metadata
from geotile.service.request import JobRequest
from geotile.service.request_parts import KinesisOutput
from geotile.service.run_control import OutdatedRegions
from geotile.service.stored_results import StoredDetections, StoredRaster, StoredResult, StoredVectors
from geotile.storage.folder import Folder

_DETECTIONS, _VECTORS, _CHECKPOINT = "detections", "vectors", "checkpoint"


def run_image(
    request: JobRequest, number: int, model: Endpoint, folder: Folder, retry_failed: bool, settings: Mapping[str, Any],
    hooks: RunHooks,
) -> Report:  # fmt: skip
    """Run an image of a job into its folder.

    Parameters
    ----------
    request : JobRequest
    number : int
        Number of the image.
    model : Endpoint
    folder : Folder
        Folder of the image.
    retry_failed : bool
        Whether tiles that failed in an earlier attempt are sent again.
    settings : mapping
        Options that the service sets.
    hooks : RunHooks
        What the service adds.
    """
    url, checkpoint = request.image_urls[number], folder.sub(_CHECKPOINT).uri
    options = request.options(overwrite=True, checkpoint=checkpoint, retry_failed=retry_failed, **settings)
    if isinstance(options, DetectToOptions):
        return detect_to_dataset(url, model, folder.sub(_DETECTIONS), options, hooks)
    if isinstance(options, PredictToOptions):
        return predict_into(_rasters(request, folder), url, model, options, hooks)
    return embed_to_dataset(url, model, folder.sub(_VECTORS), options, hooks)


def _rasters(request: JobRequest, folder: Folder) -> list[RasterOutput]:
    """Return a raster in each format that the outputs want."""
    formats = dict.fromkeys(output.format for output in request.outputs if not isinstance(output, KinesisOutput))
    return [RasterOutput(folder.sub(StoredRaster.file_name(each)).uri, True, folder.options) for each in formats]


def metadata_of(request: JobRequest, number: int, plan: Plan) -> dict[str, Any]:
    """Return what `stored_result` needs to know of an image, as JSON, before the model is asked: it may change."""
    if request.task != "detect":
        return {}
    version = None if plan.source is None else plan.source.version
    return {"source": source_metadata(request.image_urls[number], plan.source), "version": version}


def result_of(request: JobRequest, folder: Folder, status: str) -> dict[str, Any]:
    """Return what `stored_result` needs to know of a run besides its files and the image's metadata, as JSON."""
    match request.task:
        case "detect":
            return {"status": status, "parts": part_names(folder.sub(_DETECTIONS))}
        case "embed":
            return {"status": status, "parts": part_names(folder.sub(_VECTORS))}
        case "predict":
            return {"status": status}


def stored_result(
    request: JobRequest, number: int, folder: Folder, result: Mapping[str, Any], image_id: str, started: float,
    plan: Plan | None,
) -> StoredResult:  # fmt: skip
    """Return what the run of an image has left in its folder.

    Parameters
    ----------
    request : JobRequest
    number : int
        Number of the image.
    folder : Folder
        Folder of the image.
    result : mapping
        What `metadata_of` and `result_of` returned.
    image_id : str
        Id of the image.
    started : float
        Start time of the job, in seconds since 1970.
    plan : Plan or None
        Plan of the run; None if the run was that of an earlier attempt, so that the image must be opened again.

    Raises
    ------
    ImageOpenError
        If it cannot be opened again.
    OutdatedRegions
        If it is another one by now.
    """
    name = request.output_names()[number]
    match request.task:
        case "detect":
            place = ImagePlace.of_plan(plan) if plan else _place_again(request, number, result.get("version"))
            return StoredDetections(
                folder=folder.sub(_DETECTIONS), parts=result["parts"], job_id=request.job_id, image_id=image_id,
                extra_properties=job_properties(
                    request.job_id, started, result["source"], request.feature_properties
                ),
                name=name, place=place,
            )  # fmt: skip
        case "embed":
            return StoredVectors(folder=folder.sub(_VECTORS), parts=result["parts"], image_id=image_id, name=name)
        case "predict":
            return StoredRaster(folder=folder, image_id=image_id, name=name)


def _place_again(request: JobRequest, number: int, version: str | None) -> ImagePlace:
    """Return the place of an image whose run has ended in an earlier attempt."""
    image = opened(request.image_urls[number], request.options())
    source = source_of(image.data)
    if version is not None and (source is None or source.version != version):
        raise OutdatedRegions("the image has changed since the model was asked")
    return ImagePlace(georeference_of(image), scale_yx(image))
