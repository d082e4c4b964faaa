"""The class map of a TorchScript network, by geotile and by geo-inference: time and memory.

    pip install geo-inference==3.2.4 zarr
    python benchmarks/packages.py --sizes 8192 16384

Tiles of 512 px that overlap by 256, blended, two threads, as a GeoTIFF. The network costs almost nothing. Each runs in a
process of its own, in turns. "own" is the peak memory without that of a process that has imported the packages and
loaded the network, of which torch is the most.
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

import numpy as np
from rasters import make_image

TILE, OVERLAP, WORKERS = 512, 256, 2


def make_network(path: Path) -> None:
    """Write a network: logits of two classes of pixels from 0 to 255."""
    import torch

    class Network(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits = pixels.float() / 64 - 2
            return torch.cat([logits, -logits], dim=1)

    torch.jit.script(Network()).save(str(path))


def by_geotile(image: str, network: Any, folder: str) -> None:
    import dask
    import torch

    import geotile

    def model(tile: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(tile[None]))[0])

    options = {"blend": "hann", "activation": "softmax", "tile_size": TILE, "overlap": OVERLAP}
    with dask.config.set(scheduler="threads", num_workers=WORKERS):
        geotile.predict_to(image, model, f"{folder}/classes.tif", **options)


def by_geo_inference(image: str, network: Any, folder: str) -> None:
    network(inference_input=image, bands_requested=["1"], patch_size=TILE, workers=WORKERS)


def loaded(kind: str, path: str, folder: str) -> Any:
    """Import what a contestant needs, and load the network."""
    import torch

    torch.set_num_threads(1)
    if kind == "geotile":
        import geotile.prediction  # noqa: F401 - imports are not measured

        return torch.jit.load(path)
    from geo_inference.geo_inference import GeoInference

    return GeoInference(model=path, work_dir=folder, device="cpu", num_classes=2)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(kind: str, image: str, path: str) -> None:
    """Run one of both; print seconds and memory as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        network = loaded(kind, path, folder)
        imported, began = peak_mb(), time.perf_counter()
        (by_geotile if kind == "geotile" else by_geo_inference)(image, network, folder)
        print(json.dumps({"s": time.perf_counter() - began, "mb": peak_mb(), "own": peak_mb() - imported}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{'':22} {'best s':>7} {'worst':>7} {'ratio':>6} {'peak MB':>8} {'own MB':>7} {'ratio':>6}")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as place:
            image, network = Path(place) / "image.tif", Path(place) / "network.pt"
            make_image(image, size)
            make_network(network)
            found: dict[str, list[dict[str, float]]] = {"geo-inference": [], "geotile": []}
            for _ in range(arguments.rounds):
                for name, rows in found.items():
                    words = [sys.executable, __file__, "child", name, str(image), str(network)]
                    said = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                    rows.append(json.loads(said.stdout.splitlines()[-1]))
        other = found["geo-inference"]
        for name, rows in found.items():
            times, own = [row["s"] for row in rows], max(row["own"] for row in rows)
            ratio, memory = min(times) / min(row["s"] for row in other), own / max(row["own"] for row in other)
            peak = max(row["mb"] for row in rows)
            print(
                f"{size:>6}^2 {name:13} {min(times):7.1f} {max(times):7.1f} {ratio:6.2f} {peak:8.0f} {own:7.0f} {memory:6.2f}"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main()
