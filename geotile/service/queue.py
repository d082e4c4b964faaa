"""What a queue is: requests at least once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(kw_only=True)
class Delivery:
    """A request as it came out of the queue."""

    name: str
    """Names it in the queue: a file, a message id."""
    body: bytes
    sent: float
    """Seconds since 1970 when it was put there."""
    receipt: Any = None
    receives: int = 1
    """How often the queue has given it."""
    anew: bool = False
    """Whether the queue gives nothing twice: then it was put there again."""


class Queue(Protocol):
    """Requests at least once: what is received comes back unless it is said to be done."""

    shown: str

    def receive(self, most: int, wait_s: float) -> list[Delivery]:
        """Return up to `most` requests, waiting for the first."""

    def keep(self, held: Sequence[Delivery]) -> None:
        """Say that these are still being worked on."""

    def done(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Take a request out of the queue."""

    def dead(self, delivery: Delivery, status: Mapping[str, Any]) -> None:
        """Take a request out of the queue to where failed ones are looked at."""

    def back(self, delivery: Delivery, delay_s: float) -> None:
        """Hand a request back; it comes again after a while."""

    def send(self, name: str, body: bytes) -> None:
        """Put a request into the queue."""

    def depth(self) -> int:
        """Return about how many wait, nobody working on them."""

    def left(self) -> int:
        """Return about how many there are at all, those in work among them."""
