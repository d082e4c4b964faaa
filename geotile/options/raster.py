"""Options of runs whose model answers rasters or vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from geotile.core import from_text
from geotile.core.checks import as_int, check_not_negative
from geotile.core.choices import MAX_CLASSES, Activation, Blend, EmbeddingDtype, OutputKind, ScoreDtype, Tokens
from geotile.core.option import Options, option, option_names
from geotile.core.thresholds import check_threshold
from geotile.errors import ArgumentError
from geotile.options.image import ImageOptions, ScalingOptions
from geotile.options.run import AreaOptions, RequestOptions, RunOptions, TilingOptions, ValidityOptions

_HINTS = {"labels": "labels names the classes of detections; name those of the raster with classes="}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RasterOptions(Options):
    """The raster."""

    output: OutputKind = option(
        "classes", 'What a pixel of the output is: "classes" is the number of its class, "scores" a score from 0 to 1 '
        'for each class, "values" what the model returns, such as a height.', type='{"classes", "scores", "values"}',
        choices=get_args(OutputKind),
    )  # fmt: skip
    blend: Blend = option(
        "trim", 'What a pixel becomes that several tiles see: "trim" takes the tile in which it lies farthest from a '
        'seam; "hann" (weights that fall where tiles overlap) and "mean" average the tiles; "vote" is the '
        "class that most tiles say.", type='{"trim", "hann", "mean", "vote"}', choices=get_args(Blend),
    )  # fmt: skip
    classes: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None = option(
        None, "Names of the classes in order or by number, or a file with one name per line. By default those in the "
        "GeoTIFF that the model returns, or in the metadata of the ONNX file, if any.",
        type="sequence of str, mapping of int to str, str or path", from_text=from_text.names_or_file,
        metavar="NAME,...|FILE",
    )  # fmt: skip
    threshold: float | Mapping[str, float] | None = option(
        None, "Score above which a pixel is of a class, 0 to 1; by class as in ``{\"road\": 0.3, \"*\": 0.5}``. Each "
        "class then has a band of 0 and 1. By default a pixel is of the class with the highest score, and 0.5 where "
        "the model has one class.", type="float or mapping of str to float", from_text=from_text.threshold,
        metavar="SCORE|CLASS=SCORE,...",
        flag_doc="Score above which a pixel is of a class, 0 to 1; by class as in road=0.3,*=0.5. Each class then has "
        "a band of 0 and 1. By default a pixel is of the class with the highest score, and 0.5 where the model has one "
        "class.",
    )  # fmt: skip
    activation: Activation | None = option(
        None, 'What makes scores of the model\'s answer: "softmax" (a pixel is of one class), "sigmoid" (each class '
        'for itself), or "none" if they are scores already, as by default.', type='{"softmax", "sigmoid", "none"}',
        choices=(None, *get_args(Activation)),
        flag_doc="What makes scores of the model's answer: softmax (a pixel is of one class), sigmoid (each class for "
        "itself), or none if they are scores already, as by default.",
    )  # fmt: skip
    score_dtype: ScoreDtype = option(
        "uint8", "Dtype of scores: uint8 holds multiples of 1/254, and 255 where there is none.",
        type='{"uint8", "float32"}', choices=get_args(ScoreDtype),
    )  # fmt: skip

    def _check(self) -> None:
        if self.threshold is not None:
            check_threshold(self.threshold, "threshold", all_named=True)
        if self.classes is not None and not isinstance(self.classes, str | os.PathLike | Mapping):
            check_classes(self.classes)
        if self.blend == "vote" and self.output != "classes":
            raise ArgumentError(f"blend='vote' needs output='classes'; got output={self.output!r}. Use blend='hann'")
        for name in ("threshold", "score_dtype", "activation"):
            wanted = {"threshold": ("classes",), "score_dtype": ("scores",), "activation": ("classes", "scores")}[name]
            if name in self.changed() and self.output not in wanted:
                raise ArgumentError(f"{name} would have no effect with output={self.output!r}; leave it out")


def check_classes(classes: Sequence[str]) -> None:
    """Refuse names of classes that cannot be shown, or that are the same."""
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise ArgumentError(f"classes must be 1 to {MAX_CLASSES:,} names; got {len(classes):,}")
    for name in classes:
        if not name.isprintable():
            raise ArgumentError(f"classes must have names without control characters and lone surrogates; got {name!r}")
    if len(set(classes)) < len(classes):
        raise ArgumentError(f"classes must have names that differ; got {list(classes)!r}")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PredictJobOptions(
    ImageOptions, ScalingOptions, RasterOptions, RequestOptions, ValidityOptions, AreaOptions, TilingOptions
):
    """Options that every run has whose model answers rasters."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PredictOptions(PredictJobOptions):
    """Options of `geotile.predict`."""

    CALL: ClassVar[str] = "predict"
    HINTS: ClassVar[dict[str, str]] = {
        "errors": "predict raises the error of a tile that fails when its pixels are computed; predict_to records them",
        **_HINTS,
        "compute": "predict is lazy always, and computes what .compute() or a slice asks for; leave compute out",
    }


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PolygonOptions(Options):
    """The polygons."""

    polygons: str | os.PathLike[str] | None = option(
        None, "File for the areas of the classes as polygons, as `geotile.polygonize` makes them: .parquet, .fgb, "
        ".gpkg, .geojson or .geojsonl.", type="str or path", metavar="FILE", in_requests=False,
    )  # fmt: skip
    polygon_classes: Sequence[str | int] | None = option(
        None, "Classes of which there are polygons, by name or by number. By default all.",
        type="sequence of str or int", from_text=from_text.names_or_numbers, metavar="CLASS,...", in_requests=False,
    )  # fmt: skip
    min_area_px: float = option(
        0.0, "Polygons of fewer pixels are left out, their holes not counted.", type="float", in_requests=False,
    )  # fmt: skip
    min_hole_px: float = option(0.0, "Holes of fewer pixels are filled.", type="float", in_requests=False)
    simplify_px: float = option(
        0.0, "Tolerance of a simplification (Douglas-Peucker) that keeps the topology of each polygon, in pixels.",
        type="float", in_requests=False,
    )  # fmt: skip

    def _check(self) -> None:
        for name in ("min_area_px", "min_hole_px", "simplify_px"):
            check_not_negative(getattr(self, name), name, "pixels")
        given = [name for name in option_names(PolygonOptions) if name in self.changed()]
        if given and self.polygons is None:
            raise ArgumentError(f"{given[0]} would have no effect without polygons=; give the file to write them to")

    @property
    def of_polygons(self) -> dict[str, Any]:
        """Arguments of `geotile.polygonize`."""
        sizes = {name: getattr(self, name) for name in ("min_area_px", "min_hole_px", "simplify_px")}
        return sizes if self.polygon_classes is None else sizes | {"classes": list(self.polygon_classes)}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PredictToOptions(PredictJobOptions, PolygonOptions, RunOptions):
    """Options of `geotile.predict_to`."""

    CALL: ClassVar[str] = "predict_to"
    HINTS: ClassVar[dict[str, str]] = _HINTS
    PANEL: ClassVar[str] = "Output"

    overwrite: bool = option(False, "Replace an output that exists.", type="bool", in_requests=False)

    def _check(self) -> None:
        if self.polygons is not None and self.output != "classes":
            raise ArgumentError(
                f"polygons must be given with output='classes'; got output={self.output!r}. Leave polygons out"
            )
        if self.crs is not None and self.polygons is None:
            raise ArgumentError("crs would have no effect: a raster has the CRS of its image. It is that of polygons=")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class VectorOptions(Options):
    """The vectors."""

    tokens: Tokens = option(
        "single", 'What to make of several vectors for a tile: "class" takes the first, "mean" their mean, "patches" '
        'makes a row for each patch; "single" refuses them.', type='{"single", "class", "mean", "patches"}',
        choices=get_args(Tokens),
    )  # fmt: skip
    prefix_tokens: int = option(
        0, 'Number of vectors before those of the patches, the class token and register tokens: "patches" and "mean" '
        "leave them out.", type="int",
    )  # fmt: skip
    dtype: EmbeddingDtype = option(
        "float32", "Dtype of the vectors.", type='{"float32", "float16"}', choices=get_args(EmbeddingDtype),
    )  # fmt: skip

    def _check(self) -> None:
        as_int(self.prefix_tokens, "prefix_tokens", 0, unit="vectors")
        if self.prefix_tokens and self.tokens not in ("patches", "mean"):
            raise ArgumentError(f"prefix_tokens would have no effect with tokens={self.tokens!r}; leave it out")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class EmbedOptions(
    ImageOptions, ScalingOptions, VectorOptions, RunOptions, ValidityOptions, AreaOptions, TilingOptions
):
    """Options of `geotile.embed`."""

    CALL: ClassVar[str] = "embed"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class EmbedToOptions(EmbedOptions):
    """Options of `geotile.embed_to`."""

    CALL: ClassVar[str] = "embed_to"
    PANEL: ClassVar[str] = "Output"

    overwrite: bool = option(False, "Replace an output that exists.", type="bool", in_requests=False)
