"""Where a job's detections go: S3, files, Kinesis; each alone, each once as far as it can be."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from geotile.core.redact import redact
from geotile.errors import OutputError, ServiceError
from geotile.results.dataset import METADATA
from geotile.results.frame import parquet_bytes
from geotile.results.sinks import Output
from geotile.service.features import stored_features, stored_tables
from geotile.service.records import read_json
from geotile.service.request import FileOutput, KinesisOutput, S3Output
from geotile.storage.aws import aws_session, resolve
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
CALL_BYTES, RECORD_BYTES = 5 * 2**20, 2**20  # of PutRecords, partition keys among them
_RETRIES, _PAUSE_S = 8, 0.2


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image's detections, stored."""

    folder: Folder
    """The dataset."""
    parts: Sequence[str]
    added: dict[str, Any]
    """Properties of every feature."""
    job_id: str
    image_id: str
    name: str
    """Of the image, in outputs."""

    def features(self) -> Iterator[dict[str, Any]]:
        """Yield its features."""
        return stored_features(self.folder, self.parts, self.added, self.image_id)


def deliver(found: Found, output: S3Output | FileOutput | KinesisOutput, notes: Folder, name: str) -> str:
    """Write an image's detections to one output.

    Parameters
    ----------
    found : Found
    output : S3Output, FileOutput or KinesisOutput
    notes : Folder
        Where it is noted how far a stream is.
    name : str
        Of the output, in the notes.

    Returns
    -------
    str
        Where they are.

    Raises
    ------
    OutputError, ServiceError
        If they cannot be written.
    """
    if isinstance(output, KinesisOutput):
        return _Stream(found, output, notes, name).send()
    options: Mapping[str, Any] = {}
    if isinstance(output, S3Output):
        place = "/".join(each for each in (f"s3://{output.bucket}", output.prefix.strip("/"), found.name) if each)
        options = _s3_options(output.assumed_role)
    else:
        place = os.path.join(os.path.abspath(output.path), found.name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
    sink = Output(
        f"{place}.{output.format}", overwrite=True, options=tuple(sorted(options.items())), owner=found.image_id
    )
    sink.put(lambda draft: _write_geojson(found, draft) if output.format == "geojson" else _write_parquet(found, draft))
    return redact(sink.uri)


def _s3_options(role: str | None) -> dict[str, Any]:
    """Return s3fs' options; the bucket's owner is to own what is written, as OversightML has it."""
    said: dict[str, Any] = {"s3_additional_kwargs": {"ACL": "bucket-owner-full-control"}}
    credentials = resolve(None, role).credentials if role else None
    if credentials is not None:
        said |= {"key": credentials.key, "secret": credentials.secret, "token": credentials.token}
    return said


def _write_geojson(found: Found, path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, feature in enumerate(found.features()):
            file.write(",\n" if i else "\n")
            file.write(_text(feature))
        file.write("\n]}\n")


def _write_parquet(found: Found, path: str) -> None:
    """Copy the parts into one file, a row group each; the bounds in its metadata are those of all."""
    files, place = found.folder.files()
    with files.open(f"{place}/{METADATA}", "rb") as file:
        geo = pq.read_metadata(file).metadata[b"geo"]
    writer = None
    for table in stored_tables(found.folder, found.parts):
        table["properties"] = [(each or {}) | found.added for each in table["properties"]]
        group = pq.read_table(parquet_bytes(table))
        if writer is None:
            schema = group.schema.with_metadata({**group.schema.metadata, b"geo": geo})
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(group.cast(writer.schema))
    if writer is not None:
        writer.close()


class _Stream:
    """Features as records of a Kinesis stream.

    How many were sent is noted after each call, so that a process that goes on sends none of them
    again, but for those of a call whose end nobody saw: their ids tell.
    """

    def __init__(self, found: Found, output: KinesisOutput, notes: Folder, name: str) -> None:
        self.found, self.output, self.notes, self.note = found, output, notes, f"{name}.sent.json"
        self.client = aws_session(None, output.assumed_role, None).create_client("kinesis")

    def send(self) -> str:
        """Send what was not sent yet; return the stream's name."""
        sent, too_large = (read_json(self.notes, self.note) or {}).get("sent", 0), 0
        batch: list[dict[str, Any]] = []
        size = number = 0
        for number, feature in enumerate(self.found.features(), 1):
            if number <= sent:
                continue
            record = {
                "Data": _text({"type": "FeatureCollection", "features": [feature]}).encode(),
                "PartitionKey": self.found.job_id,
            }
            weight = len(record["Data"]) + len(self.found.job_id.encode())
            if weight > RECORD_BYTES:
                too_large += 1
                _log.error("feature %s is %d bytes, more than a record holds", feature["id"], weight)
                continue
            if len(batch) == self.output.records_a_call or size + weight > CALL_BYTES:
                self._put(batch, number - 1)
                batch, size = [], 0
            batch.append(record)
            size += weight
        if batch:
            self._put(batch, number)
        if too_large:
            raise OutputError(
                f"{too_large} features are larger than the {RECORD_BYTES:,} bytes of a record of Kinesis stream "
                f"{self.output.stream}; the others were sent. Give an S3 output for them"
            )
        return f"kinesis://{self.output.stream}"

    def _put(self, batch: list[dict[str, Any]], upto: int) -> None:
        """Send records; those that the stream refuses, again."""
        from botocore.exceptions import BotoCoreError, ClientError

        left, pause, why = batch, _PAUSE_S, ""
        for _ in range(_RETRIES):
            try:
                said = self.client.put_records(StreamName=self.output.stream, Records=left)
            except (BotoCoreError, ClientError) as error:
                raise ServiceError(f"Kinesis stream {self.output.stream}: {redact(str(error))}") from None
            refused = [each for each in said["Records"] if "ErrorCode" in each]
            left = [record for record, each in zip(left, said["Records"], strict=True) if "ErrorCode" in each]
            if not left:
                self.notes.write(self.note, json.dumps({"sent": upto}).encode())
                return
            why = f"{refused[0]['ErrorCode']}: {refused[0].get('ErrorMessage', '')}"
            time.sleep(pause)
            pause *= 2
        raise ServiceError(
            f"Kinesis stream {self.output.stream} refused {len(left)} of {len(batch)} records {_RETRIES} times: {why}"
        )


def _text(feature: dict[str, Any]) -> str:
    return json.dumps(feature, allow_nan=False, ensure_ascii=False)
