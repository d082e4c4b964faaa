"""A local ONNX detector as a callable model (extra ``geotile[onnx]``).

The family is told by the shapes of inputs and outputs:

=========== ================================= =============================================
family      outputs                           source of the decoding
=========== ================================= =============================================
YOLOX       (1, n, 5 + classes), strides      Megvii-BaseDetection/YOLOX, ``demo_utils``
NanoDet     three (1, n, classes), then three RangiLyu/nanodet, GFL head: expected distance
            (1, n, 32)                        over a softmax of 8 bins a side
FastestDet  (1, 5 + classes, h, w)            dog-qiuqiu/FastestDet, README
=========== ================================= =============================================
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.errors import ArgumentError
from geotile.nms import nms

Array = NDArray[np.float32]
Raw = tuple[Array, Array]  # boxes (n, 4) xyxy in pixels of the input, class scores (n, classes)


class OnnxDetector:
    """A detector in onnxruntime: ``detector(tile) -> (boxes, scores, labels)``.

    It pickles by its path; a process opens the model once.

    Parameters
    ----------
    path : str or path
        A YOLOX, NanoDet or FastestDet export with a fixed square input.
    labels : sequence of str or path, optional
        Names of the classes in order, or a file with a name a line; by default a ``*.names`` file
        beside the model, else the numbers.
    score_threshold : float
        Least score of a detection.
    iou_threshold : float
        Of the NMS within a tile, which detectors of these families expect.
    threads : int
        Of onnxruntime, within one tile.

    Raises
    ------
    ArgumentError
        If there is no such file, it is no ONNX model, or its family is unknown.
    """

    def __init__(
        self,
        path: str | Path,
        labels: Sequence[str] | str | Path | None = None,
        *,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.5,
        threads: int = 1,
    ) -> None:
        self.path = str(path)
        self.score_threshold, self.iou_threshold, self.threads = score_threshold, iou_threshold, threads
        self.labels = _names(Path(path), labels)
        self._family  # noqa: B018 - open it now: a wrong model is found before the run

    def __repr__(self) -> str:
        return f"OnnxDetector({Path(self.path).name!r}, {self._family.__name__.strip('_')})"

    @property
    def _family(self) -> Callable[[list[Array], int], Raw]:
        return _family_of(self.path, self.threads)

    def __call__(self, tile: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
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
        session = _session(self.path, self.threads)
        size = session.get_inputs()[0].shape[-1]
        pixels, scale_xy = _prepared(tile, size, self._family)
        raw = session.run(None, {session.get_inputs()[0].name: pixels})
        boxes, classes = self._family([np.asarray(each) for each in raw], size)
        if self._family is not _nanodet:  # NanoDet's own NMS lets a place hold several classes
            classes = np.where(classes == classes.max(axis=1, keepdims=True), classes, 0)
        rows, label = np.nonzero(classes >= self.score_threshold)
        scores = classes[rows, label].astype(np.float64)
        height, width = tile.shape[1:]
        xyxy = np.clip(boxes[rows].astype(np.float64) / np.tile(scale_xy, 2), 0, [width, height, width, height])
        kept = nms(xyxy, scores, label, iou_threshold=self.iou_threshold)
        names = [self.labels[k] if k < len(self.labels) else str(k) for k in label[kept]]
        return xyxy[kept], scores[kept], names


def _prepared(tile: NDArray[Any], size: int, family: Any) -> tuple[Array, NDArray[np.float64]]:
    """Scale a tile to the input; return it (1, 3, size, size) BGR and the scale in x and y."""
    from PIL import Image

    rgb = tile[:3] if len(tile) >= 3 else np.repeat(tile[:1], 3, 0)
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(rgb, 0, -1).astype(np.uint8)))
    width, height = picture.size
    scale = np.array([size / width, size / height])
    if family is _yolox:  # keeps the aspect: the rest is grey
        scale = np.full(2, scale.min())
    fit = round(width * scale[0]), round(height * scale[1])
    canvas = np.full((size, size, 3), 114, np.float32)
    canvas[: fit[1], : fit[0]] = np.asarray(picture.resize(fit, Image.Resampling.BICUBIC), np.float32)
    bgr = canvas[..., ::-1]
    if family is _nanodet:
        mean, deviation = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
        bgr = ((bgr - mean) / deviation).astype(np.float32)
    elif family is _fastestdet:
        bgr = bgr / np.float32(255)
    return np.ascontiguousarray(np.moveaxis(bgr, -1, 0)[None], np.float32), scale


def _cells(size: int, stride: int) -> Array:
    """(n, 2) column and row of every cell, row by row."""
    n = size // stride
    rows, columns = np.divmod(np.arange(n * n), n)
    return np.stack([columns, rows], axis=1).astype(np.float32)


def _yolox(outputs: list[Array], size: int) -> Raw:
    out = outputs[0][0]
    cells = np.concatenate([_cells(size, s) for s in (8, 16, 32)])
    strides = np.concatenate([np.full(((size // s) ** 2, 1), s, np.float32) for s in (8, 16, 32)])
    centre, half = (out[:, :2] + cells) * strides, np.exp(out[:, 2:4]) * strides / 2
    return np.hstack([centre - half, centre + half]), out[:, 4:5] * out[:, 5:]


def _nanodet(outputs: list[Array], size: int) -> Raw:
    boxes, scores = [], []
    for stride, classes, sides in zip((8, 16, 32), outputs[:3], outputs[3:], strict=True):
        bins = sides[0].reshape(len(sides[0]), 4, -1)
        weights = np.exp(bins - bins.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        reach = weights @ np.arange(bins.shape[2], dtype=np.float32) * stride
        centre = _cells(size, stride) * stride + (stride - 1) / 2
        boxes.append(np.hstack([centre - reach[:, :2], centre + reach[:, 2:]]))
        scores.append(classes[0])
    return np.concatenate(boxes), np.concatenate(scores)


def _fastestdet(outputs: list[Array], size: int) -> Raw:
    out = outputs[0][0]
    n = out.shape[-1]
    flat = out.reshape(len(out), -1).T
    centre = (np.tanh(flat[:, 1:3]) + _cells(n, 1)) * (size / n)
    half = size / (1 + np.exp(-flat[:, 3:5])) / 2
    return np.hstack([centre - half, centre + half]), flat[:, :1] ** 0.6 * flat[:, 5:] ** 0.4


@lru_cache(maxsize=8)
def _family_of(path: str, threads: int) -> Callable[[list[Array], int], Raw]:
    session = _session(path, threads)
    shapes = [output.shape for output in session.get_outputs()]
    size = session.get_inputs()[0].shape[-1]
    if isinstance(size, int):
        cells = sum((size // s) ** 2 for s in (8, 16, 32))
        if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][1] == cells:
            return _yolox
        if len(shapes) == 6 and all(len(shape) == 3 for shape in shapes):
            return _nanodet
        if len(shapes) == 1 and len(shapes[0]) == 4:
            return _fastestdet
    raise ArgumentError(f"{path}: outputs {shapes} are of no family known here (YOLOX, NanoDet, FastestDet)")


_sessions: dict[tuple[str, int], Any] = {}
_lock = threading.Lock()


def _session(path: str, threads: int) -> Any:
    """Open a model once a process."""
    try:
        import onnxruntime
    except ImportError:
        raise ArgumentError("an ONNX model needs onnxruntime: pip install 'geotile[onnx]'") from None
    with _lock:
        if (path, threads) not in _sessions:
            if not Path(path).is_file():
                raise ArgumentError(f"there is no ONNX model at {path}")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 3
            try:
                _sessions[path, threads] = onnxruntime.InferenceSession(
                    path, options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime has a class of its own for every fault of a file
                raise ArgumentError(f"{path} is no ONNX model that onnxruntime opens: {error}") from None
        return _sessions[path, threads]


def _names(model: Path, labels: Sequence[str] | str | Path | None) -> list[str]:
    if labels is None:
        beside = sorted(model.parent.glob("*.names"))
        if not beside:
            return []
        labels = beside[0]
    if isinstance(labels, str | Path):
        try:
            return Path(labels).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ArgumentError(f"cannot read labels from {labels}: {error.strerror}") from None
    return list(labels)
