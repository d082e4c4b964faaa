"""The part of a detection network that geotile runs itself: tiles to tensors, and tensors to detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_unit
from geotile.detectors.families import FAMILIES, Family, RawDetections, count_cells
from geotile.detectors.preprocessing import TilePosition, as_layout, preprocess
from geotile.errors import ArgumentError, ResponseError
from geotile.merging.nms import nms
from geotile.options import DecoderOptions

DEFAULT_SCORE_THRESHOLD = 0.3
DetectionArrays = tuple[NDArray[np.float64], NDArray[np.float64], list[str]]  # boxes, scores, labels


@dataclass(frozen=True)
class Tensor:
    """Input or output of a network."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    """Length of each axis; None where any length is accepted."""


class Detector:
    """Conversion of tiles to the inputs of a network, and of its outputs to detections.

    Parameters
    ----------
    inputs, outputs : sequence of Tensor
        Inputs and outputs as the network declares them.
    family : str
        Family of the network, one of `FAMILIES`; "auto" infers it from the outputs.
    output_names : mapping, optional
        For the family "torchvision": the names of the outputs ``boxes``, ``scores`` and ``labels``.
    labels : sequence of str or path, optional
        Class names in order, or a file with one name per line. By default the class numbers.
    score_threshold : float, optional
        Minimum score of a detection, in [0, 1]. By default 0.3.
    nms_iou_threshold : float
        IoU threshold of the non-maximum suppression within a tile, which detectors of some families need.

    Raises
    ------
    ArgumentError
        If the family is unknown, or the network does not have the outputs of the family.
    """

    def __init__(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, family: str = "auto",
        output_names: Mapping[str, str] | None = None, labels: Sequence[str] | str | Path | None = None,
        score_threshold: float | None = None, nms_iou_threshold: float = 0.5,
    ) -> None:  # fmt: skip
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.family = _family_name(self.inputs, self.outputs, output_names, family)
        self._family: Family = FAMILIES[self.family]
        self._decoded_outputs = _decoded_outputs(self.family, [each.name for each in outputs], output_names)
        self._labels = class_names(labels)
        self._min_score = (
            DEFAULT_SCORE_THRESHOLD if score_threshold is None else check_unit(score_threshold, "score_threshold")
        )
        self._iou_threshold = check_unit(nms_iou_threshold, "nms_iou_threshold")

    @property
    def size_yx(self) -> tuple[int, int] | None:
        """Height and width of the input in pixels; None if the network takes any size."""
        return _input_size(self.inputs[0])

    @property
    def batch_size(self) -> int | None:
        """Number of pictures in a batch; None if the network takes any number."""
        shape = self.inputs[0].shape
        return shape[0] if len(shape) == 4 else 1

    def inputs_for(self, tiles: Sequence[NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], list[TilePosition]]:
        """Return the input tensors for tiles, by name, and the position of each tile in its picture.

        Parameters
        ----------
        tiles : sequence of numpy.ndarray
            (band, y, x) uint8 each. The first three bands are red, green and blue; a single band is grey.

        Raises
        ------
        ArgumentError
            If the network has an input that geotile does not know.
        EndpointError
            If a tile is not uint8.
        """
        first = self.inputs[0]
        preprocessed = [preprocess(tile, self.size_yx, self._family.preprocessing) for tile in tiles]
        pictures = [as_layout(pixels, first.shape, first.dtype) for pixels, _ in preprocessed]
        batch = pictures[0] if len(first.shape) == 3 else np.stack(pictures)
        tensors = {first.name: batch}
        for other in self.inputs[1:]:
            if other.name != "pixel_mask":
                raise ArgumentError(
                    f"the model must have one input, or a second one named 'pixel_mask'; got {other.name!r} besides "
                    f"{first.name!r}. Export the model without this input"
                )
            tensors[other.name] = np.ones((len(tiles), *batch.shape[-2:]), other.dtype)
        return tensors, [position for _, position in preprocessed]

    def detections_from(
        self, outputs: Mapping[str, NDArray[Any]], positions: Sequence[TilePosition]
    ) -> list[DetectionArrays]:  # fmt: skip
        """Return the detections of each tile.

        Parameters
        ----------
        outputs : mapping of str to numpy.ndarray
            Output tensors of the network, by name.
        positions : sequence of TilePosition
            Positions of the tiles, as `inputs_for` returned them.

        Returns
        -------
        list of tuple
            Boxes (n, 4) float64 xyxy in pixels of the tile, scores (n,) float64 and labels of each tile.

        Raises
        ------
        ResponseError
            If the outputs are not those of the family.
        """
        size = self.size_yx or positions[0].tile_xy[::-1]
        try:
            return [
                self._selected(self._family.decode(self._picture_outputs(outputs, k, len(positions)), size), position)
                for k, position in enumerate(positions)
            ]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            shapes = {name: np.shape(value) for name, value in outputs.items()}
            raise ResponseError(
                f"the outputs {shapes} cannot be decoded as those of the family {self.family!r}: {error}"
            ) from None

    def _picture_outputs(self, outputs: Mapping[str, NDArray[Any]], k: int, n: int) -> list[NDArray[Any]]:
        """Return the outputs for picture k of n. Outputs of torchvision may have no batch axis."""
        parts = [outputs[name] for name in self._decoded_outputs]
        if self.family == "torchvision" and parts[0].ndim == 2:
            if n != 1:
                raise ValueError("outputs without a batch axis for several pictures")
            return parts
        return [part[k] for part in parts]

    def _selected(self, raw: RawDetections, position: TilePosition) -> DetectionArrays:
        """Return the detections that pass the score threshold and the suppression, in pixels of the tile."""
        rows, classes, scores = self._above_threshold(raw)
        boxes = position.to_tile(raw.boxes[rows])
        in_tile = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # the others lie in the grey border of the picture
        boxes, classes, scores = boxes[in_tile], classes[in_tile], scores[in_tile]
        if self._family.needs_nms:
            kept = nms(boxes, scores, classes, iou_threshold=self._iou_threshold)
            boxes, classes, scores = boxes[kept], classes[kept], scores[kept]
        return boxes, scores, [self._labels[k] if 0 <= k < len(self._labels) else str(k) for k in classes]

    def _above_threshold(
        self, raw: RawDetections
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:  # fmt: skip
        """Return rows, class numbers and scores of the detections whose score reaches the threshold, (n,) each."""
        if raw.labels is not None:
            rows = np.flatnonzero(raw.scores >= self._min_score)
            return rows, raw.labels[rows], raw.scores[rows].astype(np.float64)
        if self._family.single_label:
            best = raw.scores.argmax(axis=1)
            rows = np.flatnonzero(raw.scores[np.arange(len(best)), best] >= self._min_score)
            classes = best[rows]
        else:
            rows, classes = np.nonzero(raw.scores >= self._min_score)
        return rows, classes, raw.scores[rows, classes].astype(np.float64)


def decoder_identity(options: DecoderOptions) -> str:
    """Return the changed options of a decoder as text, with the class names in place of the file that contains them."""
    values = options.changed()
    if "labels" in values:
        values["labels"] = class_names(values["labels"])
    return repr(sorted(values.items()))


def class_names(labels: Sequence[str] | str | Path | None) -> list[str]:
    """Return class names from a sequence or a file with one name per line.

    Raises
    ------
    ArgumentError
        If the file cannot be read.
    """
    if isinstance(labels, str | Path):
        try:
            return Path(labels).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ArgumentError(
                f"labels must be class names or a readable file with one name per line; got {labels} ({error.strerror})"
            ) from None
    return list(labels or [])


def _input_size(first: Tensor) -> tuple[int, int] | None:
    tail = first.shape[-3:]
    rows, columns = tail[:2] if tail[-1] == 3 and tail[0] != 3 else tail[-2:]
    return None if rows is None or columns is None else (rows, columns)


def _family_name(
    inputs: list[Tensor], outputs: list[Tensor], output_names: Mapping[str, str] | None, family: str
) -> str:  # fmt: skip
    """Return the name of the family, checked or inferred from the outputs."""
    families = f"one of {', '.join(map(repr, sorted(FAMILIES)))}"
    if family != "auto":
        if family not in FAMILIES:
            raise ArgumentError(f"family must be {families} or 'auto'; got {family!r}")
        return family
    names, shapes = {each.name for each in outputs}, [each.shape for each in outputs]
    if output_names is not None or {"boxes", "scores"} <= names:
        return "torchvision"
    if {"logits", "pred_boxes"} <= names and len(inputs) == 2:
        return "detr"
    if len(shapes) == 6 and all(len(shape) == 3 for shape in shapes):
        return "nanodet"
    if len(shapes) == 1 and len(shapes[0]) == 4:
        return "fastestdet"
    size = _input_size(inputs[0])
    if len(shapes) == 1 and len(shapes[0]) == 3 and size is not None:
        cells, (_, middle, last) = count_cells(size), shapes[0]
        for name, matches in (
            ("yolo-nms", last == 6 and middle != cells), ("yolox", middle == cells),
            ("yolov5", middle == 3 * cells), ("yolov8", last == cells),
        ):  # fmt: skip
            if matches:
                return name
    listed = ", ".join(f"{each.name} {each.shape}" for each in outputs)
    raise ArgumentError(f"the family cannot be inferred from the outputs ({listed}). Give family, {families}")


def _decoded_outputs(family: str, names: list[str], output_names: Mapping[str, str] | None) -> list[str]:
    """Return the names of the outputs in the order in which the family's decoder takes them."""
    if family == "torchvision":
        roles = ["boxes", "scores", "labels"]
        by_role = dict(output_names) if output_names else {role: role for role in roles}
        if set(by_role) != set(roles):
            raise ArgumentError(f"output_names must give the outputs for {roles}; got {by_role}. The model has {names}")
        if unknown := sorted(set(by_role.values()) - set(names)):
            raise ArgumentError(f"output_names must name outputs of the model, {names}; got {unknown}")
        return [by_role[role] for role in roles]
    if family in ("detr", "rtdetr"):
        if not {"logits", "pred_boxes"} <= set(names):
            return names[:2]
        return ["logits", "pred_boxes"]
    return names
