"""Signs that the answer of a model is wrong though it can be decoded; `Endpoint.check` reports them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.merging.detections import Detections

_MANY_IN_NOTHING = 20  # detections in a tile of zeros
_MANY_ALIKE = 5
_POINT_PX = 1.5


def doubts(detections: Detections, tile: NDArray[Any]) -> Iterator[str]:
    """Yield what looks wrong in the detections of a tile.

    Parameters
    ----------
    detections : Detections
        Detections in pixels of the tile.
    tile : numpy.ndarray
        Pixels of the tile, (band, y, x).

    Examples
    --------
    >>> from geotile.endpoints.objects import decode_object
    >>> list(doubts(decode_object(([[0.1, 0.1, 0.4, 0.4]], [0.8])).detections, np.ones((3, 64, 64))))
    ['all boxes lie in the first pixel: they may be shares of the tile from 0 to 1, not pixels']
    """
    if not len(detections):
        return
    boxes = np.asarray(detections.boxes)
    if (boxes[:, 2:] <= _POINT_PX).all():
        yield "all boxes lie in the first pixel: they may be shares of the tile from 0 to 1, not pixels"
    if len(boxes) >= _MANY_ALIKE and (boxes == boxes[0]).all():
        yield f"all {len(boxes)} boxes are equal"
    if not tile.any() and len(boxes) > _MANY_IN_NOTHING:
        yield f"{len(boxes)} detections in a tile of zeros: check family= and score_threshold="
