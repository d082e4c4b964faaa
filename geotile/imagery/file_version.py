"""The version of an image file, so that geotile notices when a file is replaced under the same name.

GDAL caches the first bytes of a remote file for the life of a process. geotile therefore compares the ETag of an
object, and makes GDAL drop what it has cached (`drop_cached_header`) when the ETag has changed: old offsets would read
wrong pixels from the new file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
from requests.structures import CaseInsensitiveDict

from geotile.core.deadline import deadline_session, exchange_deadline
from geotile.core.quiet_logs import quiet_urls
from geotile.core.registry import Registry
from geotile.imagery.redirects import sent_headers
from geotile.storage.aws import Credentials, no_botocore_secrets_in_logs
from geotile.storage.location import Location

UNKNOWN = "unknown"  # prefix of the version of a file whose version cannot be determined
_TIMEOUT_S = 10.0
_IGNORED_CONFIG = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}
_ATTEMPTS = 2  # of a request for an ETag, in total
_last_seen = Registry[str, str](100 * 1024)  # GDAL caches the properties of so many remote files
_clients = Registry[tuple[Any, ...], Any](8)


def version_of(location: Location) -> str:
    """Return the version of a file.

    The version of a local file is made of its modification time, its size and its inode number; that of a remote file
    is its ETag and its size. A file whose version cannot be determined gets a new version each time.
    """
    path = Path(location.file_path)
    if path.is_file():
        state = path.stat()
        return f"{state.st_mtime_ns}-{state.st_size}-{state.st_ino}"
    return _etag(location) or f"{UNKNOWN}-{uuid4().hex}"


def has_changed(location: Location, version: str) -> bool:
    """Return whether the last version of a remote file that this process saw is another one."""
    if not location.is_remote or not version.startswith("etag"):
        return False
    return _last_seen.get(location.file_path, lambda: version) != version


def note_change(location: Location, version: str) -> None:
    """Record the version of a remote file that this process reads from now on."""
    _last_seen.put(location.file_path, version)


def _etag(location: Location) -> str | None:
    """Return the ETag and the size of a remote file, or None if its server does not report an ETag."""
    if location.file_path.startswith("/vsis3/"):
        headers = _s3_headers(location)
    elif location.file_path.startswith("/vsicurl/http"):
        headers = _http_headers(location)
    else:
        return None
    tag = headers.get("etag")
    return f"etag {tag} {headers.get('content-length')}" if tag else None


def _http_headers(location: Location) -> Mapping[str, str]:
    try:
        with quiet_urls(), exchange_deadline(_TIMEOUT_S), deadline_session() as session:
            response = session.head(
                location.file_path.removeprefix("/vsicurl/"), headers=sent_headers(location), timeout=_TIMEOUT_S,
                allow_redirects=False, verify=location.verify,
            )  # fmt: skip
    except (requests.RequestException, ValueError):
        return {}  # GDAL opens the file all the same; a version is not worth an error
    return response.headers if response.status_code == 200 else {}


def _s3_headers(location: Location) -> Mapping[str, str]:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = location.file_path.removeprefix("/vsis3/").partition("/")
    payer = {"RequestPayer": "requester"} if "AWS_REQUEST_PAYER" in dict(location.settings) else {}
    try:
        with quiet_urls(), no_botocore_secrets_in_logs():
            response = _client(location).head_object(Bucket=bucket, Key=key, **payer)
    except (BotoCoreError, ClientError, requests.RequestException, ValueError):
        return {}  # as above
    headers: Mapping[str, str] = response["ResponseMetadata"]["HTTPHeaders"]
    return headers


def _client(location: Location) -> Any:
    """Return a botocore client for the S3 API of a location; creating one takes some 0.1 s."""
    credentials = location.credentials.fresh(time.time()) if location.credentials is not None else None
    key = (location.settings, credentials, location.verify)
    return _clients.get(key, lambda: _new_client(dict(location.settings), credentials, location.verify))


def _new_client(settings: Mapping[str, str], credentials: Credentials | None, verify: bool | str) -> Any:
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    # What the location holds is enough. A worker may have other AWS settings, or broken ones.
    ignored = {name: (None, None, value, None) for name, value in _IGNORED_CONFIG.items()}
    session = botocore.session.Session(session_vars=ignored)
    if credentials is not None:
        session.set_credentials(credentials.key, credentials.secret, credentials.token)
    scheme = "http" if settings.get("AWS_HTTPS") == "NO" else "https"
    endpoint = settings.get("AWS_S3_ENDPOINT")
    style = {"TRUE": "virtual", "FALSE": "path"}.get(settings.get("AWS_VIRTUAL_HOSTING", ""), "auto")
    config = Config(
        signature_version=None if credentials else UNSIGNED, s3={"addressing_style": style},
        connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries={"total_max_attempts": _ATTEMPTS},
        ignore_configured_endpoint_urls=True,  # the location has the endpoint of the process that opened the image
    )  # fmt: skip
    client = session.create_client(
        "s3", region_name=settings.get("AWS_REGION", "us-east-1"), config=config, verify=verify,
        endpoint_url=f"{scheme}://{endpoint}" if endpoint else None, use_ssl=scheme == "https",
    )  # fmt: skip
    client.meta.events.register("before-send.s3", partial(_sent_with_deadline, verify=verify))
    return client


def _sent_with_deadline(request: Any, verify: bool | str, **more: Any) -> Any:
    """Send a request that botocore has signed: botocore's own time-out starts again with every byte of the headers."""
    from botocore.awsrequest import AWSResponse

    prepared = requests.PreparedRequest()
    prepared.method, prepared.url = request.method, request.url
    prepared.headers = CaseInsensitiveDict(request.headers.items())
    with exchange_deadline(_TIMEOUT_S), deadline_session() as http:
        how = http.merge_environment_settings(request.url, {}, True, verify, None)
        response = http.send(prepared, timeout=_TIMEOUT_S, allow_redirects=False, **how)
        response.close()
        return AWSResponse(request.url, response.status_code, response.headers, response.raw)
