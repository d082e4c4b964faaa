"""AWS request signing, as an `auth` object for `requests`."""

from __future__ import annotations

from threading import Lock
from typing import Any

import requests
from requests.auth import AuthBase

from geotile.core.keywords import known_keywords
from geotile.errors import ArgumentError, EndpointError
from geotile.public import public
from geotile.storage.aws import aws_session

_lock = Lock()


@public
@known_keywords()
class SigV4(AuthBase):
    """Signer of requests with AWS Signature Version 4, for API Gateway, Lambda URLs and similar services.

    botocore finds and renews the credentials in each process.

    Parameters
    ----------
    region : str
        AWS region, for example "us-west-2".
    service : str
        Service name that is part of the signature: "execute-api", "lambda", "sagemaker", "es" ...
    profile : str, optional
        Name of a profile in the AWS configuration.
    role_arn : str, optional
        ARN of a role to assume.

    Raises
    ------
    ArgumentError
        If a name is unknown, or a value is not a string.

    Examples
    --------
    >>> import geotile
    >>> geotile.endpoint("https://x.execute-api.us-west-2.amazonaws.com/invocations", auth=SigV4("us-west-2"))
    HttpEndpoint('https://x.execute-api.us-west-2.amazonaws.com/invocations')
    """

    def __init__(
        self, region: str, service: str = "execute-api", *, profile: str | None = None, role_arn: str | None = None
    ) -> None:
        given = {"region": region, "service": service, "profile": profile, "role_arn": role_arn}
        for name, value in given.items():
            if not (isinstance(value, str) and value) and not (value is None and name in ("profile", "role_arn")):
                raise ArgumentError(f"{name} must be a string; got {value!r}")
        self._region, self._service, self._login = region, service, (profile, role_arn, region)
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the signature to a request."""
        import botocore.auth
        import botocore.awsrequest
        import botocore.exceptions

        with _lock:
            if self._session is None:
                self._session = aws_session(*self._login)
        try:
            source = self._session.get_credentials()
            credentials = source.get_frozen_credentials() if source is not None else None
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise EndpointError(f"the AWS credentials for signing requests cannot be obtained: {error}") from None
        if credentials is None:
            raise EndpointError("no AWS credentials were found for signing requests; set AWS_PROFILE or pass profile")
        signed = botocore.awsrequest.AWSRequest(method=request.method, url=request.url, data=request.body or b"")
        signed.headers["Content-Type"] = request.headers.get("Content-Type", "")
        botocore.auth.SigV4Auth(credentials, self._service, self._region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        return request
