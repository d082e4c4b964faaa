"""Merges by name: ``"seam"``, or ``"soft-nms:sigma=0.5"`` with parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from typing import Any

from geotile.core.choices import MERGE_NAMES
from geotile.core.from_text import named_value
from geotile.core.option import refuse_unknown
from geotile.errors import ArgumentError
from geotile.merging.greedy_nmm import GreedyNmm
from geotile.merging.joining import Nmm, Union
from geotile.merging.merge import KeepAll, Merge
from geotile.merging.nms import Nms
from geotile.merging.point_nms import PointNms
from geotile.merging.seam_nms import SeamNms
from geotile.merging.soft_nms import SoftNms

_CLASSES: dict[str, type[Merge]] = dict(
    zip(MERGE_NAMES, (SeamNms, Nms, SoftNms, GreedyNmm, Nmm, Union, PointNms, KeepAll), strict=True)
)
_PARAMETERS = {
    "iou_threshold": ("iou_threshold", "threshold"), "overlap_metric": ("metric",),
    "class_agnostic": ("class_agnostic",),
}  # fmt: skip


def resolve_merge(merge: Any, options: Mapping[str, Any]) -> Merge:
    """Return the merge that a user named, or gave as an object.

    Parameters
    ----------
    merge : str, Merge or None
        One of `MERGE_NAMES`, with parameters after a colon if there are any; None is "none".
    options : mapping
        Those of ``iou_threshold``, ``overlap_metric`` and ``class_agnostic`` that differ from their defaults.

    Raises
    ------
    ArgumentError
        If the name or a parameter is unknown, a value cannot be used, or an option would have no effect.

    Examples
    --------
    >>> resolve_merge("soft-nms:sigma=0.5", {})
    SoftNms(sigma=0.5, score_threshold=0.0001, class_agnostic=False, geometry='auto')
    >>> resolve_merge("greedy-nmm", {"iou_threshold": 0.4}).threshold
    0.4
    """
    if not isinstance(merge, str):
        _refuse_unused(options, merge)
        return KeepAll() if merge is None else merge
    name, colon, text = merge.partition(":")
    if name not in _CLASSES:
        raise ArgumentError(f"merge must be one of {', '.join(map(repr, MERGE_NAMES))}; got {merge!r}")
    cls = _CLASSES[name]
    known = inspect.signature(cls).parameters
    given = {_parameter(each, known): value for each, value in (_parameters(text, merge) if colon else {}).items()}
    refuse_unknown(given, list(known), f"merge {name!r}", None)
    parameters = dict(given)
    for option, value in options.items():
        parameter = _parameter(option, known)
        if parameter not in known or parameter in given:
            _refuse_unused({option: value}, merge)
        else:
            parameters[parameter] = value
    missing = [each.name for each in known.values() if each.default is each.empty and each.name not in parameters]
    if missing:
        raise ArgumentError(f"merge {name!r} needs {', '.join(missing)}; give merge='{name}:{missing[0]}=...'")
    return cls(**parameters)


def _parameter(name: str, known: Collection[str]) -> str:
    """Return a merge's own name of a parameter that `detect` may call by another one."""
    return next((each for each in _PARAMETERS.get(name, ()) if each in known), name)


def _parameters(text: str, merge: str) -> dict[str, Any]:
    """Return the parameters after the colon of a merge's name; commas within braces separate nothing."""
    parts = [part.partition("=") for part in re.split(r",(?![^{]*\})", text)]
    names = [name.strip() for name, _, _ in parts]
    if "" in names or len(set(names)) < len(names) or not all(equals for _, equals, _ in parts):
        raise ArgumentError(
            "merge must be a name, or a name with parameters, each given once, such as 'soft-nms:sigma=0.5'; got "
            f"{merge[:80]!r}"
        )
    return dict(named_value(f"{name}={value.strip()}") for name, (_, _, value) in zip(names, parts, strict=True))


def _refuse_unused(options: Mapping[str, Any], merge: Any) -> None:
    if options:
        raise ArgumentError(
            f"{', '.join(options)} would have no effect with merge={merge!r}; leave it out, or give another merge, "
            "such as merge='nms'"
        )
