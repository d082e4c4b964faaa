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

from geotile.core.registry import Registry

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
            request.prepare_auth(self._session.auth)  # a signature depends on the body and the time
        sent = adapter.send(request, timeout=timeout, **settings)
        response: requests.Response = dispatch_hook(  # type: ignore[no-untyped-call]
            "response", request.hooks, sent, timeout=timeout, **settings
        )  # an auth may answer a challenge
        extract_cookies_to_jar(self._session.cookies, request, response.raw)  # type: ignore[no-untyped-call]
        return response

    def _prepare(self, method: str, url: str) -> tuple[requests.PreparedRequest, BaseAdapter, Any]:
        request = self._session.prepare_request(requests.Request(method, url, auth=_add_nothing))
        own = self._settings
        settings = self._session.merge_environment_settings(request.url, {}, True, own["verify"], own["cert"])
        return request, self._session.get_adapter(str(request.url)), settings


def _add_nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave a request as it is: without any auth, requests would take credentials from ~/.netrc."""
    return request
