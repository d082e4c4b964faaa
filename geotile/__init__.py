"""Run detection models over overhead images of any size.

>>> import geotile
>>> detections = geotile.detect("scene.tif", "https://models.example/invocations")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from geotile.endpoints import Check, Endpoint, HttpEndpoint, RetryPolicy, endpoint
from geotile.endpoints.sigv4 import SigV4
from geotile.errors import (
    ArgumentError,
    ClusterError,
    EndpointError,
    EndpointUnreachable,
    GeoreferenceError,
    GeotileError,
    ImageError,
    ImageOpenError,
    ImageReadError,
    OutputError,
    ResponseError,
    ServiceError,
    TileError,
)
from geotile.grid.tile_grid import TileGrid, Window
from geotile.imagery.open import open_image
from geotile.imagery.scaling import cast, rescale, stretch
from geotile.merging.merge import KeepAll, Merge, Nms
from geotile.merging.nms import nms
from geotile.merging.soft_nms import SoftNms
from geotile.pipeline import detect, detect_to
from geotile.planning.plan import Plan, plan
from geotile.results.plotting import plot_detections
from geotile.results.report import Report, TileFailure
from geotile.results.sinks import write
from geotile.running.progress import Progress

if TYPE_CHECKING:
    from geotile.service import JobRequest, jobs, serve, submit

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Check",
    "ClusterError",
    "Endpoint",
    "EndpointError",
    "EndpointUnreachable",
    "GeoreferenceError",
    "GeotileError",
    "HttpEndpoint",
    "ImageError",
    "ImageOpenError",
    "ImageReadError",
    "JobRequest",
    "KeepAll",
    "Merge",
    "Nms",
    "OutputError",
    "Plan",
    "Progress",
    "Report",
    "ResponseError",
    "RetryPolicy",
    "ServiceError",
    "SigV4",
    "SoftNms",
    "TileError",
    "TileFailure",
    "TileGrid",
    "Window",
    "cast",
    "detect",
    "detect_to",
    "endpoint",
    "jobs",
    "nms",
    "open_image",
    "plan",
    "plot_detections",
    "rescale",
    "serve",
    "stretch",
    "submit",
    "write",
]


def __getattr__(name: str) -> Any:
    """Return what the service offers: its libraries are imported when it is used."""
    if name in ("JobRequest", "jobs", "serve", "submit"):
        from geotile import service

        return getattr(service, name)
    raise AttributeError(f"module 'geotile' has no attribute {name!r}")
