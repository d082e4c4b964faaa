"""The contents of the page: the list of jobs, one job with its maps, pictures, and messages."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

from geotile.service.health import Health
from geotile.service.job_list import JobList
from geotile.service.page.access import Session
from geotile.service.page.found import found_in
from geotile.service.page.mapping import image_map
from geotile.service.page.picture import Pictures
from geotile.service.page.requests import Request
from geotile.service.page.responses import Response, templates
from geotile.service.page.views import GROUPS, Row, grouped, groups_of, matching, row_of, short, when, whole
from geotile.service.records import JobRecord, Records

_LIST_AGE_S = 1.0
_PICTURE_WAIT_S = 1.5
_MAX_IMAGES = 50  # in the table of a job
_DONE = {
    "cancel": "The job is being cancelled: it stops within seconds and keeps its finished regions.",
    "retry": "The request was submitted again. The job goes on from its finished regions, if it has any.",
}


class Content:
    """Contents of the page, made from the records that `geotile jobs` reads.

    Parameters
    ----------
    queue : str
        The queue, as for `geotile.serve`.
    records : Records
        The records of the service.
    health : Health
        The loops of the service.
    waiting : callable
        Function that returns the number of requests that wait in the queue, NaN if that is not known.
    has_token : bool
        Whether people can log in.
    """

    def __init__(
        self, queue: str, records: Records, health: Health, waiting: Callable[[], float], has_token: bool
    ) -> None:  # fmt: skip
        self.queue, self.records, self.list = queue, records, JobList(queue, records)
        self._health, self._waiting, self._has_token = health, waiting, has_token
        self._pictures, self._lock = Pictures(), threading.Lock()
        self._read_at, self._jobs = -math.inf, list[JobRecord]()
        self._templates = templates(
            when=when, grouped=grouped, short=short, quoted=lambda text: Markup(quote(text, safe=""))
        )

    def jobs(self, request: Request, session: Session | None) -> Response:
        """Return the list of jobs: the first ones of each kind, or a page of one kind."""
        show, text = request.query.get("show"), request.query.get("find", "")[:256].strip()
        show = show if show in GROUPS else None
        jobs = matching(self._read(), text) if text else self._read()
        groups = groups_of(jobs, self.records, self.queue, show, whole(request.query.get("page", ""), 1))
        problems = [*self._health.late(), *self._health.failing()]
        return self._page(
            "jobs.html", session, groups=groups, show=show, find=text, problems=problems, others=self._not_listed(),
            query=partial(_query, find=text),
        )  # fmt: skip

    def job(self, request: Request, session: Session | None) -> Response:
        """Return a job, with the map of one of its images."""
        job = self._find(request.query.get("id", ""))
        if job is None:
            return self.message("404 Not Found", "No such job", "The queue has no job with this id.", session)
        row = row_of(job, self.records, self.queue)
        number = whole(request.query.get("image", ""), 0)
        number = min(number, max(0, len(job.images) - 1))
        first = number // _MAX_IMAGES * _MAX_IMAGES
        images = list(enumerate(row.record.images))[first : first + _MAX_IMAGES]
        return self._page(
            "job.html", session, row=row, number=number, images=images, first=first, step=_MAX_IMAGES,
            said=_DONE.get(request.query.get("said", ""), "") if row.can_cancel else "", **self._map(row, number),
        )  # fmt: skip

    def _map(self, row: Row, number: int) -> dict[str, Any]:
        """Return what the template of a job needs to draw the map of an image."""
        if not row.record.images:
            return {"drawing": None, "picture": None, "found": None}
        found = found_in(self.records, row.record, number)
        drawing = image_map(row.record.images[number], found)
        picture = self._pictures.get(row.record, number, _PICTURE_WAIT_S) if drawing is not None else None
        return {"drawing": drawing, "picture": picture, "found": found}

    def picture(self, request: Request, session: Session | None) -> Response:
        """Return the picture of an image of a job, as JPEG."""
        job, number = self._find(request.query.get("id", "")), whole(request.query.get("image", ""), 0)
        if job is not None and number < len(job.images):
            picture = self._pictures.get(job, number, _PICTURE_WAIT_S)
            if picture.jpeg:
                return Response(body=picture.jpeg, type="image/jpeg")
        return Response(status="404 Not Found", type="text/plain")

    def login(self, request: Request, session: Session | None, is_wrong: bool = False) -> Response:
        """Return the form for the token."""
        return self._page("login.html", session, status="403 Forbidden" if is_wrong else "200 OK", is_wrong=is_wrong)

    def message(self, status: str, title: str, text: str, session: Session | None = None) -> Response:
        """Return a page with a message."""
        return self._page("message.html", session, status=status, title=title, text=text)

    def _page(self, name: str, session: Session | None, *, status: str = "200 OK", **values: Any) -> Response:
        text = self._templates.get_template(name).render(
            session=session, has_token=self._has_token, is_sqs="://" in self.queue, now=time.time(), **values
        )
        return Response(status=status, body=text.encode(errors="replace"))

    def _read(self) -> list[JobRecord]:
        """Return all jobs, as they were at most a second ago."""
        with self._lock:
            if time.monotonic() - self._read_at > _LIST_AGE_S:
                self._jobs = self.list.read()
                self._read_at = time.monotonic()
            return self._jobs

    def _find(self, job_id: str) -> JobRecord | None:
        return next((each for each in self._read() if each.job_id == job_id), None)

    def _not_listed(self) -> int:
        """Return how many requests wait in SQS, which cannot list them."""
        waiting = self._waiting() if "://" in self.queue else math.nan
        return 0 if math.isnan(waiting) else int(waiting)

    def forget_list(self) -> None:
        """Read the jobs again for the next page."""
        self._read_at = -math.inf


def _query(**values: object) -> Markup:
    """Return the values that are not empty as the query of a link."""
    return escape(urlencode({name: value for name, value in values.items() if value}))
