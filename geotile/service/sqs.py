"""Requests in an SQS queue, invisible to others while their jobs live."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from geotile.core.redact import redact
from geotile.errors import ArgumentError, ServiceError
from geotile.service.queue import Delivery
from geotile.storage.aws import aws_session

_log = logging.getLogger(__name__)
VISIBILITY_S = 60  # a request whose process died comes back after as long
_BATCH = 10  # SQS takes no more a call
_LONGEST_DELAY_S = 43_200
_RECEIVES = 20


class SqsQueue:
    """An SQS queue.

    Parameters
    ----------
    url : str
        Of the queue, or its name.
    dead_letters : str, optional
        Url or name of the queue for requests that fail for good; by default what the redrive policy of the queue names.
    checked : bool
        See whether it is there.

    Raises
    ------
    ArgumentError
        If there is no such queue, or it may not be read.
    """

    def __init__(self, url: str, dead_letters: str | None = None, checked: bool = True) -> None:
        self._given, self._given_dead = url, dead_letters
        self.shown = redact(url)
        self.url = self._found(url)
        self.dead_url = self._found(dead_letters) if dead_letters else self._redrive() if checked else None
        if self.dead_url is None and checked:
            _log.warning("%s has no dead-letter queue: of what fails for good the state alone tells", self.shown)

    @cached_property
    def _client(self) -> Any:
        from botocore.config import Config

        region = re.match(r"https?://sqs\.([a-z0-9-]+)\.amazonaws", self._given)
        config = Config(read_timeout=70, retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=32)
        return aws_session(None, None, region[1] if region else None).create_client("sqs", config=config)

    def _found(self, url: str) -> str:
        """Return a queue's url, by its name if that is what is given."""
        if "/" in url:
            return url if "://" in url else f"https://{url}"
        return str(self._call("get_queue_url", ArgumentError, QueueName=url)["QueueUrl"])

    def _redrive(self) -> str | None:
        said = self._call("get_queue_attributes", ArgumentError, QueueUrl=self.url, AttributeNames=["RedrivePolicy"])
        policy = json.loads(said.get("Attributes", {}).get("RedrivePolicy", "{}"))
        if "deadLetterTargetArn" not in policy:
            return None
        if int(policy.get("maxReceiveCount", 1000)) < _RECEIVES:
            _log.warning(
                "%s itself gives requests up after %s deliveries (maxReceiveCount), and a job may need more: "
                "set 50 or so; the service gives up by its own count",
                self.shown, policy["maxReceiveCount"],
            )  # fmt: skip
        *_, account, name = policy["deadLetterTargetArn"].split(":")
        found = self._call("get_queue_url", ArgumentError, QueueName=name, QueueOwnerAWSAccountId=account)
        return str(found["QueueUrl"])

    def receive(self, most: int, wait_s: float) -> list[Delivery]:
        """Return up to `most` requests, waiting up to 20 s for the first (long polling)."""
        said = self._call(
            "receive_message", QueueUrl=self.url, MaxNumberOfMessages=min(most, _BATCH),
            WaitTimeSeconds=min(round(wait_s), 20), VisibilityTimeout=VISIBILITY_S,
            AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )  # fmt: skip
        return [
            Delivery(
                name=each["MessageId"], body=each["Body"].encode(), receipt=each["ReceiptHandle"],
                sent=int(each.get("Attributes", {}).get("SentTimestamp", 0)) / 1000,
                receives=int(each.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for each in said.get("Messages", [])
        ]  # fmt: skip

    def keep(self, held: Sequence[Delivery]) -> None:
        """Keep requests invisible for another while."""
        for some in _batches(held):
            entries = [
                {"Id": str(i), "ReceiptHandle": each.receipt, "VisibilityTimeout": VISIBILITY_S}
                for i, each in enumerate(some)
            ]
            said = self._call("change_message_visibility_batch", QueueUrl=self.url, Entries=entries)
            for each in said.get("Failed", []):  # after 12 hours SQS gives it again: then it is told by its job's claim
                _log.warning("request %s is visible again: %s", some[int(each["Id"])].name, each.get("Message"))

    def done(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Delete a request."""
        self._call("delete_message", QueueUrl=self.url, ReceiptHandle=delivery.receipt)

    def dead(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Send a request to the dead-letter queue with its reasons, and delete it here."""
        if self.dead_url is not None:
            reasons = json.dumps(status.get("reasons", []))[:10_000]
            self._call(
                "send_message", QueueUrl=self.dead_url, MessageBody=delivery.body.decode(errors="replace"),
                MessageAttributes={
                    "reasons": {"DataType": "String", "StringValue": reasons},
                    "queue": {"DataType": "String", "StringValue": self.shown},
                },
            )  # fmt: skip
        self.done(delivery, status)

    def back(self, delivery: Delivery, delay_s: float) -> None:
        """Make a request visible again after a while."""
        self._call(
            "change_message_visibility", QueueUrl=self.url, ReceiptHandle=delivery.receipt,
            VisibilityTimeout=min(round(delay_s), _LONGEST_DELAY_S),
        )  # fmt: skip

    def send(self, name: str, body: bytes) -> None:
        """Send a request."""
        self._call("send_message", ArgumentError, QueueUrl=self.url, MessageBody=body.decode())

    def depth(self) -> int:
        """Return about how many wait."""
        return self._count("")

    def left(self) -> int:
        """Return about how many there are."""
        return self._count("", "NotVisible", "Delayed")

    def _count(self, *kinds: str) -> int:
        names = [f"ApproximateNumberOfMessages{kind}" for kind in kinds]
        said = self._call("get_queue_attributes", QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(said[name]) for name in names)

    def _call(self, action: str, kind: type[Exception] = ServiceError, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, action)(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise kind(f"{action} of {self.shown}: {redact(str(error))}") from None


def _batches(held: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    for start in range(0, len(held), _BATCH):
        yield held[start : start + _BATCH]
