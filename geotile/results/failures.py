"""What went wrong in a run: tiles that failed, boxes that were rejected, and shapes that were repaired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from geotile.grid.tile_grid import Tile, Window
from geotile.public import public

_MAX_REASON = 300  # characters of a reason that is counted


class Record(dict[str, Any]):
    """A dict whose keys are attributes as well."""

    def __dir__(self) -> list[str]:
        """Return the names of methods and fields, which notebooks complete."""
        return [*super().__dir__(), *map(str, self)]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {sorted(self)}") from None


@public
class TileFailure(Record):
    """A tile that failed.

    Attributes
    ----------
    tile : int
        Number of the tile, row-major over the grid.
    window : list of int
        ``[y0, y1, x0, x1]``, half-open, in image pixels.
    reason : str
        Cause of the failure.
    """

    tile: int
    window: list[int]
    reason: str


class Flaws(NamedTuple):
    """Number of rows of answers that were not valid, and what was wrong with the first."""

    rows: int = 0
    tile: int = -1
    """Number of the first tile that has some."""
    reason: str = ""
    """What was wrong with the first of them."""

    @classmethod
    def joined(cls, parts: Iterable[Flaws]) -> Flaws:
        """Return the flaws of several tiles together."""
        some = [part for part in parts if part.rows]
        first = min(some, key=lambda part: part.tile, default=NO_FLAWS)
        return cls(sum(part.rows for part in some), first.tile, first.reason)

    def text(self) -> str:
        """Return what was wrong with the first, and in which tile; an empty text without any."""
        return f"tile {self.tile}: {self.reason}" if self.rows else ""


NO_FLAWS = Flaws()


def tile_failure(tile: Tile, reason: str) -> TileFailure:
    """Return the failure of a tile."""
    return TileFailure(tile=tile.number, window=[int(v) for v in tile.window], reason=reason)


def stored_failures(values: Any) -> tuple[TileFailure, ...]:
    """Return failures that were stored as JSON.

    Raises
    ------
    ValueError
        If they are something else.

    Examples
    --------
    >>> stored_failures([{"tile": 3, "window": [0, 64, 64, 128], "reason": "the model raised ValueError"}])[0].tile
    3
    """
    if not isinstance(values, list) or not all(_is_failure(each) for each in values):
        raise ValueError("its failures are not those of tiles")
    return tuple(TileFailure(**each) for each in values)


def _is_failure(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"tile", "window", "reason"}:
        return False
    window = value["window"]
    numbers = [value["tile"], *window] if isinstance(window, list) and len(window) == 4 else [None]
    return all(type(each) is int for each in numbers) and isinstance(value["reason"], str)


def counted_reasons(failures: Iterable[TileFailure], most: int = 5) -> list[tuple[str, int]]:
    """Return the most frequent reasons of failed tiles, shortened, and the number of tiles of each.

    Examples
    --------
    >>> failures = [TileFailure(tile=each, window=[0, 9, 0, 9], reason="HTTP 500") for each in range(3)]
    >>> counted_reasons(failures)
    [('HTTP 500', 3)]
    """
    counts = Counter(each.reason[:_MAX_REASON] for each in failures)
    return counts.most_common(most)


def failure_text(tile: int, window: Sequence[int], reason: str, verb: str = "") -> str:
    """Return a failed tile as text that names its window once.

    Examples
    --------
    >>> failure_text(3, [0, 64, 64, 128], "the model raised ValueError", " failed")
    'tile 3 (rows 0:64, columns 64:128) failed: the model raised ValueError'
    >>> failure_text(3, [0, 64, 64, 128], "cannot read rows 0:64, columns 64:128 of a.tif")
    'tile 3: cannot read rows 0:64, columns 64:128 of a.tif'
    """
    y0, y1, x0, x1 = window
    place = f"rows {y0}:{y1}, columns {x0}:{x1}"
    return f"tile {tile}{'' if place in reason else f' ({place})'}{verb}: {reason}"


def failed_window(failure: TileFailure) -> Window:
    """Return the pixels of a failed tile."""
    return Window(*failure.window)
