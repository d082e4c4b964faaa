"""AWS credentials as botocore finds them, and how they travel."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

from geotile.errors import ArgumentError

_MARGIN_S = 300.0  # temporary credentials are renewed this long before they end


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What signs a request to S3. Pickles; shows nothing."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: float | None = field(default=None, repr=False)
    """Seconds since the epoch; None where they do not end."""
    origin: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    """Arguments of `resolve` that find their like again."""

    def settings(self) -> dict[str, str]:
        """Return GDAL's configuration of them."""
        found = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        return found | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})

    def fresh(self, now: float) -> Credentials:
        """Return these, or where they are about to end, what this process finds in their place."""
        if self._lasts(now):
            return self
        with _lock:
            held = _renewed.get(self.origin)
            if held is None or not held._lasts(now):
                try:
                    held = resolve(**dict(self.origin)).credentials  # type: ignore[arg-type]  # its own arguments
                except ArgumentError:
                    held = None
                if held is None:
                    return self  # nothing better here: S3 will say that they have ended
                _renewed[self.origin] = held
            return held

    def _lasts(self, now: float) -> bool:
        return self.expires is None or now < self.expires - _MARGIN_S


_renewed: dict[tuple[tuple[str, str | None], ...], Credentials] = {}
_lock = Lock()


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the user's AWS configuration says."""

    credentials: Credentials | None
    region: str | None
    endpoint_url: str | None


def resolve(
    profile: str | None,
    role_arn: str | None,
    *,
    key: str | None = None,
    secret: str | None = None,
    token: str | None = None,
    anonymous: bool = False,
    region: str | None = None,
) -> Found:
    """Find credentials: those given, else those of a profile or of the environment, then a role's.

    Raises
    ------
    ArgumentError
        If the profile does not exist, or the role cannot be assumed.
    """
    import botocore.exceptions

    given = None if key is None else (key, secret, token)
    session = aws_session(profile, None if anonymous else role_arn, region, given)
    region = session.get_config_variable("region")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        source = None if anonymous else session.get_credentials()
        frozen = source.get_frozen_credentials() if source is not None else None
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise ArgumentError(f"no AWS credentials for profile={profile!r}, role_arn={role_arn!r}: {error}") from None
    if frozen is None:
        return Found(credentials=None, region=region, endpoint_url=endpoint)
    until = getattr(source, "_expiry_time", None)
    origin = {"profile": profile, "role_arn": role_arn, "key": key, "secret": secret, "token": token, "region": region}
    held = Credentials(
        key=frozen.access_key, secret=frozen.secret_key, token=frozen.token,
        expires=None if until is None else until.timestamp(), origin=tuple(origin.items()),
    )  # fmt: skip
    return Found(credentials=held, region=region, endpoint_url=endpoint)


def aws_session(
    profile: str | None, role_arn: str | None, region: str | None,
    given: tuple[str, str | None, str | None] | None = None,
) -> Any:  # fmt: skip
    """Return a botocore session whose credentials renew themselves.

    They are those given (key, secret, token), else a profile's or the environment's; or those of a role that
    these assume.

    Raises
    ------
    ArgumentError
        If the profile does not exist, or nothing may assume the role.
    """
    import botocore.exceptions
    import botocore.session

    try:
        session = botocore.session.Session(profile=profile)
        if region is not None:
            session.set_config_variable("region", region)
        if given is not None:
            session.set_credentials(*given)
        if role_arn is not None:
            session._credentials = _assume(session, session.get_credentials(), role_arn)
    except botocore.exceptions.BotoCoreError as error:
        raise ArgumentError(f"no AWS credentials for profile={profile!r}, role_arn={role_arn!r}: {error}") from None
    return session


def _assume(session: Any, source: Any, role_arn: str) -> Any:
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    if source is None:
        raise ArgumentError(f"role_arn={role_arn!r} needs credentials that may assume it; none were found")
    region = session.get_config_variable("region") or "us-east-1"  # STS answers in any
    fetcher = AssumeRoleCredentialFetcher(partial(session.create_client, region_name=region), source, role_arn)
    return DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)
