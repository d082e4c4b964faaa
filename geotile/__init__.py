"""Run detection models over overhead images of any size.

>>> import geotile
>>> detections = geotile.detect("scene.tif", "https://models.example/invocations")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from geotile.endpoints import Check, Endpoint, HttpEndpoint, Patience, endpoint
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
from geotile.grid import TileGrid, Window
from geotile.merge import KeepAll, Merge, Nms
from geotile.nms import nms
from geotile.pipeline import detect, detect_to
from geotile.plan import Plan, plan
from geotile.plotting import plot_detections
from geotile.progress import Progress
from geotile.raster import open_image
from geotile.report import Report, TileFailure
from geotile.scaling import cast, rescale, stretch
from geotile.sinks import write
from geotile.soft_nms import SoftNms

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
    "Patience",
    "Plan",
    "Progress",
    "Report",
    "ResponseError",
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
