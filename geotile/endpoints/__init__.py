"""Endpoints turn tiles into detections; they know nothing about Dask, tile positions, or CRSs."""

from geotile.endpoints.base import Check, Endpoint, as_answer
from geotile.endpoints.create import applicable_options, array_endpoint, endpoint, resolve_endpoint
from geotile.endpoints.function import FunctionEndpoint
from geotile.endpoints.http import HttpEndpoint

__all__ = [
    "Check",
    "Endpoint",
    "FunctionEndpoint",
    "HttpEndpoint",
    "applicable_options",
    "array_endpoint",
    "as_answer",
    "endpoint",
    "resolve_endpoint",
]
