"""From the URI of a queue to the queue: a folder of files, or an SQS queue."""

from __future__ import annotations

from pathlib import Path

from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.service.folder_queue import FolderQueue
from geotile.service.queue import Queue
from geotile.service.sqs import SqsQueue


def open_queue(uri: str, dead_letters: str | None = None, *, check: bool = True) -> Queue:
    """Return the queue of a URI.

    Parameters
    ----------
    uri : str
        ``sqs://`` followed by the URL or name of an SQS queue, or the path of a folder.
    dead_letters : str, optional
        SQS queue for rejected requests. By default, the queue that the redrive policy names.
    check : bool, default True
        Whether to check that an SQS queue exists and to look up its dead-letter queue.

    Raises
    ------
    ArgumentError
        If the queue does not exist, or the arguments do not fit together.
    """
    if uri.startswith("sqs://"):
        return SqsQueue(uri.removeprefix("sqs://"), dead_letters and dead_letters.removeprefix("sqs://"), check)
    if "://" in uri:
        raise ArgumentError(f"queue must be sqs://QUEUE_URL or a local folder; got {redact(uri)!r}")
    if dead_letters is not None:
        raise ArgumentError(
            f"dead_letters is supported for SQS queues only; got {redact(dead_letters)!r} with the folder {uri}. "
            "Leave it out: a folder queue moves rejected requests to failed/."
        )
    return FolderQueue(Path(uri).absolute())
