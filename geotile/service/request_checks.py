"""Checks of a request that need neither its images nor its endpoint, and the words of their errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import shapely
from pydantic import BaseModel

from geotile.core.redact import redact
from geotile.endpoints import applicable_options
from geotile.endpoints.http import check_url
from geotile.endpoints.sagemaker import endpoint_parts
from geotile.errors import ArgumentError
from geotile.options import ContractOptions
from geotile.planning.roi import geometry_of

MAX_REQUEST_BYTES = 2**20  # the maximum of SQS


def parsed_fields(body: Any) -> dict[str, Any]:
    """Return the fields of a request.

    Raises
    ------
    ArgumentError
        If it is not a JSON object of at most 1 MiB.
    """
    if not isinstance(body, str | bytes | bytearray):
        raise ArgumentError(f"body must be JSON as str or bytes; got a value of type {type(body).__name__}")
    if len(body) > MAX_REQUEST_BYTES:
        raise ArgumentError(f"the request must have at most {MAX_REQUEST_BYTES:,} bytes; got more. Split the job")
    try:
        fields = _parsed_json(body)
    except RecursionError:
        raise ArgumentError(
            "the request must not be nested this deeply; it takes at most some hundred levels"
        ) from None
    except ValueError as error:
        raise ArgumentError(f"the request must be valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ArgumentError(f"the request must be a JSON object; got {type(fields).__name__}")
    return fields


def _parsed_json(body: str | bytes | bytearray) -> Any:
    """Return the value of a JSON text, which has neither NaN nor infinity, and no half of a surrogate pair."""
    value = json.loads(body, parse_constant=_finite, parse_float=_finite)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = json.dumps(error.object[error.start])
        before = error.object[max(0, error.start - 30) : error.start]
        raise ValueError(
            f"{half} is half of a character (a surrogate without its pair), after {redact(before)!r}; leave it out"
        ) from None
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number must be finite; got {text[:20]}")
    return value


def check_job_id(text: str) -> str:
    """Return the id of a job; raise ValueError if it names no outputs."""
    if text.endswith("/"):
        raise ValueError("must not end in /, since its last part names the outputs; leave the / out")
    return text


def output_names(job_id: str, urls: Sequence[str]) -> list[str]:
    """Return the name of each image's outputs: the last part of the job's id, as OversightML's code has it.

    Where a request has several images, of which OversightML runs only the first, the file name of the image follows,
    with a number if an earlier image has the same.

    Examples
    --------
    >>> output_names("x/a", ["s3://b/c.tif"]), output_names("a", ["s3://b/c.tif", "s3://d/c.tif"])
    (['a'], ['a-c.tif', 'a-c.tif-2'])
    """
    job = job_id.rpartition("/")[2]
    if len(urls) == 1:
        return [job]
    names: dict[str, None] = {}
    for url in urls:
        name = base = url.partition("?")[0].rstrip("/").rpartition("/")[2] or "image"
        number = 1
        while f"{job}-{name}" in names:
            number += 1
            name = f"{base}-{number}"
        names[f"{job}-{name}"] = None
    return list(names)


def check_region(text: str) -> None:
    """Check a region of interest.

    Raises
    ------
    ValueError
        If it is not WKT of a geometry that has an extent.
    """
    try:
        shape = shapely.from_wkt(text)
    except shapely.errors.GEOSException as error:
        raise ValueError(f"must be WKT: {error}") from None
    geometry_of(shape)


def check_endpoint(kind: str, spec: str, parameters: Mapping[str, str]) -> None:
    """Check the endpoint of a request and its parameters.

    Raises
    ------
    ValueError
        If no endpoint of this type can have the name or the parameters.
    """
    if kind == "HTTP_ENDPOINT":
        check_url(spec, "https://host/invocations")
    if kind == "SM_ENDPOINT":
        endpoint_parts(spec)
    if parameters and not applicable_options(spec, {"params": parameters}):
        raise ValueError("imageProcessorParameters do not apply to an endpoint of this type; leave them out")
    ContractOptions(params=parameters)


def unknown_fields(model: BaseModel, path: str) -> Iterator[str]:
    """Yield the paths of the fields of a model that have no effect."""
    for name in model.model_extra or {}:
        yield path + name
    for name, field in type(model).model_fields.items():
        field_path = path + (field.alias or name)
        value = getattr(model, name)
        for i, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, BaseModel):
                yield from unknown_fields(each, f"{field_path}[{i}]." if isinstance(value, list) else f"{field_path}.")
