"""The part of a detection network that geotile runs itself: tiles to tensors, and tensors to detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import check_unit
from geotile.detectors.class_names import Labels, check_background, class_names
from geotile.detectors.families import FAMILIES
from geotile.detectors.inputs import check_inputs, input_sides
from geotile.detectors.keypoints import keypoint_shape
from geotile.detectors.layouts import Network, Tensor
from geotile.detectors.metadata import NO_METADATA, ModelMetadata
from geotile.detectors.outputs import decoded_outputs, picture_outputs
from geotile.detectors.preprocessing import TilePosition, as_layout, preprocess
from geotile.detectors.raw import Family, RawDetections
from geotile.detectors.recognition import Recognised, recognise
from geotile.detectors.selection import DetectionArrays, select
from geotile.errors import ArgumentError, ResponseError
from geotile.merging.detections import Detections
from geotile.options import DecoderOptions

DEFAULT_SCORE_THRESHOLD = 0.3
_DEFAULT_STRIDE = 32
_LISTED = 5  # class names in a description


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
        model has a task or an input that geotile does not know; or if the names are not one for each class.
    """

    def __init__(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, family: str = "auto",
        output_names: Mapping[str, str] | None = None, labels: Labels | None = None,
        score_threshold: float | None = None, nms_iou_threshold: float = 0.5, mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None, metadata: ModelMetadata = NO_METADATA,
    ) -> None:  # fmt: skip
        if find_spec("PIL") is None:
            raise ArgumentError(
                "the tiles of a network need Pillow, which is not installed. Install it with pip install pillow"
            )
        self.inputs, self.outputs, self.metadata = list(inputs), list(outputs), metadata
        check_inputs(self.inputs, metadata)
        given = class_names(labels)
        size = self.size_yx or metadata.size_yx
        network = Network(self.inputs, self.outputs, size, metadata.stride, metadata.keypoints)
        found = recognise(network, metadata, family=family, labels=given, named_outputs=output_names is not None)
        self.family, self.classes = found.family, found.classes
        if self.family == "torchvision" and given is not None and not isinstance(labels, Mapping):
            check_background(given)
        known = FAMILIES[self.family]
        self._family: Family = replace(known, preprocessing=known.preprocessing.with_values(mean, std))
        if self.inputs[0].dtype == np.uint8 and not (mean is None and std is None):
            raise ArgumentError("mean and std do not apply to a model that takes uint8 pixels; leave them out")
        self._decoded_outputs = decoded_outputs(self.family, self.outputs, output_names)
        self.names = metadata.names if given is None else given
        self._decode = self._decoder(found)
        self._min_score = (
            DEFAULT_SCORE_THRESHOLD if score_threshold is None else check_unit(score_threshold, "score_threshold")
        )
        self._iou_threshold = check_unit(nms_iou_threshold, "nms_iou_threshold")

    def _decoder(self, found: Recognised) -> Callable[[list[NDArray[Any]], tuple[int, int]], RawDetections]:
        """Return the decoder of the family; that of key points knows their shape."""
        if not self.family.endswith("-pose"):
            return self._family.decode
        raw, shape = self.family == "yolov8-pose", self.outputs[0].shape
        classes = found.classes or (None if self.names is None else len(self.names))
        channels = shape[1 if raw else 2]
        values = None if channels is None else channels - 4
        return partial(
            self._family.decode, shape=keypoint_shape(values, classes if raw else 2, self.metadata.keypoints)
        )

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
        return self.metadata.batch if fixed is None and self.family.startswith("yolo-nms") else fixed

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
    ) -> list[DetectionArrays | Detections]:  # fmt: skip
        """Return the detections of each tile.

        Parameters
        ----------
        outputs : mapping of str to numpy.ndarray
            Output tensors of the network, by name.
        positions : sequence of TilePosition
            Positions of the tiles, as `inputs_for` returned them.

        Returns
        -------
        list of tuple or Detections
            Boxes (n, 4) float64 xyxy in pixels of the tile, scores (n,) float64 and labels of each tile; `Detections`
            if the network returns shapes or key points. A mask without a pixel is an empty polygon.

        Raises
        ------
        ResponseError
            If the outputs are not those of the family, a score is outside [0, 1], or a class has no name.
        """
        try:
            return [self._decoded(outputs, each, k, len(positions)) for k, each in enumerate(positions)]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            shapes = {name: np.shape(value) for name, value in outputs.items()}
            raise ResponseError(
                f"the outputs {shapes} cannot be decoded as those of the family {self.family!r}: {error}"
            ) from None

    def _decoded(
        self, outputs: Mapping[str, NDArray[Any]], position: TilePosition, k: int, n: int
    ) -> DetectionArrays | Detections:
        """Return the detections of tile k of n."""
        raw = self._decode(picture_outputs(self.family, outputs, self._decoded_outputs, k, n), position.input_yx)
        return select(
            raw, self._family, position, min_score=self._min_score, iou_threshold=self._iou_threshold, label=self._label
        )

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


def decoder_identity(options: DecoderOptions) -> str:
    """Return the changed options of a decoder as text, with the class names in place of the file that contains them."""
    values = options.changed()
    if "labels" in values:
        values["labels"] = class_names(values["labels"])
    return repr(sorted(values.items()))
