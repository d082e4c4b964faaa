"""Outputs of a job: objects in S3, files, and Kinesis records. Each output is written independently of the others."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from geotile.core.redact import redact
from geotile.errors import OutputError, ServiceError
from geotile.results.raster_output import RasterOutput
from geotile.results.sinks import Output
from geotile.service.records import read_json
from geotile.service.request_parts import FileOutput, KinesisOutput, S3Output
from geotile.service.stored_results import StoredDetections, StoredRaster, StoredResult, to_json
from geotile.storage.aws import aws_session, resolve, with_deadlines
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
MAX_CALL_BYTES, MAX_RECORD_BYTES = 5 * 2**20, 2**20  # limits of PutRecords; partition keys count
_MAX_ATTEMPTS, _RETRY_DELAY_S = 8, 0.2
_KINESIS_S = 120.0  # for a call


def write_output(
    stored: StoredResult, output: S3Output | FileOutput | KinesisOutput, progress_folder: Folder, name: str
) -> str:
    """Write what the run of an image has left to one output.

    Parameters
    ----------
    stored : StoredResult
        What the run has left. For a stream, its detections.
    output : S3Output, FileOutput or KinesisOutput
        The output as the request describes it.
    progress_folder : Folder
        Folder for the number of features that have been sent to a stream.
    name : str
        Name of the output in that folder.

    Returns
    -------
    str
        URI of the written output, without secrets.

    Raises
    ------
    OutputError, ServiceError
        If the output cannot be written.
    """
    if isinstance(output, KinesisOutput):
        assert isinstance(stored, StoredDetections)  # a request refuses streams for others
        return _KinesisWriter(stored, output, progress_folder, name).write()
    options = s3_options(output.assumed_role) if isinstance(output, S3Output) else {}
    uri = output.uri(stored.name)
    if isinstance(output, FileOutput):
        os.makedirs(os.path.dirname(uri), exist_ok=True)
    place = tuple(sorted(options.items()))
    file = Output(uri, overwrite=True, options=place, owner=stored.image_id)
    if not isinstance(stored, StoredRaster):
        file.put(lambda path: stored.write(output.format, path))
    elif output.format == "zarr":
        RasterOutput(uri, True, place).put_store(stored.store)
    else:
        raster = RasterOutput(uri, True, place)
        raster.put_names(None)  # at no time do names lie beside a file that they are not about
        file.put(lambda path: stored.write(output.format, path))
        raster.put_names(stored.names)
    return redact(uri)


def s3_options(role: str | None) -> dict[str, Any]:
    """Return options for s3fs. Like in OversightML, the owner of the bucket gets full control of the object."""
    options: dict[str, Any] = {"s3_additional_kwargs": {"ACL": "bucket-owner-full-control"}}
    credentials = resolve(None, role).credentials if role else None
    if credentials is not None:
        options |= {"key": credentials.key, "secret": credentials.secret, "token": credentials.token}
    return options


def kinesis_client(role: str | None) -> Any:
    """Return a botocore client for Kinesis."""
    return with_deadlines(aws_session(None, role, None).create_client("kinesis"), _KINESIS_S)


class _KinesisWriter:
    """Writer of features to a Kinesis stream, one record each.

    The number of features sent is saved after each call, so that a process that resumes the job does not send them
    again. Only the features of a call during which the process died are sent twice, with the same ``id``.
    """

    def __init__(self, detections: StoredDetections, output: KinesisOutput, progress_folder: Folder, name: str) -> None:
        self.detections, self.output = detections, output
        self.progress_folder, self.progress_file = progress_folder, f"{name}.sent.json"
        self.client = kinesis_client(output.assumed_role)

    def write(self) -> str:
        """Send the features that have not been sent yet; return the URI of the stream."""
        sent = (read_json(self.progress_folder, self.progress_file) or {}).get("sent", 0)
        batch: list[dict[str, Any]] = []
        too_large = batch_bytes = number = 0
        for number, feature in enumerate(self.detections.features(), 1):
            if number <= sent:
                continue
            record = self._record(feature)
            record_bytes = len(record["Data"]) + len(record["PartitionKey"].encode())
            if record_bytes > MAX_RECORD_BYTES:
                too_large += 1
                _log.error("feature %s has %d bytes; a record holds %d", feature["id"], record_bytes, MAX_RECORD_BYTES)
                continue
            if len(batch) == self.output.records_per_call or batch_bytes + record_bytes > MAX_CALL_BYTES:
                self._put(batch, number - 1)
                batch, batch_bytes = [], 0
            batch.append(record)
            batch_bytes += record_bytes
        if batch:
            self._put(batch, number)
        if too_large:
            raise OutputError(
                f"{too_large} features are larger than {MAX_RECORD_BYTES:,} bytes, the maximum size of a record of "
                f"Kinesis stream {self.output.stream}; all others were sent. Use an S3 output for large features."
            )
        return self.output.uri(self.detections.name)

    def _record(self, feature: dict[str, Any]) -> dict[str, Any]:
        collection = {"type": "FeatureCollection", "features": [feature]}
        return {"Data": to_json(collection).encode(), "PartitionKey": self.detections.job_id}

    def _put(self, batch: list[dict[str, Any]], features_sent: int) -> None:
        """Send records, again those that the stream refuses, and save the number of features sent."""
        from botocore.exceptions import BotoCoreError, ClientError

        remaining, delay_s, reason = batch, _RETRY_DELAY_S, ""
        for _ in range(_MAX_ATTEMPTS):
            try:
                response = self.client.put_records(StreamName=self.output.stream, Records=remaining)
            except (BotoCoreError, ClientError) as error:
                raise ServiceError(f"Kinesis stream {self.output.stream}: {redact(str(error))}") from None
            results = response["Records"]
            remaining = [record for record, each in zip(remaining, results, strict=True) if "ErrorCode" in each]
            if not remaining:
                self.progress_folder.write(self.progress_file, json.dumps({"sent": features_sent}).encode())
                return
            refusal = next(each for each in results if "ErrorCode" in each)
            reason = f"{refusal['ErrorCode']}: {refusal.get('ErrorMessage', '')}"
            time.sleep(delay_s)
            delay_s *= 2
        raise ServiceError(
            f"Kinesis stream {self.output.stream} refused {len(remaining)} of {len(batch)} records "
            f"{_MAX_ATTEMPTS} times: {reason}"
        )
