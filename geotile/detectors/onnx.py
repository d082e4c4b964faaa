"""A local ONNX detector in onnxruntime (extra ``geotile[onnx]``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import as_int
from geotile.core.registry import Registry
from geotile.detectors.detector import Detector, Found, Tensor
from geotile.errors import ArgumentError

_ELEMENTS = {"float": "float32", "double": "float64"}
_sessions = Registry[tuple[str, int], Any](16)


class OnnxDetector:
    """A detector: ``detector(tile) -> (boxes, scores, labels)``.

    It pickles by its path; a process opens the model once.

    Parameters
    ----------
    path : str or path
        The model: a path, or any fsspec uri.
    labels : sequence of str or path, optional
        Names of the classes in order, or a file with a name a line; by default a ``*.names`` file
        beside the model, else the numbers.
    threads : int
        Of onnxruntime, within one call.
    **options
        Those of `geotile.detectors.Detector`: ``family``, ``output_names``, ``score_threshold``,
        ``nms_iou_threshold``.

    Raises
    ------
    ArgumentError
        If there is no such file, it is no ONNX model, or its family is unknown.
    """

    def __init__(
        self, path: str | Path, labels: Sequence[str] | str | Path | None = None, *, threads: int = 1, **options: Any
    ) -> None:
        self.path, self.threads = str(path), as_int(threads, "threads", 1, unit="threads")
        self._options = options | {"labels": _names_beside(self.path) if labels is None else labels}
        self._detector = self._made()  # now: a wrong model is found before the run

    def __repr__(self) -> str:
        return f"OnnxDetector({Path(self.path).name!r}, {self.family})"

    @property
    def family(self) -> str:
        """Of `geotile.detectors.FAMILIES`."""
        return self._detector.family

    @property
    def size_yx(self) -> tuple[int, int] | None:
        """Size of the network's input; None where it takes any."""
        return self._detector.size_yx

    @property
    def batch_size(self) -> int | None:
        """Tiles that a call takes; None where any number goes."""
        return self._detector.batch_size

    def __call__(self, tile: NDArray[Any]) -> Found:
        """Detect objects in a tile.

        Parameters
        ----------
        tile : numpy.ndarray
            (band, y, x) uint8; the first three bands are red, green, blue, one band is grey.

        Returns
        -------
        tuple
            Boxes (n, 4) float64 xyxy in pixels of the tile, scores (n,) float64, labels.
        """
        return self.batch([tile])[0]

    def batch(self, tiles: Sequence[NDArray[Any]]) -> list[Found]:
        """Detect objects in several tiles, in one call of the network."""
        feeds, placed = self._detector.feeds(tiles)
        outputs = _session(self.path, self.threads).run(None, feeds)
        return self._detector.found(dict(zip(self._detector.names, map(np.asarray, outputs), strict=True)), placed)

    def _made(self) -> Detector:
        session = _session(self.path, self.threads)
        try:
            return Detector(_tensors(session.get_inputs()), _tensors(session.get_outputs()), **self._options)
        except ArgumentError as error:
            raise ArgumentError(f"{self.path}: {error}") from None


def _tensors(said: Any) -> list[Tensor]:
    return [
        Tensor(
            each.name, np.dtype(_ELEMENTS.get(each.type[7:-1], each.type[7:-1])),
            tuple(length if isinstance(length, int) else None for length in each.shape),
        )
        for each in said
    ]  # fmt: skip


def _session(path: str, threads: int) -> Any:
    """Open a model once a process."""
    try:
        import onnxruntime
    except ImportError:
        raise ArgumentError("an ONNX model needs onnxruntime: pip install 'geotile[onnx]'") from None

    def opened() -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores
        try:
            return onnxruntime.InferenceSession(_model(path), options, providers=["CPUExecutionProvider"])
        except ArgumentError:
            raise
        except Exception as error:  # onnxruntime has a class of its own for every fault of a file
            raise ArgumentError(f"{path} is no ONNX model that onnxruntime opens: {error}") from None

    return _sessions.get((path, threads), opened)


def _model(path: str) -> str | bytes:
    if "://" not in path:
        if not os.path.isfile(path):
            raise ArgumentError(f"there is no ONNX model at {path}")
        return path  # so that weights in files beside it are found
    with fsspec.open(path, "rb") as file:
        content: bytes = file.read()
        return content


def _names_beside(path: str) -> str | None:
    beside = [] if "://" in path else sorted(Path(path).parent.glob("*.names"))
    return str(beside[0]) if beside else None
