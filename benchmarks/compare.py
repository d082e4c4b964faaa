"""geotile against what people use today, side by side in one run.

    python benchmarks/compare.py local   # 16,384 x 16,384 x 3, one cheap detector in process
    python benchmarks/compare.py http    # 8,192 x 8,192 x 3, 20 ms endpoint, 32 in flight
    python benchmarks/compare.py nms     # a million boxes
    python benchmarks/compare.py encode  # tile formats, and a GTIFF as tifffile and GDAL write it

Each contestant runs in a process of its own (peak memory is that process's), in turns, and the
best of the rounds counts; supervision, which takes half a minute, runs once. Figures are ratios against a reference
measured in the same run. Below stands where the CPU time of geotile's last round went.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import importlib.util
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

os.environ.setdefault("EAGER_IMPORT", "1")  # geotile loads its modules when they are first used: not while it is timed

TILE, OVERLAP = 512, 64
ONCE = ("supervision",)
stages: dict[str, float] = {}  # of geotile's run in this process


def scene(size: int, folder: Path) -> Path:
    """A deflate GeoTIFF with 512-px blocks: smooth ground, a bright mark every 300 px or so."""
    import rasterio
    from affine import Affine

    path = folder / f"bench-{size}.tif"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "count": 3, "height": size, "width": size, "dtype": "uint8", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2, "crs": "EPSG:32631",
        "transform": Affine(0.3, 0, 430_000, 0, -0.3, 5_780_000), "num_threads": "all_cpus",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        for y in range(0, size, 512):
            strip = rng.integers(60, 68, (3, 512, size), np.uint8) + np.linspace(0, 60, size).astype(np.uint8)
            for x in rng.integers(0, size - 24, size // 300):
                dy = rng.integers(0, 480)
                strip[:, dy : dy + 16, x : x + 24] = 250
            file.write(strip, window=rasterio.windows.Window(0, y, size, 512))
    return path


def cheap(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of 8-px cells brighter than 240, (band, y, x): a detector that costs next to nothing."""
    spots = np.argwhere(tile[0, ::8, ::8] > 240) * 8
    boxes = np.hstack([spots[:, ::-1], spots[:, ::-1] + 8]).astype(float)
    return boxes, np.full(len(boxes), 0.9)


def windows(size: int) -> list[tuple[int, int]]:
    from geotile import TileGrid

    return [(w.x0, w.y0) for _, w in TileGrid((size, size), TILE, OVERLAP).tiles()]


def run_limit(path: str, size: int, url: str | None) -> int:
    """Decode every block once, two threads."""
    import rasterio

    def read(part: int) -> None:
        with rasterio.open(path) as file:
            for y in range(part * 512, size, 1024):
                for x in range(0, size, 512):
                    file.read(window=rasterio.windows.Window(x, y, 512, 512))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(read, range(2)))
    return 0


def run_loop(path: str, size: int, url: str | None) -> int:
    """A hand-written rasterio loop over windows: two threads, or 32 that post GTIFF tiles."""
    import threading

    import rasterio
    import requests
    from rasterio.io import MemoryFile

    from geotile import nms

    local = threading.local()

    def one(at: tuple[int, int]) -> np.ndarray:
        if not hasattr(local, "file"):
            local.file, local.session = rasterio.open(path), requests.Session()
        window = rasterio.windows.Window(*at, TILE, TILE)
        tile = local.file.read(window=window)
        if url is None:
            boxes = cheap(tile)[0]
        else:
            with MemoryFile() as memory:
                with memory.open(
                    driver="GTiff", width=TILE, height=TILE, count=3, dtype="uint8", crs=local.file.crs,
                    transform=local.file.window_transform(window),
                ) as file:  # fmt: skip
                    file.write(tile)
                answer = local.session.post(url, data=memory.read()).json()
            boxes = np.array([f["properties"]["imageBBox"] for f in answer["features"]]).reshape(-1, 4)
        return boxes + np.tile(at, 2)

    with concurrent.futures.ThreadPoolExecutor(2 if url is None else 32) as pool:
        boxes = np.concatenate(list(pool.map(one, windows(size))))
    return len(nms(boxes, np.full(len(boxes), 0.9)))


def run_geotile(path: str, size: int, url: str | None) -> int:
    import geotile

    found = geotile.detect(path, url or cheap, tile_size=TILE, overlap=OVERLAP)
    global stages
    stages = dict(geotile.report(found).timing)
    return len(found)


def run_supervision(path: str, size: int, url: str | None) -> int:
    import rasterio
    import supervision as sv

    def model(tile: np.ndarray) -> sv.Detections:
        boxes, scores = cheap(np.moveaxis(tile, -1, 0))
        if not len(boxes):
            return sv.Detections.empty()
        return sv.Detections(boxes, confidence=scores, class_id=np.zeros(len(boxes), int))

    with rasterio.open(path) as file:
        image = np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))
    slicer = sv.InferenceSlicer(model, slice_wh=(TILE, TILE), overlap_wh=(OVERLAP, OVERLAP), thread_workers=2)
    return len(slicer(image))


def run_sahi(path: str, size: int, url: str | None) -> int:
    """SAHI as its documentation calls it: a path, its own reader, its default merging."""
    return sahi_on(path)


def run_sahi_fast(path: str, size: int, url: str | None) -> int:
    """SAHI with what it does not have: rasterio's reader; and plain NMS."""
    import rasterio

    with rasterio.open(path) as file:
        image = np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))
    return sahi_on(image, postprocess_type="NMS", postprocess_match_metric="IOU")


def sahi_on(image: object, **options: object) -> int:
    from PIL import Image
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    Image.MAX_IMAGE_PIXELS = None

    class Cheap(DetectionModel):
        def check_dependencies(self, *args: object, **kwargs: object) -> None: ...

        def load_model(self) -> None:
            self.model, self.category_mapping = cheap, {"0": "mark"}

        @property
        def category_names(self) -> list[str]:
            return ["mark"]

        def perform_inference(self, image: np.ndarray) -> None:
            self._original_predictions = cheap(np.moveaxis(image, -1, 0))

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list=None, full_shape_list=None
        ) -> None:  # fmt: skip
            shift, full = (s[0] if s and isinstance(s[0], list) else s for s in (shift_amount_list, full_shape_list))
            boxes, scores = self._original_predictions
            self._object_prediction_list_per_image = [[
                ObjectPrediction(bbox=b.tolist(), score=float(s), category_id=0, category_name="mark",
                                 shift_amount=shift, full_shape=full)
                for b, s in zip(boxes, scores, strict=True)
            ]]  # fmt: skip

    model = Cheap(confidence_threshold=0.1, device="cpu")
    ratio = OVERLAP / TILE
    answer = get_sliced_prediction(
        image, model, slice_height=TILE, slice_width=TILE, overlap_height_ratio=ratio, overlap_width_ratio=ratio,
        perform_standard_pred=False, verbose=0, **options,
    )  # fmt: skip
    return len(answer.object_prediction_list)


RUNNERS = {
    "limit": run_limit, "loop": run_loop, "geotile": run_geotile, "supervision": run_supervision, "sahi": run_sahi,
    "sahi-fast": run_sahi_fast,
}  # fmt: skip


IMPORTS = {
    "geotile": ["geotile"],
    "loop": ["geotile", "requests"],
    "supervision": ["rasterio", "supervision"],
    "sahi": ["sahi.predict"],
    "sahi-fast": ["rasterio", "sahi.predict"],
}


def child(name: str, path: str, size: int, url: str | None) -> None:
    """Run one contestant and print its time, count and peak memory as JSON."""
    for module in IMPORTS.get(name, ["rasterio"]):
        importlib.import_module(module)  # imports are not what is timed
    began, cpu = time.perf_counter(), time.process_time()
    found = RUNNERS[name](path, size, url)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": seconds, "found": found, "peak_mb": peak, "cpu": cpu, "stages": stages}))


def contest(names: list[str], path: Path, size: int, rounds: int, url: str | None = None) -> dict[str, dict]:
    results: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(rounds):
        for name in [each for each in names if number == 0 or each not in ONCE]:
            args = [sys.executable, __file__, "child", name, str(path), str(size), *([url] if url else [])]
            done = subprocess.run(args, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            else:
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    summary = {}
    for name, runs in results.items():
        if runs:
            times = [run["seconds"] for run in runs]
            summary[name] = {
                "best": min(times), "median": statistics.median(times), "worst": max(times),
                "found": runs[0]["found"], "peak_mb": max(run["peak_mb"] for run in runs), "last": runs[-1],
            }  # fmt: skip
    return summary


def show(title: str, summary: dict[str, dict], reference: str) -> None:
    print(f"\n{title}\n{'':14}{'best s':>8}{'median':>8}{'worst':>8}{f'/ {reference}':>12}{'peak MB':>9}{'found':>8}")
    for name, row in summary.items():
        ratio = row["best"] / summary[reference]["best"]
        print(
            f"{name:14}{row['best']:8.2f}{row['median']:8.2f}{row['worst']:8.2f}{ratio:12.2f}"
            f"{row['peak_mb']:9.0f}{row['found']:8}"
        )
    if "geotile" in summary:
        last = summary["geotile"]["last"]
        named = ", ".join(f"{name} {seconds:.2f}" for name, seconds in last["stages"].items())
        rest = last["cpu"] - sum(last["stages"].values())
        print(
            f"geotile's CPU {last['cpu']:.2f} s of {os.cpu_count()} x {last['seconds']:.2f}: {named}, others {rest:.2f}"
        )


def local(size: int, rounds: int, folder: Path) -> None:
    path = scene(size, folder)
    show(f"in process, {size}^2", contest(list(RUNNERS), path, size, rounds), "loop")
    half = contest(["geotile"], scene(size // 2, folder), size // 2, rounds)
    show(f"peak memory at half the side, {size // 2}^2", half, "geotile")


def http(size: int, rounds: int, folder: Path) -> None:
    path = scene(size, folder)
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        show(f"HTTP, 20 ms, 32 in flight, {size}^2", contest(["loop", "geotile"], path, size, rounds, url), "loop")
    finally:
        server.terminate()
        server.wait()


def serve() -> None:
    """A server whose model waits 20 ms and looks at nothing."""
    from geotile.testing.server import ModelServer

    class Fixed(ModelServer):
        def respond(self, body: bytes) -> bytes:
            time.sleep(self.latency_s)
            return b'{"type": "FeatureCollection", "features": []}'

    with Fixed(cheap, latency_s=0.02) as server:
        print(server.url, flush=True)
        while True:
            time.sleep(3600)


def nms(n: int = 1_000_000) -> None:
    import geotile

    rng = np.random.default_rng(0)
    fresh = int(n * 0.7)
    centre, size = rng.uniform(0, np.sqrt(fresh) * 40, (fresh, 2)), rng.uniform(8, 40, (fresh, 2))
    boxes = np.hstack([centre - size / 2, centre + size / 2])
    boxes = np.vstack([boxes, boxes[rng.choice(fresh, n - fresh, False)] + rng.normal(0, 0.5, (n - fresh, 4))])
    scores = rng.random(n)
    contestants = {"geotile": lambda: geotile.nms(boxes, scores)}
    try:
        import lsnms

        lsnms.nms(boxes[:100], scores[:100], iou_threshold=0.5)  # compiles
        contestants["lsnms"] = lambda: lsnms.nms(boxes, scores, iou_threshold=0.5)
    except ImportError:
        pass
    try:
        import powerboxes

        contestants["powerboxes"] = lambda: powerboxes.rtree_nms(boxes, scores, 0.5, 0.0)
    except ImportError:
        pass
    print(f"\nNMS of {n:,} boxes, 30 % duplicates, best of 3")
    for name, run in contestants.items():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            kept = len(run())
            times.append(time.perf_counter() - began)
        print(f"{name:14}{min(times):8.2f} s   kept {kept:,}")


def encode() -> None:
    from affine import Affine

    from geotile.encoding.encoder import Encoder
    from geotile.geometry.georeference import Georeference, wkt_of
    from geotile.geometry.placement import AffinePlacement
    from geotile.grid.tile_grid import Window

    ramp = np.add.outer(np.arange(2048), np.arange(2048)) // 16
    noise = np.random.default_rng(0).integers(0, 24, (3, 2048, 2048))
    tile = (ramp + noise).astype(np.uint8)[:, 300:812, 200:712]
    transform, crs, window = Affine(0.3, 0, 430_000, 0, -0.3, 5_780_000), wkt_of("EPSG:32631"), Window(0, 512, 0, 512)
    place = Georeference(AffinePlacement(transform), crs)
    contestants = {
        name: partial(Encoder(name, place, 0.0).encode, tile, window)
        for name in ("NPY", "GTIFF", "JPEG", "NITF", "PNG")
    }
    contestants["GTIFF, GDAL"] = partial(gdal_geotiff, tile, transform, crs)
    if importlib.util.find_spec("tifffile"):
        contestants["GTIFF, tifffile"] = partial(tifffile_geotiff, tile, place)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(100):  # in turns
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(each) for name, each in times.items()}
    print(
        f"\nencoding a 512 x 512 x 3 uint8 tile, one thread, median of 100\n{'':16}{'ms':>8}{'Mpx/s':>8}{'bytes':>12}"
    )
    for name, run in contestants.items():
        print(f"{name:16}{median[name] * 1e3:8.2f}{0.262144 / median[name]:8.0f}{len(run()):12,}")


def gdal_geotiff(tile: np.ndarray, transform, crs) -> bytes:
    from rasterio.io import MemoryFile

    profile = {"driver": "GTiff", "count": 3, "height": 512, "width": 512, "dtype": "uint8", "photometric": "RGB"}
    with MemoryFile() as memory:
        with memory.open(**profile, transform=transform, crs=crs, nodata=0) as file:
            file.write(tile)
        return bytes(memory.getbuffer())


def tifffile_geotiff(tile: np.ndarray, place) -> bytes:
    """The same file by tifffile, its pixels interleaved band by band as geotile does; GDAL supplies the CRS tags here too."""
    import tifffile

    from geotile.encoding.geotiff import _georeference_tags

    strip = np.empty((512, 512, 3), np.uint8)
    for band in range(3):
        strip[..., band] = tile[band]
    tags = [
        (tag, kind, 0 if kind == 2 else len(values), values.decode().rstrip("\0") if kind == 2 else values, True)
        for tag, (kind, values) in _georeference_tags(place).items()
    ]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, strip, byteorder="<", photometric="rgb", planarconfig="contig", rowsperstrip=512, metadata=None,
        software=False, extratags=[*tags, (42113, 2, 0, "0", True)],
    )  # fmt: skip
    return buffer.getvalue()


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        name, path, size, *url = sys.argv[2:]
        return child(name, path, int(size), *(url or [None]))
    if sys.argv[1:2] == ["serve"]:
        return serve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["local", "http", "nms", "encode", "all"])
    parser.add_argument("--size", type=int, help="side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where scenes are kept")
    args = parser.parse_args()
    import geotile

    print(
        f"geotile {geotile.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, numpy {np.__version__}"
    )
    if args.which in ("local", "all"):
        local(args.size or 16_384, args.rounds, args.folder)
    if args.which in ("http", "all"):
        http(args.size or 8_192, args.rounds, args.folder)
    if args.which in ("nms", "all"):
        nms()
    if args.which in ("encode", "all"):
        encode()
    return None


if __name__ == "__main__":
    main()
