"""What a model file says of itself: the metadata that exporters write into ONNX files.

=========== =================================================================================================
exporter    keys and values, all of them text
=========== =================================================================================================
Ultralytics ``author`` and ``description`` (the exporter), ``task``, ``head`` (the class of the last layer, since
            8.4), ``names`` (a dict with whole numbers as keys, as Python writes it), ``imgsz`` ([y, x]), ``stride``
            (the largest one), ``batch``, ``channels``, ``end2end``, ``args`` (``nms`` is in it), ``kpt_shape``
YOLOv5      ``stride``, ``names``; also written by exporters that were derived from it (v7, v9)
Deepness    JSON: ``model_type``, ``det_type``, ``class_names``
=========== =================================================================================================
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from geotile.errors import ArgumentError

T = TypeVar("T")
_DEEPNESS_FAMILIES = {"YOLO_v5_or_v7_default": "yolov5", "YOLO_v9": "yolov8", "YOLO_Ultralytics": "yolov8"}
_DEEPNESS_TASKS = {"YOLO_Ultralytics_segmentation": "segment", "YOLO_Ultralytics_obb": "obb"}
_SUFFIXES = {"obb": "obb", "segment": "seg", "pose": "pose"}  # of the families of a task
_TASKS_OF_HEADS = {"obb": "obb", "segment": "segment", "pose": "pose", "classify": "classify", "depth": "depth"}


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Metadata of a model file; a field is None where the file does not say it."""

    task: str | None = None
    """Task of the model: "detect", "obb", "segment", "pose", "classify" ..."""
    families: tuple[str, ...] | None = None
    """Families that the metadata leave possible; None where they say nothing about the family."""
    names: Mapping[int, str] | None = None
    """Class names by number."""
    size_yx: tuple[int, int] | None = None
    """Height and width in pixels of the input for which the model was exported."""
    stride: int | None = None
    """Largest stride of the model in pixels."""
    batch: int | None = None
    """Batch size for which the model was exported."""
    keypoints: tuple[int, int] | None = None
    """Number of key points of a detection, and of the values of each."""


NO_METADATA = ModelMetadata()


def read_metadata(entries: Mapping[str, str]) -> ModelMetadata:
    """Read the metadata of a model file.

    Parameters
    ----------
    entries : mapping of str to str
        The file's metadata, such as ``session.get_modelmeta().custom_metadata_map`` of onnxruntime. Unknown keys are
        ignored.

    Raises
    ------
    ArgumentError
        If the value of a known key cannot be read; the message names the key.

    Examples
    --------
    >>> said = read_metadata({"task": "detect", "names": "{0: 'ship', 1: 'plane'}", "imgsz": "[640, 1024]"})
    >>> said.names, said.size_yx
    ({0: 'ship', 1: 'plane'}, (640, 1024))
    """
    names = _value(entries, "names", as_names, "class names as a list, or as a mapping of whole numbers to names")
    if names is None:
        names = _value(entries, "class_names", as_names, "class names as a list, or as a mapping of numbers to names")
    task = _task(entries)
    return ModelMetadata(
        task=task, families=_families(entries, task), names=names or None,
        size_yx=_value(entries, "imgsz", _size, "one or two whole numbers of pixels above 0"),
        stride=_value(entries, "stride", _largest, "a whole number of pixels above 0"),
        batch=_value(entries, "batch", _positive, "a whole number above 0"),
        keypoints=_value(entries, "kpt_shape", _pair, "two whole numbers above 0"),
    )  # fmt: skip


def as_names(value: Any) -> dict[int, str]:
    """Return class names by number, from a list of names or a mapping of numbers to names.

    Raises
    ------
    ValueError
        If the value is neither, or a name is not a text.

    Examples
    --------
    >>> as_names(["ship", "plane"]), as_names({"0": "ship"})
    ({0: 'ship', 1: 'plane'}, {0: 'ship'})
    """
    if isinstance(value, Mapping):
        pairs = [(_class_number(key), name) for key, name in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        pairs = list(enumerate(value))
    else:
        raise ValueError(f"a {type(value).__name__}")
    for number, name in pairs:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the name of class {number} is {name!r}")
    found = {number: name.strip() for number, name in pairs}
    if len(found) < len(pairs):
        raise ValueError("a class number occurs twice")
    return dict(sorted(found.items()))


def _class_number(key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key)
    if isinstance(key, bool) or not isinstance(key, int) or key < 0:
        raise ValueError(f"{key!r} is not a class number")
    return key


def _value(entries: Mapping[str, str], key: str, read: Callable[[Any], T], expected: str) -> T | None:
    """Return the value of a key, None without it."""
    if key not in entries:
        return None
    try:
        return read(_parsed(entries[key]))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        text = entries[key]
        shown = text if len(text) <= 80 else text[:80] + "…"
        raise ArgumentError(
            f"the metadata {key!r} of the model must be {expected}; got {shown!r} ({error}). Export the model again, "
            "or correct its metadata_props"
        ) from None


def _parsed(text: str) -> Any:
    """Return the value of a text, which exporters write in Python's or JSON's notation."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return json.loads(text)


def _text(entries: Mapping[str, str], key: str) -> str | None:
    """Return a text, with or without the quotation marks of JSON."""
    return entries[key].strip().strip("\"'") or None if key in entries else None


def _positive(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise ValueError("not a whole number above 0")
    return int(value)


def _largest(value: Any) -> int:
    return max(map(_positive, value)) if isinstance(value, list | tuple) else _positive(value)


def _size(value: Any) -> tuple[int, int]:
    sides = [_positive(each) for each in (value if isinstance(value, list | tuple) else [value])]
    if len(sides) not in (1, 2):
        raise ValueError(f"{len(sides)} numbers")
    return sides[0], sides[-1]


def _pair(value: Any) -> tuple[int, int]:
    first, second = map(_positive, value)
    return first, second


def _task(entries: Mapping[str, str]) -> str | None:
    """Return the task: that of the key ``task``, unless the head or another key says that it is another one."""
    head = (_text(entries, "head") or "").lower()
    of_head = next((task for part, task in _TASKS_OF_HEADS.items() if part in head), None)
    others = [of_head, "pose" if "kpt_shape" in entries else None, _deepness_task(entries)]
    said = _text(entries, "task")
    return next((each for each in others if each), None) if said in (None, "detect") and any(others) else said


def _deepness_task(entries: Mapping[str, str]) -> str | None:
    kind = _text(entries, "model_type")
    if kind in ("Segmentor", "Regressor", "Superresolution", "Recognition"):
        return kind.lower()
    return _DEEPNESS_TASKS.get(_text(entries, "det_type") or "")


def _families(entries: Mapping[str, str], task: str | None) -> tuple[str, ...] | None:
    """Return the families that the metadata leave possible."""
    if task in _SUFFIXES:
        raw, suppressed = f"yolov8-{_SUFFIXES[task]}", f"yolo-nms-{_SUFFIXES[task]}"
        known = {"head", "end2end", "args"} & set(entries)
        return ((suppressed if _is_suppressed(entries) else raw),) if known else (raw, suppressed)
    if (kind := _text(entries, "det_type")) is not None and kind in _DEEPNESS_FAMILIES:
        return (_DEEPNESS_FAMILIES[kind],)
    about = f"{entries.get('author', '')} {entries.get('description', '')}".lower()
    if "ultralytics" in about or {"head", "end2end", "args"} & set(entries):
        return _ultralytics_families(entries, about)
    if "task" in entries:
        return None
    return ("yolov5", "yolov8") if {"stride", "names"} <= set(entries) else None


def _ultralytics_families(entries: Mapping[str, str], about: str) -> tuple[str, ...]:
    head = (_text(entries, "head") or "").lower()
    if "rtdetr" in head or (not head and ("rtdetr" in about or "rt-detr" in about)):
        return ("rtdetr-ul", "rtdetr-ul-scores")
    if _is_suppressed(entries):
        return ("yolo-nms",)
    if head:
        return ("yolov8",)
    return ("yolov8", "yolo-nms", "rtdetr-ul-scores")  # exports of before 2026 do not name the head


def _is_suppressed(entries: Mapping[str, str]) -> bool:
    """Return whether the metadata say that the network suppresses overlapping detections itself."""
    args = _value(entries, "args", _mapping, "a mapping of names to values") or {}
    end2end = _value(entries, "end2end", bool, "True or False")
    head = (_text(entries, "head") or "").lower()
    return bool(args.get("nms") or end2end or (end2end is None and head == "v10detect"))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"a {type(value).__name__}")
    return value
