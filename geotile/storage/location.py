"""Where an image is stored: a URI and fsspec's ``storage_options``, translated to GDAL's configuration.

GDAL reads object storage itself (`benchmarks/README.md` has the reasons). Its settings travel inside the
`Location`, so workers need no environment of their own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import certifi
import rasterio
from rasterio.session import Session

from geotile.core.quiet_logs import quiet_urls
from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.storage.aws import Credentials, resolve
from geotile.storage.azure_account import account_settings
from geotile.storage.gdal_cache import SMALL_CACHE_BYTES, gdal_cache
from geotile.storage.uris import expanded_path

Settings = dict[str, str]
_TIMEOUT_S = 20  # without receiving a byte
TOTAL_TIMEOUT_S = 300  # for a whole answer
_ATTEMPTS = 6  # of a request; the pauses between them are 4 s in all
_AUTHORITIES = "GDAL_CURL_CA_BUNDLE"  # CURL_CA_BUNDLE has no effect: rasterio's wheels set this one, to certifi's

# GDAL's configuration for everything that it reads over a network.
_REMOTE: Settings = {
    "GDAL_NUM_THREADS": "1",  # with more, GDAL 3.10 returns zeros for a refused range request, without an error
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": f"{64 * 2**20}",  # the ranges of a region are requested at once, not row by row
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": f"{_ATTEMPTS - 1}",
    "GDAL_HTTP_RETRY_DELAY": "0.1",  # each further pause is twice as long, or a little more
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
}


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where an image is stored, and how GDAL opens it."""

    path: str = field(repr=False)
    """GDAL's file name; may contain a secret."""
    display_name: str
    """The URI without secrets."""
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """GDAL's configuration."""
    container: str | None = field(default=None, repr=False)
    """GDAL's name of the file that holds the image, if the path names an image inside it."""
    credentials: Credentials | None = field(default=None, repr=False)
    """Credentials for S3 of the process that opened the image."""

    @property
    def file_path(self) -> str:
        """GDAL's name of the file; may contain a secret."""
        return self.container or self.path

    @property
    def is_remote(self) -> bool:
        """Whether the image is read over a network."""
        return re.search(r"/vsi(?!mem/|zip/|tar/|gzip/|subfile/|sparse/)", self.path) is not None

    @property
    def total_s(self) -> float:
        """Maximum time for a whole answer in seconds."""
        return float(dict(self.settings).get("GDAL_HTTP_TIMEOUT", TOTAL_TIMEOUT_S))

    @property
    def opening_s(self) -> float:
        """Maximum time for an answer while the file is opened: GDAL asks up to six times whether it exists."""
        return max(1.0, self.total_s / _ATTEMPTS)

    def for_opening(self) -> Location:
        """Return the location with the time-out of opening, which a handle of GDAL then keeps."""
        return self.with_settings(GDAL_HTTP_TIMEOUT=f"{self.opening_s:.0f}") if self.is_remote else self

    @property
    def verify(self) -> bool | str:
        """Whether certificates are verified, or the file of the authorities that the user or this process trusts."""
        settings, process_file = dict(self.settings), os.environ.get(_AUTHORITIES)
        if settings.get("GDAL_HTTP_UNSAFESSL") == "YES":
            return False
        names = ["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]
        names.insert(0 if self.path.startswith("/vsis3") else 3, "AWS_CA_BUNDLE")
        files = (process_file if process_file != certifi.where() else None, *map(os.environ.get, names))
        return settings.get(_AUTHORITIES) or next((file for file in files if file and os.path.isfile(file)), True)

    @contextmanager
    def environment(self, cache_bytes: int = SMALL_CACHE_BYTES, **more: Any) -> Iterator[None]:
        """Configure GDAL for this location, in this thread, within the block.

        Parameters
        ----------
        cache_bytes, **more
            Size of GDAL's block cache, and further configuration options.
        """
        secrets = self.credentials.fresh(time.time()).gdal_settings() if self.credentials else {}
        trusted = {_AUTHORITIES: self.verify} if self.is_remote and isinstance(self.verify, str) else {}
        settings = trusted | dict(self.settings) | more
        with quiet_urls(), gdal_cache(cache_bytes), rasterio.Env(_Secrets(secrets), **settings):
            yield

    def with_settings(self, **more: str) -> Location:
        """Return the location with further configuration options of GDAL."""
        return replace(self, settings=(*self.settings, *more.items()))


class _Secrets(Session):  # type: ignore[misc]  # rasterio is not typed
    """A session of rasterio that passes credentials to GDAL: rasterio takes them from a session only."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def hascreds(cls, config: Any) -> bool:
        return True

    def get_credential_options(self) -> Settings:
        return self.settings


def locate(uri: str, storage_options: Mapping[str, Any] | None = None) -> Location:
    """Translate a URI and fsspec's storage options to a location for GDAL.

    Parameters
    ----------
    uri : str
        A path, a URI (``s3://``, ``gs://``, ``az://``, ``https://``), or a file name of GDAL (``/vsi...``).
    storage_options : mapping, optional
        Options with the names that fsspec, s3fs, gcsfs and adlfs use.

    Returns
    -------
    Location

    Raises
    ------
    ArgumentError
        If an option is unknown for that kind of storage, or has a value that is not allowed.

    Examples
    --------
    >>> location = locate("s3://bucket/a.tif", {"key": "AKIA", "secret": "hidden", "endpoint_url": "http://127.0.0.1:9000"})
    >>> location
    Location(display_name='s3://bucket/a.tif')
    >>> dict(location.settings)["AWS_S3_ENDPOINT"]
    '127.0.0.1:9000'
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    options = dict(storage_options or {})
    of_gdal = _VSI.get(uri.split("/")[1], "") if uri.startswith("/vsi") else ""
    translate = _TRANSLATORS.get(scheme) or _TRANSLATORS.get(of_gdal)
    if translate is None:
        return _local(uri, options)
    for nested in ("client_kwargs", "config_kwargs"):
        options |= {f"{nested}.{name}": value for name, value in dict(options.pop(nested, None) or {}).items()}
    remaining = {name: value for name, value in options.items() if value is not None}
    path, settings, credentials = translate(uri, remaining)
    if remaining:
        kind = scheme or uri.split("/")[1]
        raise ArgumentError(f"unknown storage_options {sorted(remaining)} for {kind}:// images. Leave them out.")
    merged = tuple((_REMOTE | settings).items())
    return Location(path=path, display_name=redact(uri), settings=merged, credentials=credentials)


def _local(uri: str, options: Mapping[str, Any]) -> Location:
    if options:
        names = ", ".join(sorted(options))
        raise ArgumentError(f"storage_options {names} do not apply to {redact(uri)!r}. Leave them out.")
    path = expanded_path(uri)
    # Workers may run in another folder, so the path of a file becomes absolute. Other file names of GDAL stay.
    return Location(path=os.path.abspath(path) if os.path.exists(path) else path, display_name=redact(uri))


Translated = tuple[str, Settings, Credentials | None]
# A translator removes the options that it uses; those that remain are unknown.


def _s3(uri: str, options: dict[str, Any]) -> Translated:
    settings = _common(options)
    client = {name: options.pop(f"client_kwargs.{name}", None) for name in ("endpoint_url", "region_name", "verify")}
    key, secret, token = (options.pop(name, None) for name in ("key", "secret", "token"))
    if token is not None and not isinstance(token, str):
        raise ArgumentError(
            f"storage_options must hold a string as token for s3://; got a value of type {type(token).__name__}"
        )
    profile, role_arn = (options.pop(name, None) for name in ("profile", "role_arn"))
    anonymous = bool(options.pop("anon", False))
    if (key is None) != (secret is None):
        raise ArgumentError("storage_options must contain both key and secret, or neither; got one of them")
    if options.pop("requester_pays", False):
        settings["AWS_REQUEST_PAYER"] = "requester"
    config = resolve(
        profile, role_arn, key=key, secret=secret, token=token, anonymous=anonymous, region=client["region_name"]
    )
    endpoint = options.pop("endpoint_url", None) or client["endpoint_url"] or config.endpoint_url
    without_tls = options.pop("use_ssl", True) is False
    if endpoint:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        settings |= {"AWS_S3_ENDPOINT": parts.netloc + parts.path.rstrip("/"), "AWS_VIRTUAL_HOSTING": "FALSE"}
        without_tls = without_tls or parts.scheme == "http"
    if style := options.pop("config_kwargs.s3", None):
        settings["AWS_VIRTUAL_HOSTING"] = "TRUE" if style.get("addressing_style") == "virtual" else "FALSE"
    if without_tls:
        settings["AWS_HTTPS"] = "NO"
    if anonymous:
        settings["AWS_NO_SIGN_REQUEST"] = "YES"
    if region := config.region:
        settings["AWS_REGION"] = region
    settings |= _trust(client["verify"])
    path = uri if uri.startswith("/vsi") else "/vsis3/" + uri.partition("://")[2]
    return path, settings, None if anonymous else config.credentials


def _http(uri: str, options: dict[str, Any]) -> Translated:
    if re.match(r"(/vsicurl/)?https?:///", uri, re.I):  # curl reads on to find a host
        raise ArgumentError(f"an HTTP URL must have a host after two slashes; got {redact(uri)!r}")
    settings = _common(options)
    headers = dict(options.pop("headers", None) or {}) | dict(options.pop("client_kwargs.headers", None) or {})
    if headers:
        settings["GDAL_HTTP_HEADERS"] = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if (auth := options.pop("client_kwargs.auth", options.pop("auth", None))) is not None:
        user, password = (auth.login, auth.password) if hasattr(auth, "login") else auth
        settings |= {"GDAL_HTTP_AUTH": "BASIC", "GDAL_HTTP_USERPWD": f"{user}:{password}"}
    settings |= _trust(options.pop("verify", options.pop("ssl", None)))
    return uri if uri.startswith("/vsi") else f"/vsicurl/{uri}", settings, None


def _gs(uri: str, options: dict[str, Any]) -> Translated:
    settings = _common(options)
    token = options.pop("token", None)
    if token == "anon":
        settings["GS_NO_SIGN_REQUEST"] = "YES"
    elif isinstance(token, str) and token.endswith(".json"):
        settings["GOOGLE_APPLICATION_CREDENTIALS"] = token
    elif isinstance(token, str):
        settings["GDAL_HTTP_HEADERS"] = f"Authorization: Bearer {token}"
    elif token is not None:
        raise ArgumentError("storage_options token of gs:// must be 'anon', a path to a .json key, or an access token")
    project = options.pop("project", None)
    if options.pop("requester_pays", False):
        if not project:
            raise ArgumentError("storage_options requester_pays=True of gs:// needs a project to bill. Pass project=.")
        settings["GS_USER_PROJECT"] = str(project)
    if endpoint := options.pop("endpoint_url", None):
        settings["CPL_GS_ENDPOINT"] = endpoint.rstrip("/") + "/"
    return uri if uri.startswith("/vsi") else "/vsigs/" + uri.partition("://")[2], settings, None


def _azure(uri: str, options: dict[str, Any]) -> Translated:
    settings = _common(options)
    names = {
        "account_name": "AZURE_STORAGE_ACCOUNT", "account_key": "AZURE_STORAGE_ACCESS_KEY",
        "sas_token": "AZURE_STORAGE_SAS_TOKEN", "connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    }  # fmt: skip
    settings |= {gdal: str(options.pop(name)).lstrip("?") for name, gdal in names.items() if name in options}
    if options.pop("anon", False):
        settings["AZURE_NO_SIGN_REQUEST"] = "YES"
    if uri.startswith("/vsi"):
        return uri, settings, None
    parts = urlsplit(uri)
    if parts.username:  # abfs://container@account.dfs.core.windows.net/path
        settings = account_settings(str(parts.hostname).partition(".")[0], settings)
    return f"/vsiaz/{parts.username or parts.netloc}{parts.path}", settings, None


def _common(options: dict[str, Any]) -> Settings:
    for name in ("asynchronous", "use_listings_cache", "skip_instance_cache", "cache_regions"):
        options.pop(name, None)  # these control fsspec itself, which is not used here
    timeout = options.pop("timeout", options.pop("config_kwargs.read_timeout", _TIMEOUT_S))
    total = options.pop("total_timeout", TOTAL_TIMEOUT_S)
    times = {"GDAL_HTTP_LOW_SPEED_TIME": timeout, "GDAL_HTTP_TIMEOUT": total}
    settings = {name: f"{max(1, round(float(seconds)))}" for name, seconds in times.items()}
    if (connect := options.pop("config_kwargs.connect_timeout", None)) is not None:
        settings["GDAL_HTTP_CONNECTTIMEOUT"] = f"{max(1, round(float(connect)))}"
    return settings


def _trust(verify: Any) -> Settings:
    if verify is False:
        return {"GDAL_HTTP_UNSAFESSL": "YES"}
    return {_AUTHORITIES: verify} if isinstance(verify, str) else {}


_TRANSLATORS: dict[str, Callable[[str, dict[str, Any]], Translated]] = {
    "s3": _s3, "s3a": _s3, "http": _http, "https": _http, "gs": _gs, "gcs": _gs,
    "az": _azure, "abfs": _azure, "abfss": _azure,
}  # fmt: skip
_VSI = {"vsis3": "s3", "vsicurl": "https", "vsigs": "gs", "vsiaz": "az"}
