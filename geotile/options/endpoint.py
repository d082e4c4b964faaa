"""Options of the endpoints: retries, HTTP client, contract, decoder, model in the process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from geotile.core import from_text
from geotile.core.checks import as_int, as_timeouts, check_encoding, check_headers, check_seconds, check_unit
from geotile.core.keywords import known_keywords
from geotile.core.option import Options, documents, option
from geotile.errors import ArgumentError
from geotile.options.run import ScoreOptions
from geotile.public import public

MAX_DETECTIONS = 100_000
_MAX_COUNTS = {"threads": 1024, "batch_size": 2**16}  # onnxruntime starts all threads at once


@public
@documents()
@known_keywords()
@dataclass(frozen=True, kw_only=True)
class RetryPolicy(Options):
    """Retry policy and time-outs of a remote endpoint.

    Parameters
    ----------
    {options}

    Raises
    ------
    ArgumentError
        If a name is unknown, or a number is negative.
    """

    retries: int = option(
        8, "Maximum number of retries of a tile after retryable failures: no connection, a broken answer, a time-out, "
        "HTTP 408, 425, 429 and 5xx. Retries while no other request is answered either are not counted, so a model "
        "that only fails gets more: one at a time, until its time-out.", type="int",
    )  # fmt: skip
    backoff_s: float = option(
        0.5, "Mean delay before the first retry, in seconds. The mean doubles with each retry, up to 10 s; each delay "
        "is random between 0 and twice the mean (full jitter). A Retry-After header takes precedence.", type="float",
    )  # fmt: skip
    ready_timeout_s: float = option(
        300.0, "Seconds to wait for a model that has not answered yet, since it may be starting.", type="float",
    )  # fmt: skip
    outage_timeout_s: float = option(
        3600.0, "Seconds to wait for a model that has answered before and does not answer any more; then the run ends "
        "with the results that it has. For a model that has answered only HTTP 500 so far, the shorter of "
        "ready_timeout_s and outage_timeout_s counts.", type="float",
    )  # fmt: skip

    def _check(self) -> None:
        as_int(self.retries, "retries", 0, unit="retries")
        for name in ("backoff_s", "ready_timeout_s", "outage_timeout_s"):
            check_seconds(getattr(self, name), name)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ClientOptions(RetryPolicy):
    """An HTTP client."""

    headers: Mapping[str, str] | None = option(
        None, "Headers sent with every request.", type="mapping of str to str", secret=True,
        from_text=from_text.headers, repeatable=True, metavar="'NAME: VALUE'",
    )  # fmt: skip
    auth: Any = option(
        None, "(user, password), or an authentication object of requests; `geotile.SigV4` signs for AWS.",
        type="(str, str) or requests.auth.AuthBase", secret=True,
    )  # fmt: skip
    bearer: str | None = option(None, "Token sent as ``Authorization: Bearer``.", type="str", secret=True)
    verify: bool | str | os.PathLike[str] = option(
        True, "Whether TLS certificates are verified; a path names a bundle of certificate authorities.",
        type="bool, str or path",
    )  # fmt: skip
    cert: str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = option(
        None, "Path of a client certificate with its key, or (certificate, key).", type="str, path or pair of them",
    )  # fmt: skip
    timeout_s: tuple[float, float] = option(
        (10.0, 60.0), "Maximum time for the connection and for the whole response, in seconds.", type="(float, float)",
    )  # fmt: skip
    max_response_bytes: int = option(64 * 2**20, "Maximum size of an answer in bytes.", type="int")

    def _check(self) -> None:
        as_timeouts(self.timeout_s)
        as_int(self.max_response_bytes, "max_response_bytes", 1, unit="bytes")
        if self.headers:
            check_headers("headers", self.headers)
        if self.bearer:
            check_headers("bearer", {"Authorization": self.bearer})
        for part in self.auth if isinstance(self.auth, tuple | list) else ():
            check_encoding("auth", part)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ContractOptions(Options):
    """The OversightML contract."""

    params: Mapping[str, str] | None = option(
        None, "Endpoint parameters of the contract, by SageMaker's names: ``CustomAttributes``, ``TargetModel``, "
        "``TargetVariant`` ... Over HTTP they are sent as headers.", type="mapping of str to str", secret=True,
    )  # fmt: skip

    def _check(self) -> None:
        if self.params:
            check_headers("params", self.params)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class AnswerOptions(Options):
    """Answers that are detections."""

    max_detections: int = option(
        MAX_DETECTIONS, "Maximum number of features in the answer for a tile; a larger one fails the tile.", type="int",
    )  # fmt: skip

    def _check(self) -> None:
        as_int(self.max_detections, "max_detections", 1, unit="detections")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class HttpOptions(AnswerOptions, ContractOptions, ClientOptions):
    """Options of `geotile.HttpEndpoint`."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SageMakerClientOptions(ContractOptions, RetryPolicy):
    """Requests to SageMaker."""

    profile: str | None = option(None, "Profile of the AWS configuration.", type="str")
    role_arn: str | None = option(None, "ARN of the role to assume.", type="str")
    timeout_s: tuple[float, float] = option(
        (10.0, 60.0), "Maximum time for the connection and for the whole response, in seconds.", type="(float, float)",
    )  # fmt: skip
    max_request_bytes: int = option(
        6_291_456, "Maximum size of a tile in bytes: 6 MiB, or 26,214,400 (25 MiB) where the account allows it.",
        type="int",
    )  # fmt: skip
    max_response_bytes: int = option(64 * 2**20, "Maximum size of an answer in bytes.", type="int")

    def _check(self) -> None:
        as_timeouts(self.timeout_s)
        as_int(self.max_request_bytes, "max_request_bytes", 1, unit="bytes")
        as_int(self.max_response_bytes, "max_response_bytes", 1, unit="bytes")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SageMakerOptions(AnswerOptions, SageMakerClientOptions):
    """Options of a ``sagemaker://`` endpoint."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class NetworkOptions(Options):
    """The inputs and outputs of a network."""

    output_names: Mapping[str, str] | None = option(
        None, 'For the family "torchvision": the names of the outputs ``boxes``, ``scores`` and ``labels``, and of '
        "``masks``, ``keypoints`` and ``keypoints_scores`` where there are some. For rasters and vectors: the name of "
        "the ``output``.",
        type="mapping of str to str",
    )  # fmt: skip
    mean: Sequence[float] | None = option(
        None, "Mean of red, green and blue in shares of 255: the network gets ``(value / 255 - mean) / std``. By "
        "default that of the family.", type="(float, float, float)",
    )  # fmt: skip
    std: Sequence[float] | None = option(
        None, "Standard deviation of red, green and blue in shares of 255. By default that of the family.",
        type="(float, float, float)",
    )  # fmt: skip

    def _check(self) -> None:
        if self.mean is not None and not all(0 <= each <= 1 for each in self.mean):
            raise ArgumentError(f"mean must be shares of 255, from 0 to 1; got {self.mean!r}. Divide the values by 255")
        if self.std is not None and not all(0 < each <= 1 for each in self.std):
            raise ArgumentError(
                f"std must be shares of 255, above 0 and at most 1; got {self.std!r}. Divide the values by 255"
            )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ArrayNetworkOptions(NetworkOptions):
    """A network whose outputs are rasters or vectors."""

    divisor: float | None = option(
        None, "For rasters and vectors: number that pixels are divided by before ``mean`` and ``std``, where the "
        "network takes floats; 1 gives them as they are. By default 255 for pixels of uint8, and none for floats; "
        "other integers are refused without it.", type="float",
    )  # fmt: skip

    def _check(self) -> None:
        if self.divisor is not None and not self.divisor > 0:
            raise ArgumentError(f"divisor must be above 0; got {self.divisor!r}")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class DecoderOptions(NetworkOptions, ScoreOptions):
    """A network that geotile decodes."""

    family: str = option(
        "auto", 'Family of the network, one of `geotile.detectors.FAMILIES`. "auto" takes the one that the metadata of '
        "the model and its outputs agree on; a model that fits several is refused.", type="str",
    )  # fmt: skip
    labels: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None = option(
        None, "Class names in order or by number, or a file with one name per line. By default the names in the "
        "metadata of the model, else the class numbers.", type="sequence of str, mapping of int to str, str or path",
    )  # fmt: skip
    nms_iou_threshold: float = option(
        0.5, "IoU threshold of the non-maximum suppression within a tile, which detectors of some families need.",
        type="float",
    )  # fmt: skip

    def _check(self) -> None:
        check_unit(self.nms_iou_threshold, "nms_iou_threshold")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class OnnxArrayOptions(ArrayNetworkOptions):
    """Options of an ``onnx:`` endpoint whose model answers arrays."""

    batch_size: int | None = option(
        None, "Maximum number of tiles per call. By default what the model takes; where it takes any number, 8, or 1 "
        "for rasters and vectors.",
        type="int",
    )  # fmt: skip
    threads: int | None = option(
        None, "Number of threads of onnxruntime within one call. By default the machine's cores divided by the number "
        "of tile threads.", type="int",
    )  # fmt: skip
    providers: Sequence[str] | str | None = option(
        None, 'Execution providers of onnxruntime, the preferred one first: "CUDA", "TensorRT", "OpenVINO", "CPU", or '
        "full names. By default CUDA, else OpenVINO, else the CPU, as far as the installed onnxruntime has them; "
        "TensorRT compiles a model for minutes and must be asked for.", type="sequence of str or str",
    )  # fmt: skip

    def _check(self) -> None:
        _check_counts(batch_size=self.batch_size, threads=self.threads)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class OnnxOptions(OnnxArrayOptions, DecoderOptions):
    """Options of an ``onnx:`` endpoint."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class OipArrayOptions(ArrayNetworkOptions, ClientOptions):
    """Options of an ``oip+http://`` endpoint whose model answers arrays."""

    batch_size: int | None = option(
        None, "Maximum number of tiles per request. By default what the model takes; where it takes any number, 8, or "
        "1 for rasters and vectors.",
        type="int",
    )  # fmt: skip
    binary: bool | None = option(
        None, "Whether tensors are sent by the binary extension. By default if the server accepts it, which the first "
        "request finds out.", type="bool",
    )  # fmt: skip

    def _check(self) -> None:
        _check_counts(batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class OipOptions(OipArrayOptions, DecoderOptions):
    """Options of an ``oip+http://`` endpoint."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class FunctionOptions(Options):
    """Options of a Python callable."""

    batch_size: int | None = option(
        None, "Maximum number of tiles per call; the callable then takes (n, band, y, x).", type="int",
    )  # fmt: skip
    factory: bool = option(
        False, "Whether the callable builds and returns the model; it is called once in each process.", type="bool",
    )  # fmt: skip

    def _check(self) -> None:
        _check_counts(batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class EndpointKeywords(FunctionOptions, OnnxOptions, OipOptions, SageMakerOptions, HttpOptions):
    """Options of all kinds of endpoints together; each kind takes its own."""

    CALL: ClassVar[str] = "endpoint"


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None:
            as_int(count, name, 1, unit="threads" if name == "threads" else "tiles")
            if count > _MAX_COUNTS[name]:
                raise ArgumentError(f"{name} must be at most {_MAX_COUNTS[name]:,}; got {count}")
