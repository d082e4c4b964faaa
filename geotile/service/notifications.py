"""A job's statuses, as OversightML announces them: to an SNS topic, and as lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from geotile.core.redact import redact
from geotile.storage.aws import aws_session

_log = logging.getLogger(__name__)
_FAILED_TILES = 100  # SNS takes 256 kB; the record says how many there were


class Announcer:
    """Says how jobs are.

    Parameters
    ----------
    topic : str, optional
        ``sns://`` and the ARN of a topic.
    lines : file, optional
        Where lines of JSON go; by default standard output.
    """

    def __init__(self, topic: str | None = None, lines: IO[str] | None = None) -> None:
        self._arn = None if topic is None else topic.removeprefix("sns://")
        self._lines, self._lock = lines, threading.Lock()
        self._client: Any = None
        if self._arn is not None:
            region = self._arn.split(":")[3] if self._arn.count(":") >= 5 else None
            self._client = aws_session(None, None, region or None).create_client("sns")

    def say(
        self, status: str, job_id: str, message: str, *, image_id: str | None = None, region_id: str | None = None,
        seconds: float | None = None, failed_tiles: Sequence[Sequence[int]] = (),
    ) -> None:  # fmt: skip
        """Announce a status.

        One that cannot be announced is logged, and does not fail its job.

        Parameters
        ----------
        status : {"STARTED", "IN_PROGRESS", "SUCCESS", "PARTIAL", "FAILED"}
        job_id, image_id, region_id : str
            Of what it is the status.
        message : str
            For people; no secrets.
        seconds : float, optional
            That it has taken.
        failed_tiles : sequence of (y0, y1, x0, x1)
            In image pixels; the first hundred are announced.
        """
        said: dict[str, str] = {"status": status, "job_id": job_id}
        if image_id is not None:
            said["image_id"] = image_id
            if region_id is None:
                said["image_status"] = status
        if region_id is not None:
            said["region_id"] = region_id
        if seconds is not None:
            said["processing_duration"] = str(round(1000 * seconds))
        if failed_tiles:
            said["failed_tiles"] = _as_osml_says(failed_tiles)
        self._write(said, message)
        if self._client is not None:
            self._publish(said, f"StatusMonitor update: {status} {job_id}: {message}")

    def _write(self, said: dict[str, str], message: str) -> None:
        with self._lock:
            lines = self._lines or sys.stdout
            lines.write(json.dumps({"time": time.time(), **said, "message": message}) + "\n")
            lines.flush()

    def _publish(self, said: dict[str, str], message: str) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in said.items()}
        try:
            self._client.publish(TopicArn=self._arn, Message=message[:1000], MessageAttributes=attributes)
        except (BotoCoreError, ClientError) as error:
            _log.error("status %s of job %s was not announced: %s", said["status"], said["job_id"], redact(str(error)))


def _as_osml_says(tiles: Sequence[Sequence[int]]) -> str:
    """Return tiles as OversightML does: upper-left corner (row, column), then width and height."""
    return str([
        {str(i): [[y0, x0], [x1 - x0, y1 - y0]]} for i, (y0, y1, x0, x1) in enumerate(tiles[:_FAILED_TILES], 1)
    ])  # fmt: skip
