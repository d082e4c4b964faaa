"""Recognition of a network's family: the file's own words decide, the shapes of the outputs confirm.

::

    task of the metadata ─▶ anything but boxes, oriented boxes, masks of objects and key points is refused
    families: the user's, else those that the metadata leave possible, else all
        ─ shapes ─▶ those that the outputs fit
        ─ class names ─▶ those with as many classes as names
        ─▶ one: recognised      several or none: refused, with their names
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geotile.detectors.families import FAMILIES
from geotile.detectors.layouts import Fit, Network, fit
from geotile.detectors.metadata import ModelMetadata
from geotile.detectors.output_texts import output_shapes
from geotile.errors import ArgumentError

_TASKS = (None, "detect", "obb", "segment", "pose")
_NEEDS_METADATA = {"rtdetr-ul-scores", "yolo-nms-obb"}  # any (n, k, c) fits the first by its shape, (n, k, 7) both
# Nothing in the shapes distinguishes these: an angle or the key points could be the scores of more classes.
_NAMED_BY_USERS = {"yolox-decoded", "yolov8-obb", "yolov8-pose", "yolo-nms-pose"}
_OUTPUT_NAMES = {  # of the families whose outputs have names of their own
    "torchvision": {"boxes", "scores"}, "detr": {"logits", "pred_boxes"}, "rtdetr": {"logits", "pred_boxes"},
}  # fmt: skip
_OTHER_TASKS = "If the model answers a value for each pixel, use geotile predict; if it answers a vector, geotile embed"
_UNMISTAKABLE = {*_OUTPUT_NAMES, "mmdet", "efficientnms", "yolov7-nms"}  # whatever the size of the input


class SeveralFamiliesError(ArgumentError):
    """Raised where a network may be of more than one family of object detectors."""


@dataclass(frozen=True)
class Recognised:
    """Family of a network, and what its outputs hold."""

    family: str
    """Name of the family in `FAMILIES`."""
    classes: int | None
    """Number of classes; None if neither the outputs nor the metadata tell."""


def recognise(
    network: Network, metadata: ModelMetadata, *, family: str = "auto", labels: Mapping[int, str] | None = None,
    named_outputs: bool = False,
) -> Recognised:  # fmt: skip
    """Return the family of a network, and its number of classes.

    Parameters
    ----------
    network : Network
        Inputs and outputs as the network declares them.
    metadata : ModelMetadata
        What the model's file says of itself.
    family : str
        Family that the user gave; "auto" without one.
    labels : mapping of int to str, optional
        Class names that the user gave.
    named_outputs : bool
        Whether the user named the outputs, as the family "torchvision" needs it.

    Raises
    ------
    ArgumentError
        If the model has another task than boxes, or no family fits.
    SeveralFamiliesError
        If more than one fits.
    """
    _check_task(metadata)
    allowed = _allowed(metadata, family, named_outputs)
    by_shape = {
        name: found for name in FAMILIES if (found := _fit(name, network, metadata, family, named_outputs)) is not None
    }
    candidates = {name: found for name, found in by_shape.items() if name in allowed}
    named = {name: found for name, found in candidates.items() if _agrees(found, metadata.names)}
    fitting = {name: found for name, found in named.items() if _agrees(found, labels)}
    if family == "auto" and metadata.families is None:
        _check_known_size(network, metadata, fitting, candidates)
    if len(fitting) == 1:
        (name, found) = fitting.popitem()
        return Recognised(name, _class_count(found, metadata, labels))
    if len(fitting) > 1:
        raise SeveralFamiliesError(
            f"the outputs ({network.listed()}) fit several families: {_shown(fitting)}. Give family=NAME, or "
            "labels=NAMES with one name per class where that decides"
        )
    if candidates:
        raise _wrong_names(network, candidates, labels if named else metadata.names, "labels" if named else "metadata")
    raise _no_family(network, allowed, by_shape, metadata, family)


def _check_task(metadata: ModelMetadata) -> None:
    if metadata.task not in _TASKS:
        raise ArgumentError(
            f"the metadata of the model say that its task is {metadata.task!r}; geotile reads the tasks 'detect', "
            "'obb', 'segment' and 'pose'. Use a model that detects objects"
        )


def _allowed(metadata: ModelMetadata, family: str, named_outputs: bool) -> tuple[str, ...]:
    """Return the families that the user and the metadata leave possible."""
    if family == "auto":
        return ("torchvision",) if named_outputs else metadata.families or tuple(FAMILIES)
    if family not in FAMILIES:
        listed = ", ".join(map(repr, sorted(FAMILIES)))
        raise ArgumentError(f"family must be one of {listed} or 'auto'; got {family!r}")
    if metadata.families is not None and family not in metadata.families:
        said = " or ".join(map(repr, metadata.families))
        raise ArgumentError(
            f"family must agree with the metadata of the model, which say {said}; got {family!r}. Leave it out"
        )
    return (family,)


def _fit(name: str, network: Network, metadata: ModelMetadata, family: str, named_outputs: bool) -> Fit | None:
    """Return the fit of a family; outputs of the families that have names for them must have these names."""
    if name in _NAMED_BY_USERS and name != family and name not in (metadata.families or ()):
        return None
    outputs = {each.name for each in network.outputs}
    if name != family and not named_outputs and not _OUTPUT_NAMES.get(name, set()) <= outputs:
        return None
    return fit(name, network)


def _agrees(found: Fit, names: Mapping[int, str] | None) -> bool:
    """Return whether there is one name for each class."""
    return names is None or found.classes is None or set(names) == set(range(found.classes))


def _check_known_size(
    network: Network, metadata: ModelMetadata, fitting: dict[str, Fit], candidates: dict[str, Fit]
) -> None:
    """Refuse to infer a family from shapes that say too little."""
    dynamic = network.size_yx is None and not (metadata.task or metadata.names) and not set(fitting) <= _UNMISTAKABLE
    if dynamic or (fitting and set(fitting) <= _NEEDS_METADATA):
        reason = "the input has no fixed size, and the model has no metadata" if dynamic else "they fit by chance"
        fits = f"; {_shown(candidates)} would fit" if candidates else ""
        raise ArgumentError(
            f"the family cannot be inferred from the outputs ({network.listed()}): {reason}{fits}. Give family=NAME, "
            f"one of {', '.join(map(repr, sorted(FAMILIES)))}. {_OTHER_TASKS}"
        )


def _class_count(found: Fit, metadata: ModelMetadata, labels: Mapping[int, str] | None) -> int | None:
    """Return the number of classes of the outputs, else that of the names in the metadata."""
    if found.classes is not None or metadata.names is None:
        return found.classes
    if labels is not None and set(labels) != set(metadata.names):
        raise ArgumentError(
            f"labels must give one name for each class; got {len(labels)} names, and the metadata of the model name "
            f"{len(metadata.names)} classes"
        )
    return len(metadata.names)


def _shown(fits: Mapping[str, Fit]) -> str:
    return ", ".join(
        repr(name) if found.classes is None else f"{name!r} ({found.classes} classes)" for name, found in fits.items()
    )


def _wrong_names(
    network: Network, candidates: dict[str, Fit], names: Mapping[int, str] | None, source: str
) -> ArgumentError:
    given = {} if names is None else names
    numbers = f"the numbers {min(given, default=0)} to {max(given, default=0)}"
    return ArgumentError(
        f"{'labels' if source == 'labels' else 'the names in the metadata'} must give one name for each class, from "
        f"class 0; got {len(given)} names for {numbers}, and the outputs ({network.listed()}) fit {_shown(candidates)}"
    )


def _no_family(
    network: Network, allowed: tuple[str, ...], by_shape: dict[str, Fit], metadata: ModelMetadata, family: str
) -> ArgumentError:
    fits = f"fit {_shown(by_shape)}" if by_shape else "fit no family"
    if family != "auto":
        return ArgumentError(
            f"family={family!r} needs {output_shapes(family)}; the outputs of the model ({network.listed()}) {fits}. "
            "Give another family or leave it out"
        )
    if metadata.families is not None:
        said = " or ".join(f"{name!r}, {output_shapes(name)}" for name in allowed)
        return ArgumentError(
            f"the metadata of the model say {said}; its outputs ({network.listed()}) {fits}. Export the model again"
        )
    listed = ", ".join(map(repr, sorted(FAMILIES)))
    return ArgumentError(
        f"the family cannot be inferred from the outputs ({network.listed()}). Give family=NAME, one of {listed}. "
        + _OTHER_TASKS
    )
