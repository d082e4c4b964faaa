"""The report of a run: mappings with attributes, so that they survive pickle, JSON and Parquet's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, Literal

from geotile.core.html_table import html_card, html_details, html_table
from geotile.errors import ArgumentError
from geotile.public import public
from geotile.results.failures import Record, TileFailure

Status = Literal["SUCCESS", "PARTIAL", "FAILED"]
_LISTED, _LISTED_HTML = 5, 20  # failed tiles that a repr lists
_STATES = {"SUCCESS": "good", "PARTIAL": "doubtful", "FAILED": "bad"}
_ROWS = {
    "status": "{status}",
    "image": "{image}",
    "endpoint": "{endpoint}",
    "tiles": "{tiles:,} in {regions:,} regions",
    "tiles outside the roi": "{tiles_outside_roi:,}",
    "tiles without data": "{tiles_without_data:,}",
    "tiles resumed": "{tiles_resumed:,}",
    "requests": "{requests:,} ({retries:,} retries, {throttled:,} throttled or timed out)",
    "outages": "{outages:,} ({outage_s:,.1f} s)",
    "boxes rejected": "{boxes_rejected:,}",
    "shapes repaired": "{shapes_repaired:,}",
    "detections before merging": "{detections_before:,}",
    "detections after merging": "{detections_after:,}",
    "detections at seams": "{detections_at_seams:,}",
    "pixels without an answer": "{pixels_missing:,}",
    "seconds": "{seconds:.2f}",
}


class Traffic(Record):
    """The requests of a run over all processes; part of `Report`."""

    concurrency: int
    throttled: int
    outages: int
    outage_s: float
    latency_s: float


NO_TRAFFIC = Traffic(concurrency=0, throttled=0, outages=0, outage_s=0.0, latency_s=0.0)


@public
class Report(Record):
    """The report of a run.

    It is a dict whose keys are attributes. Its ``repr`` is a table.

    Attributes
    ----------
    status : {"SUCCESS", "PARTIAL", "FAILED"}
        Whether all, some or none of the tiles that were to be sent were answered.
    image, endpoint : str
        Names of the image and the endpoint, without secrets.
    tiles, regions : int
        Number of tiles and regions of the grid.
    tiles_outside_roi, tiles_without_data : int
        Number of tiles that were not sent: outside the region of interest, or with too little data.
    tiles_resumed : int
        Number of tiles whose answers came from a checkpoint.
    requests, retries : int
        Number of requests sent in this run, retries included, and of retries alone. Those of Dask workers that died are
        not counted. Retries while nothing else is answered do not count towards the option `retries` of the endpoint,
        so there can be more of them.
    concurrency : int
        Maximum number of requests in flight at the end of the run. It is lower than a number that was given if the
        endpoint refused requests, and 0 where the model runs in the process.
    throttled : int
        Number of requests that the endpoint had no capacity for: HTTP 429 and 503, and time-outs.
    outages : int
        Number of outages of the endpoint during the run.
    outage_s : float
        Seconds of these outages, during which no requests were sent.
    latency_s : float
        Mean time from sending a request to its answer, in seconds; 0 where the model runs in the process.
    boxes_rejected : int
        Number of boxes that are not valid, such as those with NaN or outside their tile, and so not in the result.
    first_rejection : str
        What was wrong with the first of them; empty if there is none.
    shapes_repaired : int
        Number of polygons that were not valid, such as those that cross themselves, and were made valid.
    first_repair : str
        What was wrong with the first of them; empty if there is none.
    detections_before, detections_after : int
        Number of detections before and after merging.
    pixels_missing : int
        Of a raster, the number of pixels of failed tiles that no other tile has answered. Reports of rasters have no
        numbers of boxes, shapes and detections.
    detections_at_seams : int
        Number of detections after merging that end at a border of their tile inside the image, where the border may
        have cut the object. A larger `overlap` (at least the size of the largest object) makes them fewer, and so does
        the default ``merge="seam"``, which joins the parts of an object.
    seconds : float
        Wall time of the run, with the writing of its result; without imports, and without the wait for a model that was
        not ready at the beginning.
    timing : dict of str to float
        CPU time of geotile's own processes in seconds, by stage: decode, cut, encode, send (and receive) or, for a
        model in the process, model, parse, merge, rows (the table of the result), write.
    failures : list of TileFailure
        Failed tiles, by number.
    notes : list of str
        What the run did that the options do not show: the bands that were chosen, tiles that were resized.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> report = geotile.report(geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32))
    >>> report.status, report["detections_after"]
    ('SUCCESS', 3)
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
    latency_s: float
    boxes_rejected: int
    first_rejection: str
    shapes_repaired: int
    first_repair: str
    detections_before: int
    detections_after: int
    detections_at_seams: int
    pixels_missing: int
    seconds: float
    timing: dict[str, float]
    failures: list[TileFailure]
    notes: list[str]

    def rows(self, failed_tiles: bool = True) -> dict[str, str]:
        """Return the report as names and values for people, with or without the first failed tiles.

        Values that GeoParquet does not keep, since they vary between runs, are left out of a report read from there.
        """
        rows = {name: text.format_map(self) for name, text in _ROWS.items() if _has_all(self, text)}
        if self.get("first_rejection"):
            rows["first rejection"] = self.first_rejection
        if self.get("first_repair"):
            rows["first repair"] = self.first_repair
        if self.get("detections_at_seams"):
            rows["detections at seams"] += " (fewer with a larger overlap)"
        if self.get("latency_s"):
            rows["answers"] = f"{self.latency_s:.3f} s on average"
        if self.get("latency_s") and self.get("seconds"):
            in_flight = (self.requests - self.retries) * self.latency_s / self.seconds  # Little's law
            rows["requests in flight"] = f"{in_flight:.1f} on average; the limit was {self.concurrency:,} at the end"
        if self.get("timing"):
            rows["CPU time"] = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in self.timing.items())
        rows |= {f"note {number}": text for number, text in enumerate(self.get("notes", []), 1)}
        rows["failed tiles"] = f"{len(self.failures):,}"
        if not failed_tiles:
            return rows
        for failure in self.failures[:_LISTED]:
            rows[f"tile {failure.tile}"] = failure.reason
        if len(self.failures) > _LISTED:
            rows["..."] = f"and {len(self.failures) - _LISTED:,} more failed tiles"
        return rows

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(map(len, rows)) + 2
        return "\n".join(["<geotile.Report>", *(f"{name:>{width}}  {value}" for name, value in rows.items())])

    def _repr_html_(self) -> str:
        failed = [(f"tile {each.tile}", each.reason) for each in self.failures[:_LISTED_HTML]]
        if len(self.failures) > _LISTED_HTML:
            failed.append(("...", f"and {len(self.failures) - _LISTED_HTML:,} more"))
        below = html_details(f"{len(self.failures):,} failed tiles", html_table(failed)) if failed else ""
        table = html_table(self.rows(failed_tiles=False).items())
        return html_card("geotile.Report", table + below, state=_STATES.get(self.get("status", ""), ""))


@public
def report(detections: Any) -> Report:
    """Return the report of the run that a frame of detections comes from.

    Parameters
    ----------
    detections : geopandas.GeoDataFrame
        Detections as `detect` returns them, or read back from GeoParquet. Operations of pandas that combine
        frames keep the report only if those of all frames are equal, and ``dissolve`` drops it: call this before them.

    Returns
    -------
    Report

    Raises
    ------
    ArgumentError
        If the frame has no report.

    Examples
    --------
    >>> import geotile
    >>> from geotile.testing import bright_objects, write_example
    >>> detections = geotile.detect(write_example(), bright_objects, tile_size=128, overlap=32)
    >>> geotile.report(detections).tiles
    9
    """
    found = getattr(detections, "attrs", {}).get("report")
    if not isinstance(found, Mapping):
        raise ArgumentError(
            "detections must be a GeoDataFrame with a report, as detect returns it; this has none. Operations that "
            "combine frames (merge, dissolve, concat) may drop it, and of the files only a single GeoParquet file "
            "stores it; call geotile.report on the frame that detect returned"
        )
    failures = [TileFailure(failure) for failure in found.get("failures", [])]
    return Report({**found, "failures": failures})


def _has_all(values: Mapping[str, Any], text: str) -> bool:
    return all(name in values for _, name, _, _ in Formatter().parse(text) if name)


_VARYING = (
    "seconds",
    "timing",
    "requests",
    "retries",
    "throttled",
    "concurrency",
    "outages",
    "outage_s",
    "latency_s",
    "tiles_resumed",
)


def lasting(report: Report) -> dict[str, Any]:
    """Return the part of a report that does not depend on how often a run was interrupted."""
    return {name: value for name, value in report.items() if name not in _VARYING}
