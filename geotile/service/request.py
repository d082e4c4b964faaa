"""A job's request, in the words of OversightML's model runner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import shapely
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from geotile.core.digest import digest, json_digest
from geotile.core.redact import redact
from geotile.encoding.encoder import TileCompression
from geotile.errors import ArgumentError
from geotile.imagery.sar import SarRemap
from geotile.merging.merge import Merge, Nms
from geotile.merging.nms import OverlapMetric
from geotile.merging.soft_nms import SoftNms

_KINESIS_RECORDS = 500  # a call
_COMMON = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)


class _Part(BaseModel):
    model_config = _COMMON


class S3Output(_Part):
    """An object a image: ``bucket/prefix/<image file name>.geojson``."""

    type: Literal["S3"]
    bucket: str = Field(min_length=3)
    prefix: str = ""
    format: Literal["geojson", "parquet"] = "geojson"
    assumed_role: str | None = None


class FileOutput(_Part):
    """A file an image, in a folder of this machine."""

    type: Literal["File"]
    path: str = Field(min_length=1)
    format: Literal["geojson", "parquet"] = "geojson"


class KinesisOutput(_Part):
    """A record a feature."""

    type: Literal["Kinesis"]
    stream: str = Field(min_length=1)
    batch_size: int | None = Field(default=None, ge=1)
    assumed_role: str | None = None

    @property
    def records_a_call(self) -> int:
        """Records in a PutRecords."""
        return min(self.batch_size or _KINESIS_RECORDS, _KINESIS_RECORDS)


Output = Annotated[S3Output | KinesisOutput | FileOutput, Field(discriminator="type")]


class Processor(_Part):
    """Where the model is."""

    name: str = Field(min_length=1)
    type: Literal["SM_ENDPOINT", "HTTP_ENDPOINT", "GEOTILE_ENDPOINT"] = "SM_ENDPOINT"
    assumed_role: str | None = None

    @property
    def endpoint(self) -> str:
        """What `geotile.endpoint` takes."""
        return f"sagemaker://{self.name}" if self.type == "SM_ENDPOINT" else self.name

    @model_validator(mode="after")
    def _url(self) -> Processor:
        if self.type == "HTTP_ENDPOINT" and not self.name.startswith(("http://", "https://")):
            raise ValueError(f"an HTTP_ENDPOINT's name is its url; {redact(self.name)!r} is none")
        return self


class Algorithm(_Part):
    """How the detections of overlapping tiles become one set."""

    algorithm_type: Literal["NMS", "SOFT_NMS"] = Field(
        default="NMS", validation_alias=AliasChoices("algorithmType", "algorithm_type")
    )
    iou_threshold: float = Field(default=0.75, ge=0, le=1)
    skip_box_threshold: float = Field(default=0.0001, ge=0, le=1)
    sigma: float = Field(default=0.1, gt=0)


class Step(_Part):
    """A step of post-processing."""

    step: Literal["FEATURE_DISTILLATION"]
    algorithm: Algorithm = Algorithm()


class More(BaseModel):
    """Arguments of `geotile.detect` that OversightML has no word for, by geotile's names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: list[int | str] | None = None
    subdataset: int | str | None = None
    resolution: float | None = Field(default=None, gt=0)
    sar: SarRemap | None = None
    height: float | None = None
    skip_nodata: bool | float = True
    score_threshold: float = Field(default=0.0, ge=0, le=1)
    class_agnostic: bool = False
    overlap_metric: OverlapMetric = "iou"


class JobRequest(_Part):
    """What is run on which images, and where the answer goes.

    OversightML's field names and defaults; fields that it does not know are kept and named by `unknown`.
    `geotile` holds further arguments of `geotile.detect` (`More`).

    Examples
    --------
    >>> request = JobRequest.parse(b'''{"jobId": "a", "imageUrls": ["s3://b/c.tif"], "colour": 1,
    ...   "imageProcessorTileSize": "512", "imageProcessor": {"name": "planes"},
    ...   "outputs": [{"type": "S3", "bucket": "out", "prefix": "x"}]}''')
    >>> request.image_processor.endpoint, request.image_processor_tile_size, request.unknown()
    ('sagemaker://planes', 512, ['colour'])
    """

    job_id: str = Field(min_length=1, max_length=256)
    job_name: str = ""
    image_urls: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    outputs: list[Output] = Field(min_length=1)
    image_processor: Processor
    image_processor_parameters: dict[str, Any] | None = None
    image_processor_tile_size: int = Field(default=1024, ge=16, le=65_536)
    image_processor_tile_overlap: int = Field(default=50, ge=0)
    image_processor_tile_format: Literal["NITF", "GTIFF", "PNG", "JPEG"] = "NITF"
    image_processor_tile_compression: TileCompression = "NONE"
    image_read_role: str | None = None
    region_of_interest: str | None = None
    feature_properties: list[dict[str, Any]] = []
    post_processing: list[Step] = [Step(step="FEATURE_DISTILLATION")]
    geotile: More = More()

    @classmethod
    def parse(cls, body: bytes | str) -> JobRequest:
        """Read a request.

        Raises
        ------
        ArgumentError
            If it is no JSON object, or a field is wrong; each is named by its path.
        """
        try:
            said = json.loads(body)
        except ValueError as error:
            raise ArgumentError(f"the request is no JSON: {error}") from None
        if not isinstance(said, dict):
            raise ArgumentError(f"the request is a JSON {type(said).__name__}; give an object")
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            raise ArgumentError("; ".join(_wrong(each) for each in error.errors())) from None

    @model_validator(mode="before")
    @classmethod
    def _as_old_requests_say_it(cls, said: Any) -> Any:
        """Take in ``outputBucket`` and ``outputPrefix``, and empty values that mean a default."""
        if not isinstance(said, dict):
            return said
        said = {name: value for name, value in said.items() if value is not None and value != ""}
        bucket, prefix = said.pop("outputBucket", None), said.pop("outputPrefix", "")
        if bucket is not None and not said.get("outputs"):
            said["outputs"] = [{"type": "S3", "bucket": bucket, "prefix": prefix}]
        for name in ("postProcessing", "regionOfInterest", "featureProperties"):
            if name in said and not said[name]:
                del said[name]
        return said

    @field_validator("region_of_interest")
    @classmethod
    def _area(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                shapely.from_wkt(text)
            except shapely.errors.GEOSException as error:
                raise ValueError(f"no WKT: {error}") from None
        return text

    @model_validator(mode="after")
    def _fits(self) -> JobRequest:
        tile, overlap = self.image_processor_tile_size, self.image_processor_tile_overlap
        if overlap >= tile:
            raise ValueError(f"imageProcessorTileOverlap={overlap} must be less than imageProcessorTileSize={tile}")
        if len(self.post_processing) > 1:
            raise ValueError(f"postProcessing has {len(self.post_processing)} steps; give one FEATURE_DISTILLATION")
        return self

    @property
    def digest(self) -> str:
        """Tells this request from others: the same words in any order have the same."""
        return json_digest(self.model_dump(mode="json", by_alias=True))

    @property
    def target(self) -> str:
        """Names the endpoint whose requests all its jobs share."""
        said = (self.image_processor.endpoint, self.image_processor.assumed_role)
        return digest(repr(said).encode())

    @property
    def merge(self) -> Merge:
        """How duplicates are merged."""
        how, more = self.post_processing[0].algorithm, self.geotile
        if how.algorithm_type == "SOFT_NMS":
            return SoftNms(how.sigma, how.skip_box_threshold, more.class_agnostic)
        return Nms(how.iou_threshold, more.overlap_metric, more.class_agnostic)

    def unknown(self) -> list[str]:
        """Return the paths of fields that are not known."""
        return list(_extras(self, ""))

    def image_names(self) -> list[str]:
        """Return a name for each image's outputs: its file's, and a number where another image has the same."""
        names: list[str] = []
        for url in self.image_urls:
            name = base = url.partition("?")[0].rstrip("/").rpartition("/")[2] or "image"
            number = 1
            while name in names:
                number += 1
                name = f"{base}-{number}"
            names.append(name)
        return names

    def opening(self) -> dict[str, Any]:
        """Return how its images are opened, as `geotile.open_image` takes it."""
        more = self.geotile
        said: dict[str, Any] = {
            "bands": more.bands, "subdataset": more.subdataset, "resolution": more.resolution, "sar": more.sar,
            "height": more.height,
        }  # fmt: skip
        if self.image_read_role:
            said["storage_options"] = {"role_arn": self.image_read_role}
        return {name: value for name, value in said.items() if value is not None}

    def cutting(self) -> dict[str, Any]:
        """Return how its images are cut, as `geotile.plan` takes it."""
        return {
            "tile_size": self.image_processor_tile_size, "overlap": self.image_processor_tile_overlap,
            "tile_format": self.image_processor_tile_format, "tile_compression": self.image_processor_tile_compression,
            "roi": self.region_of_interest,
        }  # fmt: skip

    def asking(self) -> dict[str, Any]:
        """Return the options of its endpoint."""
        said: dict[str, Any] = {}
        if self.image_processor_parameters:
            said["params"] = {name: str(value) for name, value in self.image_processor_parameters.items()}
        if self.image_processor.assumed_role and self.image_processor.type == "SM_ENDPOINT":
            said["role_arn"] = self.image_processor.assumed_role
        return said


def _extras(model: BaseModel, path: str) -> Iterator[str]:
    for name in model.model_extra or {}:
        yield path + name
    for name, field in type(model).model_fields.items():
        shown = path + (field.alias or name)
        value = getattr(model, name)
        for i, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, BaseModel):
                yield from _extras(each, f"{shown}[{i}]." if isinstance(value, list) else f"{shown}.")


def _wrong(error: Any) -> str:
    path = ""
    for step in error["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    given = error.get("input")
    shown = f" (given: {redact(json.dumps(given, default=str))[:80]})" if not isinstance(given, dict | list) else ""
    return f"{path or 'the request'}: {error['msg'].removeprefix('Value error, ')}{shown}"
