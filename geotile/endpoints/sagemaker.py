"""SageMaker endpoints: ``sagemaker://NAME``, through botocore's InvokeEndpoint."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

from geotile.core.deadline import exchange_cancelled, exchange_deadline, exchange_expired
from geotile.core.option import documents, with_options
from geotile.core.redact import digests, redact, redact_answer
from geotile.core.registry import Registry
from geotile.core.timing import timed
from geotile.endpoints.body_answer import BodyEndpoint
from geotile.errors import ArgumentError, EndpointError, EndpointUnreachable, GeotileError, ResponseError
from geotile.options import RetryPolicy, SageMakerOptions
from geotile.storage.aws import aws_session, with_deadlines

_MAX_CONNECTIONS, _MAX_MESSAGE = 256, 2**13
_NAME = re.compile(r"[\w.-]+")
_THROTTLING_CODES = {
    "ModelNotReadyException",
    "ServiceUnavailable",
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
}
_SERVING_STATUSES = {"InService", "Updating", "SystemUpdating", "RollingBack", "UpdateRollbackFailed"}
_STARTING_STATUSES = {"Creating", "OutOfService"}
_clients = Registry[tuple[str, str], Any](32)


@documents(SageMakerOptions)
class SageMakerEndpoint(BodyEndpoint):
    """A SageMaker real-time endpoint whose container implements the OSML contract.

    botocore finds the credentials in each process: in the environment, a profile, or the machine's role. If the
    endpoint has several variants and the spec names none, one variant is chosen at random by weight for each run.

    Parameters
    ----------
    spec : str
        ``sagemaker://endpoint-name?variant=…&region=…``; both parameters are optional.
    {options}

    Raises
    ------
    ArgumentError
        If the spec or an option cannot be used, or no region is configured.

    Examples
    --------
    >>> SageMakerEndpoint("sagemaker://planes?region=us-west-2&variant=blue")
    SageMakerEndpoint('sagemaker://planes?region=us-west-2&variant=blue')
    """

    @with_options(SageMakerOptions).on_init
    def __init__(self, spec: str, options: SageMakerOptions) -> None:
        self.retry_policy = options.part(RetryPolicy)
        self.name, self.variant, self.region = endpoint_parts(spec)
        self._params = dict(options.params or {})
        self._login = (options.profile, options.role_arn, self.region)
        self._timeouts = options.timeout_s
        self.max_request_bytes = options.max_request_bytes
        self._max_response_bytes, self._max_detections = options.max_response_bytes, options.max_detections
        self._key = uuid4().hex
        self._check_params()

    def __repr__(self) -> str:
        return f"SageMakerEndpoint({str(self)!r})"

    def __str__(self) -> str:
        query = [f"{key}={value}" for key, value in (("region", self.region), ("variant", self.variant)) if value]
        return f"sagemaker://{self.name}" + ("?" + "&".join(query) if query else "")

    def identity(self) -> dict[str, Any]:
        """Return the endpoint's name, region and variant, and digests of its parameters."""
        return {"model": str(self), "params": digests(self._params)}

    def ready(self) -> None:
        """Check the endpoint's status with DescribeEndpoint, if the credentials allow that.

        Raises
        ------
        EndpointError
            If the endpoint does not exist, or is not in service.
        """
        status = (self._description() or {}).get("EndpointStatus", "InService")
        if status not in _SERVING_STATUSES:
            error = EndpointError(f"{self} is not in service: its status is {status}")
            error.retryable = status in _STARTING_STATUSES
            raise error

    def for_run(self, tile_threads: int = 1) -> SageMakerEndpoint:
        """Return an endpoint with one variant, chosen at random by the current weights."""
        if self.variant is not None or {"TargetVariant", "InferenceComponentName"} & set(self._params):
            return self
        variants = (self._description() or {}).get("ProductionVariants", [])
        weights = [each.get("CurrentWeight", 0.0) for each in variants]
        if len(variants) < 2 or not any(weights):
            return self
        configured: SageMakerEndpoint = object.__new__(SageMakerEndpoint)
        configured.__dict__.update(self.__dict__)
        configured.variant = random.choices([each["VariantName"] for each in variants], weights)[0]
        return configured

    def invoke(self, tiles: Sequence[bytes], content_type: str) -> Sequence[Any]:
        """Send one tile with InvokeEndpoint."""
        if len(tiles[0]) > (self.max_request_bytes or 0):
            raise EndpointError(
                f"the encoded tile has {len(tiles[0]):,} bytes, more than max_request_bytes={self.max_request_bytes:,} "
                f"of {self}"
            )
        params = self._params | ({"TargetVariant": self.variant} if self.variant else {})
        with exchange_deadline(sum(self._timeouts)):
            response = self._call(
                "sagemaker-runtime", "invoke_endpoint", Body=tiles[0], ContentType=content_type, **params
            )
            body = self._read(response["Body"])
            if exchange_expired():  # the connection was shut down, so the body may be a part
                raise self._timed_out()
        with timed("parse"):
            return [self._answer(body, response.get("ContentType", ""))]

    def _read(self, stream: Any) -> bytes:
        import botocore.exceptions
        import urllib3

        try:
            body: bytes = stream.read(self._max_response_bytes + 1)
        except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        if len(body) > self._max_response_bytes:
            stream.close()
            raise ResponseError(f"{self} returned more than max_response_bytes={self._max_response_bytes} bytes")
        return body

    def _description(self) -> dict[str, Any] | None:
        """Return the response of DescribeEndpoint; None if the credentials do not allow it."""
        try:
            return self._call("sagemaker", "describe_endpoint")
        except EndpointError as error:
            if error.http_status in (403, 401) or "AccessDenied" in str(error):
                return None
            raise

    def _call(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        import botocore.exceptions

        try:
            call = getattr(self._client(service), operation)
            response: dict[str, Any] = call(EndpointName=self.name, **arguments)
        except botocore.exceptions.ClientError as error:
            raise self._service_error(error.response) from None
        except botocore.exceptions.ParamValidationError as error:
            raise EndpointError(f"the request to {self} is not valid: {error}") from None
        except GeotileError:
            raise
        except Exception as error:  # botocore's parsers raise anything for an answer that is not AWS's
            raise self._unreachable(error) from None
        return response

    def _service_error(self, response: Mapping[str, Any]) -> EndpointError:
        """Return the error for an error response; an error of the container has the container's own status."""
        details = response.get("Error", {})
        code, message = details.get("Code", ""), redact_answer(str(details.get("Message", ""))[:_MAX_MESSAGE])[:200]
        status = int(
            response.get("OriginalStatusCode") or response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        )
        error = EndpointError(f"{self} returned {code} (HTTP {status}): {message}")
        error.http_status = status
        error.throttled = code in _THROTTLING_CODES or status in (429, 503)
        error.retryable = error.throttled or status in (408, 425) or status >= 500
        return error

    def _unreachable(self, error: Exception) -> EndpointUnreachable:
        import botocore.exceptions

        if exchange_expired() or isinstance(
            error, botocore.exceptions.ReadTimeoutError | botocore.exceptions.ConnectTimeoutError
        ):
            return self._timed_out()
        permanent = isinstance(error, botocore.exceptions.NoCredentialsError | botocore.exceptions.SSLError)
        cause = str(error) if permanent else type(error).__name__
        unreachable = EndpointUnreachable(f"{self} did not respond: {cause}")
        unreachable.retryable = not permanent
        return unreachable

    def _timed_out(self) -> EndpointUnreachable:
        if reason := exchange_cancelled():
            return EndpointUnreachable(reason)
        late = EndpointUnreachable(f"{self} did not respond: timed out (timeout_s)")
        late.retryable = late.timed_out = True
        return late

    def _client(self, service: str) -> Any:
        """Return this process's botocore client of a service."""
        return _clients.get((self._key, service), lambda: self._new_client(service))

    def _new_client(self, service: str) -> Any:
        import botocore.config
        import botocore.exceptions

        config = botocore.config.Config(
            connect_timeout=self._timeouts[0], read_timeout=self._timeouts[1],
            retries={"total_max_attempts": 1}, max_pool_connections=_MAX_CONNECTIONS,
        )  # fmt: skip
        try:
            client = aws_session(*self._login).create_client(service, region_name=self.region, config=config)
        except botocore.exceptions.NoRegionError:
            raise ArgumentError(
                f"no AWS region is configured for {self}; use, for example, sagemaker://{self.name}?region=us-west-2"
            ) from None
        except botocore.exceptions.BotoCoreError as error:
            raise ArgumentError(f"no client for {self} can be created: {error}") from None
        return with_deadlines(client)

    def _check_params(self) -> None:
        runtime = self._client("sagemaker-runtime").meta.service_model.operation_model("InvokeEndpoint")
        known = set(runtime.input_shape.members) - {"EndpointName", "Body", "ContentType"}
        if unknown := sorted(set(self._params) - known):
            raise ArgumentError(f"unknown parameters {unknown} in params; InvokeEndpoint accepts {sorted(known)}")


def endpoint_parts(spec: str) -> tuple[str, str | None, str | None]:
    """Return the name, the variant and the region of an endpoint.

    Raises
    ------
    ArgumentError
        If the spec is not that of a SageMaker endpoint.
    """
    parts = urlsplit(spec) if isinstance(spec, str) else urlsplit("")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"variant", "region"}
    if not _NAME.fullmatch(parts.netloc) or parts.path.strip("/") or parts.fragment or set(query) - known:
        given = repr(redact(spec)) if isinstance(spec, str) else f"a value of type {type(spec).__name__}"
        raise ArgumentError(f"endpoint must have the form sagemaker://endpoint-name?variant=…&region=…; got {given}")
    return parts.netloc, query.get("variant") or None, query.get("region") or None
