"""Which state of a file was opened: so that one written anew under its old name is never mixed up with it.

GDAL remembers the first bytes of a remote file for the life of a process. A changed object is therefore
told by its ETag, and what GDAL remembers of it is dropped (`source.forget`), where old offsets would read
wrong pixels of it.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import requests

from geotile.storage.location import Location

UNKNOWN = "unknown"  # begins the version of a file whose state nobody tells
_TIMEOUT_S = 10.0
_signing = threading.local()
_seen: dict[str, str] = {}
_lock = threading.Lock()


class _NotWhileSigning(logging.Filter):
    """botocore logs what it signs, session tokens too."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_signing, "now", False)


logging.getLogger("botocore.auth").addFilter(_NotWhileSigning())


def version_of(location: Location) -> str:
    """Name the state of a file: a local one's time and size, a remote one's ETag; else new each time."""
    path = Path(location.path)
    if path.is_file():
        state = path.stat()
        return f"{state.st_mtime_ns}-{state.st_size}-{state.st_ino}"
    return _etag(location) or f"{UNKNOWN}-{uuid4().hex}"


def has_changed(location: Location, version: str) -> bool:
    """Tell whether this process has last seen another state of a remote file."""
    if not location.is_remote or not version.startswith("etag"):
        return False
    with _lock:
        return _seen.setdefault(location.path, version) != version


def note_change(location: Location, version: str) -> None:
    """Note the state of a remote file that is seen from now on."""
    with _lock:
        _seen[location.path] = version


def _etag(location: Location) -> str | None:
    """Ask for the ETag of an object in S3 or on a web server; None where it is not told."""
    try:
        if location.path.startswith("/vsis3/"):
            answer = _ask_s3(location)
        elif location.path.startswith("/vsicurl/http"):
            url = location.path.removeprefix("/vsicurl/")
            answer = requests.head(
                url, headers=_headers(location), timeout=_TIMEOUT_S, allow_redirects=False, verify=location.verify
            )
        else:
            return None
    except (requests.RequestException, ValueError):
        return None  # GDAL has opened it; what it is called does not matter more than that
    tag = answer.headers.get("ETag")
    return f"etag {tag} {answer.headers.get('Content-Length')}" if answer.status_code == 200 and tag else None


def _ask_s3(location: Location) -> requests.Response:
    """HEAD, signed as botocore signs."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    settings = dict(location.settings)
    bucket, _, key = location.path.removeprefix("/vsis3/").partition("/")
    region = settings.get("AWS_REGION", "us-east-1")
    host = settings.get("AWS_S3_ENDPOINT", f"s3.{region}.amazonaws.com")
    scheme = "http" if settings.get("AWS_HTTPS") == "NO" else "https"
    payer = {"x-amz-request-payer": "requester"} if "AWS_REQUEST_PAYER" in settings else {}
    asked = AWSRequest("HEAD", f"{scheme}://{host}/{bucket}/{quote(key)}", headers=payer)
    if location.credentials is not None:
        held = location.credentials.fresh(time.time())
        _signing.now = True
        try:
            S3SigV4Auth(Credentials(held.key, held.secret, held.token), "s3", region).add_auth(asked)
        finally:
            _signing.now = False
    return requests.head(
        asked.url, headers=dict(asked.headers), timeout=_TIMEOUT_S, allow_redirects=False,
        verify=location.verify,
    )  # fmt: skip


def _headers(location: Location) -> dict[str, str]:
    lines = dict(location.settings).get("GDAL_HTTP_HEADERS", "").split("\r\n")
    return dict(line.split(": ", 1) for line in lines if ": " in line)
