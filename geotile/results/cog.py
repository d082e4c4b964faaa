"""A Cloud Optimized GeoTIFF, made of a Zarr store by GDAL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr

from geotile.core.rasterio_env import READ_ERRORS, error_text, ignore_georeference_warnings
from geotile.core.xml_text import without_control_characters
from geotile.errors import OutputError
from geotile.geometry.georeference import PLACEMENT
from geotile.geometry.placement import GcpPlacement, RpcPlacement
from geotile.grid.tile_grid import Window
from geotile.results.class_legend import colour
from geotile.results.raster_store import RasterStore

_OF_CLASSES = {"overview_resampling": "MODE", "level": 6}
_OF_NUMBERS = {"overview_resampling": "AVERAGE", "level": 1, "predictor": "YES"}  # 0.6 x the time, 0.7 x the size
_ROWS_AT_ONCE = 4  # rows of chunks that are copied at once


def write_cog(store: RasterStore, template: xr.DataArray, chunk: int, path: Path) -> None:
    """Write a Cloud Optimized GeoTIFF with overviews.

    Parameters
    ----------
    store : RasterStore
    template : xarray.DataArray
        The output without values.
    chunk : int
        Side of the store's chunks.
    path : Path
    """
    plain = path.with_name("plain.tif")
    height, width = template.sizes["y"], template.sizes["x"]
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": template.sizes.get("band", 1),
        "dtype": str(template.dtype), "nodata": template.rio.nodata, "crs": template.rio.crs, "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "ZSTD", "zstd_level": 1, "bigtiff": "IF_SAFER",
        "sparse_ok": True, "num_threads": "ALL_CPUS", "photometric": "MINISBLACK", "alpha": "NO",
    }  # fmt: skip
    place = template.coords.get("spatial_ref")
    placement = None if place is None else place.encoding.get(PLACEMENT)
    if place is not None and "GeoTransform" in place.attrs:
        profile["transform"] = template.rio.transform(recalc=False)
    if placement is not None:
        del profile["crs"]  # it is that of the points
    names = template.attrs.get("class_names")
    with ignore_georeference_warnings(), rasterio.open(plain, "w", **profile) as file:
        for window in _windows(height, width, chunk):
            values = store.read(window)
            values = values if values.ndim == 3 else values[None]
            y0, y1, x0, x1 = window
            file.write(values, window=rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0))
        _describe(file, template, names)
        if isinstance(placement, GcpPlacement):
            file.gcps = placement.gcps, template.rio.crs
        elif isinstance(placement, RpcPlacement):
            file.rpcs = placement.rpc
    is_class = template.attrs["long_name"] == "class"
    with ignore_georeference_warnings():
        _copy_as_cog(plain, path, is_class)
    plain.unlink()
    try:
        _check_written(store, path, chunk)
    except READ_ERRORS as error:
        raise OutputError(f"the file cannot be read back ({error_text(error)}); the disk may be full") from None


def _check_written(store: RasterStore, path: Path, chunk: int) -> None:
    """Compare a file with its store: GDAL's threads write to a full disk without an error.

    Raises
    ------
    OutputError
        If the file differs.
    OSError, RasterioError
        If a block of it, or of an overview, cannot be read.
    """
    with ignore_georeference_warnings(), rasterio.open(path) as file:
        for window in _windows(file.height, file.width, chunk):
            y0, y1, x0, x1 = window
            found = file.read(window=rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0))
            wanted = store.read(window)
            if not np.array_equal(found, wanted.reshape(found.shape), equal_nan=found.dtype.kind == "f"):
                raise OutputError("the file does not hold what was written to it; the disk may be full")
        levels = range(len(file.overviews(1)))
    for level in levels:
        with ignore_georeference_warnings(), rasterio.open(path, overview_level=level) as overview:
            for _, window in overview.block_windows(1):
                overview.read(window=window)


def _copy_as_cog(plain: Path, path: Path, is_class: bool) -> None:
    kind = _OF_CLASSES if is_class else _OF_NUMBERS
    rasterio.shutil.copy(
        str(plain), str(path), driver="COG", compress="DEFLATE", blocksize=512, bigtiff="IF_SAFER",
        num_threads="ALL_CPUS", **kind,
    )  # fmt: skip


def _describe(file: Any, template: xr.DataArray, names: Sequence[str] | None) -> None:
    """Write the names of classes or bands, colours of classes, and the scale of scores."""
    if "band" in template.dims:
        for number, name in enumerate(template.indexes.get("band", ()), 1):
            if isinstance(name, str):
                file.set_band_description(number, name)
    elif names or template.attrs["long_name"] == "class":
        file.set_band_description(1, template.attrs["long_name"])
    if names and "band" not in template.dims:
        file.update_tags(1, **{f"CLASS_{number}": name for number, name in enumerate(names)})
    if template.attrs["long_name"] == "class" and template.dtype == np.uint8 and "band" not in template.dims:
        file.write_colormap(1, {number: (*colour(number), 255) for number in range(255)} | {255: (0, 0, 0, 0)})
    if "scale_factor" in template.attrs:
        file.scales = (template.attrs["scale_factor"],) * file.count


def category_file(template: xr.DataArray) -> bytes | None:
    """Return the file that GDAL reads beside a map of classes, ``.aux.xml``: their names, for the legend of QGIS.

    A GeoTIFF can hold the names only as tags, and programs do not show tags. None if there are no names.
    """
    names = template.attrs.get("class_names")
    if names is None or template.attrs["long_name"] != "class" or "band" in template.dims:
        return None
    root = ElementTree.Element("PAMDataset")
    categories = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in names:
        ElementTree.SubElement(categories, "Category").text = without_control_characters(str(name))
    return ElementTree.tostring(root, encoding="unicode").encode()


def _windows(height: int, width: int, chunk: int) -> Iterator[Window]:
    """Yield windows of whole chunks from left to right, from top to bottom."""
    side = _ROWS_AT_ONCE * chunk
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield Window(y, min(y + side, height), x, min(x + side, width))
