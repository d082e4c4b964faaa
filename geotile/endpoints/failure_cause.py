"""Why a request received no response, found from exception types and error codes.

`requests` and urllib3 wrap the original exception several times. `failure_cause` goes through the whole chain and
takes the first rule of `_RULES` that matches one of its exceptions. The text never contains the URL, which may hold
a secret.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import certifi
import requests
import urllib3


class Cause(NamedTuple):
    """Why a request received no response."""

    text: str
    retryable: bool
    local: bool = False
    """Whether the cause lies in this process."""


# X509_V_ERR_* of OpenSSL's x509_vfy.h; Python's ssl module has no names for them.
_CERTIFICATE_HAS_EXPIRED = 10
_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH = 62, 64

# Alerts that a server sends about the client's certificate (ssl.SSLError.reason).
_CLIENT_CERTIFICATE_MISSING = frozenset({"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_NO_CERTIFICATE"})
_CLIENT_CERTIFICATE_REJECTED = frozenset({
    "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED", "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "TLSV1_CERTIFICATE_UNOBTAINABLE",
})  # fmt: skip

_UNKNOWN_HOST_CODES = frozenset(
    code for name in ("EAI_NONAME", "EAI_NODATA") if (code := getattr(socket, name, None)) is not None
)
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})


def failure_cause(error: BaseException) -> Cause:
    """Return why a request failed, and whether a later attempt may succeed.

    Parameters
    ----------
    error : BaseException
        What `requests` or urllib3 raised.

    Examples
    --------
    >>> failure_cause(ConnectionRefusedError(111, "refused"))
    Cause(text='connection refused (ConnectionRefusedError)', retryable=True, local=False)
    """
    chain = list(_chain(error))
    for kinds, explain in _RULES:
        for each in chain:
            if isinstance(each, kinds) and (cause := explain(each, chain)) is not None:
                return cause._replace(text=f"{cause.text} ({type(error).__name__})")
    return Cause(type(error).__name__, True)


def is_timeout(error: BaseException) -> bool:
    """Return whether a request failed because something took too long.

    Examples
    --------
    >>> is_timeout(requests.ConnectionError(urllib3.exceptions.ProtocolError("aborted", TimeoutError("timed out"))))
    True
    """
    return any(isinstance(each, _TIMEOUTS) for each in _chain(error))


def is_unsent(error: BaseException) -> bool:
    """Return whether a request failed before there was a connection.

    Examples
    --------
    >>> is_unsent(ConnectionRefusedError(111, "refused")), is_unsent(ConnectionResetError(104, "reset"))
    (True, False)
    """
    return any(isinstance(each, _UNSENT) for each in _chain(error))


def missing_certificate_file(verify: bool | str, cert: str | tuple[str, str] | None) -> str | None:
    """Return a description of the first configured certificate file that does not exist, or None.

    `requests` reports such a file by a plain OSError without a code.
    """
    files = [("cert", path) for path in ([cert] if isinstance(cert, str) else cert or ())]
    if isinstance(verify, str):
        files.append(("verify", verify))
    elif verify:
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        files += [(name, path) for name in names if (path := os.environ.get(name))][:1]
        files.append(("certifi", certifi.where()))
    return next((f"{path} ({option})" for option, path in files if not os.path.exists(path)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all exceptions that it wraps.

    `__context__` is left out: it may lead to an unrelated error that was being handled when the request started, for
    example to the failure of an earlier request.
    """
    seen, queue = set(), [error]
    while queue:
        each = queue.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        wrapped = [each.__cause__, getattr(each, "reason", None), *each.args]
        queue += [one for one in wrapped if isinstance(one, BaseException)]


def _through_proxy(chain: list[BaseException]) -> bool:
    return any(isinstance(each, _PROXY_ERRORS) for each in chain)


def _out_of_descriptors(error: Any, chain: list[BaseException]) -> Cause | None:
    if isinstance(error, ssl.SSLError | socket.gaierror) or error.errno not in _OUT_OF_DESCRIPTORS:
        return None  # the errno of these two types is a code of OpenSSL or of the resolver
    return Cause("this process has no free file descriptors; raise its limit (ulimit -n)", True, local=True)


def _name_resolution(error: Any, chain: list[BaseException]) -> Cause:
    name = "the proxy's host name" if _through_proxy(chain) else "the host name"
    if error.errno == socket.EAI_AGAIN:
        return Cause(f"{name} cannot be resolved at the moment", True)
    if error.errno in _UNKNOWN_HOST_CODES:
        return Cause(f"{name} is unknown", False)
    return Cause(f"{name} cannot be resolved", False)


def _server_certificate(error: Any, chain: list[BaseException]) -> Cause:
    code = getattr(error, "verify_code", None)
    if code == _CERTIFICATE_HAS_EXPIRED:
        return Cause("the server's TLS certificate has expired", False)
    if code in (_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH):
        return Cause("the server's TLS certificate is for another host", False)
    return Cause("the server's TLS certificate is not trusted; pass the file of its authority as verify", False)


def _tls(error: Any, chain: list[BaseException]) -> Cause | None:
    if error.reason in _CLIENT_CERTIFICATE_MISSING:
        return Cause("the server requires a client certificate; pass it as cert", False)
    if error.reason in _CLIENT_CERTIFICATE_REJECTED:
        return Cause(f"the server rejected the client certificate with {error.reason}; check cert", False)
    if error.reason == "NO_CERTIFICATE_OR_CRL_FOUND":
        return Cause("a certificate file contains no certificate; check verify", False)
    if error.reason == "WRONG_VERSION_NUMBER":
        return Cause("the server does not use TLS on this port; use http:// or another port", False)
    return None


def _other_tls(error: Any, chain: list[BaseException]) -> Cause:
    codes = [each.reason for each in chain if isinstance(each, ssl.SSLError) and each.reason]
    code = f" with {codes[0]}" if codes else ""
    return Cause(f"TLS failed{code}; the server may require a client certificate (cert)", True)


def _no_route(error: Any, chain: list[BaseException]) -> Cause | None:
    return Cause("there is no route to the host", True) if error.errno in _NO_ROUTE else None


def _always(text: str, retryable: bool) -> Callable[[Any, list[BaseException]], Cause]:
    return lambda error, chain: Cause(text, retryable)


_TIMEOUTS = (TimeoutError, requests.Timeout, urllib3.exceptions.ReadTimeoutError)
_UNSENT = (
    ConnectionRefusedError, socket.gaierror, requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.NewConnectionError,
)  # fmt: skip
_PROXY_ERRORS = (requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL, urllib3.exceptions.ProxyError)
_TLS_ERRORS = (requests.exceptions.SSLError, urllib3.exceptions.SSLError, ssl.SSLError)
_INVALID_REQUEST = (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader)

# The first matching rule wins. RemoteDisconnected is a ConnectionResetError, so it comes before that.
_RULES: tuple[tuple[Any, Callable[[Any, list[BaseException]], Cause | None]], ...] = (
    (OSError, _out_of_descriptors),
    (socket.gaierror, _name_resolution),
    (ssl.SSLCertVerificationError, _server_certificate),
    (ssl.SSLError, _tls),
    (_PROXY_ERRORS, _always("the proxy cannot be reached, or it rejected the request", True)),
    (ConnectionRefusedError, _always("connection refused", True)),
    (http.client.RemoteDisconnected, _always("the server closed the connection without a response", True)),
    ((ConnectionResetError, ConnectionAbortedError, BrokenPipeError), _always("connection reset", True)),
    (http.client.IncompleteRead, _always("the response broke off", True)),
    (_TLS_ERRORS, _other_tls),
    (OSError, _no_route),
    (_INVALID_REQUEST, _always("the URL or a header is not valid", False)),
    (http.client.HTTPException, _always("the response is not valid HTTP", True)),
    (urllib3.exceptions.ProtocolError, _always("the connection broke off", True)),
)
