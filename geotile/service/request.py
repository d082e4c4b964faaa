"""A job request with the field names of OversightML's model runner."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from geotile.core.choices import TileCompression
from geotile.core.digest import digest, json_digest
from geotile.core.option import refuse_unknown
from geotile.encoding.encoder import check_combination
from geotile.errors import ArgumentError
from geotile.merging.merge import Merge
from geotile.merging.names import resolve_merge
from geotile.merging.nms import Nms
from geotile.merging.soft_nms import SoftNms
from geotile.options import JobOptions
from geotile.options.run import OF_MERGE
from geotile.public import public
from geotile.service.json_words import in_json
from geotile.service.request_checks import (
    check_endpoint,
    check_job_id,
    check_region,
    output_names,
    parsed_fields,
    unknown_fields,
)
from geotile.service.request_fields import error_text, option_hints
from geotile.service.request_parts import (
    ImageProcessor,
    KinesisOutput,
    Name,
    Output,
    PostProcessingStep,
    RequestModel,
    Whole,
)
from geotile.service.request_tasks import check_fields_of_task, check_outputs_of_task, with_formats
from geotile.service.tasks import TASKS, TaskName, TaskOptions
from geotile.storage.separate import NamedPlace, check_apart


@public
class JobRequest(RequestModel):
    """A request to run a model on images and to write what it finds to outputs.

    The fields have OversightML's names (in camel case) and defaults. Unknown fields are kept without effect, and
    `unknown_fields` lists them; those that are misspelt names of fields, or options of geotile in the wrong place, are
    refused. The field `task` says what the model answers: detections, a raster or vectors. The field `geotile` holds
    further arguments of the call of the task: `geotile.detect`, `geotile.predict_to` or `geotile.embed_to`.

    Examples
    --------
    >>> request = JobRequest.parse(b'''{"jobId": "a", "imageUrls": ["s3://b/c.tif"], "colour": 1,
    ...   "imageProcessorTileSize": "512", "imageProcessor": {"name": "planes"},
    ...   "outputs": [{"type": "S3", "bucket": "out", "prefix": "x"}]}''')
    >>> request.image_processor.endpoint, request.image_processor_tile_size, request.unknown_fields()
    ('sagemaker://planes', 512, ['colour'])
    """

    job_id: Annotated[Name, Field(max_length=256), AfterValidator(check_job_id)]
    job_name: str = ""
    task: TaskName = "detect"
    image_urls: list[Name] = Field(min_length=1)
    outputs: list[Output] = Field(min_length=1)
    image_processor: ImageProcessor
    image_processor_parameters: dict[str, Any] | None = None
    image_processor_tile_size: Whole = Field(default=1024, ge=16, le=65_536)
    image_processor_tile_overlap: Whole = Field(default=50, ge=0)
    image_processor_tile_format: Literal["NITF", "GTIFF", "PNG", "JPEG"] = "NITF"
    image_processor_tile_compression: TileCompression = "NONE"
    image_read_role: Name | None = None
    region_of_interest: str | None = None
    feature_properties: list[dict[str, Any]] = Field(default=[])
    post_processing: list[PostProcessingStep] = Field(default=[PostProcessingStep(step="FEATURE_DISTILLATION")])
    geotile: dict[str, Any] = Field(default={})

    @classmethod
    def parse(cls, body: bytes | str) -> JobRequest:
        """Parse a request.

        Parameters
        ----------
        body : bytes or str
            A JSON object.

        Raises
        ------
        ArgumentError
            If the body is larger than 1 MiB or not a JSON object, or fields are invalid; the message names each field
            by its path.
        """
        fields = parsed_fields(body)
        try:
            request = cls.model_validate(fields)
            request.model_dump(mode="json")  # the record and the digest of the job need it
        except ValidationError as error:
            raise ArgumentError("; ".join(in_json(error_text(each)) for each in error.errors())) from None
        except (ValueError, RecursionError):
            raise ArgumentError("the request must not be nested this deeply; it takes some hundred levels") from None
        return request

    @model_validator(mode="before")
    @classmethod
    def _accept_old_fields(cls, fields: Any) -> Any:
        """Accept ``outputBucket`` and ``outputPrefix`` of older requests, and empty values in place of defaults."""
        if not isinstance(fields, dict):
            return fields
        fields = {name: value for name, value in fields.items() if value is not None and value != ""}
        bucket, prefix = fields.pop("outputBucket", None), fields.pop("outputPrefix", "")
        if bucket is not None and not fields.get("outputs"):
            fields["outputs"] = [{"type": "S3", "bucket": bucket, "prefix": prefix}]
        for name in ("postProcessing", "featureProperties"):
            if fields.get(name) == []:
                del fields[name]
        return with_formats(fields)

    @field_validator("region_of_interest")
    @classmethod
    def _check_region_of_interest(cls, text: str | None) -> str | None:
        if text is not None:
            check_region(text)
        return text

    @field_validator("geotile")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "task" in info.data:  # else it is refused itself
            task = TASKS[info.data["task"]]
            refuse_unknown(options, task.in_geotile, "the field geotile", option_hints(info.data["task"]))
            if isinstance(options.get("classes"), str):
                raise ValueError(f"classes must be a list of names; got {options['classes']!r}, and no file is read")
            task.options(**options, roi=info.data.get("region_of_interest"))
        return options

    @model_validator(mode="after")
    def _check_consistency(self) -> JobRequest:
        tile, overlap = self.image_processor_tile_size, self.image_processor_tile_overlap
        if overlap >= tile:
            raise ValueError(
                f"imageProcessorTileOverlap must be smaller than imageProcessorTileSize; got {overlap} and {tile}"
            )
        check_combination(self.image_processor_tile_format, self.image_processor_tile_compression)
        parameters = self.endpoint_options().get("params", {})
        check_endpoint(self.image_processor.type, self.image_processor.endpoint, parameters)
        for output in self.outputs:
            output.check_name(max(self.output_names(), key=lambda name: len(name.encode())))
        if self.task == "detect":
            self._check_merge()
        else:
            check_fields_of_task(self.task, self.model_fields_set)
        check_outputs_of_task(self.task, self.outputs)
        check_apart([NamedPlace("imageUrls", url) for url in self.image_urls], self.places())
        return self

    def _check_merge(self) -> None:
        if "merge" in self.geotile and "post_processing" in self.model_fields_set:
            raise ValueError("geotile.merge and postProcessing both say how to merge; give one of them")
        if "iou_threshold" in self.geotile and "merge" not in self.geotile:
            raise ValueError(
                "geotile.iou_threshold goes with geotile.merge; without one, give "
                "postProcessing[0].algorithm.iouThreshold"
            )
        assert self.merge  # or it cannot be made of what was given
        if len(self.post_processing) > 1:
            raise ValueError(
                f"postProcessing must have one step, FEATURE_DISTILLATION; got {len(self.post_processing)} steps"
            )

    @property
    def digest(self) -> str:
        """Hash of the content of the request; the order of its fields does not matter."""
        no_task = {"task"} if self.task == "detect" else set()  # records of versions without tasks have none
        return json_digest(self.model_dump(mode="json", by_alias=True, exclude=no_task))

    @property
    def endpoint_key(self) -> str:
        """Key of the endpoint and its role. Jobs with the same key share one limit of requests in flight."""
        key = (self.image_processor.endpoint, self.image_processor.assumed_role)
        return digest(repr(key).encode())

    @property
    def merge(self) -> Merge:
        """Merge of the detections of overlapping tiles."""
        options = JobOptions(**self.geotile, roi=self.region_of_interest)
        if "merge" in self.geotile:
            return resolve_merge(options.merge, options.of_merge)
        algorithm = self.post_processing[0].algorithm
        if algorithm.algorithm_type == "SOFT_NMS":
            if self.geotile.get("overlap_metric") is not None:
                raise ValueError("geotile.overlap_metric would have no effect with SOFT_NMS; leave it out")
            return SoftNms(algorithm.sigma, algorithm.skip_box_threshold, options.class_agnostic, "box")
        return Nms(algorithm.iou_threshold, options.overlap_metric or "iou", options.class_agnostic, "box")

    def unknown_fields(self) -> list[str]:
        """Return the paths of the fields that have no effect."""
        return list(unknown_fields(self, ""))

    def output_names(self) -> list[str]:
        """Return the name of each image's outputs, without a suffix."""
        return output_names(self.job_id, self.image_urls)

    def places(self) -> list[NamedPlace]:
        """Return the files and the stores that the outputs of all images are written to."""
        files = [each for each in self.outputs if not isinstance(each, KinesisOutput)]
        return [NamedPlace("outputs", each.uri(name)) for name in self.output_names() for each in files]

    def options(self, **settings: Any) -> TaskOptions:
        """Return the options of the request's runs.

        Parameters
        ----------
        **settings
            Options that the service sets, such as ``concurrency`` and ``checkpoint``.
        """
        options = self.geotile
        if self.task == "detect":
            of_merge = {"merge", *OF_MERGE}  # the merge has them
            options = {name: value for name, value in options.items() if name not in of_merge} | {"merge": self.merge}
        role = {"role_arn": self.image_read_role} if self.image_read_role else None
        return TASKS[self.task].options(
            tile_size=self.image_processor_tile_size, overlap=self.image_processor_tile_overlap,
            tile_format=self.image_processor_tile_format, tile_compression=self.image_processor_tile_compression,
            roi=self.region_of_interest, storage_options=role, **options, **settings,
        )  # fmt: skip

    def endpoint_options(self) -> dict[str, Any]:
        """Return the options of the endpoint."""
        options: dict[str, Any] = {}
        if self.image_processor_parameters:
            options["params"] = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in self.image_processor_parameters.items()
            }
        if self.image_processor.assumed_role and self.image_processor.type == "SM_ENDPOINT":
            options["role_arn"] = self.image_processor.assumed_role
        return options
