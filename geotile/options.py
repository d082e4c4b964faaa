"""All options, each declared once.

`geotile.detect`, `geotile.detect_to`, `geotile.plan`, the command line and job requests take their options from
these classes: a new field is a new keyword argument, a new flag and a new name in requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from geotile.core import from_text
from geotile.core.checks import Pair, as_int, as_pair, check_seconds, check_unit
from geotile.core.option import Options, documents, option
from geotile.errors import ArgumentError

if TYPE_CHECKING:
    from geotile.merging.merge import Merge
    from geotile.running.progress import Progress

TileFormat = Literal["GTIFF", "NITF", "PNG", "JPEG", "NPY"]
TileCompression = Literal["NONE", "LZW", "JPEG", "J2K"]
OverlapMetric = Literal["iou", "ios"]
SarRemap = Literal["amplitude", "quarter_power"]
ProgressCallback = Callable[["Progress"], None]


@dataclass(frozen=True, kw_only=True)
class TilingOptions(Options):
    """Tiles and regions."""

    tile_size: int | Pair = option(
        1024, "Side of a tile in pixels, or (y, x): what the model sees.", type="int or (int, int)",
        from_text=from_text.pair, metavar="PX|Y,X", in_requests=False,
    )  # fmt: skip
    overlap: int | Pair = option(
        128, "Minimum overlap of neighbouring tiles in pixels, or (y, x).", type="int or (int, int)",
        from_text=from_text.pair, metavar="PX|Y,X", in_requests=False,
    )  # fmt: skip
    region_size: int | Pair | Literal["auto"] = option(
        "auto", "Side of a region (one Dask task) in pixels, or (y, x), rounded to the file's blocks. "
        '"auto" aims at 32 MiB.', type='int, (int, int) or "auto"',
        from_text=from_text.pair_or_auto, metavar="PX|Y,X|auto", in_requests=False,
    )  # fmt: skip
    tile_format: TileFormat = option(
        "GTIFF", "Format of the encoded tiles that a URL is sent; callables get the array. JPEG is lossy.",
        type='{"GTIFF", "NITF", "PNG", "JPEG", "NPY"}', choices=get_args(TileFormat), in_requests=False,
    )  # fmt: skip
    tile_compression: TileCompression = option(
        "NONE", "Compression of GTIFF tiles (LZW, JPEG) or NITF tiles (JPEG, J2K). JPEG is lossy. NONE is fastest; "
        "the others send fewer bytes.", type='{"NONE", "LZW", "JPEG", "J2K"}', choices=get_args(TileCompression),
        in_requests=False,
    )  # fmt: skip
    pad: bool = option(
        False, "Fill a tile of an image smaller than the tile with nodata (or 0) to full size.", type="bool",
    )  # fmt: skip

    def _check(self) -> None:
        as_pair(self.tile_size, "tile_size", 1)
        as_pair(self.overlap, "overlap", 0)


@dataclass(frozen=True, kw_only=True)
class AreaOptions(Options):
    """Region of interest."""

    roi: Any = option(
        None, "Region of interest: WKT, GeoJSON, a shapely geometry or a GeoDataFrame, in WGS 84 longitude and "
        "latitude unless it names its CRS. Only tiles that share pixels with it are read and sent.",
        type="str, mapping, shapely geometry or GeoDataFrame", from_text=from_text.area,
        metavar="WKT|GEOJSON|FILE", in_requests=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SelectionOptions(AreaOptions):
    """Selection of tiles."""

    outside_roi: Literal["drop", "keep"] = option(
        "drop", "What happens to detections in the selected tiles that do not intersect the region of interest.",
        type='{"drop", "keep"}', choices=("drop", "keep"),
    )  # fmt: skip
    skip_nodata: bool | float = option(
        True, "Minimum share of valid pixels, 0 to 1, of a tile that is sent. True sends tiles with any valid pixel, "
        "False sends every tile. Masks, alpha bands, nodata values, NaN and missing blocks are not valid.",
        type="bool or float", from_text=from_text.bool_or_share, metavar="true|false|SHARE",
    )  # fmt: skip

    def _check(self) -> None:
        if not isinstance(self.skip_nodata, bool):
            check_unit(self.skip_nodata, "skip_nodata")

    @property
    def min_valid_share(self) -> float | None:
        """Minimum share of valid pixels of a tile that is sent; 0 for any pixel at all, None to send every tile."""
        if isinstance(self.skip_nodata, bool):
            return 0.0 if self.skip_nodata else None
        return float(self.skip_nodata)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """The minimum score: one option of the run and of the decoder, which get the same value."""

    score_threshold: float | None = option(
        None, "Minimum score of a detection, 0 to 1, applied before merging. By default 0.3 for models that geotile "
        "decodes (onnx: and oip+http:), and 0 for all others.", type="float", metavar="SCORE",
    )  # fmt: skip

    def _check(self) -> None:
        if self.score_threshold is not None:
            check_unit(self.score_threshold, "score_threshold")


@dataclass(frozen=True, kw_only=True)
class MergingOptions(ScoreOptions):
    """Merging of overlapping tiles."""

    merge: Literal["nms"] | Merge | None = option(
        "nms", 'How detections of overlapping tiles are merged: "nms" is greedy non-maximum suppression, None keeps '
        "the detections of all tiles.", type='{"nms"}, Merge or None', from_text=from_text.name_or_none,
        metavar="nms|none", in_requests=False,
    )  # fmt: skip
    iou_threshold: float = option(
        0.5, "Overlap above which the lower-ranked detection is suppressed, 0 to 1.", type="float", in_requests=False,
    )  # fmt: skip
    overlap_metric: OverlapMetric = option(
        "iou", "Overlap of two boxes: intersection over union, or over the smaller area (half of a cut object "
        "against the whole object).", type='{"iou", "ios"}', choices=get_args(OverlapMetric),
    )  # fmt: skip
    class_agnostic: bool = option(False, "Let detections of different labels suppress each other.", type="bool")

    def _check(self) -> None:
        check_unit(self.iou_threshold, "iou_threshold")
        if not (self.merge is None or self.merge == "nms" or hasattr(self.merge, "settle")):
            raise ArgumentError(f"merge must be 'nms', None or a geotile.Merge; got {self.merge!r}")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """The run."""

    concurrency: int | Literal["auto"] = option(
        "auto", 'Maximum number of requests in flight over the whole cluster. "auto" adapts to the endpoint. A model '
        "in the process runs in at most as many threads as Dask has.", type='int or "auto"',
        from_text=from_text.int_or_auto, metavar="INTEGER|auto", in_requests=False,
    )  # fmt: skip
    errors: Literal["record", "raise"] = option(
        "record", "Whether failed tiles are listed in the report while the run continues, or the first one stops it.",
        type='{"record", "raise"}', choices=("record", "raise"), in_requests=False,
    )  # fmt: skip
    progress: bool | ProgressCallback | None = option(
        None, "True shows a bar in a terminal or a notebook. A callable gets a `geotile.Progress` at most ten times a "
        "second.", type="bool or callable", on_command_line=False, in_requests=False,
    )  # fmt: skip
    crs: Any = option(
        None, "CRS of the result, as pyproj takes it. By default the image's own, or WGS 84 where RPCs place it.",
        type="CRS", metavar="CRS", in_requests=False,
    )  # fmt: skip
    checkpoint: str | os.PathLike[str] | None = option(
        None, "Folder, local or any fsspec URI, in which finished regions are kept. The same call resumes from there "
        "and asks the model only for what is missing; merging options and the cluster may change. "
        'With ``region_size="auto"`` the regions are those of the checkpoint.', type="str or path",
        metavar="FOLDER", in_requests=False,
    )  # fmt: skip
    retry_failed: bool = option(
        False, "Ask again about tiles that failed in an earlier run of the checkpoint.", type="bool", in_requests=False,
    )  # fmt: skip
    output_options: Mapping[str, Any] | None = option(
        None, "Options of the file system of the checkpoint and the output, as fsspec takes them. They are not shown "
        "anywhere.", type="mapping", from_text=from_text.named_values, repeatable=True, metavar="NAME=VALUE",
        in_requests=False, secret=True,
    )  # fmt: skip

    def _check(self) -> None:
        if self.progress not in (None, True, False) and not callable(self.progress):
            raise ArgumentError(
                f"progress must be True, None or a callable that takes a geotile.Progress; got {self.progress!r}"
            )
        if self.concurrency != "auto":
            if isinstance(self.concurrency, str):
                raise ArgumentError(f'concurrency must be a positive integer or "auto"; got {self.concurrency!r}')
            as_int(self.concurrency, "concurrency", 1, unit="requests")
        if self.checkpoint is None and self.retry_failed:
            raise ArgumentError("retry_failed=True asks again about tiles of a checkpoint; give checkpoint= as well")


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """How the image is opened."""

    storage_options: Mapping[str, Any] | None = option(
        None, "How to reach the image, as fsspec, s3fs, gcsfs and adlfs take it: ``key``, ``secret``, ``token``, "
        "``profile``, ``role_arn``, ``anon``, ``endpoint_url``, ``requester_pays``, ``client_kwargs``, ``headers``, "
        "``timeout`` (seconds without a byte) ... It travels to every worker and is not shown anywhere.",
        type="mapping", from_text=from_text.named_values, repeatable=True, metavar="NAME=VALUE", in_requests=False,
        secret=True,
    )  # fmt: skip
    bands: Sequence[int | str] | int | str | None = option(
        None, "Bands by number, from 1, or by name, in the wanted order. By default all bands except alpha.",
        type="int, str or sequence", from_text=from_text.bands, repeatable=True, metavar="BAND,...",
    )  # fmt: skip
    subdataset: int | str | None = option(
        None, "Number, from 0, or end of the name of an image inside the file (such as a NITF image segment); in a "
        "Zarr group, the name of the variable.", type="int or str", from_text=from_text.int_or_text,
        metavar="NUMBER|NAME",
    )  # fmt: skip
    asset: str | None = option(None, "Key of the asset, if the image is a STAC item.", type="str", metavar="KEY")
    resolution: float | None = option(
        None, "Ground size of a pixel in metres to resample to, from the nearest overview. Detections come back in "
        "pixels of the full resolution.", type="float", metavar="METRES",
    )  # fmt: skip
    georeference: bool = option(
        True, "Whether the image's georeference is used; False gives detections in pixels.", type="bool",
    )  # fmt: skip
    dem: str | os.PathLike[str] | None = option(
        None, "Elevation model (metres) for an image that RPCs place.", type="str or path", metavar="FILE",
    )  # fmt: skip
    height: float | None = option(
        None, "Height above the ellipsoid in metres for an image that RPCs place, or a SICD. By default the file's own "
        "reference height.", type="float", metavar="METRES",
    )  # fmt: skip
    sar: SarRemap | None = option(
        None, "Convert complex pixels to their magnitude, or to its square root.",
        type='{"amplitude", "quarter_power"}', choices=(None, *get_args(SarRemap)),
    )  # fmt: skip
    allow_vrt: bool = option(
        False, "Also open formats that name other files or hosts (VRT, DIMAP, SAFE, WMS ...). What they name is read "
        "with your rights: allow it only for images that you trust.", type="bool", in_requests=False,
    )  # fmt: skip
    sidecars: bool | None = option(
        None, "Look for files beside a remote image (``_RPB.TXT``, ``.ovr``, ``.msk``, ``.aux.xml``), which costs a "
        "few requests. By default only where the image has no georeference of its own.", type="bool",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OpenOptions(ImageOptions):
    """Options of `geotile.open_image`."""

    chunks: Any = option(
        "auto", 'Regions, rounded to the file\'s blocks: "auto" for at most 32 MiB (less where Dask\'s '
        "``array.chunk-size`` is less), or pixels, or pixels by axis (``{\"y\": 4096, \"x\": 4096}``).",
        type='"auto", int, tuple or mapping', on_command_line=False, in_requests=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ImageOptions, AreaOptions, TilingOptions):
    """Options of `geotile.plan`."""

    endpoint: Any = option(
        None, "Endpoint, as `detect` takes it. Tiles that are larger than its requests may be are refused.",
        type="str, callable or Endpoint", on_command_line=False, in_requests=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JobOptions(ImageOptions, RunOptions, MergingOptions, SelectionOptions, TilingOptions):
    """Options that every run has."""


@dataclass(frozen=True, kw_only=True)
class DetectToOptions(JobOptions):
    """Options of `geotile.detect_to`."""

    HINTS: ClassVar[dict[str, str]] = {
        "compute": "detect_to writes its result, so `compute` is not supported; use detect(compute=False)"
    }

    overwrite: bool = option(False, "Replace an output that exists.", type="bool", in_requests=False)


@dataclass(frozen=True, kw_only=True)
class DetectOptions(JobOptions):
    """Options of `geotile.detect`."""

    compute: bool = option(
        True, "False returns a `dask.delayed.Delayed` of the result once the model is ready. It cannot be combined "
        "with `progress` or `checkpoint`.", type="bool", on_command_line=False, in_requests=False,
    )  # fmt: skip

    def _check(self) -> None:
        if not self.compute and (self.checkpoint is not None or self.progress):
            raise ArgumentError("compute=False cannot be combined with checkpoint or progress; leave them out")


@documents()
@dataclass(frozen=True, kw_only=True)
class RetryPolicy(Options):
    """Retry policy and time-outs of a remote endpoint.

    Parameters
    ----------
    {options}

    Raises
    ------
    ArgumentError
        If a number is negative.
    """

    retries: int = option(
        8, "Maximum number of retries of a tile after retryable failures: no connection, a broken answer, a time-out, "
        "HTTP 408, 425, 429 and 5xx. Attempts during an outage are not counted.", type="int",
    )  # fmt: skip
    backoff_s: float = option(
        0.5, "Mean delay before the first retry, in seconds. The mean doubles with each retry, up to 30 s; each delay "
        "is random between 0 and twice the mean (full jitter). A Retry-After header takes precedence.", type="float",
    )  # fmt: skip
    ready_timeout_s: float = option(
        300.0, "Seconds to wait for a model that has not answered yet, since it may be starting.", type="float",
    )  # fmt: skip
    outage_timeout_s: float = option(
        3600.0, "Seconds to wait for a model that has answered before and does not answer any more; then the run ends "
        "with the results that it has.", type="float",
    )  # fmt: skip

    def _check(self) -> None:
        as_int(self.retries, "retries", 0, unit="retries")
        for name in ("backoff_s", "ready_timeout_s", "outage_timeout_s"):
            check_seconds(getattr(self, name), name)


@dataclass(frozen=True, kw_only=True)
class ClientOptions(RetryPolicy):
    """An HTTP client."""

    headers: Mapping[str, str] | None = option(
        None, "Headers sent with every request.", type="mapping", secret=True,
        from_text=from_text.headers, repeatable=True, metavar="'NAME: VALUE'",
    )  # fmt: skip
    auth: Any = option(
        None, "(user, password), or an authentication object of requests; `geotile.SigV4` signs for AWS.",
        type="tuple or requests.auth.AuthBase", secret=True,
    )  # fmt: skip
    bearer: str | None = option(None, "Token sent as ``Authorization: Bearer``.", type="str", secret=True)
    verify: bool | str = option(
        True, "Whether TLS certificates are verified; a path names a bundle of certificate authorities.",
        type="bool or str",
    )  # fmt: skip
    cert: str | tuple[str, str] | None = option(
        None, "Path of a client certificate with its key, or (certificate, key).", type="str or (str, str)",
    )  # fmt: skip
    timeout_s: tuple[float, float] = option(
        (10.0, 60.0), "Maximum time for the connection and for the whole response, in seconds.", type="(float, float)",
    )  # fmt: skip
    max_response_bytes: int = option(64 * 2**20, "Maximum size of an answer in bytes.", type="int")


@dataclass(frozen=True, kw_only=True)
class ContractOptions(Options):
    """The OversightML contract."""

    params: Mapping[str, str] | None = option(
        None, "Endpoint parameters of the contract, by SageMaker's names: ``CustomAttributes``, ``TargetModel``, "
        "``TargetVariant`` ... Over HTTP they are sent as headers.", type="mapping",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HttpOptions(ContractOptions, ClientOptions):
    """Options of `geotile.HttpEndpoint`."""


@dataclass(frozen=True, kw_only=True)
class SageMakerOptions(ContractOptions, RetryPolicy):
    """Options of a ``sagemaker://`` endpoint."""

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


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(ScoreOptions):
    """A network that geotile decodes."""

    family: str = option(
        "auto", 'Family of the network, one of `geotile.detectors.FAMILIES`; "auto" infers it from the outputs.',
        type="str",
    )  # fmt: skip
    output_names: Mapping[str, str] | None = option(
        None, 'For the family "torchvision": the names of the outputs ``boxes``, ``scores`` and ``labels``.',
        type="mapping",
    )  # fmt: skip
    labels: Sequence[str] | str | os.PathLike[str] | None = option(
        None, "Class names in order, or a file with one name per line. By default the class numbers.",
        type="sequence of str, str or path",
    )  # fmt: skip
    nms_iou_threshold: float = option(
        0.5, "IoU threshold of the non-maximum suppression within a tile, which detectors of some families need.",
        type="float",
    )  # fmt: skip

    def _check(self) -> None:
        check_unit(self.nms_iou_threshold, "nms_iou_threshold")


@dataclass(frozen=True, kw_only=True)
class OnnxOptions(DecoderOptions):
    """Options of an ``onnx:`` endpoint."""

    batch_size: int | None = option(
        None, "Maximum number of tiles per call. By default what the model takes, or 8 where it takes any number.",
        type="int",
    )  # fmt: skip
    threads: int | None = option(
        None, "Number of threads of onnxruntime within one call. By default the machine's cores divided by the number "
        "of tile threads.", type="int",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OipOptions(DecoderOptions, ClientOptions):
    """Options of an ``oip+http://`` endpoint."""

    batch_size: int | None = option(
        None, "Maximum number of tiles per request. By default what the model takes, or 8 where it takes any number.",
        type="int",
    )  # fmt: skip
    binary: bool | None = option(
        None, "Whether tensors are sent by the binary extension. By default if the server accepts it, which the first "
        "request finds out.", type="bool",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FunctionOptions(Options):
    """Options of a Python callable."""

    batch_size: int | None = option(
        None, "Maximum number of tiles per call; the callable then takes (n, band, y, x).", type="int",
    )  # fmt: skip
    factory: bool = option(
        False, "Whether the callable builds and returns the model; it is called once in each process.", type="bool",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EndpointKeywords(FunctionOptions, OnnxOptions, OipOptions, SageMakerOptions, HttpOptions):
    """Options of all kinds of endpoints together; each kind takes its own."""


@dataclass(frozen=True, kw_only=True)
class DetectKeywords(EndpointKeywords, DetectOptions):
    """Keyword arguments of `geotile.detect`."""


@dataclass(frozen=True, kw_only=True)
class DetectToKeywords(EndpointKeywords, DetectToOptions):
    """Keyword arguments of `geotile.detect_to`."""
