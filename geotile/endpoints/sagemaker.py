"""A SageMaker endpoint: ``sagemaker://NAME``, by botocore's InvokeEndpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

from geotile.core.checks import as_int, as_timeouts
from geotile.core.redact import digests
from geotile.core.registry import Registry
from geotile.core.timing import timed
from geotile.endpoints.base import Endpoint, split_options
from geotile.endpoints.decode import decode_bytes
from geotile.errors import ArgumentError, EndpointError, EndpointUnreachable, ResponseError
from geotile.storage.aws import aws_session

_OPTIONS = ["params", "profile", "role_arn", "timeout_s", "max_request_bytes", "max_response_bytes"]
_BODY_BYTES = 6_291_456
_CONNECTIONS = 256
_THROTTLED = {
    "ModelNotReadyException",
    "ServiceUnavailable",
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
}
_SERVES = {"InService", "Updating", "SystemUpdating", "RollingBack", "UpdateRollbackFailed"}
_COMING = {"Creating", "OutOfService"}
_clients = Registry[tuple[str, str], Any](32)


class SageMakerEndpoint(Endpoint):
    """A SageMaker real-time endpoint whose container speaks the OSML contract.

    Credentials are found by botocore in each process: of the environment, a profile, the machine. Where there are
    several variants and none is named, one is chosen by their weights once a run.

    Parameters
    ----------
    spec : str
        ``sagemaker://endpoint-name?variant=…&region=…``; both may be left out.
    params : mapping, optional
        More arguments of InvokeEndpoint, by its names: ``CustomAttributes``, ``TargetModel``,
        ``TargetContainerHostname``, ``InferenceId``, ``InferenceComponentName``, ``EnableExplanations``,
        ``SessionId``, ``Accept``, ``TargetVariant``.
    profile : str, optional
        Of the AWS configuration.
    role_arn : str, optional
        Role to assume.
    timeout_s : tuple of float
        Timing to wait for a connection, and for the next part of an answer.
    max_request_bytes : int
        Largest tile: 6 MiB, or 26,214,400 (25 MiB) where the account allows it.
    max_response_bytes : int
        Largest answer that is read.
    retries, backoff_s, ready_timeout_s, outage_timeout_s
        Of `RetryPolicy`.

    Raises
    ------
    ArgumentError
        If the spec or an option cannot be used, or there is no region.

    Examples
    --------
    >>> SageMakerEndpoint("sagemaker://planes?region=us-west-2&variant=blue")
    SageMakerEndpoint('sagemaker://planes?region=us-west-2&variant=blue')
    """

    def __init__(
        self, spec: str, *, params: Mapping[str, str] | None = None, profile: str | None = None,
        role_arn: str | None = None, timeout_s: tuple[float, float] = (10.0, 60.0),
        max_request_bytes: int = _BODY_BYTES, max_response_bytes: int = 64 * 2**20, **options: Any,
    ) -> None:  # fmt: skip
        self.retry_policy = split_options(options, _OPTIONS, "a sagemaker endpoint")
        parts, asked = urlsplit(spec), dict(parse_qsl(urlsplit(spec).query))
        if not parts.netloc or parts.path.strip("/") or set(asked) - {"variant", "region"}:
            raise ArgumentError(f"endpoint={spec!r}; give sagemaker://endpoint-name?variant=…&region=…")
        self.name, self.variant, self.region = parts.netloc, asked.get("variant"), asked.get("region")
        self._params = dict(params or {})
        self._login = (profile, role_arn, self.region)
        self._timeouts = as_timeouts(timeout_s)
        self.max_request_bytes = as_int(max_request_bytes, "max_request_bytes", 1, unit="bytes")
        self._most = as_int(max_response_bytes, "max_response_bytes", 1, unit="bytes")
        self._key = uuid4().hex
        self._check_params()

    def __repr__(self) -> str:
        return f"SageMakerEndpoint({str(self)!r})"

    def __str__(self) -> str:
        asked = [f"{key}={value}" for key, value in (("region", self.region), ("variant", self.variant)) if value]
        return f"sagemaker://{self.name}" + ("?" + "&".join(asked) if asked else "")

    def identity(self) -> dict[str, Any]:
        """Return the endpoint's name, region and variant, and digests of the contract's parameters."""
        return {"model": str(self), "params": digests(self._params)}

    def ready(self) -> None:
        """Ask DescribeEndpoint for its status, where that is allowed.

        Raises
        ------
        EndpointError
            If there is no such endpoint, or it is not in service.
        """
        status = (self._described() or {}).get("EndpointStatus", "InService")
        if status not in _SERVES:
            error = EndpointError(f"{self} is not in service: its status is {status}")
            error.retryable = status in _COMING
            raise error

    def for_run(self, tile_threads: int = 1) -> SageMakerEndpoint:
        """Return it with one variant, chosen by the weights that they have now."""
        if self.variant is not None or {"TargetVariant", "InferenceComponentName"} & set(self._params):
            return self
        variants = (self._described() or {}).get("ProductionVariants", [])
        weights = [each.get("CurrentWeight", 0.0) for each in variants]
        if len(variants) < 2 or not any(weights):
            return self
        chosen: SageMakerEndpoint = object.__new__(SageMakerEndpoint)
        chosen.__dict__.update(self.__dict__)
        chosen.variant = random.choices([each["VariantName"] for each in variants], weights)[0]
        return chosen

    def invoke(self, tiles: Sequence[bytes], content_type: str) -> Sequence[Any]:
        """Ask InvokeEndpoint about a tile."""
        if len(tiles[0]) > (self.max_request_bytes or 0):
            raise EndpointError(
                f"the tile is {len(tiles[0]):,} bytes, more than max_request_bytes={self.max_request_bytes:,} of {self}"
            )
        asked = self._params | ({"TargetVariant": self.variant} if self.variant else {})
        answer = self._call("sagemaker-runtime", "invoke_endpoint", Body=tiles[0], ContentType=content_type, **asked)
        body = self._read(answer["Body"])
        with timed("parse"):
            return [decode_bytes(body)]

    def _read(self, stream: Any) -> bytes:
        import botocore.exceptions
        import urllib3

        try:
            body: bytes = stream.read(self._most + 1)
        except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        if len(body) > self._most:
            stream.close()
            raise ResponseError(f"{self} answered with more than max_response_bytes={self._most}")
        return body

    def _described(self) -> dict[str, Any] | None:
        """Return what DescribeEndpoint says, None where it may not be asked."""
        try:
            said: dict[str, Any] = self._call("sagemaker", "describe_endpoint")
        except EndpointError as error:
            if error.http_status in (403, 401) or "AccessDenied" in str(error):
                return None
            raise
        return said

    def _call(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        import botocore.exceptions

        try:
            call = getattr(self._client(service), operation)
            answer: dict[str, Any] = call(EndpointName=self.name, **arguments)
        except botocore.exceptions.ClientError as error:
            raise self._refusal(error.response) from None
        except botocore.exceptions.ParamValidationError as error:
            raise EndpointError(f"{self} cannot be asked: {error}") from None
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise self._unreachable(error) from None
        return answer

    def _refusal(self, response: Mapping[str, Any]) -> EndpointError:
        """Return what an error of the service means; of a container's, what its own status means."""
        said = response.get("Error", {})
        code, text = said.get("Code", ""), str(said.get("Message", ""))[:200]
        status = int(
            response.get("OriginalStatusCode") or response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        )
        failed = EndpointError(f"{self} answered {code} (HTTP {status}): {text}")
        failed.http_status = status
        failed.throttled = code in _THROTTLED or status in (429, 503)
        failed.retryable = failed.throttled or status in (408, 425) or status >= 500
        return failed

    def _unreachable(self, error: Exception) -> EndpointUnreachable:
        import botocore.exceptions

        late = isinstance(error, botocore.exceptions.ReadTimeoutError | botocore.exceptions.ConnectTimeoutError)
        lasting = isinstance(error, botocore.exceptions.NoCredentialsError | botocore.exceptions.SSLError)
        said = str(error) if lasting and not late else type(error).__name__
        failed = EndpointUnreachable(f"{self} did not answer: {'timed out (timeout_s=)' if late else said}")
        failed.retryable, failed.timed_out = not lasting, late
        return failed

    def _client(self, service: str) -> Any:
        """Return this process's client of a service."""
        return _clients.get((self._key, service), lambda: self._new_client(service))

    def _new_client(self, service: str) -> Any:
        import botocore.config
        import botocore.exceptions

        config = botocore.config.Config(
            connect_timeout=self._timeouts[0], read_timeout=self._timeouts[1],
            retries={"total_max_attempts": 1}, max_pool_connections=_CONNECTIONS,
        )  # fmt: skip
        try:
            return aws_session(*self._login).create_client(service, region_name=self.region, config=config)
        except botocore.exceptions.NoRegionError:
            raise ArgumentError(f"{self} is in no region; give sagemaker://{self.name}?region=…") from None
        except botocore.exceptions.BotoCoreError as error:
            raise ArgumentError(f"{self} cannot be asked: {error}") from None

    def _check_params(self) -> None:
        runtime = self._client("sagemaker-runtime").meta.service_model.operation_model("InvokeEndpoint")
        known = set(runtime.input_shape.members) - {"EndpointName", "Body", "ContentType"}
        if unknown := sorted(set(self._params) - known):
            raise ArgumentError(f"params has {unknown}; InvokeEndpoint takes {sorted(known)}")
