"""An ONNX file that answers arrays as an endpoint of `predict` and `embed`: ``onnx:PATH``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.option import documents, with_options
from geotile.core.redact import redact
from geotile.detectors.array_network import array_network, array_options, check_output_names
from geotile.detectors.metadata import read_metadata
from geotile.detectors.onnx import model_path, open_session_of, read_model, session_key, tensors_of
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError, GeotileError
from geotile.options.endpoint import OnnxArrayOptions


@documents(OnnxArrayOptions)
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

    @with_options(OnnxArrayOptions).on_init
    def __init__(self, spec: str, options: OnnxArrayOptions) -> None:
        check_output_names(options)
        self._path, self._options = model_path(spec.partition(":")[2]), options
        self._key = session_key(self._path, options.threads or 1, options.providers)
        session = open_session_of(self._key)  # opened here, so that a wrong model is found before the run
        wanted = (options.output_names or {}).get("output")
        outputs = [each for each in session.get_outputs() if each.name == wanted] or session.get_outputs()
        try:
            self._network = array_network(
                tensors_of(session.get_inputs()), tensors_of(outputs), options, options.batch_size
            )
        except ArgumentError as error:
            raise ArgumentError(f"{self}: {error}") from None
        names = read_metadata(session.get_modelmeta().custom_metadata_map).names or {}
        in_order = bool(names) and sorted(names) == list(range(len(names)))
        self.class_names = tuple(names[n] for n in sorted(names)) if in_order else None
        self.batch_size, self.input_yx = self._network.batch_size, self._network.size_yx
        self.sample_shape = (self._network.bands or 3, *(self.input_yx or (512, 512)))

    def __repr__(self) -> str:
        return f"OnnxArrayEndpoint({str(self)!r})"

    def __str__(self) -> str:
        return f"onnx:{redact(self._path)}"

    def identity(self) -> dict[str, Any]:
        """Return the SHA-256 digest of the file and the options."""
        version = hashlib.sha256(read_model(self._path)).hexdigest()
        return {"model": str(self), "version": version, "options": array_options(self._options)}

    def for_run(self, tile_threads: int = 1) -> OnnxArrayEndpoint:
        """Return an endpoint whose threads are its share of the machine's cores."""
        threads = self._options.threads or max(1, (os.cpu_count() or 1) // tile_threads)
        return OnnxArrayEndpoint(f"onnx:{self._path}", **(self._options.changed() | {"threads": threads}))

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Run the network on a batch of tiles."""
        network = self._network
        pixels = network.input_for(tiles)
        try:
            (values,) = open_session_of(self._key).run([network.output.name], {network.input.name: pixels})
        except GeotileError:
            raise
        except Exception as error:  # onnxruntime has its own errors; only this request fails
            raise EndpointError(f"{self} failed: {type(error).__name__}: {error}") from None
        return network.answers_from(np.asarray(values), len(tiles), tiles[0].shape[1:])
