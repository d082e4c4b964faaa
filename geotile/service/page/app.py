"""The page of a service, as a WSGI application.

::

    GET  ./  job  picture  login  and files             everybody who reaches the address
    POST login  logout  cancel  retry                   with the token: a session, and a form of it
"""

from __future__ import annotations

import importlib.resources
import logging
import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from geotile.errors import GeotileError, OutputError
from geotile.service.health import Health
from geotile.service.page.access import Access
from geotile.service.page.content import Content
from geotile.service.page.forms import FORMS, Forms
from geotile.service.page.requests import Request
from geotile.service.page.responses import Response
from geotile.service.records import Records

_log = logging.getLogger(__name__)
AT_ONCE = 4  # requests that read the state; the other threads of the server are left for /healthz
_FILES = {
    "page.css": ("page.css", "text/css; charset=utf-8"), "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "favicon.ico": ("icon.svg", "image/svg+xml"),  # browsers ask for this name wherever they have found none
}  # fmt: skip
UNKNOWN_HOST = (
    "The service is not known under this name of a host. Ask for it by the address of the machine, or start it with "
    "--page-host and the name.\n"
)


class Page:
    """The page of a service.

    Parameters
    ----------
    queue : str
        The queue, as for `geotile.serve`.
    records : Records
        The records of the service.
    access : Access
        Who may do what.
    health : Health
        The loops of the service.
    waiting : callable
        Function that returns the number of requests that wait in the queue, NaN if that is not known.
    """

    def __init__(
        self, *, queue: str, records: Records, access: Access, health: Health, waiting: Callable[[], float]
    ) -> None:  # fmt: skip
        self._access, self._permits = access, threading.Semaphore(AT_ONCE)
        self._content = Content(queue, records, health, waiting, has_token=access.token is not None)
        self._forms = Forms(access, self._content)
        self._pages = {
            "": self._content.jobs, "job": self._content.job, "picture": self._content.picture,
            "login": self._content.login,
        }  # fmt: skip

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        request = Request.of(environ)
        response = self._answer(request, str(environ.get("REMOTE_ADDR", "")))
        start_response(response.status, response.headers())
        return [] if request.method == "HEAD" else [response.body]

    def _answer(self, request: Request, client: str) -> Response:
        allowed = ["POST"] * (request.name in FORMS) + ["GET", "HEAD"] * (request.name in (*self._pages, *_FILES))
        if not allowed:
            return _plain("404 Not Found", "404 Not Found")
        if request.method not in allowed:
            return _plain("405 Method Not Allowed", "405 Method Not Allowed", ("Allow", ", ".join(allowed)))
        if not self._access.knows_host(request.headers.get("host", "")):
            return _plain("421 Misdirected Request", UNKNOWN_HOST)
        if request.name in _FILES:
            name, media_type = _FILES[request.name]
            return Response(body=_static(name), type=media_type)
        if not self._permits.acquire(blocking=False):
            return _plain("503 Service Unavailable", "There are too many requests; try again.", ("Retry-After", "2"))
        try:
            return self._made(request, client)
        finally:
            self._permits.release()

    def _made(self, request: Request, client: str) -> Response:
        session = self._access.session(request.headers.get("cookie", ""))
        try:
            if request.method == "POST":
                return self._forms.receive(request, session, client)
            return self._pages[request.name](request, session)
        except OutputError as error:
            return self._content.message("503 Service Unavailable", "The state cannot be used", str(error), session)
        except GeotileError as error:
            return self._content.message("409 Conflict", "That is not possible", str(error), session)
        except Exception:  # whatever it is, the page says so, and the log says why
            _log.exception("the page")
            return self._content.message("500 Internal Server Error", "The page failed", "See the log.", session)


@cache
def _static(name: str) -> bytes:
    return importlib.resources.files("geotile.service.page").joinpath("static", name).read_bytes()


def _plain(status: str, text: str, *more: tuple[str, str]) -> Response:
    return Response(status=status, body=text.encode(), type="text/plain; charset=utf-8", more=more)
