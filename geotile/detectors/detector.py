"""A network between its tensors and detections, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_unit
from geotile.detectors.families import FAMILIES, Family, Raw, cells_of
from geotile.detectors.preprocessing import Placed, as_layout, prepared
from geotile.errors import ArgumentError, ResponseError
from geotile.merging.nms import nms

SCORE_THRESHOLD = 0.3  # default minimum score of a detection
Found = tuple[NDArray[np.float64], NDArray[np.float64], list[str]]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a network."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    """None where any length goes."""


class Detector:
    """Makes a network's inputs of tiles, and detections of its outputs.

    Parameters
    ----------
    inputs, outputs : sequence of Tensor
        As the network states them.
    family : str
        One of `FAMILIES`, or "auto": told by the outputs.
    output_names : mapping, optional
        For the family "torchvision": which outputs are ``boxes``, ``scores`` and ``labels`` (may be absent).
    labels : sequence of str or path, optional
        Names of the classes in order, or a file with a name a line; by default the numbers.
    score_threshold : float, optional
        Minimum score of a detection, 0 to 1. By default 0.3.
    nms_iou_threshold : float
        IoU threshold of the non-maximum suppression within a tile, which detectors of some families need.

    Raises
    ------
    ArgumentError
        If the family is unknown, or does not have these outputs.
    """

    def __init__(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, family: str = "auto",
        output_names: Mapping[str, str] | None = None, labels: Sequence[str] | str | Path | None = None,
        score_threshold: float | None = None, nms_iou_threshold: float = 0.5,
    ) -> None:  # fmt: skip
        self.inputs, self.names = list(inputs), [each.name for each in outputs]
        self.family = _family(self.inputs, list(outputs), output_names, family)
        self._how: Family = FAMILIES[self.family]
        self._wanted = _outputs(self.family, self.names, output_names)
        self._labels = names_of(labels)
        self._score = SCORE_THRESHOLD if score_threshold is None else check_unit(score_threshold, "score_threshold")
        self._iou = check_unit(nms_iou_threshold, "nms_iou_threshold")

    @property
    def size_yx(self) -> tuple[int, int] | None:
        """Size of the input; None where the network takes any."""
        return _size(self.inputs[0])

    @property
    def batch_size(self) -> int | None:
        """Pictures in a batch; None where any number goes."""
        shape = self.inputs[0].shape
        return shape[0] if len(shape) == 4 else 1

    def feeds(self, tiles: Sequence[NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], list[Placed]]:
        """Return the inputs for tiles (band, y, x), by name, and where each tile lies in its picture."""
        first = self.inputs[0]
        both = [prepared(tile, self.size_yx, self._how.prepare) for tile in tiles]
        pictures = [as_layout(pixels, first.shape, first.dtype) for pixels, _ in both]
        batch = pictures[0] if len(first.shape) == 3 else np.stack(pictures)
        feeds = {first.name: batch}
        for other in self.inputs[1:]:
            if other.name != "pixel_mask":
                raise ArgumentError(f"the model has an input {other.name!r} besides {first.name!r}; export it without")
            feeds[other.name] = np.ones((len(tiles), *batch.shape[-2:]), other.dtype)
        return feeds, [placed for _, placed in both]

    def found(self, outputs: Mapping[str, NDArray[Any]], placed: Sequence[Placed]) -> list[Found]:
        """Return boxes (n, 4) float64 xyxy in pixels of the tile, scores (n,), labels of each tile.

        Raises
        ------
        ResponseError
            If the outputs are not those of the family.
        """
        size = self.size_yx or placed[0].tile_xy[::-1]
        try:
            return [
                self._chosen(self._how.decode(self._of(outputs, k, len(placed)), size), place)
                for k, place in enumerate(placed)
            ]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            shapes = {name: np.shape(value) for name, value in outputs.items()}
            raise ResponseError(f"outputs {shapes} are none of {self.family}: {error}") from None

    def _of(self, outputs: Mapping[str, NDArray[Any]], k: int, n: int) -> list[NDArray[Any]]:
        """Return one picture's part of the outputs; torchvision's may have no batch."""
        parts = [outputs[name] for name in self._wanted]
        if self.family == "torchvision" and parts[0].ndim == 2:
            if n != 1:
                raise ValueError("outputs without a batch, for several pictures")
            return parts
        return [part[k] for part in parts]

    def _chosen(self, raw: Raw, placed: Placed) -> Found:
        if raw.labels is None:
            rows, label = np.nonzero(raw.scores >= self._score)
            if self._how.best_class_alone:
                best = raw.scores.argmax(axis=1)
                rows = np.flatnonzero(raw.scores[np.arange(len(best)), best] >= self._score)
                label = best[rows]
            scores = raw.scores[rows, label].astype(np.float64)
        else:
            rows = np.flatnonzero(raw.scores >= self._score)
            label, scores = raw.labels[rows], raw.scores[rows].astype(np.float64)
        boxes = placed.to_tile(raw.boxes[rows])
        solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # the others lie in what is not of the tile
        boxes, label, scores = boxes[solid], label[solid], scores[solid]
        if self._how.needs_nms:
            kept = nms(boxes, scores, label, iou_threshold=self._iou)
            boxes, label, scores = boxes[kept], label[kept], scores[kept]
        return boxes, scores, [self._labels[k] if 0 <= k < len(self._labels) else str(k) for k in label]


def names_of(labels: Sequence[str] | str | Path | None) -> list[str]:
    """Return the names of classes, given or in a file.

    Raises
    ------
    ArgumentError
        If the file cannot be read.
    """
    if isinstance(labels, str | Path):
        try:
            return Path(labels).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ArgumentError(f"cannot read labels from {labels}: {error.strerror}") from None
    return list(labels or [])


def _size(first: Tensor) -> tuple[int, int] | None:
    tail = first.shape[-3:]
    rows, columns = tail[:2] if tail[-1] == 3 and tail[0] != 3 else tail[-2:]
    return None if rows is None or columns is None else (rows, columns)


def _family(inputs: list[Tensor], outputs: list[Tensor], names: Mapping[str, str] | None, family: str) -> str:
    if family != "auto":
        if family not in FAMILIES:
            raise ArgumentError(f"family={family!r} is unknown; choose one of {sorted(FAMILIES)} or 'auto'")
        return family
    if names is not None or {"boxes", "scores"} <= {each.name for each in outputs}:
        return "torchvision"
    shapes, size = [each.shape for each in outputs], _size(inputs[0])
    if {"logits", "pred_boxes"} <= {each.name for each in outputs} and len(inputs) == 2:
        return "detr"
    if len(shapes) == 6 and all(len(shape) == 3 for shape in shapes):
        return "nanodet"
    if len(shapes) == 1 and len(shapes[0]) == 4:
        return "fastestdet"
    if len(shapes) == 1 and len(shapes[0]) == 3 and size is not None:
        cells, (_, middle, last) = cells_of(size), shapes[0]
        for name, told in (
            ("yolo-nms", last == 6 and middle != cells), ("yolox", middle == cells),
            ("yolov5", middle == 3 * cells), ("yolov8", last == cells),
        ):  # fmt: skip
            if told:
                return name
    said = ", ".join(f"{each.name} {each.shape}" for each in outputs)
    raise ArgumentError(f"the outputs ({said}) do not tell the family; give family=, one of {sorted(FAMILIES)}")


def _outputs(family: str, names: list[str], given: Mapping[str, str] | None) -> list[str]:
    """Return the names of the outputs in the order in which the family's decoder takes them."""
    if family == "torchvision":
        wanted = ["boxes", "scores", "labels"]
        chosen = dict(given) if given else {key: key for key in wanted}
        if unknown := sorted(set(chosen) - set(wanted)) or sorted(set(chosen.values()) - set(names)):
            raise ArgumentError(f"output_names={chosen}: there is no {unknown}; the model has {names}")
        if missing := sorted(set(wanted) - set(chosen)):
            raise ArgumentError(f"output_names={chosen} names no {missing}; the model has {names}")
        return [chosen[key] for key in wanted]
    if family in ("detr", "rtdetr"):
        if not {"logits", "pred_boxes"} <= set(names):
            return names[:2]
        return ["logits", "pred_boxes"]
    return names
