"""The forms of the page: log in, log out, cancel and retry."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import urlencode

from geotile.core.redact import redact
from geotile.service.page.access import Access, Session, cookie_header, has_csrf
from geotile.service.page.content import Content
from geotile.service.page.requests import Request
from geotile.service.page.responses import Response, redirect
from geotile.service.retrying import retry_in
from geotile.service.submit import cancel_in

_log = logging.getLogger(__name__)
FORMS = ("login", "logout", "cancel", "retry")


@dataclass(frozen=True)
class Forms:
    """Receiver of the forms.

    Parameters
    ----------
    access : Access
        Who may do what.
    content : Content
        The contents of the page, for its jobs and for messages.
    """

    access: Access
    content: Content

    def receive(self, request: Request, session: Session | None, client: str) -> Response:
        """Do what a form asks for, if it comes from the page and, but for the login, from a session.

        Parameters
        ----------
        request : Request
            A POST.
        session : Session or None
            Its session.
        client : str
            Address of the client, for the log.

        Raises
        ------
        GeotileError
            If a job cannot be cancelled or submitted again.
        """
        headers = request.headers
        if not self.access.is_from_page(headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")):
            return self._refused("The request does not come from this page.", session)
        if request.name == "login":
            return self._login(request, client)
        if session is None:
            return self._refused("Log in with the token of the service first.", session)
        if not has_csrf(session, request.form.get("csrf", "")):
            return self._refused("The form is not one of this session. Reload its page and try again.", session)
        if request.name == "logout":
            return redirect("./", ("Set-Cookie", cookie_header("", _is_secure(request))))
        return self._act(request, client)

    def _login(self, request: Request, client: str) -> Response:
        cookie = self.access.login(request.form.get("token", ""))
        if cookie is None:
            _log.warning("the page: a wrong token from %s", client)
            return self.content.login(request, None, is_wrong=True)
        return redirect("./", ("Set-Cookie", cookie_header(cookie, _is_secure(request))))

    def _act(self, request: Request, client: str) -> Response:
        content, job_id = self.content, request.query.get("id", "")
        if request.name == "cancel":
            cancel_in(content.list, content.records, job_id)
        else:
            retry_in(content.list, content.records, content.queue, job_id)
        _log.info("the page: %s from %s", request.name, client, extra={"job_id": redact(job_id)})
        content.forget_list()
        return redirect("job?" + urlencode({"id": job_id, "said": request.name}))

    def _refused(self, reason: str, session: Session | None) -> Response:
        return self.content.message("403 Forbidden", "That is not allowed", reason, session)


def _is_secure(request: Request) -> bool:
    """Return whether the browser uses TLS, which a proxy in front of the service ends."""
    return request.headers.get("origin", "").startswith("https://")
