"""AWS credentials: botocore finds them, and they travel to the workers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from geotile.core.deadline import deadline_pools, exchange_deadline
from geotile.core.quiet_logs import quiet_urls
from geotile.core.registry import Registry
from geotile.errors import ArgumentError

_MARGIN_S = 300.0  # temporary credentials are renewed this long before they expire
_STS_S = 60.0
Origin = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The keys that sign requests to S3. They pickle, and their repr shows nothing."""

    key: str = field(repr=False)
    """Access key id."""
    secret: str = field(repr=False)
    """Secret access key."""
    token: str | None = field(default=None, repr=False)
    """Session token of temporary credentials."""
    expires: float | None = field(default=None, repr=False)
    """Time of expiry in seconds since the epoch, or None if they do not expire."""
    origin: Origin = field(default=(), repr=False)
    """Arguments of `resolve` that find credentials of the same kind again."""

    def gdal_settings(self) -> dict[str, str]:
        """Return the credentials as GDAL's configuration options."""
        settings = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        return settings | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})

    def fresh(self, now: float) -> Credentials:
        """Return these credentials, or, if they are about to expire, those that this process finds instead.

        If this process finds none, these are returned: S3 will report that they have expired.
        """
        if self._valid(now):
            return self
        try:
            renewed = _renewed.get(self.origin, self._resolve_again)
            if not renewed._valid(now):
                _renewed.discard(self.origin, renewed)
                renewed = _renewed.get(self.origin, self._resolve_again)
        except ArgumentError:
            return self
        return renewed

    def _valid(self, now: float) -> bool:
        return self.expires is None or now < self.expires - _MARGIN_S

    def _resolve_again(self) -> Credentials:
        renewed = resolve(**dict(self.origin)).credentials  # type: ignore[arg-type]  # its own arguments
        if renewed is None:
            raise ArgumentError("this process finds no AWS credentials")
        return renewed


_renewed = Registry[Origin, Credentials](16)


@dataclass(frozen=True, kw_only=True)
class AwsConfig:
    """What the user's AWS configuration contains."""

    credentials: Credentials | None
    """Credentials, or None if there are none or access is anonymous."""
    region: str | None
    """Name of the region."""
    endpoint_url: str | None
    """URL of an S3 API other than that of AWS."""


def resolve(
    profile: str | None,
    role_arn: str | None,
    *,
    key: str | None = None,
    secret: str | None = None,
    token: str | None = None,
    anonymous: bool = False,
    region: str | None = None,
) -> AwsConfig:
    """Find the region, the endpoint and the credentials.

    The credentials are those passed as arguments, otherwise those of a profile or of the environment; or those of the
    role that these assume.

    Raises
    ------
    ArgumentError
        If the profile does not exist, or the role cannot be assumed.
    """
    import botocore.exceptions

    keys = None if key is None else (key, secret, token)
    try:
        with quiet_urls(), no_botocore_secrets_in_logs():  # the response that holds a role's credentials is logged too
            session = aws_session(profile, None if anonymous else role_arn, region, keys)
            region = session.get_config_variable("region")
            source = None if anonymous else session.get_credentials()
            frozen = source.get_frozen_credentials() if source is not None else None
            endpoint_url = _endpoint_url(session)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise _no_credentials(profile, role_arn, error) from None
    if frozen is None:
        return AwsConfig(credentials=None, region=region, endpoint_url=endpoint_url)
    expires = getattr(source, "_expiry_time", None)  # private: tests/test_private_names.py
    origin = {"profile": profile, "role_arn": role_arn, "key": key, "secret": secret, "token": token, "region": region}
    credentials = Credentials(
        key=frozen.access_key, secret=frozen.secret_key, token=frozen.token,
        expires=None if expires is None else expires.timestamp(), origin=tuple(origin.items()),
    )  # fmt: skip
    return AwsConfig(credentials=credentials, region=region, endpoint_url=endpoint_url)


def with_deadlines(client: Any, total_s: float | None = None) -> Any:
    """Return a botocore client whose connections apply the deadline of `exchange_deadline`.

    Parameters
    ----------
    client : botocore client
    total_s : float, optional
        Maximum time for each request and its response in seconds: botocore's own starts again with every byte. By
        default the caller sets the deadline.
    """
    http = client._endpoint.http_session
    http._manager.pool_classes_by_scheme = deadline_pools(http._manager.pool_classes_by_scheme)
    if total_s is not None:
        send = http.send

        def send_in_time(request: Any) -> Any:
            with exchange_deadline(total_s):
                return send(request)

        http.send = send_in_time
    return client


def _endpoint_url(session: Any) -> str | None:
    """Return the endpoint of S3 that the environment or the profile sets, as botocore finds it; None for AWS's own."""
    from botocore.configprovider import ConfiguredEndpointProvider

    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
    )
    found: str | None = provider.provide()
    return found


def aws_session(
    profile: str | None, role_arn: str | None, region: str | None,
    keys: tuple[str, str | None, str | None] | None = None,
) -> Any:  # fmt: skip
    """Return a botocore session whose credentials are renewed automatically.

    They are `keys` (key, secret, token), otherwise those of the profile or of the environment; or those of the role
    that these assume.

    Raises
    ------
    ArgumentError
        If the profile does not exist, or no credentials that could assume the role are found.
    """
    import botocore.exceptions

    try:
        session = _new_session(profile, region)
        if keys is not None:
            session.set_credentials(*keys)
        if role_arn is None:
            return session
        assumed = _new_session(profile, region)
        assumed.register_component("credential_provider", _assume_role(session, role_arn))
    except botocore.exceptions.BotoCoreError as error:
        raise _no_credentials(profile, role_arn, error) from None
    return assumed


def _new_session(profile: str | None, region: str | None) -> Any:
    import botocore.session

    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _api_loader(session.get_config_variable("data_path")))
    if region is not None:
        session.set_config_variable("region", region)
    return session


@cache
def _api_loader(data_path: str | None) -> Any:
    """Return a reader of botocore's descriptions of APIs, which keeps them; a session's own would read them anew."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def _assume_role(session: Any, role_arn: str) -> _Resolver:
    """Return the provider of the credentials of a role, which the credentials of the session assume."""
    from botocore import credentials

    source = session.get_credentials()
    if source is None:
        raise ArgumentError(
            f"role_arn={role_arn!r} needs credentials that may assume it; none were found. Set the AWS environment "
            "variables, or pass profile= or keys."
        )
    region = session.get_config_variable("region") or "us-east-1"  # STS answers in every region

    def client(service: str, **options: Any) -> Any:
        return with_deadlines(session.create_client(service, region_name=region, **options), _STS_S)

    fetcher = credentials.AssumeRoleCredentialFetcher(client, source, role_arn)
    deferred = credentials.DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)
    return _Resolver(deferred)


class _Resolver:
    """A credential provider of a botocore session that always provides the same, self-renewing credentials."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Any:
        return self._credentials


def _no_credentials(profile: str | None, role_arn: str | None, error: Exception) -> ArgumentError:
    return ArgumentError(f"no AWS credentials for profile={profile!r}, role_arn={role_arn!r}: {error}")


class _DropRecords(logging.Filter):
    """Drops the records of the threads that are in `no_botocore_secrets_in_logs`."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.get_ident() not in self.threads


_dropped = _DropRecords()
_dropping = threading.Lock()


@contextmanager
def no_botocore_secrets_in_logs() -> Iterator[None]:
    """Drop what botocore logs about the requests of this thread within the block.

    At DEBUG, botocore logs the headers that it signs, which contain session tokens, and the responses of STS, which
    contain credentials. The filter is attached only while a thread is in such a block, and other threads keep their
    records.
    """
    loggers = [logging.getLogger(f"botocore.{name}") for name in ("auth", "endpoint", "parsers")]
    thread = threading.get_ident()
    with _dropping:
        _dropped.threads.append(thread)
        for logger in loggers:
            logger.addFilter(_dropped)
    try:
        yield
    finally:
        with _dropping:
            _dropped.threads.remove(thread)
            for logger in loggers if not _dropped.threads else ():
                logger.removeFilter(_dropped)
