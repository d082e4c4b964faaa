"""The detections in a model's answer for a tile, in image pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from geotile.core.checks import Pair
from geotile.core.thresholds import Threshold
from geotile.endpoints.answer import Answer
from geotile.endpoints.base import as_answer
from geotile.grid.tile_grid import Tile
from geotile.results.failures import Flaws
from geotile.running.tile_job import TileContent


@dataclass(frozen=True)
class DetectionReader:
    """Reader of detections."""

    score_threshold: Threshold
    """Minimum score of a detection."""

    def read(self, tile: Tile, answer: Any, sent_yx: Pair) -> TileContent:
        """Return the detections of an answer in image pixels."""
        height, width = sent_yx
        read = _touching(as_answer(answer, sent_yx), width, height)
        found = read.detections.moved_to_image(tile.number, tile.window.x0, tile.window.y0, width, height)
        found = found.with_min_score(self.score_threshold)
        return TileContent(
            found=found, count=len(found),
            rejected=Flaws(read.rejected, tile.number, read.reason or ""),
            repaired=Flaws(read.repaired, tile.number, read.flaw or ""),
        )  # fmt: skip


def _touching(answer: Answer, width: int, height: int) -> Answer:
    """Return an answer without what lies completely outside its tile: merging needs boxes and shapes that touch it."""
    boxes, shapes = answer.detections.boxes, answer.detections.geometries
    outside = np.asarray((boxes[:, 2:] < 0).any(axis=1) | (boxes[:, :2] > [width, height]).any(axis=1))
    given = shapes != None  # noqa: E711 - element by element
    if given.any():
        outside[given] |= ~shapely.intersects(shapes[given], shapely.box(0, 0, width, height))
    return answer.without(
        outside,
        lambda row: (
            f"box {boxes[row].tolist()}, or its shape, lies outside the tile of {width} x {height} pixels that was "
            "sent; both must touch it"
        ),
    )
