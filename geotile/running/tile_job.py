"""How tiles are sent to the model, and the result of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from geotile.core.checks import Pair
from geotile.core.timing import Timing
from geotile.encoding.encoder import Encoder
from geotile.endpoints.base import Endpoint
from geotile.grid.tile_grid import Tile
from geotile.results.failures import NO_FLAWS, Flaws, TileFailure
from geotile.traffic import TrafficSettings


class AnswerReader(Protocol):
    """What a run makes of a model's answers. Pickles."""

    def read(self, tile: Tile, answer: Any, sent_yx: Pair) -> TileContent:
        """Return what an answer says.

        Parameters
        ----------
        tile : Tile
        answer : object
            What the endpoint returned for the tile, or an EndpointError.
        sent_yx : tuple of int
            Height and width in pixels of the tile as the model saw it.

        Raises
        ------
        EndpointError
            If the endpoint returned an error for the tile, or something that cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class TileContent:
    """What the model's answer for a tile says."""

    found: Any
    """Detections in image pixels, or what else the reader makes of an answer."""
    count: int = 0
    """Number of detections."""
    rejected: Flaws = NO_FLAWS
    """Boxes that are not valid."""
    repaired: Flaws = NO_FLAWS
    """Shapes that were not valid and were made so."""


@dataclass(frozen=True, kw_only=True)
class TileJob:
    """How tiles are sent to the model and how its answers are read. Pickles."""

    run: str
    """Name of the run."""
    endpoint: Endpoint
    encoder: Encoder
    tile_yx: Pair
    """Height and width of a full tile in pixels."""
    reader: AnswerReader
    threads: int
    """Number of tile threads per process."""
    traffic: TrafficSettings | None
    """Limits of the requests; None where the model runs in the process."""
    errors: Literal["record", "raise"]
    stops_run: bool = field(default=True, kw_only=True)
    """Whether an error stops the tiles of other regions. Those of a lazy array may be asked for again."""
    pad_value: float | None
    """Value that fills a tile smaller than the tile size; None leaves it small."""
    min_valid_share: float | None = None
    """Minimum share of valid pixels of a tile that is sent; 0 for any pixel at all, None to send every tile."""

    @property
    def need_valid(self) -> bool:
        """Whether the validity of pixels is needed."""
        return self.min_valid_share is not None

    def sent_shape_yx(self, tile: Tile) -> Pair:
        """Return height and width in pixels of a tile as the model sees it."""
        height, width = tile.window.shape_yx
        if self.pad_value is None:
            return height, width
        return max(height, self.tile_yx[0]), max(width, self.tile_yx[1])


@dataclass(frozen=True)
class TileResult:
    """Result of a tile."""

    content: TileContent | None = None
    """What the answer says; None without an answer."""
    attempts: int = 0
    """Number of requests; those of a batch count for its first tile."""
    retries: int = 0
    failure: TileFailure | None = None
    without_data: bool = False
    """Whether the tile was not sent because it holds too little data."""
    cancelled: bool = False
    """Whether the run was cancelled before the tile was answered."""
    timing: Timing = field(default_factory=dict)
    """CPU time of the tile's thread by stage, in seconds."""
