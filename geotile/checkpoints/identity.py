"""The identity of a job: everything that the answer of a region depends on, as JSON."""

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


def identity_of(work: Plan, model: Endpoint, settings: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """Return everything that the detections of the regions depend on, before merging.

    Parameters
    ----------
    work : Plan
    model : Endpoint
        The model, ready for requests.
    settings : mapping
        How tiles are selected and padded and answers are filtered; JSON.
    strict : bool
        Refuse images whose store has no ETag, since a later version could not be distinguished.

    Returns
    -------
    dict
        JSON: ``image``, ``grid``, ``model``, ``tiles``.

    Raises
    ------
    ArgumentError
        If `strict` and the version of the image is unknown.
    """
    grid = work.grid
    image = _image(work)
    if strict and str(image.get("version", "")).startswith(UNKNOWN):
        raise ArgumentError(
            f"checkpoint needs the version of the image, and the store of {work.name} has no ETag. Copy the image to a "
            "file, or leave checkpoint out"
        )
    place = repr(work.encoder.georeference) if model.wants_bytes else ""
    return {
        "image": image,
        "grid": {
            "shape": list(grid.shape_yx), "tile": [axis.tile for axis in grid.axes],
            "overlap": [axis.overlap for axis in grid.axes], "chunks": [list(each) for each in grid.chunks],
        },
        "model": model.identity(),
        "tiles": {**settings, "nodata": repr(work.encoder.nodata), "place": digest(place.encode())},
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
    } | ({"inside": digest(source.location.path.encode())} if source.location.container else {})  # fmt: skip
