"""Who may do what on the page: the token, sessions, and requests that come from other sites.

::

    token ─ login ─▶ cookie: expiry.nonce.signature ─▶ form: HMAC of the nonce, so that no other site can make it
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_SESSION_S = 8 * 3600
_COOKIE = "geotile_page"


@dataclass(frozen=True)
class Session:
    """A browser whose user knows the token."""

    csrf: str
    """Text that each form of the session carries."""


@dataclass(frozen=True)
class Access:
    """Rules of access to the page.

    Parameters
    ----------
    token : str or None
        Token that lets people cancel and retry jobs. None: nobody can.
    address : str
        ``host:port`` at which the page is served.
    hosts : sequence of str
        Further names of the host in the URL of the page.
    """

    token: str | None = field(repr=False)
    address: str
    hosts: Sequence[str] = ()

    def knows_host(self, host: str) -> bool:
        """Return whether the page is meant for requests with a header ``Host``.

        A site of strangers can have its name resolved to the address of this service (DNS rebinding), and would then
        read the page in the browser of somebody inside. So names must be known; an address cannot be rebound.

        Examples
        --------
        >>> access = Access(None, "10.0.0.7:9100", ["jobs.example"])
        >>> [access.knows_host(each) for each in ("10.0.0.7:9100", "[::1]:80", "jobs.example", "evil.example:9100")]
        [True, True, True, False]
        """
        name = _name_of(host)
        if not name:
            return False
        known = {"localhost", _name_of(self.address), socket.gethostname().lower(), *map(str.lower, self.hosts)}
        return name in known or _is_ip(name)

    def is_from_page(self, host: str, origin: str | None, fetch_site: str | None) -> bool:
        """Return whether a POST comes from the page itself, by what the browser says of its origin.

        Parameters
        ----------
        host : str
            Header ``Host``.
        origin, fetch_site : str or None
            Headers ``Origin`` and ``Sec-Fetch-Site``. A browser sends at least the first with a POST.
        """
        if fetch_site is not None and fetch_site != "same-origin":
            return False
        if origin is None:
            return fetch_site is not None
        if fetch_site is None:  # the browser does not know better, since the page has no TLS
            return _netloc_of(origin) == host.lower()
        return origin != "null"

    def login(self, token: str) -> str | None:
        """Return the value of a new session's cookie; None if the token is wrong."""
        if self.token is None or not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        content = f"{int(time.time()) + _SESSION_S}.{secrets.token_urlsafe(16)}"
        return f"{content}.{self._signature('session', content)}"

    def session(self, cookies: str) -> Session | None:
        """Return the session that a header ``Cookie`` proves, None without one."""
        pairs = (each.strip().partition("=") for each in cookies.split(";"))  # other programs' cookies may be anything
        found = (self._session(value) for name, _, value in pairs if name == _COOKIE)
        return next((session for session in found if session is not None), None)

    def _session(self, cookie: str) -> Session | None:
        content, _, signature = cookie.rpartition(".")
        expiry, _, nonce = content.partition(".")
        if self.token is None or not hmac.compare_digest(
            signature.encode(), self._signature("session", content).encode()
        ):
            return None
        return Session(self._signature("form", nonce)) if float(expiry) > time.time() else None

    def _signature(self, purpose: str, content: str) -> str:
        assert self.token is not None
        return hmac.new(self.token.encode(), f"geotile page {purpose} {content}".encode(), hashlib.sha256).hexdigest()


def cookie_header(value: str, secure: bool) -> str:
    """Return a header ``Set-Cookie`` for a session; an empty value ends it."""
    age_s = _SESSION_S if value else 0
    tls = "; Secure" if secure else ""
    return f"{_COOKIE}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{tls}"


def has_csrf(session: Session, given: str) -> bool:
    """Return whether a form is one of a session, in constant time."""
    return hmac.compare_digest(session.csrf.encode(), given.encode())


def _name_of(host: str) -> str:
    """Return the host of ``host:port`` in lower case, without brackets; nothing if it is not one."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _netloc_of(origin: str) -> str | None:
    """Return ``host:port`` of an origin in lower case, None if it is not one."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
