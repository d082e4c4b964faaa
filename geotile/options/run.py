"""Options of a run: tiles, region of interest, merging, failures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from geotile.core import from_text
from geotile.core.checks import Pair, as_int, as_pair, check_unit
from geotile.core.choices import MERGE_NAMES, OverlapMetric, TileCompression, TileFormat
from geotile.core.option import Options, option
from geotile.core.thresholds import check_threshold
from geotile.errors import ArgumentError
from geotile.options.storage import check_storage, storage_values

if TYPE_CHECKING:
    from geotile.merging.merge import Merge
    from geotile.running.progress import ProgressCallback


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class TilingOptions(Options):
    """Tiles and regions."""

    tile_size: int | Pair | Literal["auto"] = option(
        "auto", 'Side of a tile in pixels, or (y, x): what the model sees. "auto" is the size of the model\'s input '
        "where it is known before the run (onnx: files with a fixed size, or with metadata), else 1024.",
        type='int, (int, int) or "auto"', from_text=from_text.pair_or_auto, metavar="PX|Y,X|auto", in_requests=False,
    )  # fmt: skip
    overlap: int | Pair = option(
        128, 'Minimum overlap of neighbouring tiles in pixels, or (y, x). With tile_size="auto" at most half a tile.',
        type="int or (int, int)", from_text=from_text.pair, metavar="PX|Y,X", in_requests=False,
    )  # fmt: skip
    region_size: int | Pair | Literal["auto"] = option(
        "auto", "Side of a region (one Dask task) in pixels, or (y, x), rounded to the file's blocks. "
        '"auto" aims at 32 MiB, and at up to 256 MiB on clusters of more than 16 threads.',
        type='int, (int, int) or "auto"', from_text=from_text.pair_or_auto, metavar="PX|Y,X|auto", in_requests=False,
    )  # fmt: skip
    tile_format: TileFormat = option(
        "GTIFF", "Format of the encoded tiles that a URL is sent; callables get the array. JPEG is lossy.",
        type='{"GTIFF", "NITF", "PNG", "JPEG", "NPY"}', choices=get_args(TileFormat), in_requests=False,
        flag_doc="Format of the encoded tiles that a URL is sent; models in the process get the array. JPEG is lossy.",
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
        if self.tile_size != "auto":
            as_pair(self.tile_size, "tile_size", 1)
        as_pair(self.overlap, "overlap", 0)
        if self.region_size != "auto":
            as_pair(self.region_size, "region_size", 1)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class AreaOptions(Options):
    """Region of interest."""

    roi: Any = option(
        None, "Region of interest: WKT, GeoJSON, a file of areas, a shapely geometry or a GeoDataFrame, in WGS 84 "
        "longitude and latitude unless it names its CRS. Only tiles that share pixels with it are read and sent.",
        type="str, mapping, shapely geometry or GeoDataFrame", from_text=from_text.area,
        metavar="WKT|GEOJSON|FILE", in_requests=False,
        flag_doc="Region of interest: WKT, GeoJSON, or a file of areas (GeoJSON, GeoPackage, shapefile ...), in WGS 84 "
        "longitude and latitude unless it names its CRS. Only tiles that share pixels with it are read and sent.",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ValidityOptions(Options):
    """Pixels without data."""

    skip_nodata: bool | float = option(
        True, "Minimum share of valid pixels, 0 to 1, of a tile that is sent. True sends tiles with any valid pixel, "
        "False sends every tile. Masks, alpha bands, nodata values, NaN and missing blocks are not valid.",
        type="bool or float", from_text=from_text.bool_or_share, metavar="true|false|SHARE",
        flag_doc="Minimum share of valid pixels, 0 to 1, of a tile that is sent; true sends tiles with any valid "
        "pixel, false sends every tile. Masks, alpha bands, nodata values, NaN and missing blocks are not valid.",
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


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SelectionOptions(ValidityOptions, AreaOptions):
    """Selection of tiles."""

    outside_roi: Literal["drop", "keep"] = option(
        "drop", "What happens to detections in the selected tiles that do not intersect the region of interest.",
        type='{"drop", "keep"}', choices=("drop", "keep"),
    )  # fmt: skip

    def _check(self) -> None:
        if self.outside_roi != "drop" and self.roi is None:
            raise ArgumentError(f"outside_roi={self.outside_roi!r} would have no effect without roi; give roi= as well")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ScoreOptions(Options):
    """Score threshold."""

    score_threshold: float | Mapping[str, float] | None = option(
        None, "Minimum score of a detection, 0 to 1, applied before merging; by label as in "
        '``{"ship": 0.3, "*": 0.5}``. By default 0.3 for models that geotile decodes (onnx: and oip+http:), and 0 for '
        "all others.", type="float or mapping of str to float", from_text=from_text.threshold,
        metavar="SCORE|LABEL=SCORE,...",
        flag_doc="Minimum score of a detection, 0 to 1, applied before merging; by label as in ship=0.3,*=0.5. By "
        "default 0.3 for models that geotile decodes (onnx: and oip+http:), and 0 for all others.",
    )  # fmt: skip

    def _check(self) -> None:
        if self.score_threshold is not None:
            check_threshold(self.score_threshold, "score_threshold")


OF_MERGE = ("iou_threshold", "overlap_metric", "class_agnostic")
"""Options that set parameters of the merge."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MergingOptions(ScoreOptions):
    """Merging of overlapping tiles."""

    merge: str | Merge | None = option(
        "seam", 'How detections of overlapping tiles are merged: "seam" is non-maximum suppression that joins what '
        'tiles cut; "nms", "soft-nms", "greedy-nmm", "nmm", "union" and "point-nms" are `geotile.Nms` and so on, with '
        'parameters as in "soft-nms:sigma=0.5"; "none" or None keeps the detections of all tiles.',
        type="str, Merge or None", from_text=str, metavar="NAME[:NAME=VALUE,...]|none",
        flag_doc="How detections of overlapping tiles are merged: seam (suppression that joins what tiles cut), nms, "
        "soft-nms, greedy-nmm, nmm, union, point-nms, with parameters as in soft-nms:sigma=0.5; none keeps the "
        "detections of all tiles.",
    )  # fmt: skip
    iou_threshold: float | Mapping[str, float] = option(
        0.5, "Overlap above which two detections are one object, 0 to 1; by label as in "
        '``{"ship": 0.3, "*": 0.5}``.', type="float or mapping of str to float", from_text=from_text.threshold,
        metavar="OVERLAP|LABEL=OVERLAP,...",
        flag_doc="Overlap above which two detections are one object, 0 to 1; by label as in ship=0.3,*=0.5.",
    )  # fmt: skip
    overlap_metric: OverlapMetric | None = option(
        None, 'Measure of the overlap of merge="nms", "nmm" and "greedy-nmm": intersection over union, or over the '
        'smaller area. By default "iou" for "nms", and "ios" for the others.', type='{"iou", "ios"}',
        choices=(None, *get_args(OverlapMetric)),
        flag_doc="Measure of the overlap of the merges nms, nmm and greedy-nmm: intersection over union, or over the "
        "smaller area. By default iou for nms, and ios for the others.",
    )  # fmt: skip
    class_agnostic: bool = option(False, "Let detections of different labels suppress each other.", type="bool")

    def _check(self) -> None:
        check_threshold(self.iou_threshold, "iou_threshold")
        if isinstance(self.merge, type):
            raise ArgumentError(f"merge must be an object such as geotile.{self.merge.__name__}(), not its class")
        if isinstance(self.merge, str) and self.merge.partition(":")[0] not in MERGE_NAMES:
            raise ArgumentError(f"merge must be one of {', '.join(map(repr, MERGE_NAMES))}; got {self.merge!r}")

    @property
    def of_merge(self) -> dict[str, Any]:
        """Options of the merge that differ from their defaults."""
        return {name: value for name, value in self.changed().items() if name in OF_MERGE}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RequestOptions(Options):
    """Requests."""

    concurrency: int | Literal["auto"] = option(
        "auto", 'Maximum number of requests in flight over the whole cluster. "auto" adapts to the endpoint. A model '
        "in the process runs in at most as many threads as Dask has.", type='int or "auto"',
        from_text=from_text.int_or_auto, metavar="INTEGER|auto", in_requests=False,
    )  # fmt: skip

    def _check(self) -> None:
        if self.concurrency != "auto":
            as_int(self.concurrency, "concurrency", 1, unit="requests")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RunOptions(RequestOptions):
    """The run."""

    errors: Literal["record", "raise"] = option(
        "record", "Whether failed tiles are listed in the report while the run continues, or the first one stops it.",
        type='{"record", "raise"}', choices=("record", "raise"), in_requests=False,
    )  # fmt: skip
    progress: bool | ProgressCallback | None = option(
        None, "True shows a bar in a terminal or a notebook, and elsewhere prints a line a minute to standard error. A "
        "callable gets a `geotile.Progress` at most ten times a second.", type="bool or callable",
        on_command_line=False, in_requests=False,
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
        "anywhere.", type="mapping", from_text=storage_values, repeatable=True, metavar="NAME=VALUE",
        in_requests=False, secret=True,
    )  # fmt: skip

    def _check(self) -> None:
        check_storage("output_options", self.output_options)
        if self.checkpoint is None and self.retry_failed:
            raise ArgumentError("retry_failed=True asks again about tiles of a checkpoint; give checkpoint= as well")
