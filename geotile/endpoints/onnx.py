"""A local ONNX model as an endpoint: ``onnx:PATH``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from geotile.core.checks import as_int
from geotile.core.redact import redact
from geotile.detectors.onnx import OnnxDetector
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError, GeotileError

_BATCH = 8


class OnnxEndpoint(Endpoint):
    """A detector in onnxruntime, in each process once.

    Its threads are the machine's cores over the tile threads that Dask runs there, so that workers do not fight.

    Parameters
    ----------
    spec : str
        ``onnx:`` and a path, or any fsspec uri, that each worker can read.
    batch_size : int, optional
        Most tiles in a call; by default the model's own, or 8 where it takes any number.
    threads : int, optional
        Of onnxruntime, within one call; by default as above.
    **options
        Those of `geotile.onnx.OnnxDetector`: ``labels``, ``family``, ``output_names``,
        ``score_threshold``, ``nms_iou_threshold``.

    Raises
    ------
    ArgumentError
        If there is no such model, or it cannot be used.
    """

    wants_bytes = remote = False

    def __init__(self, spec: str, *, batch_size: int | None = None, threads: int | None = None, **options: Any) -> None:
        known = {"labels", "family", "output_names", "score_threshold", "nms_iou_threshold"}
        if unknown := sorted(set(options) - known):
            raise ArgumentError(f"no option {unknown}; onnx: takes {sorted(known | {'batch_size', 'threads'})}")
        self._path, self._threads, self._options = os.path.abspath(spec.partition(":")[2]), threads, options
        self._model = OnnxDetector(self._path, threads=threads or 1, **options)
        takes, size = self._model.batch_size, self._model.size_yx or (512, 512)
        most = _BATCH if takes is None else takes
        self.batch_size = most if batch_size is None else as_int(batch_size, "batch_size", 1, unit="tiles")
        if takes is not None and self.batch_size > takes:
            raise ArgumentError(f"batch_size={batch_size}, but the model takes {takes}; export it with a dynamic batch")
        self.sample_shape = (3, *size)

    def __repr__(self) -> str:
        return f"OnnxEndpoint({str(self)!r}, {self._model.family}, batch_size={self.batch_size})"

    def __str__(self) -> str:
        return f"onnx:{redact(self._path)}"

    def identity(self) -> dict[str, Any]:
        """Return the model's digest and the decoder's options."""
        with open(self._path, "rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()
        return {"model": str(self), "version": version, "options": repr(sorted(self._options.items()))}

    def with_score_threshold(self, score_threshold: float) -> OnnxEndpoint:
        """Return it with another minimum score."""
        options = self._options | {"score_threshold": score_threshold}
        return OnnxEndpoint(f"onnx:{self._path}", batch_size=self.batch_size, threads=self._threads, **options)

    def for_run(self, tile_threads: int = 1) -> OnnxEndpoint:
        """Return it with its share of a machine's cores."""
        threads = self._threads or max(1, (os.cpu_count() or 1) // tile_threads)
        return OnnxEndpoint(f"onnx:{self._path}", batch_size=self.batch_size, threads=threads, **self._options)

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Run the network on tiles."""
        filled = [*tiles, *[tiles[-1]] * self._missing(len(tiles))]
        try:
            return self._model.batch(filled)[: len(tiles)]
        except GeotileError:
            raise
        except Exception as error:  # onnxruntime's own; it fails this request alone
            raise EndpointError(f"{self} failed: {type(error).__name__}: {error}") from None

    def _missing(self, given: int) -> int:
        takes = self._model.batch_size
        return 0 if takes is None else takes - given
