"""Keyword arguments of the calls for rasters and vectors: apart, since classes of many fields take time to make."""

from __future__ import annotations

from dataclasses import dataclass

from geotile.options.endpoint import EndpointKeywords
from geotile.options.raster import EmbedOptions, EmbedToOptions, PredictOptions, PredictToOptions


@dataclass(frozen=True, kw_only=True)
class PredictKeywords(EndpointKeywords, PredictOptions):
    """Keyword arguments of `geotile.predict`."""


@dataclass(frozen=True, kw_only=True)
class PredictToKeywords(EndpointKeywords, PredictToOptions):
    """Keyword arguments of `geotile.predict_to`."""


@dataclass(frozen=True, kw_only=True)
class EmbedKeywords(EndpointKeywords, EmbedOptions):
    """Keyword arguments of `geotile.embed`."""


@dataclass(frozen=True, kw_only=True)
class EmbedToKeywords(EndpointKeywords, EmbedToOptions):
    """Keyword arguments of `geotile.embed_to`."""
