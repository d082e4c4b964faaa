"""Which outputs of a network a family decodes, and the part of them that belongs to one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.detectors.layouts import Tensor
from geotile.errors import ArgumentError


def decoded_outputs(family: str, outputs: Sequence[Tensor], output_names: Mapping[str, str] | None) -> list[str]:
    """Return the names of the outputs in the order in which the family's decoder takes them.

    Raises
    ------
    ArgumentError
        If `output_names` does not name the outputs of the family "torchvision".
    """
    names = [each.name for each in outputs]
    if family == "torchvision":
        roles = ["boxes", "scores", "labels"]
        by_role = dict(output_names) if output_names else {role: role for role in roles}
        if set(by_role) != set(roles):
            raise ArgumentError(f"output_names must give the outputs for {roles}; got {by_role}. The model has {names}")
        if unknown := sorted(set(by_role.values()) - set(names)):
            raise ArgumentError(f"output_names must name outputs of the model, {names}; got {unknown}")
        return [by_role[role] for role in roles]
    if family in ("detr", "rtdetr"):
        return ["logits", "pred_boxes"] if {"logits", "pred_boxes"} <= set(names) else names[:2]
    if family.endswith("-seg"):
        return [each.name for each in sorted(outputs, key=lambda each: len(each.shape))]  # the prototypes come last
    return names if family == "nanodet" else names[:1]


def picture_outputs(
    family: str, outputs: Mapping[str, NDArray[Any]], names: Sequence[str], k: int, n: int
) -> list[NDArray[Any]]:
    """Return the outputs of some names for picture k of n. Outputs of torchvision may have no batch axis."""
    parts = [_as_float32(outputs[name]) for name in names]
    if family == "torchvision" and parts[0].ndim == 2:
        if n != 1:
            raise ValueError("outputs without a batch axis for several pictures")
        return parts
    return [part[k] for part in parts]


def _as_float32(values: NDArray[Any]) -> NDArray[Any]:
    """Return an output with floats of single precision; half precision is too coarse for coordinates."""
    array = np.asarray(values)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
