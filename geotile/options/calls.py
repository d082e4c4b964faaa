"""The options that each public function takes, put together from the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from geotile.core.option import option
from geotile.errors import ArgumentError
from geotile.options.endpoint import EndpointKeywords
from geotile.options.image import ImageOptions, ScalingOptions
from geotile.options.run import AreaOptions, MergingOptions, RunOptions, SelectionOptions, TilingOptions


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class OpenOptions(ImageOptions):
    """Options of `geotile.open_image`."""

    CALL: ClassVar[str] = "open_image"

    chunks: Any = option(
        "auto", 'Regions, rounded to the file\'s blocks: "auto" for at most 32 MiB (less where Dask\'s '
        "``array.chunk-size`` is less), or pixels, or pixels by axis (``{\"y\": 4096, \"x\": 4096}``).",
        type='"auto", int, tuple or mapping', on_command_line=False, in_requests=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PlanOptions(ImageOptions, ScalingOptions, AreaOptions, TilingOptions):
    """Options of `geotile.plan`."""

    CALL: ClassVar[str] = "plan"

    endpoint: Any = option(
        None, "Endpoint, as `detect` takes it. Tiles that are larger than its requests may be are refused.",
        type="str, callable or Endpoint", on_command_line=False, in_requests=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class JobOptions(ImageOptions, ScalingOptions, RunOptions, MergingOptions, SelectionOptions, TilingOptions):
    """Options that every run has."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class DetectToOptions(JobOptions):
    """Options of `geotile.detect_to`."""

    CALL: ClassVar[str] = "detect_to"
    PANEL: ClassVar[str] = "Output"
    HINTS: ClassVar[dict[str, str]] = {
        "compute": "detect_to writes its result, so `compute` is not supported; use detect(compute=False)"
    }

    overwrite: bool = option(False, "Replace an output that exists.", type="bool", in_requests=False)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class DetectOptions(JobOptions):
    """Options of `geotile.detect`."""

    CALL: ClassVar[str] = "detect"

    compute: bool = option(
        True, "False returns a `dask.delayed.Delayed` of the result once the model is ready. It cannot be combined "
        "with `progress` or `checkpoint`.", type="bool", on_command_line=False, in_requests=False,
    )  # fmt: skip

    def _check(self) -> None:
        if not self.compute and (self.checkpoint is not None or self.progress):
            raise ArgumentError("compute=False cannot be combined with checkpoint or progress; leave them out")
        if self.output_options and self.checkpoint is None:
            raise ArgumentError(
                "output_options would have no effect: detect writes only a checkpoint; give checkpoint= as well, or "
                "storage_options= for the image"
            )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class DetectKeywords(EndpointKeywords, DetectOptions):
    """Keyword arguments of `geotile.detect`."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class DetectToKeywords(EndpointKeywords, DetectToOptions):
    """Keyword arguments of `geotile.detect_to`."""
