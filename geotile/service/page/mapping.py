"""The map of a job's image as shapes of an SVG: its footprint, its detections by label, and its failed tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geotile.core.digest import digest
from geotile.service.page.found import Found
from geotile.service.records import ImageRecord

_SIDE = 1000.0  # of the drawing
_MAX_LABELS = 6  # with a colour of their own
_MAX_LABEL_LENGTH = 60


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The detections of one label."""

    name: str
    """Label as the legend shows it."""
    count: int
    """Number of boxes that are drawn."""
    path: str
    """Outlines of the boxes, as the attribute ``d`` of a path."""
    colour: int
    """Number of its colour, from 0 to 5."""


@dataclass(frozen=True, kw_only=True)
class ImageMap:
    """What a template needs to draw the map of an image."""

    width: float
    """Width of the drawing; the longer side has 1,000 units."""
    height: float
    """Height of the drawing."""
    layers: Sequence[Layer]
    """Detections by label, the most frequent first."""
    failed: str
    """Outlines of failed tiles, as the attribute ``d`` of a path."""
    drawn: int
    """Number of detections that are drawn."""
    total: int | None
    """Number of all detections; None if that is not known."""
    failed_drawn: int
    """Number of failed tiles that are drawn."""


def image_map(image: ImageRecord, found: Found) -> ImageMap | None:
    """Return the map of an image; None if its size is not known.

    Parameters
    ----------
    image : ImageRecord
        The record of the image.
    found : Found
        What was found in it.

    Examples
    --------
    >>> found = Found(boxes=np.array([[100, 0, 200, 50.0]]), labels=["ship"])
    >>> drawing = image_map(ImageRecord(image="a.tif", shape_yx=(500, 1000)), found)
    >>> drawing.height, drawing.layers[0].name, drawing.layers[0].path
    (500.0, 'ship', 'M100 0h100v50h-100z')
    """
    if image.shape_yx is None:
        return None
    scale = _SIDE / max(image.shape_yx)
    windows = np.array(found.failed, np.float64).reshape(-1, 4)
    return ImageMap(
        width=image.shape_yx[1] * scale, height=image.shape_yx[0] * scale,
        layers=list(_layers(found, scale)), failed=_path(windows[:, [2, 0, 3, 1]] * scale),
        drawn=len(found.boxes), total=found.total, failed_drawn=len(windows),
    )  # fmt: skip


def _layers(found: Found, scale: float) -> Iterable[Layer]:
    labels = np.array(found.labels, object)
    frequent = [label for label, _ in Counter(found.labels).most_common()]
    own = frequent if len(frequent) <= _MAX_LABELS else frequent[: _MAX_LABELS - 1]
    colours = _colours(own)
    free = next((each for each in range(_MAX_LABELS) if each not in colours.values()), 0)
    groups = [([label], label or "detection") for label in own]
    if len(own) < len(frequent):
        groups.append((frequent[len(own) :], f"{len(frequent) - len(own):,} other labels"))
    for members, name in groups:
        mine = np.isin(labels, members)
        shown = name if len(name) <= _MAX_LABEL_LENGTH else f"{name[:_MAX_LABEL_LENGTH]}…"
        colour = colours[members[0]] if len(members) == 1 and members[0] in colours else free
        yield Layer(name=shown, count=int(mine.sum()), path=_path(found.boxes[mine] * scale), colour=colour)


def _colours(labels: Sequence[str]) -> dict[str, int]:
    """Return the number of a colour for each of at most six labels.

    It follows from the label, so that a label keeps it while others become more frequent, and in other images; of
    labels that would have the same one, the later in alphabetical order has the next.

    >>> _colours(["ship", "car"]) == _colours(["car", "ship"])
    True
    """
    found: dict[str, int] = {}
    for label in sorted(labels):
        first = int(digest(label.encode(errors="surrogatepass"), 8), 16)
        numbers = ((first + step) % _MAX_LABELS for step in range(_MAX_LABELS))
        found[label] = next(each for each in numbers if each not in found.values())
    return found


def _path(boxes: NDArray[np.float64]) -> str:
    """Return boxes, (n, 4) xyxy, as the outlines of one path; those far outside are cut off."""
    inside = boxes.clip(-_SIDE, 2 * _SIDE).tolist()
    return "".join(
        f"M{_text(x0)} {_text(y0)}h{_text(x1 - x0)}v{_text(y1 - y0)}h{_text(x0 - x1)}z" for x0, y0, x1, y1 in inside
    )


def _text(number: float) -> str:
    """Return a number with at most one decimal."""
    text = f"{number:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
