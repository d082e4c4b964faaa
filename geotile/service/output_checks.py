"""Outputs of a job are tried before its model is asked: their places, and what their formats must hold.

What can never succeed (a folder below a file, a bucket that does not exist, a CRS without a way to WGS 84) is an
`ArgumentError`, and the job fails at once. What may succeed later (denied access, a store that does not answer) is an
`OutputError` or a `ServiceError`, and the job is tried again.
"""

from __future__ import annotations

import errno
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
from fsspec.core import url_to_fs

from geotile.core.redact import redact
from geotile.errors import ArgumentError, GeotileError, OutputError, ServiceError
from geotile.planning.plan import Plan
from geotile.results.frame import parquet_bytes
from geotile.results.raster_output import RasterOutput
from geotile.results.raster_store import ROOT
from geotile.service.features import ImagePlace, job_features, job_properties
from geotile.service.outputs import kinesis_client, s3_options
from geotile.service.request import JobRequest
from geotile.service.request_parts import FileOutput, KinesisOutput, S3Output

_log = logging.getLogger(__name__)
_PERMANENT = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}
_NO_SHARD = "9" * 39  # a hash key above 2**128 - 1: Kinesis refuses the record after it has checked the access


def check_places(request: JobRequest) -> None:
    """Check that each output of a job can be written.

    Raises
    ------
    ArgumentError
        If an output can never be written.
    OutputError, ServiceError
        If it cannot be written now.
    """
    name = request.output_names()[0]
    for number, output in enumerate(request.outputs):
        try:
            if isinstance(output, FileOutput):
                path = Path(output.uri(name))
                _check_folder(path, is_store=output.format == "zarr")
                _check_store(output, name, {})
            elif isinstance(output, S3Output):
                _check_bucket(output, name)
                _check_store(output, name, s3_options(output.assumed_role))
            else:
                _check_stream(output)
        except GeotileError as error:
            raise type(error)(f"outputs[{number}]: {error}") from None


def check_formats(request: JobRequest, plan: Plan, sample: gpd.GeoDataFrame) -> None:
    """Check that the formats of a job's outputs can hold the results of an image.

    Parameters
    ----------
    request : JobRequest
    plan : Plan
        Plan of the image's run.
    sample : geopandas.GeoDataFrame
        A result with one row.

    Raises
    ------
    ArgumentError
        If a format cannot hold them, for example since the CRS of the image cannot be converted to WGS 84.
    """
    tried: dict[str, str] = {}
    for position, output in enumerate(request.outputs):
        kind = "GeoJSON" if isinstance(output, KinesisOutput) or output.format == "geojson" else "GeoParquet"
        if kind not in tried:
            tried[kind] = _held(_as_geojson if kind == "GeoJSON" else _as_parquet, request, plan, sample)
        if tried[kind]:
            crs = "" if sample.crs is None else f" of the CRS {sample.crs.name!r}"
            raise ArgumentError(
                f"outputs[{position}]: {kind} cannot hold results{crs}: {tried[kind]}. For files and objects, give "
                '"format": "parquet"'
            )


def _held(
    write: Callable[[JobRequest, Plan, gpd.GeoDataFrame], None], request: JobRequest, plan: Plan,
    sample: gpd.GeoDataFrame,
) -> str:  # fmt: skip
    """Return why a format cannot hold a sample; empty if it can."""
    try:
        write(request, plan, sample)
    except Exception as error:  # PROJ, shapely and Arrow have errors of their own
        return redact(str(error)) or type(error).__name__
    return ""


def _as_geojson(request: JobRequest, plan: Plan, sample: gpd.GeoDataFrame) -> None:
    properties = job_properties(request.job_id, 0.0, None, request.feature_properties)
    features = job_features([sample], properties, request.job_id, ImagePlace.of_plan(plan))
    json.dumps(list(features), allow_nan=False)


def _as_parquet(request: JobRequest, plan: Plan, sample: gpd.GeoDataFrame) -> None:
    parquet_bytes(sample)


def _check_folder(path: Path, *, is_store: bool) -> None:
    """Write the file, and the folders that do not exist yet, in a temporary folder beside them, which is removed."""
    try:
        if path.is_dir() and not is_store:
            raise IsADirectoryError(errno.EISDIR, "a folder has the name of the output", str(path))
        there = next(each for each in path.parents if each.exists())
        with tempfile.TemporaryDirectory(prefix=".geotile-", dir=there) as folder:
            trial = Path(folder) / path.relative_to(there)
            trial.parent.mkdir(parents=True, exist_ok=True)
            trial.touch()
    except OSError as error:
        kind = ArgumentError if error.errno in _PERMANENT else OutputError
        raise kind(f"cannot write {redact(str(path))}: {error}. Name a folder that can be written") from None


def _check_store(output: FileOutput | S3Output, name: str, options: dict[str, Any]) -> None:
    """Check that nothing but a Zarr store has the name of an output that is one."""
    if output.format != "zarr":
        return
    sink = RasterOutput(output.uri(name), True, tuple(sorted(options.items())))
    try:
        sink.check_free()
    except OutputError as error:
        raise ArgumentError(str(error)) from None
    except Exception as error:  # each file system has errors of its own
        raise OutputError(f"cannot read {redact(sink.uri)}: {redact(str(error)) or type(error).__name__}") from None


def _check_bucket(output: S3Output, name: str) -> None:
    """Begin an upload and abort it: that needs the access that an upload needs, and leaves nothing behind."""
    options, uri = s3_options(output.assumed_role), output.uri(name)
    uri += f"/{ROOT}" if output.format == "zarr" else ""
    try:
        files, path = url_to_fs(uri, **options)
        bucket, key, _ = files.split_path(path)
        begun = files.call_s3("create_multipart_upload", Bucket=bucket, Key=key, **options["s3_additional_kwargs"])
    except FileNotFoundError as error:
        raise ArgumentError(f"cannot write {uri}: {redact(str(error))}. Create the bucket, or name another") from None
    except Exception as error:  # botocore, aiohttp and s3fs have errors of their own
        raise OutputError(f"cannot write {uri}: {redact(str(error)) or type(error).__name__}") from None
    try:
        files.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=begun["UploadId"])
    except Exception as error:  # not allowed, for example; outputs can be written all the same
        _log.warning("an upload to %s could not be aborted: %s", uri, redact(str(error)))


def _check_stream(output: KinesisOutput) -> None:
    """Send a record that Kinesis must refuse for its hash key alone."""
    from botocore.exceptions import BotoCoreError, ClientError

    record = {"Data": b"{}", "PartitionKey": "geotile", "ExplicitHashKey": _NO_SHARD}
    try:
        client = kinesis_client(output.assumed_role)
        client.put_records(StreamName=output.stream, Records=[record])
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "ResourceNotFoundException":
            raise ArgumentError(
                f"Kinesis stream {output.stream} does not exist: {redact(str(error))}. Create it, or name another"
            ) from None
        if code not in ("InvalidArgumentException", "ValidationException"):
            raise ServiceError(f"Kinesis stream {output.stream}: {redact(str(error))}") from None
    except BotoCoreError as error:
        raise ServiceError(f"Kinesis stream {output.stream}: {redact(str(error))}") from None
