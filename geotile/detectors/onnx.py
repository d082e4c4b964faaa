"""Detector that runs an ONNX file in onnxruntime (extra ``geotile[onnx]``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import as_int
from geotile.core.registry import Registry
from geotile.detectors.detector import DetectionArrays, Detector, Tensor
from geotile.errors import ArgumentError

_ELEMENT_TYPES = {"float": "float32", "double": "float64"}
_sessions = Registry[tuple[str, int], Any](16)


class OnnxDetector:
    """Callable that detects objects in a tile: ``detector(tile) -> (boxes, scores, labels)``.

    The detector pickles its path, and each process opens the model once.

    Parameters
    ----------
    path : str or path
        Path or any fsspec URI of the model.
    labels : sequence of str or path, optional
        Class names in order, or a file with one name per line. By default the names in the first ``*.names`` file
        beside the model, or the class numbers if there is none.
    threads : int
        Number of threads of onnxruntime within one call.
    family, output_names, score_threshold, nms_iou_threshold
        Options of `geotile.detectors.Detector`.

    Raises
    ------
    ArgumentError
        If the file does not exist, is not an ONNX model, or is of an unknown family.
    """

    def __init__(
        self, path: str | Path, labels: Sequence[str] | str | Path | None = None, *, threads: int = 1,
        family: str = "auto", output_names: Mapping[str, str] | None = None, score_threshold: float | None = None,
        nms_iou_threshold: float = 0.5,
    ) -> None:  # fmt: skip
        self.path, self.threads = str(path), as_int(threads, "threads", 1, unit="threads")
        session = _session(self.path, self.threads)  # opened here, so that a wrong model is found before the run
        try:
            self._detector = Detector(
                _tensors(session.get_inputs()), _tensors(session.get_outputs()), family=family,
                labels=_names_beside(self.path) if labels is None else labels, output_names=output_names,
                score_threshold=score_threshold, nms_iou_threshold=nms_iou_threshold,
            )  # fmt: skip
        except ArgumentError as error:
            raise ArgumentError(f"{self.path}: {error}") from None

    def __repr__(self) -> str:
        return f"OnnxDetector({Path(self.path).name!r}, {self.family})"

    @property
    def family(self) -> str:
        """Name of the network's family in `geotile.detectors.FAMILIES`."""
        return self._detector.family

    @property
    def size_yx(self) -> tuple[int, int] | None:
        """Height and width of the network's input in pixels; None if it takes any size."""
        return self._detector.size_yx

    @property
    def batch_size(self) -> int | None:
        """Number of tiles that a call takes; None if it takes any number."""
        return self._detector.batch_size

    def __call__(self, tile: NDArray[Any]) -> DetectionArrays:
        """Detect objects in a tile.

        Parameters
        ----------
        tile : numpy.ndarray
            (band, y, x) uint8. The first three bands are red, green and blue; a single band is grey.

        Returns
        -------
        tuple
            Boxes (n, 4) float64 xyxy in pixels of the tile, scores (n,) float64, labels.
        """
        return self.batch([tile])[0]

    def batch(self, tiles: Sequence[NDArray[Any]]) -> list[DetectionArrays]:
        """Detect objects in several tiles with one call of the network."""
        inputs, positions = self._detector.inputs_for(tiles)
        values = map(np.asarray, _session(self.path, self.threads).run(None, inputs))
        names = [output.name for output in self._detector.outputs]
        return self._detector.detections_from(dict(zip(names, values, strict=True)), positions)


def _tensors(nodes: Any) -> list[Tensor]:
    """Return onnxruntime's descriptions of inputs or outputs as tensors; a type reads "tensor(float)"."""
    return [
        Tensor(
            node.name, np.dtype(_ELEMENT_TYPES.get(node.type[7:-1], node.type[7:-1])),
            tuple(length if isinstance(length, int) else None for length in node.shape),
        )
        for node in nodes
    ]  # fmt: skip


def _session(path: str, threads: int) -> Any:
    """Return onnxruntime's session of a model, opened once per process."""
    try:
        import onnxruntime
    except ImportError:
        raise ArgumentError("an ONNX model needs onnxruntime: pip install 'geotile[onnx]'") from None

    def open_session() -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads release the cores
        try:
            return onnxruntime.InferenceSession(_model(path), options, providers=["CPUExecutionProvider"])
        except ArgumentError:
            raise
        except Exception as error:  # onnxruntime has its own exception class for every kind of broken file
            raise ArgumentError(
                f"{path} is not an ONNX model that onnxruntime can open ({error}). Export the model again"
            ) from None

    return _sessions.get((path, threads), open_session)


def _model(path: str) -> str | bytes:
    """Return what onnxruntime opens: the path of a local file, or the content of a remote one."""
    if "://" not in path:
        if not os.path.isfile(path):
            raise ArgumentError(f"there is no ONNX model at {path}. Give the path or the URI of an .onnx file")
        return path  # a path lets onnxruntime find weights in files beside the model
    with fsspec.open(path, "rb") as file:
        content: bytes = file.read()
        return content


def _names_beside(path: str) -> str | None:
    """Return the first ``*.names`` file beside a local model."""
    names = [] if "://" in path else sorted(Path(path).parent.glob("*.names"))
    return str(names[0]) if names else None
