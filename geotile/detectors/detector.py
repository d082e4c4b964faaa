"""The part of a detection network that geotile runs itself: tiles to tensors, and tensors to detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_unit
from geotile.detectors.boxes import check_in_pixels
from geotile.detectors.class_names import Labels, check_background, class_names
from geotile.detectors.families import FAMILIES, Family, RawDetections
from geotile.detectors.inputs import check_inputs, input_sides
from geotile.detectors.layouts import Network, Tensor
from geotile.detectors.metadata import NO_METADATA, ModelMetadata
from geotile.detectors.preprocessing import TilePosition, as_layout, preprocess
from geotile.detectors.recognition import recognise
from geotile.detectors.scores import as_scores
from geotile.errors import ArgumentError, ResponseError
from geotile.merging.nms import nms
from geotile.options import DecoderOptions

DEFAULT_SCORE_THRESHOLD = 0.3
_DEFAULT_STRIDE = 32
_LISTED = 5  # class names in a description
DetectionArrays = tuple[NDArray[np.float64], NDArray[np.float64], list[str]]  # boxes, scores, labels


class Detector:
    """Conversion of tiles to the inputs of a network, and of its outputs to detections.

    Parameters
    ----------
    inputs, outputs : sequence of Tensor
        Inputs and outputs as the network declares them.
    family : str
        Family of the network, one of `FAMILIES`; "auto" takes the one that the metadata and the outputs agree on.
    output_names : mapping, optional
        For the family "torchvision": the names of the outputs ``boxes``, ``scores`` and ``labels``.
    labels : sequence of str, mapping of int to str, str or path, optional
        Class names in order or by number, or a file with one name per line. By default those of the metadata, else
        the class numbers.
    score_threshold : float, optional
        Minimum score of a detection, in [0, 1]. By default 0.3.
    nms_iou_threshold : float
        IoU threshold of the non-maximum suppression within a tile, which detectors of some families need.
    mean, std : sequence of float, optional
        Mean and standard deviation of red, green and blue in shares of 255, in place of those of the family.
    metadata : ModelMetadata
        What the model's file says of itself.

    Raises
    ------
    ArgumentError
        If the family is unknown, more than one fits, or the network does not have the outputs of the family; if the
        model has another task than boxes, or an input that geotile does not know; or if the names are not one for
        each class.
    """

    def __init__(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, family: str = "auto",
        output_names: Mapping[str, str] | None = None, labels: Labels | None = None,
        score_threshold: float | None = None, nms_iou_threshold: float = 0.5, mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None, metadata: ModelMetadata = NO_METADATA,
    ) -> None:  # fmt: skip
        self.inputs, self.outputs, self.metadata = list(inputs), list(outputs), metadata
        check_inputs(self.inputs, metadata)
        given = class_names(labels)
        network = Network(self.inputs, self.outputs, self.size_yx or metadata.size_yx, metadata.stride)
        found = recognise(network, metadata, family=family, labels=given, named_outputs=output_names is not None)
        self.family, self.classes = found.family, found.classes
        if self.family == "torchvision" and given is not None and not isinstance(labels, Mapping):
            check_background(given)
        known = FAMILIES[self.family]
        self._family: Family = replace(known, preprocessing=known.preprocessing.with_values(mean, std))
        if self.inputs[0].dtype == np.uint8 and not (mean is None and std is None):
            raise ArgumentError("mean and std do not apply to a model that takes uint8 pixels; leave them out")
        self._decoded_outputs = _decoded_outputs(self.family, [each.name for each in outputs], output_names)
        self.names = metadata.names if given is None else given
        self._min_score = (
            DEFAULT_SCORE_THRESHOLD if score_threshold is None else check_unit(score_threshold, "score_threshold")
        )
        self._iou_threshold = check_unit(nms_iou_threshold, "nms_iou_threshold")

    @property
    def size_yx(self) -> tuple[int, int] | None:
        """Height and width of the input in pixels; None if the network takes any size."""
        rows, columns = input_sides(self.inputs[0])
        return None if rows is None or columns is None else (rows, columns)

    @property
    def batch_size(self) -> int | None:
        """Number of pictures in a batch; None if the network takes any number."""
        shape = self.inputs[0].shape
        return shape[0] if len(shape) == 4 else 1

    @property
    def max_batch_size(self) -> int | None:
        """Maximum number of pictures in a batch; None if it is not limited.

        The suppression inside Ultralytics' exports handles only as many pictures as the metadata say.
        """
        fixed = self.batch_size
        return self.metadata.batch if fixed is None and self.family == "yolo-nms" else fixed

    def description(self) -> str:
        """Return what was recognised, for people: family, classes, their first names, and the input."""
        classes = "an unknown number of classes" if self.classes is None else f"{self.classes} classes"
        listed = list((self.names or {}).values())
        names = ", ".join(listed[:_LISTED]) + (", ..." if len(listed) > _LISTED else "")
        size = "any size" if self.size_yx is None else f"{self.size_yx[1]} x {self.size_yx[0]} px"
        dtype = self.inputs[0].dtype
        return f"Recognised: family {self.family!r}, {classes}{names and f' ({names})'}, input of {size} {dtype}"

    def doubts(self) -> list[str]:
        """Return what looks wrong about the network, for people."""
        return [] if self.names else ["the model does not name its classes, so labels are numbers: give labels="]

    def inputs_for(self, tiles: Sequence[NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], list[TilePosition]]:
        """Return the input tensors for tiles, by name, and the position of each tile in its picture.

        Parameters
        ----------
        tiles : sequence of numpy.ndarray
            (band, y, x) uint8 each. The first three bands are red, green and blue; a single band is grey.

        Raises
        ------
        EndpointError
            If a tile is not uint8, or has two bands.
        """
        first, stride = self.inputs[0], self.metadata.stride or _DEFAULT_STRIDE
        raw, sides = first.dtype == np.uint8, input_sides(first)
        preprocessed = [preprocess(tile, sides, self._family.preprocessing, stride=stride, raw=raw) for tile in tiles]
        pictures = [as_layout(pixels, first.shape, first.dtype) for pixels, _ in preprocessed]
        tensors = {first.name: pictures[0] if len(first.shape) == 3 else np.stack(pictures)}
        for other in self.inputs[1:]:  # the mask of DETR: every pixel is valid
            tensors[other.name] = np.ones((len(tiles), *preprocessed[0][1].input_yx), other.dtype)
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
            If the outputs are not those of the family, a score is outside [0, 1], or a class has no name.
        """
        try:
            return [
                self._selected(
                    self._family.decode(self._picture_outputs(outputs, k, len(positions)), position.input_yx), position
                )
                for k, position in enumerate(positions)
            ]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            shapes = {name: np.shape(value) for name, value in outputs.items()}
            raise ResponseError(
                f"the outputs {shapes} cannot be decoded as those of the family {self.family!r}: {error}"
            ) from None

    def _picture_outputs(self, outputs: Mapping[str, NDArray[Any]], k: int, n: int) -> list[NDArray[Any]]:
        """Return the outputs for picture k of n. Outputs of torchvision may have no batch axis."""
        parts = [_as_float32(outputs[name]) for name in self._decoded_outputs]
        if self.family == "torchvision" and parts[0].ndim == 2:
            if n != 1:
                raise ValueError("outputs without a batch axis for several pictures")
            return parts
        return [part[k] for part in parts]

    def _selected(self, raw: RawDetections, position: TilePosition) -> DetectionArrays:
        """Return the detections that pass the score threshold and the suppression, in pixels of the tile.

        The order is that of the networks' authors: threshold, suppression, and clipping last. Boxes that are not
        valid come last, as they are, so that the run counts them.
        """
        rows, classes, scores = self._above_threshold(raw)
        check_in_pixels(raw.boxes, rows, position.input_yx)
        boxes = position.to_tile(raw.boxes[rows])
        valid = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
        kept = np.flatnonzero(valid)
        if self._family.needs_nms:
            kept = kept[nms(boxes[kept], scores[kept], classes[kept], iou_threshold=self._iou_threshold)]
        clipped = position.clipped(boxes[kept])
        in_tile = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)  # the others lie in the grey border of the picture
        order = np.concatenate([kept[in_tile], np.flatnonzero(~valid)])
        selected = np.concatenate([clipped[in_tile], boxes[~valid]])
        return selected, scores[order], [self._label(k) for k in classes[order].tolist()]

    def _label(self, number: int) -> str:
        """Return the name of a class, or its number if the model has no names."""
        if self.names is None:
            return str(number)
        if number not in self.names:
            raise ResponseError(
                f"class numbers must be among those of the {len(self.names)} class names; the model returned class "
                f"{number}. Give labels with a name for each class, or check family="
            )
        return self.names[number]

    def _above_threshold(
        self, raw: RawDetections
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:  # fmt: skip
        """Return rows, class numbers and scores of the detections whose score reaches the threshold, (n,) each."""
        values = as_scores(raw.scores)
        if raw.labels is not None:
            rows = np.flatnonzero(values >= self._min_score)
            return rows, raw.labels[rows], values[rows].astype(np.float64)
        if self._family.single_label:
            best = values.argmax(axis=1)
            rows = np.flatnonzero(values[np.arange(len(best)), best] >= self._min_score)
            classes = best[rows]
        else:
            rows, classes = np.nonzero(values >= self._min_score)
        return rows, classes, values[rows, classes].astype(np.float64)


def decoder_identity(options: DecoderOptions) -> str:
    """Return the changed options of a decoder as text, with the class names in place of the file that contains them."""
    values = options.changed()
    if "labels" in values:
        values["labels"] = class_names(values["labels"])
    return repr(sorted(values.items()))


def _as_float32(values: NDArray[Any]) -> NDArray[Any]:
    """Return an output with floats of single precision; half precision is too coarse for coordinates."""
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


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
    return names if family == "nanodet" else names[:1]
