"""An ONNX file that answers arrays: class maps, scores, values or vectors, read by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.redact import redact
from geotile.detectors.onnx import SessionKey, model_path, open_session_of, tensors_of, version_of
from geotile.errors import ArgumentError, EndpointError


class OnnxArrayModel:
    """Callable that returns a network's output for a tile. It pickles its path; each process opens the model once.

    Pixels of uint8 become ``(value / 255 - mean) / std``; all others are given to the network as they are.

    Parameters
    ----------
    path : str or path
        Path or any fsspec URI of the model.
    threads : int
        Number of threads of onnxruntime within one call.
    providers : sequence of str or str, optional
        Execution providers of onnxruntime.
    mean, std : sequence of float, optional
        Of three bands, in shares of 255.
    output : str, optional
        Name of the output; needed where there are several.

    Raises
    ------
    ArgumentError
        If the file is no ONNX model, or not one with an input (n, band, y, x) or (n, y, x, band).
    """

    def __init__(
        self, path: str, *, threads: int = 1, providers: Sequence[str] | str | None = None,
        mean: Sequence[float] | None = None, std: Sequence[float] | None = None, output: str | None = None,
    ) -> None:  # fmt: skip
        self.path = model_path(path)
        wanted = (providers,) if isinstance(providers, str) else None if providers is None else tuple(providers)
        self._key: SessionKey = (self.path, threads, wanted, version_of(self.path))
        session = open_session_of(self._key)
        inputs, outputs = tensors_of(session.get_inputs()), [each.name for each in session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = [each.shape for each in inputs]
            raise ArgumentError(
                f"{redact(self.path)}: the model must have one input (n, band, y, x) or (n, y, x, band); got {shapes}"
            )
        if (output is None and len(outputs) > 1) or (output is not None and output not in outputs):
            raise ArgumentError(
                f"{redact(self.path)}: the model has the outputs {outputs}; choose one with "
                f"output_names={{'output': {outputs[0]!r}}}"
            )
        self._input, self._output = inputs[0], output or outputs[0]
        self.mean, self.std = (
            None if each is None else np.array(each, np.float32)[:, None, None] for each in (mean, std)
        )
        shape = self._input.shape
        self.bands_last = shape[3] is not None and shape[3] <= 16 and (shape[1] is None or shape[1] > 16)
        self.bands = shape[3] if self.bands_last else shape[1]
        rows, columns = shape[1:3] if self.bands_last else shape[2:]
        self.size_yx = rows, columns
        self.batch_size = shape[0]

    def batch(self, tiles: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the output for each of some tiles, (band, y, x) each.

        Raises
        ------
        EndpointError
            If the tiles do not fit the network.
        """
        pixels = np.stack([self._prepared(tile) for tile in tiles])
        if self.bands_last:
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 1, -1))
        (values,) = open_session_of(self._key).run([self._output], {self._input.name: pixels})
        answers = np.asarray(values)
        if len(answers) != len(tiles):
            raise EndpointError(f"the model returned {len(answers)} answers for {len(tiles)} tiles")
        return [np.moveaxis(each, -1, 0) if self.bands_last and each.ndim == 3 else each for each in answers]

    def _prepared(self, tile: NDArray[Any]) -> NDArray[Any]:
        if self.bands is not None and len(tile) != self.bands:
            raise EndpointError(
                f"the model takes {self.bands} bands; the tile has {len(tile)}. Choose them with bands="
            )
        for name, side, has in zip(("height", "width"), self.size_yx, tile.shape[1:], strict=True):
            if side is not None and side != has:
                raise EndpointError(
                    f"the model takes tiles of the {name} {side}; got {has}. Give tile_size={side}, and pad=True for "
                    "images that are smaller"
                )
        scaled = (self.mean is not None) or (self.std is not None)
        if tile.dtype == np.uint8 and self._input.dtype != np.uint8:
            values = tile.astype(np.float32) / 255
            values = values - (0 if self.mean is None else self.mean)
            return np.asarray(values / (1 if self.std is None else self.std), self._input.dtype)
        if scaled:
            raise EndpointError(f"mean and std are shares of 255, for uint8 pixels; the tile has {tile.dtype}")
        return np.asarray(tile, self._input.dtype)
