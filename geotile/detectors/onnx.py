"""Detector that runs an ONNX file in onnxruntime (extra ``onnx``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import as_int
from geotile.core.redact import redact
from geotile.core.registry import Registry
from geotile.detectors.class_names import Labels
from geotile.detectors.detector import Detector
from geotile.detectors.inputs import input_sides
from geotile.detectors.layouts import Tensor
from geotile.detectors.metadata import ModelMetadata, read_metadata
from geotile.detectors.preprocessing import as_layout
from geotile.detectors.providers import check_started, chosen_providers
from geotile.detectors.selection import DetectionArrays
from geotile.errors import ArgumentError
from geotile.merging.detections import Detections
from geotile.storage.download import read_whole
from geotile.storage.uris import expanded_path

MAX_MODEL_BYTES = 2**31  # what protobuf allows
_TOTAL_S = 600.0  # for a download
_ELEMENT_TYPES = {"float": "float32", "double": "float64"}
# path, threads, providers that the user asked for, version of the file
SessionKey = tuple[str, int, tuple[str, ...] | None, tuple[int, int] | None]
_sessions = Registry[SessionKey, Any](16)


class OnnxDetector:
    """Callable that detects objects in a tile: ``detector(tile) -> (boxes, scores, labels)``.

    The detector pickles its path, and each process opens the model once.

    Parameters
    ----------
    path : str or path
        Path or any fsspec URI of the model; ``~`` is the home folder, and ``file://`` URIs have percent escapes.
    labels : sequence of str, mapping of int to str, str or path, optional
        Class names in order or by number, or a file with one name per line. By default the names in the model's own
        metadata, else the class numbers.
    threads : int
        Number of threads of onnxruntime within one call.
    providers : sequence of str or str, optional
        Execution providers of onnxruntime, as `geotile.detectors.providers.chosen_providers` takes them.
    family, output_names, score_threshold, nms_iou_threshold, mean, std
        Options of `geotile.detectors.Detector`.

    Raises
    ------
    ArgumentError
        If the file does not exist, is not an ONNX model, has metadata that cannot be read, or is not a model that
        `geotile.detectors.Detector` takes.
    """

    def __init__(
        self, path: str | Path, labels: Labels | None = None, *, threads: int = 1,
        family: str = "auto", output_names: Mapping[str, str] | None = None, score_threshold: float | None = None,
        nms_iou_threshold: float = 0.5, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
        providers: Sequence[str] | str | None = None,
    ) -> None:  # fmt: skip
        self.path, self.threads = model_path(path), as_int(threads, "threads", 1, unit="threads")
        self._key = session_key(self.path, self.threads, providers)
        session = open_session_of(self._key)  # opened here, so that a wrong model is found before the run
        try:
            metadata = read_metadata(session.get_modelmeta().custom_metadata_map)
            self._detector = Detector(
                tensors_of(session.get_inputs()), _outputs(session, metadata), family=family, labels=labels,
                output_names=output_names, score_threshold=score_threshold, nms_iou_threshold=nms_iou_threshold,
                mean=mean, std=std, metadata=metadata,
            )  # fmt: skip
        except ArgumentError as error:
            raise type(error)(f"{redact(self.path)}: {error}") from None

    def __repr__(self) -> str:
        return f"OnnxDetector({redact(Path(self.path).name)!r}, {self.family})"

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

    @property
    def detector(self) -> Detector:
        """Decoder of the network."""
        return self._detector

    @property
    def provider(self) -> str:
        """Execution provider of onnxruntime that comes first, such as "CPU"."""
        return str(open_session_of(self._key).get_providers()[0]).removesuffix("ExecutionProvider")

    def __call__(self, tile: NDArray[Any]) -> DetectionArrays | Detections:
        """Detect objects in a tile.

        Parameters
        ----------
        tile : numpy.ndarray
            (band, y, x) uint8. The first three bands are red, green and blue; a single band is grey.

        Returns
        -------
        tuple or Detections
            Boxes (n, 4) float64 xyxy in pixels of the tile, scores (n,) float64, labels; `Detections` in pixels of the
            tile if the network returns shapes or key points.
        """
        return self.batch([tile])[0]

    def batch(self, tiles: Sequence[NDArray[Any]]) -> list[DetectionArrays | Detections]:
        """Detect objects in several tiles with one call of the network."""
        inputs, positions = self._detector.inputs_for(tiles)
        values = map(np.asarray, open_session_of(self._key).run(None, inputs))
        names = [output.name for output in self._detector.outputs]
        return self._detector.detections_from(dict(zip(names, values, strict=True)), positions)


def tensors_of(nodes: Any) -> list[Tensor]:
    """Return onnxruntime's descriptions of inputs or outputs as tensors."""
    return [
        Tensor(
            node.name, _dtype(node), tuple(length if isinstance(length, int) else None for length in node.shape)
        )
        for node in nodes
    ]  # fmt: skip


def _outputs(session: Any, metadata: ModelMetadata) -> list[Tensor]:
    """Return the outputs of a network.

    Where a network of any size does not declare their lengths, they are those for the size in its metadata: the
    network runs once on zeros.
    """
    inputs, outputs = tensors_of(session.get_inputs()), tensors_of(session.get_outputs())
    declared = all(None not in each.shape[1:] for each in outputs)
    sides = None not in input_sides(inputs[0])
    if declared or sides or metadata.size_yx is None or len(inputs) > 1:
        return outputs
    pixels = np.zeros((3, *metadata.size_yx), np.float32)
    zeros = as_layout(pixels, inputs[0].shape, inputs[0].dtype)[None]
    try:
        values = session.run(None, {inputs[0].name: np.repeat(zeros, inputs[0].shape[0] or 1, axis=0)})
    except Exception as error:  # onnxruntime has its own exception class for every kind of failure
        raise ArgumentError(
            f"the model cannot run on the size in its metadata, imgsz={list(metadata.size_yx)}: {error}"
        ) from None
    return [
        replace(each, shape=(each.shape[0], *np.shape(value)[1:])) if each.shape else each
        for each, value in zip(outputs, values, strict=True)
    ]


def _dtype(node: Any) -> np.dtype[Any]:
    """Return the dtype of an input or output, whose type reads "tensor(float)"."""
    text = node.type.removeprefix("tensor(").removesuffix(")")
    try:
        dtype: np.dtype[Any] = np.dtype(_ELEMENT_TYPES.get(text, text))
    except TypeError:
        raise ArgumentError(
            f"inputs and outputs must be tensors of numbers that numpy has; {node.name!r} is {node.type}. Export the "
            "model as float32"
        ) from None
    return dtype


def session_key(path: str, threads: int, providers: Sequence[str] | str | None) -> SessionKey:
    """Return what names a session of a model in this process."""
    wanted = (providers,) if isinstance(providers, str) else None if providers is None else tuple(providers)
    return path, threads, wanted, _version_of(path)


def _version_of(path: str) -> tuple[int, int] | None:
    """Return what changes when a local file is written again; None for any other file."""
    if "://" in path or not os.path.isfile(path):
        return None
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def open_session_of(key: SessionKey) -> Any:
    """Return onnxruntime's session of a model, opened once per process."""
    path, threads, providers, _ = key
    try:
        import onnxruntime
    except ImportError:
        raise ArgumentError(
            "an ONNX model needs onnxruntime, which is not installed. Install it with pip install onnxruntime"
        ) from None

    def open_session() -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads release the cores
        chosen, model = chosen_providers(providers, onnxruntime.get_available_providers()), _model(path)
        try:
            session = onnxruntime.InferenceSession(model, options, providers=chosen)
        except Exception as error:  # onnxruntime has its own exception class for every kind of broken file
            raise ArgumentError(
                f"{redact(path)} is not an ONNX model that onnxruntime can open ({error}). Export the model again"
            ) from None
        if providers is not None:
            check_started(chosen, session.get_providers())
        return session

    return _sessions.get(key, open_session)


def _model(path: str) -> str | bytes:
    """Return what onnxruntime opens: the path of a local file, or the content of a remote one."""
    if "://" not in path:
        if not os.path.isfile(path):
            raise ArgumentError(f"there is no ONNX model at {path}. Give the path or the URI of an .onnx file")
        return path  # a path lets onnxruntime find weights in files beside the model
    return read_model(path)


def read_model(path: str) -> bytes:
    """Return the content of a model file.

    Raises
    ------
    ArgumentError
        If it cannot be read.
    """
    try:
        return read_whole(path, MAX_MODEL_BYTES, _TOTAL_S)
    except Exception as error:  # each file system has errors of its own
        reason = redact(f"{type(error).__name__}: {error}")
        raise ArgumentError(
            f"the ONNX model at {redact(path)} cannot be read ({reason}). Check the URI and the credentials"
        ) from None


def model_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a local model, or the URI of a remote one.

    Raises
    ------
    ArgumentError
        If a ``file:`` URI names another host, or has a query or a fragment.

    Examples
    --------
    >>> model_path("file:///models/my%20ships.onnx"), model_path("s3://models/ships.onnx")
    ('/models/my ships.onnx', 's3://models/ships.onnx')
    """
    text = expanded_path(os.fspath(path))
    return text if "://" in text else os.path.abspath(text)
