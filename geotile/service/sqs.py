"""A queue in SQS: a request is invisible to other processes while its job is in progress."""

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
from geotile.storage.aws import aws_session, with_deadlines

_log = logging.getLogger(__name__)
VISIBILITY_TIMEOUT_S = 60  # after this time SQS delivers the request of a dead process again
_BATCH_SIZE = 10  # the maximum number of messages that SQS accepts in one call
_MAX_DELAY_S = 43_200
_MIN_RECEIVE_COUNT = 20
_CALL_S = 100.0  # for a call; long polling takes 20 s


class SqsQueue:
    """Queue in SQS.

    Parameters
    ----------
    url : str
        URL or name of the queue.
    dead_letters : str, optional
        URL or name of the queue for rejected requests. By default, the queue that the redrive policy names.
    check : bool, default True
        Whether to check that the queue exists and to look up its dead-letter queue.

    Raises
    ------
    ArgumentError
        If the queue does not exist or access to it is denied.
    """

    def __init__(self, url: str, dead_letters: str | None = None, check: bool = True) -> None:
        self._url_or_name = url
        self.once_wait_s = 1.0  # without long polling SQS looks at some of its servers only
        self.display_name = redact(url)
        self.url = self._resolve(url)
        self.dead_letter_url: str | None = None
        if dead_letters:
            self.dead_letter_url = self._resolve(dead_letters)
        elif check:
            self.dead_letter_url = self._redrive_target()
        if self.dead_letter_url is None and check:
            _log.warning(
                "%s has no dead-letter queue: the records in the state folder are the only trace of rejected requests",
                self.display_name,
            )

    @cached_property
    def _client(self) -> Any:
        from botocore.config import Config

        region = re.match(r"https?://sqs\.([a-z0-9-]+)\.amazonaws", self._url_or_name)
        config = Config(read_timeout=70, retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=32)
        client = aws_session(None, None, region[1] if region else None).create_client("sqs", config=config)
        return with_deadlines(client, _CALL_S)

    def _resolve(self, url_or_name: str) -> str:
        """Return the URL of a queue; look it up if a name is given."""
        if "/" in url_or_name:
            return url_or_name if "://" in url_or_name else f"https://{url_or_name}"
        return str(self._call("get_queue_url", ArgumentError, QueueName=url_or_name)["QueueUrl"])

    def _redrive_target(self) -> str | None:
        """Return the URL of the dead-letter queue that the redrive policy names, None without a policy."""
        response = self._call(
            "get_queue_attributes", ArgumentError, QueueUrl=self.url, AttributeNames=["RedrivePolicy"]
        )
        policy = json.loads(response.get("Attributes", {}).get("RedrivePolicy", "{}"))
        if "deadLetterTargetArn" not in policy:
            return None
        if int(policy.get("maxReceiveCount", 1000)) < _MIN_RECEIVE_COUNT:
            _log.warning(
                "%s moves a request to its dead letters after %s deliveries (maxReceiveCount), but a job may need "
                "more. Set maxReceiveCount to about 50: the service counts the attempts itself",
                self.display_name, policy["maxReceiveCount"],
            )  # fmt: skip
        *_, account, name = policy["deadLetterTargetArn"].split(":")
        response = self._call("get_queue_url", ArgumentError, QueueName=name, QueueOwnerAWSAccountId=account)
        return str(response["QueueUrl"])

    def receive(self, max_count: int, wait_s: float) -> list[Delivery]:
        """Return up to `max_count` requests, at most 10; wait up to 20 s for the first (long polling)."""
        response = self._call(
            "receive_message", QueueUrl=self.url, MaxNumberOfMessages=min(max_count, _BATCH_SIZE),
            WaitTimeSeconds=min(round(wait_s), 20), VisibilityTimeout=VISIBILITY_TIMEOUT_S,
            AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )  # fmt: skip
        return [
            Delivery(
                name=each["MessageId"], body=each["Body"].encode(), receipt=each["ReceiptHandle"],
                sent=int(each.get("Attributes", {}).get("SentTimestamp", 0)) / 1000,
                receive_count=int(each.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for each in response.get("Messages", [])
        ]  # fmt: skip

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Keep requests invisible for another `VISIBILITY_TIMEOUT_S` seconds."""
        for batch in _batches(deliveries):
            entries = [
                {"Id": str(i), "ReceiptHandle": each.receipt, "VisibilityTimeout": VISIBILITY_TIMEOUT_S}
                for i, each in enumerate(batch)
            ]
            response = self._call("change_message_visibility_batch", QueueUrl=self.url, Entries=entries)
            # After 12 hours SQS delivers a request again. The lease on its job then keeps others from running it.
            for each in response.get("Failed", []):
                _log.warning("request %s is visible again: %s", batch[int(each["Id"])].name, each.get("Message"))

    def complete(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Delete a request."""
        self._call("delete_message", QueueUrl=self.url, ReceiptHandle=delivery.receipt)

    def reject(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Send a request and the reasons of its failure to the dead-letter queue, and delete it here."""
        if self.dead_letter_url is not None:
            reasons = json.dumps(status.get("reasons", []))[:10_000]
            self._call(
                "send_message", QueueUrl=self.dead_letter_url, MessageBody=delivery.body.decode(errors="replace"),
                MessageAttributes={
                    "reasons": {"DataType": "String", "StringValue": reasons},
                    "queue": {"DataType": "String", "StringValue": self.display_name},
                },
            )  # fmt: skip
        self.complete(delivery, status)

    def release(self, delivery: Delivery, delay_s: float) -> None:
        """Make a request visible again after `delay_s` seconds, at most 12 hours."""
        self._call(
            "change_message_visibility", QueueUrl=self.url, ReceiptHandle=delivery.receipt,
            VisibilityTimeout=min(round(delay_s), _MAX_DELAY_S),
        )  # fmt: skip

    def is_in_queue(self, delivery: Delivery) -> bool:
        """Return True: SQS does not tell."""
        return True

    def send(self, name: str, body: bytes) -> None:
        """Send a request; SQS chooses its name."""
        self._call("send_message", ArgumentError, QueueUrl=self.url, MessageBody=body.decode())

    def waiting_count(self) -> int:
        """Return the approximate number of visible requests."""
        return self._count("")

    def remaining_count(self) -> int:
        """Return the approximate number of visible, invisible and delayed requests."""
        return self._count("", "NotVisible", "Delayed")

    def _count(self, *kinds: str) -> int:
        names = [f"ApproximateNumberOfMessages{kind}" for kind in kinds]
        counts = self._call("get_queue_attributes", QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(counts[name]) for name in names)

    def _call(self, action: str, error_type: type[Exception] = ServiceError, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, action)(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise error_type(f"{action} failed for the queue {self.display_name}: {redact(str(error))}") from None


def _batches(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    for start in range(0, len(deliveries), _BATCH_SIZE):
        yield deliveries[start : start + _BATCH_SIZE]
