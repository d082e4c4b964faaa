"""What a job can do with its images: detect objects, predict a raster, or embed tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geotile.core.option import described
from geotile.endpoints import Endpoint
from geotile.options import DetectToOptions
from geotile.options.raster import EmbedToOptions, PredictToOptions

TaskName = Literal["detect", "predict", "embed"]
TaskOptions = DetectToOptions | PredictToOptions | EmbedToOptions
Format = Literal["geojson", "parquet", "tif", "zarr"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the requests of a task take."""

    options: type[DetectToOptions] | type[PredictToOptions] | type[EmbedToOptions]
    """Options of the call that runs an image."""
    formats: tuple[Format, ...]
    """Formats of outputs, the default first."""

    @property
    def in_geotile(self) -> frozenset[str]:
        """The names that the field ``geotile`` takes."""
        return frozenset(name for name, info in described(self.options).items() if info.in_requests)


TASKS: dict[TaskName, Task] = {
    "detect": Task(options=DetectToOptions, formats=("geojson", "parquet")),
    "predict": Task(options=PredictToOptions, formats=("tif", "zarr")),
    "embed": Task(options=EmbedToOptions, formats=("parquet",)),
}


def asked_for(task: TaskName, model: Endpoint) -> Endpoint:
    """Return the endpoint as the runs of a task ask it."""
    match task:
        case "detect":
            return model
        case "predict":
            return model.for_rasters()
        case "embed":
            return model.for_embeddings()
