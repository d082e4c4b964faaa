"""Class scores of a large image against a hand-written loop: time and memory.

    python benchmarks/rasters.py --size 8192
    python benchmarks/rasters.py --size 8192 --blend trim

The loop is what one writes without a library: rasterio's windows, a float32 sum of weighted scores and one of weights
for the whole image, Hann weights. Both write a tiled GeoTIFF of class numbers, geotile by its Zarr store. The model
costs almost nothing, so the times are those of everything around it. Each runs in a process of its own, in turns; the
best of the rounds counts.
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

import numpy as np
import rasterio
from rasterio.windows import Window

TILE, OVERLAP = 512, 128


def model(tile: np.ndarray) -> np.ndarray:
    """Scores of two classes."""
    first = tile[0].astype(np.float32) / 255
    return np.stack([first, 1 - first])


def make_image(path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "tiled": True,
               "blockxsize": 512, "blockysize": 512, "compress": "deflate", "crs": "EPSG:32631",
               "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)}  # fmt: skip
    coarse = rng.integers(0, 256, (size // 64, size // 64)).astype(np.uint8)
    with rasterio.open(path, "w", **profile) as file:
        for y in range(0, size, 512):
            rows = np.kron(coarse[y // 64 : (y + 512) // 64], np.ones((64, 64), np.uint8))
            file.write(rows[None] + rng.integers(0, 8, rows.shape, np.uint8), window=Window(0, y, size, len(rows)))


def by_hand(image: str, out: str, blend: str) -> None:
    with rasterio.open(image) as file:
        height, width = file.shape
        sums, weights = np.zeros((2, height, width), np.float32), np.zeros((height, width), np.float32)
        ramp = np.sin(np.pi * (np.arange(TILE) + 0.5) / TILE) ** 2 + 1e-3
        step = TILE - OVERLAP
        ys, xs = ([min(s, n - TILE) for s in range(0, n - OVERLAP, step)] for n in (height, width))
        for y in ys:
            for x in xs:
                scores = model(file.read(window=Window(x, y, TILE, TILE)))
                weight = np.multiply.outer(ramp, ramp).astype(np.float32) if blend == "hann" else np.float32(1)
                sums[:, y : y + TILE, x : x + TILE] += scores * weight
                weights[y : y + TILE, x : x + TILE] += weight
        classes = np.argmax(sums / weights, axis=0).astype(np.uint8)
        profile = file.profile | {"count": 1, "dtype": "uint8", "nodata": 255}
    with rasterio.open(out, "w", **profile) as file:
        file.write(classes, 1)


def by_geotile(image: str, out: str, blend: str) -> None:
    import geotile

    geotile.predict_to(image, model, out, tile_size=TILE, overlap=OVERLAP, blend=blend)


def child(kind: str, image: str, out: str, blend: str) -> None:
    """Run one of both; print seconds and peak memory as JSON."""
    import geotile.prediction  # noqa: F401 - imports are not measured

    began = time.perf_counter()
    (by_hand if kind == "hand" else by_geotile)(image, out, blend)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"s": time.perf_counter() - began, "mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blend", default="hann", choices=["hann", "mean", "trim"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        image = Path(place) / "image.tif"
        make_image(image, arguments.size)
        found: dict[str, list[dict[str, float]]] = {"hand": [], "geotile .zarr": [], "geotile .tif": []}
        for number in range(arguments.rounds):
            for name, rows in found.items():
                out = f"{place}/{number}-{name.split()[0]}{name.split()[-1] if '.' in name else '.tif'}"
                words = [sys.executable, __file__, "child", name.split()[0], str(image), out, arguments.blend]
                rows.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
        hand = min(row["s"] for row in found["hand"])
        print(f"{arguments.size} x {arguments.size}, tiles {TILE}/{OVERLAP}, {arguments.blend}")
        for name, rows in found.items():
            best, peak = min(row["s"] for row in rows), max(row["mb"] for row in rows)
            print(f"{name:14} {best:7.1f} s {best / hand:6.2f} x {peak:8.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main()
