"""The raster that users get: an xarray.DataArray with the image's place on the ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr
from affine import Affine

from geotile.blending.form import BYTE_STEPS
from geotile.core.redact import redact
from geotile.geometry.georeference import PLACEMENT, Georeference
from geotile.geometry.placement import AffinePlacement, GcpPlacement, RpcPlacement
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
    if plan.encoder.georeference.placement is not None and transform is None:
        array = _placed(array, plan.encoder.georeference.for_pixels(Affine.scale(out.down / out.up)))
    whole: xr.DataArray = array.rio.write_nodata(form.nodata)
    return whole


def _placed(array: xr.DataArray, georeference: Georeference) -> xr.DataArray:
    """Return an array with the ground control points, polynomials or model that place it, as `open_image` has them."""
    placement = georeference.placement
    numbers = {dim: (dim, np.arange(array.sizes[dim]) + 0.5, {"units": "pixel"}) for dim in ("y", "x")}
    array = array.assign_coords(numbers)
    if isinstance(placement, GcpPlacement) and georeference.crs is not None:
        array = array.rio.write_gcps(placement.gcps, georeference.crs)
    elif georeference.crs is not None:
        array = array.rio.write_crs(georeference.crs)
    else:
        array = array.assign_coords(spatial_ref=xr.Variable((), 0))
    array["spatial_ref"].encoding[PLACEMENT] = placement
    return array


def scaled_transform(georeference: Georeference, up: int, down: int) -> Affine | None:
    """Return the transform of an output; None where no affine transform places the image."""
    transform = georeference.transform
    return None if transform is None else transform @ Affine.scale(down / up)


def notes_of_place(georeference: Georeference, uris: Sequence[str]) -> list[str]:
    """Return a note for each output that cannot hold what places its image on the ground.

    A GeoTIFF holds ground control points and RPCs, a Zarr store the points alone. The model of a SICD is held by
    neither.
    """
    placement = georeference.placement
    if placement is None or isinstance(placement, AffinePlacement | GcpPlacement):
        return []
    lost = [uri for uri in uris if uri.lower().endswith(".zarr") or not isinstance(placement, RpcPlacement)]
    kind = "RPCs" if isinstance(placement, RpcPlacement) else "a sensor model"
    return [f"{kind} place the image, and {redact(uri)} cannot hold them: it is in pixels of the image" for uri in lost]
