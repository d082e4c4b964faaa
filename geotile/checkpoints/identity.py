"""What a job is: all that a region's answer depends on, as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import dask.array as da
from dask.base import tokenize

from geotile.core.digest import digest
from geotile.endpoints import Endpoint
from geotile.errors import ArgumentError
from geotile.imagery.file_version import UNKNOWN
from geotile.planning.plan import Plan


def identity_of(work: Plan, model: Endpoint, asked: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """Return what the detections of a job's regions depend on, before merging.

    Parameters
    ----------
    work : Plan
    model : Endpoint
        Ready to be asked.
    asked : mapping
        How tiles are made and answers taken; JSON.
    strict : bool
        Refuse what could not be told from another job.

    Returns
    -------
    dict
        JSON: ``image``, ``grid``, ``model``, ``tiles``.

    Raises
    ------
    ArgumentError
        If the state of the image is told by nobody.
    """
    grid = work.grid
    image = _image(work)
    if strict and str(image.get("version", "")).startswith(UNKNOWN):
        raise ArgumentError(
            f"checkpoint= needs to know whether {work.name} is still the same, and its store tells no ETag; copy it "
            "to a file, or leave checkpoint out"
        )
    place = repr(work.encoder.georeference) if model.wants_bytes else ""
    return {
        "image": image,
        "grid": {
            "shape": list(grid.shape_yx), "tile": [axis.tile for axis in grid.axes],
            "overlap": [axis.overlap for axis in grid.axes], "chunks": [list(each) for each in grid.chunks],
        },
        "model": model.identity(),
        "tiles": {**asked, "nodata": repr(work.encoder.nodata), "place": digest(place.encode())},
    }  # fmt: skip


def _image(work: Plan) -> dict[str, Any]:
    source, data = work.source, work.image.data
    properties = {"shape": list(work.image.shape), "dtype": str(work.image.dtype)}
    if source is None:  # Dask names an array by everything that it is computed from
        return properties | {"array": data.name if isinstance(data, da.Array) else tokenize(data)}
    return properties | {
        "uri": work.name if "://" in work.name else os.path.abspath(work.name), "version": source.version,
        "bands": list(source.bands), "origin": list(source.origin_yx), "whole": list(source.whole_yx),
        "steps": [repr(each) for each in source.steps], "resampled": source.resampled,
    }  # fmt: skip
