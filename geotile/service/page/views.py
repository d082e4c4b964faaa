"""What the templates show of jobs: groups of rows, pages of a long list, and the images of one job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

from markupsafe import escape

from geotile.core.redact import redact
from geotile.running.progress import clock
from geotile.service.job_progress import JobFigures, add_progress, job_figures, last_reason, tile_reasons
from geotile.service.records import ENDED, FINISHED, GIVEN_UP, ImageRecord, JobRecord, Records
from geotile.service.retrying import retry_obstacle

GROUPS = {
    "running": ("Running", ("IN_PROGRESS",)),
    "waiting": ("Waiting", ("QUEUED",)),
    "failed": ("Failed and cancelled", GIVEN_UP),
    "done": ("Done", ("SUCCESS", "PARTIAL")),
}
"""Title and statuses of each group of jobs, by its name in URLs."""
_ROWS, _FIRST_ROWS = 50, 10  # of a page, and of a group on the first page
_MAX_REASON, _MAX_NAME = 300, 2000
_WORDS = {
    "QUEUED": "waiting", "IN_PROGRESS": "running", "SUCCESS": "done", "PARTIAL": "done, some tiles failed",
    "FAILED": "failed", "CANCELLED": "cancelled",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A job as a row of a table and as the head of its own page."""

    record: JobRecord
    """The record of the job."""
    figures: JobFigures
    """Its figures."""
    state: str
    """Its status in words."""
    reason: str
    """Why it or its tiles failed, or what it waits for, shortened."""
    can_cancel: bool
    """Whether it can be cancelled."""
    retry_obstacle: str | None
    """Why it cannot be retried; None if it can."""

    @property
    def name(self) -> str:
        """Name of the job as the page shows it."""
        return _shown_name(self.record)

    def figures_of(self, image: ImageRecord) -> JobFigures:
        """Return the figures of one of its images."""
        return job_figures(self.record, [image])

    @property
    def tile_reasons(self) -> Sequence[tuple[str, int]]:
        """The most frequent reasons of failed tiles, and the number of tiles of each."""
        return tile_reasons(self.record)

    @property
    def has_ended(self) -> bool:
        """Whether the job has failed or was cancelled, so that people may want to retry it."""
        return self.record.status in (*GIVEN_UP, "PARTIAL")

    @property
    def has_results(self) -> bool:
        """Whether an image of the job is done."""
        return any(each.status in FINISHED for each in self.record.images)

    @property
    def percent(self) -> int | None:
        """Share of the tiles that are done; None if the job has no progress."""
        done, tiles = self.figures.done, self.figures.tiles
        return None if done is None or not tiles else min(100, 100 * done // tiles)

    @property
    def left(self) -> str:
        """Estimated time until the image that runs is done; nothing if that is not known."""
        return "" if self.figures.left_s is None else clock(self.figures.left_s)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some of the jobs with one kind of status."""

    key: str
    """Name of the group in URLs."""
    title: str
    """Title."""
    total: int
    """Number of all its jobs."""
    rows: Sequence[Row]
    """The jobs that this page shows."""
    page: int = 1
    """Number of this page, from 1."""
    pages: int = 1
    """Number of pages."""

    @property
    def time_title(self) -> str:
        """Title of the column of times."""
        return {"waiting": "Queued", "running": "Started"}.get(self.key, "Ended")

    @property
    def has_reasons(self) -> bool:
        """Whether a row says why a job or its tiles failed, or what it waits for."""
        return any(row.reason for row in self.rows)


def groups_of(
    jobs: Sequence[JobRecord], records: Records, queue: str, show: str | None, page: int
) -> list[Group]:  # fmt: skip
    """Return the first rows of all groups of jobs, or one page of one group.

    Parameters
    ----------
    jobs : sequence of JobRecord
        All jobs, without progress. They are not changed.
    records : Records
        The records of the service.
    queue : str
        The queue, as for `geotile.serve`.
    show : str or None
        Name of a group; None for all.
    page : int
        Number of the page of that group, from 1.
    """
    found = []
    for key in GROUPS if show is None else [show]:
        title, statuses = GROUPS[key]
        members = _sorted([each for each in jobs if each.status in statuses], key)
        size = _FIRST_ROWS if show is None else _ROWS
        pages = max(1, -(-len(members) // _ROWS))
        number = min(max(1, page), pages) if show is not None else 1
        rows = [row_of(each, records, queue) for each in members[(number - 1) * size : number * size]]
        found.append(Group(key=key, title=title, total=len(members), rows=rows, page=number, pages=pages))
    return found


def row_of(job: JobRecord, records: Records, queue: str) -> Row:
    """Return a job with its progress.

    Parameters
    ----------
    job : JobRecord
        The record of the job, which is not changed.
    records : Records
        The records of the service.
    queue : str
        The queue, as for `geotile.serve`.
    """
    record = job.model_copy(deep=True)
    add_progress(records, record)
    reason = last_reason(record)
    state = record.waiting_for.partition(": ")[0] or _WORDS[record.status]
    return Row(
        record=record, figures=job_figures(record), state=state,
        reason=reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}…",
        can_cancel=record.status not in ENDED, retry_obstacle=retry_obstacle(record, queue),
    )  # fmt: skip


def matching(jobs: Sequence[JobRecord], text: str) -> Sequence[JobRecord]:
    """Return the jobs whose id or name contains a text, as the page shows them."""
    wanted = text.casefold()
    return [each for each in jobs if wanted in f"{redact(each.job_id)}\n{_shown_name(each)}".casefold()]


def _shown_name(job: JobRecord) -> str:
    """Return the name of a job without secrets; only its length where it is longer than any name is."""
    name = job.job_name
    return redact(name) if len(name) <= _MAX_NAME else f"a name of {len(name):,} characters"


def when(seconds: float | None) -> str:
    """Return a time as text, in UTC.

    >>> when(0.0), when(None)
    ('1970-01-01 00:00:00', '')
    """
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def grouped(number: int | None) -> str:
    """Return a whole number with commas; nothing without one.

    >>> grouped(1234567), grouped(None)
    ('1,234,567', '')
    """
    return "" if number is None else f"{number:,}"


def short(text: str, most: int) -> str:
    """Return a text that has at most `most` bytes as HTML; the end of a longer one is left out.

    >>> short("a & b", 9), short("a & b & c", 11)
    ('a & b', 'a & …')
    """
    sizes = accumulate(len(escape(each).encode(errors="replace")) for each in text[: most + 1])
    ends = list(takewhile(lambda size: size <= most, sizes))
    if len(ends) == len(text):
        return text
    return text[: sum(end <= most - len("…".encode()) for end in ends)] + "…"


def whole(text: str, default: int) -> int:
    """Return a number of a query, or a default where it is none.

    >>> whole("12", 0), whole("-3", 0), whole("1e9", 0)
    (12, 0, 0)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else default


def _sorted(jobs: Sequence[JobRecord], key: str) -> Sequence[JobRecord]:
    """Return waiting jobs in the order of submission, others with the latest first."""
    if key == "waiting":
        return jobs
    return sorted(jobs, key=lambda each: each.finished or each.started or each.queued, reverse=True)
