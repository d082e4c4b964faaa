"""What a run did: plain mappings, so that they survive pickle, JSON and Parquet's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from geotile.grid.tile_grid import Tile, Window

Status = Literal["SUCCESS", "PARTIAL", "FAILED"]


class _Record(dict[str, Any]):
    """A dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {sorted(self)}") from None


class TileFailure(_Record):
    """One tile that failed.

    Attributes
    ----------
    tile : int
        Number of the tile, row-major over the grid.
    window : list of int
        ``[y0, y1, x0, x1]``, half-open, in image pixels.
    reason : str
        What went wrong.
    """

    tile: int
    window: list[int]
    reason: str


class Traffic(_Record):
    """What came of a run's requests over all processes; part of `Report`."""

    concurrency: int
    throttled: int
    outages: int
    outage_s: float


class Report(_Record):
    """What a run did.

    Attributes
    ----------
    status : {"SUCCESS", "PARTIAL", "FAILED"}
        Whether all, some or none of the tiles that were to be sent were answered.
    image, endpoint : str
        What was run on what; no secrets.
    tiles, regions : int
        How many the grid has.
    tiles_outside_roi, tiles_without_data : int
        Tiles that were not sent: off the region of interest, or with too little data.
    tiles_resumed : int
        Tiles whose answers a checkpoint held.
    requests, retries : int
        Requests sent in this run, retries among them.
    concurrency : int
        Requests that were allowed in flight at the end; 0 where the model runs in the process.
    throttled : int
        Requests that the endpoint had no room for: 429, 503 and time-outs.
    outages : int
        How often the endpoint was found to be away under way.
    outage_s : float
        How long no requests were sent for that.
    detections_before, detections_after : int
        Before and after merging.
    seconds : float
        Wall time.
    timing : dict of str to float
        Seconds of CPU that the processes themselves took, by step: decode, cut, encode, send (and
        receive) or, for a model in the process, model, parse, merge.
    failures : list of TileFailure
        Every tile that failed, by number.

    Examples
    --------
    >>> report = make_report(image="a.tif", endpoint="f", tiles=4, regions=1, requests=4, retries=0,
    ...                      before=9, after=7, seconds=0.5, failures=[], outside_roi=0, without_data=0)
    >>> report.status, report["detections_after"]
    ('SUCCESS', 7)
    """

    status: Status
    image: str
    endpoint: str
    tiles: int
    regions: int
    tiles_outside_roi: int
    tiles_without_data: int
    tiles_resumed: int
    requests: int
    retries: int
    concurrency: int
    throttled: int
    outages: int
    outage_s: float
    detections_before: int
    detections_after: int
    seconds: float
    timing: dict[str, float]
    failures: list[TileFailure]


_VARYING = (
    "seconds",
    "timing",
    "requests",
    "retries",
    "throttled",
    "concurrency",
    "outages",
    "outage_s",
    "tiles_resumed",
)


def lasting(report: Report) -> dict[str, Any]:
    """Return what a report says of the answer, not of the way there: the same however often a run was stopped."""
    return {name: value for name, value in report.items() if name not in _VARYING}


def tile_failure(tile: Tile, reason: str) -> TileFailure:
    """Record the failure of a tile."""
    return TileFailure(tile=tile.number, window=[int(v) for v in tile.window], reason=reason)


def failed_window(failure: TileFailure) -> Window:
    """Return the pixels of a failed tile."""
    return Window(*failure.window)


def make_report(
    *,
    image: str,
    endpoint: str,
    tiles: int,
    regions: int,
    requests: int,
    retries: int,
    before: int,
    after: int,
    seconds: float,
    failures: Iterable[TileFailure],
    outside_roi: int,
    without_data: int,
    resumed: int = 0,
    traffic: Traffic | None = None,
    timing: Mapping[str, float] = MappingProxyType({}),
) -> Report:
    """Make the report of a run, its status from the number of failures."""
    listed = sorted(failures, key=lambda failure: failure.tile)
    asked = tiles - outside_roi - without_data
    status: Status = "SUCCESS" if not listed else "FAILED" if len(listed) == asked else "PARTIAL"
    return Report(
        status=status,
        image=image,
        endpoint=endpoint,
        tiles=tiles,
        regions=regions,
        tiles_outside_roi=outside_roi,
        tiles_without_data=without_data,
        tiles_resumed=resumed,
        requests=requests,
        retries=retries,
        **(traffic or Traffic(concurrency=0, throttled=0, outages=0, outage_s=0.0)),
        detections_before=before,
        detections_after=after,
        seconds=seconds,
        timing={name: round(value, 6) for name, value in timing.items()},
        failures=listed,
    )
