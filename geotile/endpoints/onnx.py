"""An ONNX file as an endpoint: ``onnx:PATH``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from geotile.core.option import documents, with_options
from geotile.core.redact import redact
from geotile.detectors import OnnxDetector
from geotile.detectors.array_network import refuse_divisor
from geotile.detectors.detector import decoder_identity
from geotile.detectors.onnx import model_path, read_model
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError, GeotileError
from geotile.options import DecoderOptions, OnnxOptions

_DEFAULT_BATCH_SIZE = 8


@documents(OnnxOptions)
class OnnxEndpoint(Endpoint):
    """A detector that runs in onnxruntime, loaded once in each process.

    By default onnxruntime uses the machine's cores divided by the number of tile threads that Dask runs there, so that
    workers do not compete for cores.

    Parameters
    ----------
    spec : str
        ``onnx:`` followed by a path or any fsspec URI that every worker can read, such as ``onnx:~/ships.onnx``,
        ``onnx:file:///models/my%20ships.onnx`` or ``onnx:s3://models/ships.onnx``.
    {options}

    Raises
    ------
    ArgumentError
        If the file does not exist, or the model or an option cannot be used.
    """

    wants_bytes = remote = False
    takes_rgb = True

    @with_options(OnnxOptions).on_init
    def __init__(self, spec: str, options: OnnxOptions) -> None:
        self._path, self._options = model_path(spec.partition(":")[2]), options
        self._decoding = options.part(DecoderOptions)
        refuse_divisor(options)
        self._model = OnnxDetector(
            self._path, threads=options.threads or 1, providers=options.providers, **self._decoding.changed()
        )
        limit = self._model.detector.max_batch_size
        self.batch_size = options.batch_size or (_DEFAULT_BATCH_SIZE if limit is None else limit)
        if limit is not None and self.batch_size > limit:
            raise ArgumentError(
                f"batch_size must be at most {limit}, the model's fixed batch size; got {options.batch_size}. "
                "Export the model with a dynamic batch size for larger batches"
            )
        self.resizes_tiles = self._model.size_yx is not None
        self.input_yx = self._model.size_yx or self._model.detector.metadata.size_yx
        self.sample_shape = (3, *(self.input_yx or (512, 512)))

    def __repr__(self) -> str:
        return f"OnnxEndpoint({str(self)!r}, {self._model.family}, batch_size={self.batch_size})"

    def __str__(self) -> str:
        return f"onnx:{redact(self._path)}"

    def description(self) -> str:
        """Return the family, the classes, the input and the execution provider of the model."""
        return f"{self._model.detector.description()}, provider {self._model.provider}"

    def doubts(self) -> Sequence[str]:
        """Return what looks wrong about the model."""
        return self._model.detector.doubts()

    def identity(self) -> dict[str, Any]:
        """Return the SHA-256 digest of the file and the options of the decoder."""
        version = hashlib.sha256(read_model(self._path)).hexdigest()
        return {"model": str(self), "version": version, "options": decoder_identity(self._decoding)}

    def with_score_threshold(self, score_threshold: float) -> OnnxEndpoint:
        """Return an endpoint with another minimum score."""
        return self._with(score_threshold=score_threshold)

    def for_run(self, tile_threads: int = 1) -> OnnxEndpoint:
        """Return an endpoint whose threads are its share of the machine's cores."""
        threads = self._options.threads or max(1, (os.cpu_count() or 1) // tile_threads)
        return self._with(batch_size=self.batch_size, threads=threads)

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Run the network on a batch of tiles."""
        filled = [*tiles, *[tiles[-1]] * self._padding(len(tiles))]
        try:
            return self._model.batch(filled)[: len(tiles)]
        except GeotileError:
            raise
        except Exception as error:  # onnxruntime has its own errors; only this request fails
            raise EndpointError(f"{self} failed: {type(error).__name__}: {error}") from None

    def _with(self, **changes: Any) -> OnnxEndpoint:
        """Return the endpoint with some other options."""
        return OnnxEndpoint(f"onnx:{self._path}", **(self._options.changed() | changes))

    def _padding(self, n_tiles: int) -> int:
        """Return the number of tiles that are missing to the model's fixed batch size."""
        fixed = self._model.batch_size
        return 0 if fixed is None else fixed - n_tiles
