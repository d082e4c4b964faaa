"""Status notifications in OversightML's format: messages to an SNS topic, and lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from geotile.core.redact import redact
from geotile.storage.aws import aws_session, with_deadlines

_log = logging.getLogger(__name__)
_SNS_S = 60.0  # for a call
_MAX_FAILED_TILES = 100  # an SNS message holds up to 256 kB; the record has the number of all failed tiles


class Notifier:
    """Sender of status notifications.

    Parameters
    ----------
    topic : str, optional
        ``sns://`` followed by the ARN of a topic. By default, nothing is published.
    region_topic : str, optional
        The same for the statuses of regions. They are not published to `topic`, where OversightML's clients would take
        them for those of the image. By default, they are not published.
    stream : file, optional
        Text file that receives one line of JSON per status. By default, standard output.
    """

    def __init__(
        self, topic: str | None = None, region_topic: str | None = None, stream: IO[str] | None = None
    ) -> None:  # fmt: skip
        self._topic, self._region_topic = _Topic.at(topic), _Topic.at(region_topic)
        self._stream, self._lock = stream, threading.Lock()

    def notify(
        self, status: str, job_id: str, message: str, *, image_id: str | None = None, region_id: str | None = None,
        duration_s: float | None = None, failed_tiles: Sequence[Sequence[int]] = (), publish: bool = True,
        progress: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Send the status of a job, an image or a region.

        If the notification cannot be published, the error is logged and the job continues.

        Parameters
        ----------
        status : {"STARTED", "IN_PROGRESS", "SUCCESS", "PARTIAL", "FAILED"}
            The new status.
        job_id : str
            Id of the job.
        message : str
            Text for people, without secrets.
        image_id, region_id : str, optional
            Id of the image and of the region, if the status is not that of the whole job.
        duration_s : float, optional
            Processing time in seconds.
        failed_tiles : sequence of (y0, y1, x0, x1)
            Windows of failed tiles, in image pixels. Only the first 100 are sent.
        publish : bool
            Whether the status is published, and not only written as a line.
        progress : mapping, optional
            Figures for the line.
        """
        attributes: dict[str, str] = {"status": status, "job_id": job_id}
        if image_id is not None:
            attributes["image_id"] = image_id
            if region_id is None:
                attributes["image_status"] = status
        if region_id is not None:
            attributes["region_id"] = region_id
        if duration_s is not None:
            attributes["processing_duration"] = str(int(duration_s))  # whole seconds, as OversightML writes it
        if failed_tiles:
            attributes["failed_tiles"] = _in_osml_format(failed_tiles)
        self._write(attributes if progress is None else attributes | {"progress": progress}, message)
        topic = self._topic if region_id is None else self._region_topic
        if topic is not None and publish:
            topic.publish(attributes, f"StatusMonitor update: {status} {job_id}: {message}")

    def _write(self, attributes: Mapping[str, Any], message: str) -> None:
        line = json.dumps({"time": time.time(), **attributes, "message": message}) + "\n"
        try:
            with self._lock:
                stream = self._stream or sys.stdout
                stream.write(line)
                stream.flush()
        except (OSError, ValueError) as error:  # its reader has gone, or a disk is full
            _log.error("a status was not written to standard output: %s", error)


@dataclass(frozen=True)
class _Topic:
    """An SNS topic."""

    arn: str
    client: Any

    @classmethod
    def at(cls, topic: str | None) -> _Topic | None:
        """Return the topic that ``sns://`` and its ARN name, None without one."""
        if topic is None:
            return None
        arn = topic.removeprefix("sns://")
        return cls(arn, with_deadlines(aws_session(None, None, arn.split(":")[3]).create_client("sns"), _SNS_S))

    def publish(self, attributes: dict[str, str], message: str) -> None:
        """Publish a status; log what is wrong if that fails."""
        from botocore.exceptions import BotoCoreError, ClientError

        typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        try:
            self.client.publish(TopicArn=self.arn, Message=message[:1000], MessageAttributes=typed)
        except (BotoCoreError, ClientError) as error:
            _log.error(
                "status %s of job %s was not published: %s",
                attributes["status"], attributes["job_id"], redact(str(error)),
            )  # fmt: skip


def _in_osml_format(tiles: Sequence[Sequence[int]]) -> str:
    """Return tiles in OversightML's format: upper-left corner (row, column), then width and height."""
    return str([
        {str(i): [[y0, x0], [x1 - x0, y1 - y0]]} for i, (y0, y1, x0, x1) in enumerate(tiles[:_MAX_FAILED_TILES], 1)
    ])  # fmt: skip
