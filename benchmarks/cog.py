"""A Cloud Optimized GeoTIFF of a Dask array: geotile's Zarr store and GDAL's driver, against odc-geo.

    pip install "odc-geo[tiff]"
    python benchmarks/cog.py --size 16384

Both get the same lazy uint8 array of class numbers in chunks of 2,048 pixels, computed by threads of one process, and
write a COG with blocks of 512 pixels, DEFLATE level 6 and overviews. geotile's workers write the chunks of a Zarr store
(which can be resumed), of which this process makes the COG; odc-geo compresses and appends the parts in the graph. Each
runs in a process of its own, in turns; the best time and the largest peak of memory count. What odc-geo's default
overviews cost (the nearest pixel, not the most frequent one) is a row of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import rasterio
import rioxarray  # noqa: F401 - registers the .rio accessor
import xarray as xr

CHUNK = 2048


def block(block_info: Any = None) -> np.ndarray:
    """Return fields of 64 pixels with a twentieth of the pixels of other classes."""
    (y, _), (x, _) = block_info[None]["array-location"]
    rng = np.random.default_rng((y, x))
    rows, columns = block_info[None]["chunk-shape"]
    fields = np.kron(rng.integers(0, 10, (rows // 64, columns // 64)), np.ones((64, 64), np.int64)).astype(np.uint8)
    noise = rng.integers(0, 200, fields.shape, np.uint8)
    return np.where(noise < 10, noise, fields)


def class_map(size: int) -> xr.DataArray:
    chunks = ((CHUNK,) * (size // CHUNK),) * 2
    pixels = da.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    at = 0.5 * (np.arange(size) + 0.5)
    array = xr.DataArray(pixels, dims=("y", "x"), coords={"y": 5e6 - at, "x": 5e5 + at}, attrs={"long_name": "class"})
    return array.rio.write_crs("EPSG:32631").rio.write_transform().rio.write_nodata(255)


def by_geotile(array: xr.DataArray, out: str) -> dict[str, float]:
    from geotile.grid.tile_grid import Window
    from geotile.results.raster_output import write_cog
    from geotile.results.raster_store import RasterStore, store_files
    from geotile.storage.folder import Folder

    files = store_files(array, 512)
    store = RasterStore(folder=Folder.at(f"{out}.blocks"), array=files["prediction/zarr.json"])
    store.begin(files)

    def write(values: np.ndarray, block_info: Any = None) -> np.ndarray:
        (y0, y1), (x0, x1) = block_info[0]["array-location"]
        store.write(Window(y0, y1, x0, x1), values, *block_info[0]["chunk-location"], {})
        return np.zeros((1, 1), np.uint8)

    began = time.perf_counter()
    ones = tuple((1,) * count for count in array.data.numblocks)
    written = array.data.map_blocks(write, chunks=ones, meta=np.empty((0, 0), np.uint8))
    written.compute()
    stored = time.perf_counter()
    write_cog(store, array, 512, Path(out))
    return {"graph": len(dict(written.dask)), "store_s": stored - began}


def by_odc(array: xr.DataArray, out: str, resampling: str) -> dict[str, float]:
    from odc.geo.cog import save_cog_with_dask

    work = save_cog_with_dask(
        array, out, compression="DEFLATE", level=6, blocksize=512, overview_resampling=resampling, predictor=False
    )
    work.compute()
    return {"graph": len(dict(work.__dask_graph__()))}


def child(kind: str, out: str, size: str) -> None:
    """Write one; print seconds, peak memory and more as JSON."""
    import geotile.results.raster_output  # noqa: F401 - imports are not measured

    if kind != "geotile":
        import odc.geo.cog
        import odc.geo.xr  # noqa: F401
    array = class_map(int(size))
    with dask.config.set(scheduler="threads"):
        began = time.perf_counter()
        said = by_geotile(array, out) if kind == "geotile" else by_odc(array, out, kind.split()[1])
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with rasterio.open(out) as file:
        first = int(file.read(1, window=((0, CHUNK), (0, CHUNK))).sum())
        assert first == int(array.data.blocks[0, 0].sum().compute())
        said |= {"overviews": len(file.overviews(1)), "bytes": Path(out).stat().st_size}
    print(json.dumps({"s": seconds, "mb": peak} | said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"geotile": [], "odc mode": [], "odc nearest": []}
    for _ in range(arguments.rounds):
        for name, rows in found.items():
            with tempfile.TemporaryDirectory() as place:
                words = [sys.executable, __file__, "child", name, f"{place}/out.tif", str(arguments.size)]
                rows.append(json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout))
    print(f"{arguments.size} x {arguments.size} uint8 in chunks of {CHUNK}")
    for name, rows in found.items():
        best = min(rows, key=lambda row: row["s"])
        peak = max(row["mb"] for row in rows)
        stored = f" (store {best['store_s']:.1f} s)" if "store_s" in best else ""
        print(
            f"{name:12} {best['s']:6.1f} s{stored} {peak:6.0f} MB {best['bytes'] / 1e6:6.1f} MB {best['graph']:6} tasks"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main()
