"""Keyword arguments of the calls for rasters and vectors: apart, since classes of many fields take time to make."""

from __future__ import annotations

from dataclasses import dataclass

from geotile.options.endpoint import (
    ContractOptions,
    FunctionOptions,
    OipArrayOptions,
    OnnxArrayOptions,
    SageMakerClientOptions,
)
from geotile.options.raster import EmbedOptions, EmbedToOptions, PredictOptions, PredictToOptions


@dataclass(frozen=True, kw_only=True)
class ArrayEndpointKeywords(
    FunctionOptions, OnnxArrayOptions, OipArrayOptions, SageMakerClientOptions, ContractOptions
):  # fmt: skip
    """Options of all kinds of endpoints whose models answer arrays."""


@dataclass(frozen=True, kw_only=True)
class PredictKeywords(ArrayEndpointKeywords, PredictOptions):
    """Keyword arguments of `geotile.predict`."""


@dataclass(frozen=True, kw_only=True)
class PredictToKeywords(ArrayEndpointKeywords, PredictToOptions):
    """Keyword arguments of `geotile.predict_to`."""


@dataclass(frozen=True, kw_only=True)
class EmbedKeywords(ArrayEndpointKeywords, EmbedOptions):
    """Keyword arguments of `geotile.embed`."""


@dataclass(frozen=True, kw_only=True)
class EmbedToKeywords(ArrayEndpointKeywords, EmbedToOptions):
    """Keyword arguments of `geotile.embed_to`."""
