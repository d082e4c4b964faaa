"""Which outputs of a network a family decodes, and the part of them that belongs to one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.detectors.layouts import EFFICIENT_NMS, Tensor
from geotile.errors import ArgumentError

_ROLES = ("boxes", "scores", "labels")
_MORE_ROLES = ("masks", "keypoints", "keypoints_scores")


def decoded_outputs(family: str, outputs: Sequence[Tensor], output_names: Mapping[str, str] | None) -> list[str]:
    """Return the names of the outputs in the order in which the family's decoder takes them.

    Raises
    ------
    ArgumentError
        If `output_names` does not name the outputs of the family "torchvision", or an output that may hold masks or key
        points has no name of its own.
    """
    names = [each.name for each in outputs]
    if family == "torchvision":
        return _torchvision(outputs, output_names)
    if family in ("detr", "rtdetr"):
        return ["logits", "pred_boxes"] if {"logits", "pred_boxes"} <= set(names) else names[:2]
    if family == "mmdet":
        return ["dets", "labels", *(name for name in names if name == "masks")]
    if family == "efficientnms":
        return next(list(group) for group in EFFICIENT_NMS if set(group) <= set(names))
    if family.endswith("-seg"):
        return [each.name for each in sorted(outputs, key=lambda each: len(each.shape))]  # the prototypes come last
    return names if family == "nanodet" else names[:1]


def _torchvision(outputs: Sequence[Tensor], output_names: Mapping[str, str] | None) -> list[str]:
    """Return the names of boxes, scores and labels, and of masks and key points where there are some."""
    names = [each.name for each in outputs]
    known = {role: role for role in (*_ROLES, *_MORE_ROLES) if role in _ROLES or role in names}
    by_role = dict(output_names) if output_names else known
    if not set(_ROLES) <= set(by_role) <= {*_ROLES, *_MORE_ROLES}:
        raise ArgumentError(
            f"output_names must give the outputs for {list(_ROLES)}, and may give those for {list(_MORE_ROLES)}; got "
            f"{by_role}. The model has {names}"
        )
    if unknown := sorted(set(by_role.values()) - set(names)):
        raise ArgumentError(f"output_names must name outputs of the model, {names}; got {unknown}")
    for each in outputs:
        if len(each.shape) >= 4 and each.name not in by_role.values():
            raise ArgumentError(
                f"the output {each.name!r} {each.shape} may hold masks, which would be lost. Name it in output_names "
                "as 'masks', or export the model without it"
            )
    return [by_role[role] for role in (*_ROLES, *_MORE_ROLES) if role in by_role]


def picture_outputs(
    family: str, outputs: Mapping[str, NDArray[Any]], names: Sequence[str], k: int, n: int
) -> list[NDArray[Any]]:
    """Return the outputs of some names for picture k of n. Outputs of torchvision may have no batch axis."""
    parts = [_as_float32(outputs[name]) for name in names]
    if family == "yolov7-nms":
        return [parts[0][parts[0][:, 0] == k]]
    if family == "torchvision" and parts[0].ndim == 2:
        if n != 1:
            raise ValueError("outputs without a batch axis for several pictures")
        return parts
    return [part[k] for part in parts]


def _as_float32(values: NDArray[Any]) -> NDArray[Any]:
    """Return an output with floats of single precision; half precision is too coarse for coordinates."""
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
