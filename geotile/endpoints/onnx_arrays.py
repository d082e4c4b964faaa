"""An ONNX file that answers arrays as an endpoint of `predict` and `embed`: ``onnx:PATH``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from geotile.core.option import documents, with_options
from geotile.core.redact import redact
from geotile.detectors.array_model import OnnxArrayModel
from geotile.detectors.onnx import model_path, read_model
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError, GeotileError
from geotile.options import OnnxOptions

_OF_DETECTORS = ("family", "labels", "nms_iou_threshold", "score_threshold")


@documents(OnnxOptions)
class OnnxArrayEndpoint(Endpoint):
    """A network that answers a raster or a vector, run in onnxruntime and loaded once in each process.

    Parameters
    ----------
    spec : str
        ``onnx:`` followed by a path or any fsspec URI that every worker can read.
    {options}

    Raises
    ------
    ArgumentError
        If the file does not exist, or the model or an option cannot be used.
    """

    wants_bytes = remote = False

    @with_options(OnnxOptions).on_init
    def __init__(self, spec: str, options: OnnxOptions) -> None:
        for name in _OF_DETECTORS:
            if name in options.changed():
                raise ArgumentError(f"{name} is for models that answer detections; leave it out")
        names = dict(options.output_names or {})
        if set(names) - {"output"}:
            raise ArgumentError(f"output_names must name the one that is read, as 'output'; got {names}")
        self._path, self._options = model_path(spec.partition(":")[2]), options
        self._model = OnnxArrayModel(
            self._path, threads=options.threads or 1, providers=options.providers, mean=options.mean, std=options.std,
            output=names.get("output"),
        )  # fmt: skip
        self.batch_size = options.batch_size or self._model.batch_size or 1
        if self._model.batch_size not in (None, self.batch_size):
            raise ArgumentError(f"batch_size must be {self._model.batch_size}, as the model's; got {self.batch_size}")
        rows, columns = self._model.size_yx
        self.input_yx = (rows, columns) if rows is not None and columns is not None else None
        self.sample_shape = (self._model.bands or 3, *(self.input_yx or (512, 512)))

    def __repr__(self) -> str:
        return f"OnnxArrayEndpoint({str(self)!r})"

    def __str__(self) -> str:
        return f"onnx:{redact(self._path)}"

    def identity(self) -> dict[str, Any]:
        """Return the SHA-256 digest of the file and the options."""
        version = hashlib.sha256(read_model(self._path)).hexdigest()
        kept = {name: getattr(self._options, name) for name in ("mean", "std", "output_names")}
        return {"model": str(self), "version": version, "options": kept}

    def for_run(self, tile_threads: int = 1) -> OnnxArrayEndpoint:
        """Return an endpoint whose threads are its share of the machine's cores."""
        threads = self._options.threads or max(1, (os.cpu_count() or 1) // tile_threads)
        return OnnxArrayEndpoint(f"onnx:{self._path}", **(self._options.changed() | {"threads": threads}))

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Run the network on a batch of tiles."""
        missing = (self._model.batch_size or len(tiles)) - len(tiles)
        try:
            return self._model.batch([*tiles, *[tiles[-1]] * missing])[: len(tiles)]
        except GeotileError:
            raise
        except Exception as error:  # onnxruntime has its own errors; only this request fails
            raise EndpointError(f"{self} failed: {type(error).__name__}: {error}") from None
