"""Where an image lies: a uri and fsspec's ``storage_options``, in GDAL's words.

GDAL reads object storage itself (`benchmarks/README.md` says why). Its settings travel inside the
`Location`, so a worker needs nothing in its own environment.
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

from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.storage.aws import Credentials, resolve

GDAL_CACHE_BYTES = 64 * 2**20  # a run reads no block again, so a larger cache earns nothing
Settings = dict[str, str]
_TIMEOUT_S = 20  # without a byte
_AUTHORITIES = "GDAL_CURL_CA_BUNDLE"  # CURL_CA_BUNDLE has no effect: rasterio's wheels set this one, to certifi's

# What GDAL is told wherever it reads over a network.
_REMOTE: Settings = {
    "GDAL_NUM_THREADS": "1",  # with more, GDAL 3.10 takes a refused range request for zeros, without an error
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": f"{64 * 2**20}",  # a region's ranges are asked for at once, not row by row
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.2",
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
}


@dataclass(frozen=True, kw_only=True)
class Location:
    """An image's place, as GDAL opens it."""

    path: str = field(repr=False)
    """GDAL's name for it; may hold a secret."""
    shown: str
    """The uri without secrets."""
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """GDAL's configuration."""
    credentials: Credentials | None = field(default=None, repr=False)
    """Of S3, as found where the image was opened."""

    @property
    def is_remote(self) -> bool:
        """Whether it is read over a network."""
        return re.search(r"/vsi(?!mem/|zip/|tar/|gzip/|subfile/|sparse/)", self.path) is not None

    @property
    def verify(self) -> bool | str:
        """Whether certificates are verified; or the file of the trusted authorities, given or this process's."""
        given, own = dict(self.settings), os.environ.get(_AUTHORITIES)
        if given.get("GDAL_HTTP_UNSAFESSL") == "YES":
            return False
        names = ["CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]
        names.insert(0 if self.path.startswith("/vsis3") else 3, "AWS_CA_BUNDLE")
        told = (own if own != certifi.where() else None, *map(os.environ.get, names))
        return given.get(_AUTHORITIES) or next((each for each in told if each and os.path.isfile(each)), True)

    @contextmanager
    def environment(self, **more: Any) -> Iterator[None]:
        """Set GDAL up to read it, for this thread."""
        secrets = self.credentials.fresh(time.time()).gdal_settings() if self.credentials else {}
        trusted = {_AUTHORITIES: self.verify} if self.is_remote and isinstance(self.verify, str) else {}
        settings = trusted | dict(self.settings) | more
        with rasterio.Env(_Secrets(secrets), GDAL_CACHEMAX=GDAL_CACHE_BYTES, **settings):
            yield

    def with_settings(self, **more: str) -> Location:
        """Return the location with more of GDAL's configuration."""
        return replace(self, settings=(*self.settings, *more.items()))


class _Secrets(Session):  # type: ignore[misc]  # rasterio is not typed
    """Hands GDAL credentials that rasterio takes from a session alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def hascreds(cls, config: Any) -> bool:
        return True

    def get_credential_options(self) -> Settings:
        return self.settings


def locate(uri: str, storage_options: Mapping[str, Any] | None = None) -> Location:
    """Translate a uri and fsspec's storage options for GDAL.

    Parameters
    ----------
    uri : str
        A path, ``s3://``, ``gs://``, ``az://``, ``https://``, or one of GDAL's own (``/vsi...``).
    storage_options : mapping, optional
        In the words of fsspec, s3fs, gcsfs and adlfs.

    Returns
    -------
    Location

    Raises
    ------
    ArgumentError
        If an option is unknown for that kind of storage.

    Examples
    --------
    >>> place = locate("s3://bucket/a.tif", {"key": "AKIA", "secret": "hidden", "endpoint_url": "http://127.0.0.1:9000"})
    >>> place
    Location(shown='s3://bucket/a.tif')
    >>> dict(place.settings)["AWS_S3_ENDPOINT"]
    '127.0.0.1:9000'
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    given = dict(storage_options or {})
    kind = _KINDS.get(scheme) or _KINDS.get(_VSI.get(uri.split("/")[1] if uri.startswith("/vsi") else "", ""))
    if kind is None:
        if given:
            raise ArgumentError(f"storage_options {sorted(given)} do not apply to {redact(uri)!r}; leave them out")
        path = uri.removeprefix(
            "file://"
        )  # absolute, as workers may run in another folder; but GDAL has names of its own
        return Location(path=os.path.abspath(path) if os.path.exists(path) else path, shown=redact(uri))
    for nested in ("client_kwargs", "config_kwargs"):
        given |= {f"{nested}.{name}": value for name, value in dict(given.pop(nested, None) or {}).items()}
    taken = {name: value for name, value in given.items() if value is not None}
    path, settings, credentials = kind(uri, taken)
    if taken:
        raise ArgumentError(
            f"storage_options {sorted(taken)} are not known for {scheme or uri.split('/')[1]}:// images"
        )
    merged = _REMOTE | settings
    return Location(path=path, shown=redact(uri), settings=tuple(merged.items()), credentials=credentials)


Translated = tuple[str, Settings, Credentials | None]


def _s3(uri: str, given: dict[str, Any]) -> Translated:
    settings = _common(given)
    client = {name: given.pop(f"client_kwargs.{name}", None) for name in ("endpoint_url", "region_name", "verify")}
    key, secret, token = (given.pop(name, None) for name in ("key", "secret", "token"))
    asked = {name: given.pop(name, None) for name in ("profile", "role_arn")}
    anonymous = bool(given.pop("anon", False))
    if (key is None) != (secret is None):
        raise ArgumentError("storage_options need both key and secret, or neither")
    if given.pop("requester_pays", False):
        settings["AWS_REQUEST_PAYER"] = "requester"
    found = resolve(
        asked["profile"], asked["role_arn"], key=key, secret=secret, token=token, anonymous=anonymous,
        region=client["region_name"],
    )  # fmt: skip
    endpoint = given.pop("endpoint_url", None) or client["endpoint_url"] or found.endpoint_url
    plain = given.pop("use_ssl", True) is False
    if endpoint:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        settings |= {"AWS_S3_ENDPOINT": parts.netloc + parts.path.rstrip("/"), "AWS_VIRTUAL_HOSTING": "FALSE"}
        plain = plain or parts.scheme == "http"
    if style := given.pop("config_kwargs.s3", None):
        settings["AWS_VIRTUAL_HOSTING"] = "TRUE" if style.get("addressing_style") == "virtual" else "FALSE"
    if plain:
        settings["AWS_HTTPS"] = "NO"
    if anonymous:
        settings["AWS_NO_SIGN_REQUEST"] = "YES"
    if region := found.region:
        settings["AWS_REGION"] = region
    settings |= _trust(client["verify"])
    path = uri if uri.startswith("/vsi") else "/vsis3/" + uri.partition("://")[2]
    return path, settings, None if anonymous else found.credentials


def _http(uri: str, given: dict[str, Any]) -> Translated:
    settings = _common(given)
    headers = dict(given.pop("headers", None) or {}) | dict(given.pop("client_kwargs.headers", None) or {})
    if headers:
        settings["GDAL_HTTP_HEADERS"] = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if (auth := given.pop("client_kwargs.auth", given.pop("auth", None))) is not None:
        user, password = (auth.login, auth.password) if hasattr(auth, "login") else auth
        settings |= {"GDAL_HTTP_AUTH": "BASIC", "GDAL_HTTP_USERPWD": f"{user}:{password}"}
    settings |= _trust(given.pop("verify", given.pop("ssl", None)))
    return uri if uri.startswith("/vsi") else f"/vsicurl/{uri}", settings, None


def _gs(uri: str, given: dict[str, Any]) -> Translated:
    settings = _common(given)
    token = given.pop("token", None)
    if token == "anon":
        settings["GS_NO_SIGN_REQUEST"] = "YES"
    elif isinstance(token, str) and token.endswith(".json"):
        settings["GOOGLE_APPLICATION_CREDENTIALS"] = token
    elif isinstance(token, str):
        settings["GDAL_HTTP_HEADERS"] = f"Authorization: Bearer {token}"
    elif token is not None:
        raise ArgumentError("storage_options token= of gs:// must be 'anon', a path to a .json key, or an access token")
    project = given.pop("project", None)
    if given.pop("requester_pays", False):
        if not project:
            raise ArgumentError("storage_options requester_pays=True of gs:// needs project=")
        settings["GS_USER_PROJECT"] = str(project)
    if endpoint := given.pop("endpoint_url", None):
        settings["CPL_GS_ENDPOINT"] = endpoint.rstrip("/") + "/"
    return uri if uri.startswith("/vsi") else "/vsigs/" + uri.partition("://")[2], settings, None


def _azure(uri: str, given: dict[str, Any]) -> Translated:
    settings = _common(given)
    names = {
        "account_name": "AZURE_STORAGE_ACCOUNT", "account_key": "AZURE_STORAGE_ACCESS_KEY",
        "sas_token": "AZURE_STORAGE_SAS_TOKEN", "connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    }  # fmt: skip
    settings |= {gdal: str(given.pop(name)).lstrip("?") for name, gdal in names.items() if name in given}
    if given.pop("anon", False):
        settings["AZURE_NO_SIGN_REQUEST"] = "YES"
    if uri.startswith("/vsi"):
        return uri, settings, None
    place = urlsplit(uri)
    if place.username:  # abfs://container@account.dfs.core.windows.net/path
        settings.setdefault("AZURE_STORAGE_ACCOUNT", str(place.hostname).partition(".")[0])
    container = place.username or place.netloc
    return f"/vsiaz/{container}{place.path}", settings, None


def _common(given: dict[str, Any]) -> Settings:
    for name in ("asynchronous", "use_listings_cache", "skip_instance_cache", "cache_regions"):
        given.pop(name, None)  # ^ of fsspec's own machinery, which does not run here
    timeout = given.pop("timeout", given.pop("config_kwargs.read_timeout", _TIMEOUT_S))
    settings = {"GDAL_HTTP_LOW_SPEED_TIME": f"{max(1, round(float(timeout)))}"}
    if (connect := given.pop("config_kwargs.connect_timeout", None)) is not None:
        settings["GDAL_HTTP_CONNECTTIMEOUT"] = f"{max(1, round(float(connect)))}"
    return settings


def _trust(verify: Any) -> Settings:
    if verify is False:
        return {"GDAL_HTTP_UNSAFESSL": "YES"}
    return {_AUTHORITIES: verify} if isinstance(verify, str) else {}


_KINDS: dict[str, Callable[[str, dict[str, Any]], Translated]] = {
    "s3": _s3, "s3a": _s3, "http": _http, "https": _http, "gs": _gs, "gcs": _gs,
    "az": _azure, "abfs": _azure, "abfss": _azure,
}  # fmt: skip
_VSI = {"vsis3": "s3", "vsicurl": "https", "vsigs": "gs", "vsiaz": "az"}
