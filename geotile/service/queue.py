"""Interface of a queue that delivers each request at least once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_TIME_S = 253_402_300_799.0
"""End of the year 9999, in seconds since 1970."""


@dataclass(kw_only=True)
class Delivery:
    """One delivery of a request by the queue."""

    name: str
    """Identifier of the request in the queue: a file name or a message id."""
    body: bytes
    sent: float
    """Time at which the request was put into the queue, in seconds since 1970."""
    receipt: Any = None
    """Handle by which the queue recognises this delivery."""
    receive_count: int = 1
    """Number of times the queue has delivered the request."""
    error: str | None = None
    """Why the request cannot be read; None if it was."""
    is_new_submission: bool = False
    """Whether the queue delivers each request only once, so that a known name means that it was submitted again."""

    def __post_init__(self) -> None:
        """Limit the time to those that a record may have: a file can have any."""
        self.sent = min(max(0.0, self.sent), MAX_TIME_S)


class Queue(Protocol):
    """Queue that delivers a received request again unless it is completed or rejected.

    Its methods raise `ServiceError` where the queue itself fails. What is wrong with one request is in its `Delivery`.
    """

    display_name: str
    """Name of the queue without secrets."""
    once_wait_s: float
    """Seconds that `receive` should wait where an empty queue ends the service."""

    def receive(self, max_count: int, wait_s: float) -> list[Delivery]:
        """Return up to `max_count` requests; wait up to `wait_s` seconds for the first."""

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Extend the time for which the queue hides requests that are still in progress."""

    def complete(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Remove a request from the queue."""

    def reject(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Move a request from the queue to its dead letters."""

    def release(self, delivery: Delivery, delay_s: float) -> None:
        """Return a request to the queue, which delivers it again after `delay_s` seconds."""

    def is_in_queue(self, delivery: Delivery) -> bool:
        """Return whether a delivered request is still in the queue, True where the queue cannot tell."""

    def send(self, name: str, body: bytes) -> None:
        """Put a request into the queue."""

    def waiting_count(self) -> int:
        """Return the approximate number of requests that wait and are not in progress."""

    def remaining_count(self) -> int:
        """Return the approximate number of all requests, including those in progress."""
