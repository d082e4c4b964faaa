"""The parts of a job request: outputs, endpoint, post-processing, and the types of its fields."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from geotile.core.redact import redact
from geotile.service.request_fields import misplaced
from geotile.service.tasks import Format
from geotile.storage.uris import output_uri

_OLD_FIELDS = ("outputBucket", "outputPrefix")
_MAX_RECORDS_PER_CALL = 500  # the maximum of Kinesis
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}|arn:[\w.:/-]+", re.ASCII)
_STREAM = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_MAX_FILE_NAME, _MAX_KEY = 255, 1024  # bytes: limits of file systems and of S3


def _without_control(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must be text without control characters")
    return text


def _no_boolean(kind: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Refuse true and false, which Python takes for 1 and 0. Numbers in text are taken: OversightML sends them."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticCustomError(kind, "must be a number")
        return value

    return BeforeValidator(check)


Name = Annotated[str, Field(min_length=1), AfterValidator(_without_control)]
"""Text that names something: it has no control characters."""
Whole = Annotated[int, _no_boolean("int_type")]
Number = Annotated[float, Field(allow_inf_nan=False), _no_boolean("float_type")]


class RequestModel(BaseModel):
    """A JSON object of a request, with names in camel case."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_misplaced(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            known = [to_camel(name) for name in cls.model_fields]
            unknown = [name for name in fields if name not in {*known, *cls.model_fields, *_OLD_FIELDS}]
            if found := misplaced(unknown, known):
                raise ValueError("; ".join(found))
        return fields


def _bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text):
        raise ValueError("must be the name of a bucket, of at least 3 letters, digits, dots and hyphens, or an ARN")
    return text


def _prefix(text: str) -> str:
    if {".", ".."} & set(_without_control(text).split("/")):
        raise ValueError("must not have . or .. as a part, which clients of S3 resolve in different ways")
    return text


def _stream(text: str) -> str:
    if not _STREAM.fullmatch(text):
        raise ValueError("must be the name of a Kinesis stream: 1 to 128 letters, digits, dots and hyphens")
    return text


def _folder(text: str) -> str:
    if "://" in (folder := output_uri(text)):
        bucket, _, prefix = folder.partition("://")[2].partition("/")
        said = f'"bucket": "{bucket}", "prefix": "{prefix}"' if folder.startswith("s3://") else '"bucket": ...'
        raise ValueError(f'must be a local folder; for object storage give {{"type": "S3", {redact(said)}}}')
    return text


class S3Output(RequestModel):
    """Output with one S3 object per image, ``bucket/prefix/<job>.geojson``, or one Zarr store below such a prefix."""

    type: Literal["S3"]
    bucket: Annotated[str, AfterValidator(_bucket)]
    prefix: Annotated[str, AfterValidator(_prefix)] = ""
    format: Format = "geojson"
    assumed_role: Name | None = None

    def uri(self, name: str) -> str:
        """Return the URI of the object of an image."""
        parts = (f"s3://{self.bucket}", self.prefix.strip("/"), f"{name}.{self.format}")
        return "/".join(each for each in parts if each)

    def check_name(self, name: str) -> None:
        """Raise ValueError if the name of an image's outputs is too long for a key."""
        key = "/".join(each for each in (self.prefix.strip("/"), f"{name}.{self.format}") if each)
        if (length := len(key.encode())) > _MAX_KEY:
            raise ValueError(f"the key of {name[:40]!r}... has {length} bytes; S3 allows {_MAX_KEY}. Shorten the jobId")


class FileOutput(RequestModel):
    """Output with one file or one Zarr store per image, in a local folder."""

    type: Literal["File"]
    path: Annotated[Name, AfterValidator(_folder)]
    format: Format = "geojson"

    def uri(self, name: str) -> str:
        """Return the absolute path of the file of an image."""
        return os.path.join(output_uri(self.path), f"{name}.{self.format}")

    def check_name(self, name: str) -> None:
        """Raise ValueError if the name of an image's outputs is too long for a file."""
        if (length := len(f"{name}.{self.format}".encode())) > _MAX_FILE_NAME:
            raise ValueError(
                f"the file name of {name[:40]!r}... has {length} bytes; files may have {_MAX_FILE_NAME}. Shorten the "
                "jobId"
            )


class KinesisOutput(RequestModel):
    """Output with one Kinesis record per feature."""

    type: Literal["Kinesis"]
    stream: Annotated[str, AfterValidator(_stream)]
    batch_size: Whole | None = Field(default=None, ge=1)
    assumed_role: Name | None = None

    @property
    def records_per_call(self) -> int:
        """Maximum number of records in one PutRecords call."""
        return min(self.batch_size or _MAX_RECORDS_PER_CALL, _MAX_RECORDS_PER_CALL)

    def uri(self, name: str) -> str:
        """Return the URI of the stream."""
        return f"kinesis://{self.stream}"

    def check_name(self, name: str) -> None:
        """Do nothing: records have no names."""


Output = Annotated[S3Output | KinesisOutput | FileOutput, Field(discriminator="type")]


class ImageProcessor(RequestModel):
    """The endpoint of the model."""

    name: Name
    type: Literal["SM_ENDPOINT", "HTTP_ENDPOINT", "GEOTILE_ENDPOINT"] = "SM_ENDPOINT"
    assumed_role: Name | None = None

    @property
    def endpoint(self) -> str:
        """Endpoint as an argument of `geotile.endpoint`."""
        return f"sagemaker://{self.name}" if self.type == "SM_ENDPOINT" else self.name

    @model_validator(mode="after")
    def _check_url(self) -> ImageProcessor:
        if self.type == "HTTP_ENDPOINT" and not self.name.startswith(("http://", "https://")):
            raise ValueError(
                f"the name of an HTTP_ENDPOINT must be its URL; got {redact(self.name)!r}. For a file (onnx:) or a "
                'server of tensors (oip+http:) give "type": "GEOTILE_ENDPOINT"'
            )
        return self


class Algorithm(RequestModel):
    """Algorithm that merges the detections of overlapping tiles."""

    algorithm_type: Literal["NMS", "SOFT_NMS"] = Field(
        default="NMS", validation_alias=AliasChoices("algorithmType", "algorithm_type")
    )
    iou_threshold: Number = Field(default=0.75, ge=0, le=1)
    skip_box_threshold: Number = Field(default=0.0001, ge=0, le=1)
    sigma: Number = Field(default=0.1, gt=0)


class PostProcessingStep(RequestModel):
    """One step of post-processing."""

    step: Literal["FEATURE_DISTILLATION"]
    algorithm: Algorithm = Algorithm()
