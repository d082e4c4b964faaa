"""Requests prepared once: proxies, certificates and headers are worked out per URL, and each request adds its body.

`requests.Session.request` does all of it for each request, which takes as long as sending a tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.hooks import default_hooks, dispatch_hook
from requests.structures import CaseInsensitiveDict

from geotile.core.registry import Registry
from geotile.errors import EndpointError

_MAX_URLS = 64  # of one session


class PreparedSession:
    """A session of `requests` whose requests are prepared once for each method and URL.

    Parameters
    ----------
    session : requests.Session
        Its headers, auth, cookies and adapters are used. Redirects are not followed.
    **settings
        ``verify`` and ``cert`` of `requests.Session.request`.

    Examples
    --------
    >>> from geotile.testing import ModelServer
    >>> with ModelServer(lambda tile: ([], [])) as server:
    ...     response = PreparedSession(requests.Session(), verify=True, cert=None).send("GET", server.url, timeout=5)
    ...     response.ok
    False
    """

    def __init__(self, session: requests.Session, **settings: Any) -> None:
        self._session, self._settings = session, settings
        self._prepared = Registry[tuple[str, str], tuple[requests.PreparedRequest, BaseAdapter, Any]](_MAX_URLS)

    def send(
        self, method: str, url: str, *, timeout: Any, data: Any = None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Send a request; return the response, whose body is not read yet.

        Parameters
        ----------
        method, url : str
        timeout : float or tuple of float
        data : bytes-like, optional
            Body.
        headers : mapping of str to str, optional
            Headers of this request alone.

        Raises
        ------
        requests.RequestException, OSError
            As of `requests.Session.request`.
        """
        template, adapter, settings = self._prepared.get((method, url), lambda: self._prepare(method, url))
        request = template.copy()
        request.hooks = default_hooks()  # those of the template are not copied
        request.headers.update(headers or {})
        if data is not None:
            request.body = data
            request.headers["Content-Length"] = str(memoryview(data).nbytes)
        if self._session.cookies:
            request.prepare_cookies(self._session.cookies)
        if self._session.auth is not None:
            self._add_auth(request)
        sent = adapter.send(request, timeout=timeout, **settings)
        response: requests.Response = dispatch_hook(  # type: ignore[no-untyped-call]
            "response", request.hooks, sent, timeout=timeout, **settings
        )  # an auth may answer a challenge
        for each in (*response.history, response):
            extract_cookies_to_jar(self._session.cookies, each.request, each.raw)  # type: ignore[no-untyped-call]
        return response

    def _add_auth(self, request: requests.PreparedRequest) -> None:
        """Let the auth add to a request: a signature depends on the body and the time."""
        try:
            request.prepare_auth(self._session.auth)
        except Exception as error:  # a user's auth can raise anything; no request has been sent
            failed = EndpointError(f"no request can be sent, since the auth raised {type(error).__name__}: {error}")
            failed.local = True
            raise failed from error

    def _prepare(self, method: str, url: str) -> tuple[requests.PreparedRequest, BaseAdapter, Any]:
        request = requests.PreparedRequest()  # without cookies, which change, and credentials from ~/.netrc
        request.prepare(method, url, headers=CaseInsensitiveDict(self._session.headers), auth=_add_nothing)
        own = self._settings
        settings = self._session.merge_environment_settings(request.url, {}, True, own["verify"], own["cert"])
        return request, self._session.get_adapter(str(request.url)), settings


def _add_nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave a request as it is: without any auth, requests would take a user name from the URL."""
    return request
