"""The raster that users get: an xarray.DataArray with the image's place on the ground."""

from __future__ import annotations

from typing import Any

import numpy as np
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from affine import Affine

from geotile.blending.form import BYTE_STEPS
from geotile.geometry.georeference import Georeference
from geotile.planning.plan import Plan
from geotile.planning.raster_plan import RasterPlan


def raster_template(plan: Plan, raster: RasterPlan, data: Any) -> xr.DataArray:
    """Return an array as the output of a run.

    Parameters
    ----------
    plan : Plan
    raster : RasterPlan
    data : array_like
        (y, x) or (band, y, x), of the output's shape and dtype.
    """
    form, out = raster.form, raster.out
    dims = ("y", "x") if form.bands is None else ("band", "y", "x")
    attrs: dict[str, Any] = {"long_name": {"classes": "class", "scores": "score", "values": "value"}[form.output]}
    if form.classes is not None:
        attrs["class_names"] = list(form.classes)
    if form.output == "scores" and form.score_dtype == "uint8":
        attrs |= {"scale_factor": 1 / BYTE_STEPS, "add_offset": 0.0}
    coords: dict[str, Any] = {}
    transform = scaled_transform(plan.encoder.georeference, out.up, out.down)
    if transform is not None and transform.b == transform.d == 0:
        height, width = out.shape_yx
        coords["x"] = ("x", transform.c + transform.a * (np.arange(width) + 0.5))
        coords["y"] = ("y", transform.f + transform.e * (np.arange(height) + 0.5))
    if form.bands is not None:
        names = form.classes if form.classes is not None and len(form.classes) == form.bands else None
        coords["band"] = ("band", list(names) if names else np.arange(1, form.bands + 1))
    array = xr.DataArray(data, dims=dims, coords=coords, name="prediction", attrs=attrs)
    if transform is not None and plan.encoder.georeference.crs is not None:
        array = array.rio.write_crs(plan.encoder.georeference.crs)
    if transform is not None:
        array = array.rio.write_transform(transform)
    whole: xr.DataArray = array.rio.write_nodata(form.nodata)
    return whole


def scaled_transform(georeference: Georeference, up: int, down: int) -> Affine | None:
    """Return the transform of an output; None where no affine transform places the image."""
    transform = georeference.transform
    return None if transform is None else transform @ Affine.scale(down / up)


def notes_of_place(georeference: Georeference) -> list[str]:
    """Return a note if a raster cannot have the place of its image."""
    if georeference.placement is None or georeference.transform is not None:
        return []
    return ["ground control points or RPCs place the image, so the raster and its polygons are in pixels of the image"]
