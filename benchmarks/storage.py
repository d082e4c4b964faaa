"""Ways to read a Cloud-Optimized GeoTIFF from S3, side by side: requests, bytes, time, memory.

    python benchmarks/storage.py                  # 8,192 x 8,192 x 3, 512-px blocks, 30 ms a request
    python benchmarks/storage.py --latency 0
    python benchmarks/storage.py --faults         # what each makes of requests that are refused
    python benchmarks/storage.py --processes      # what a second process costs

The store is a small S3-like server in a process of its own on 127.0.0.1 (path-style GET, HEAD and
ranges, sent from the file by the kernel, so that it costs little); it waits `--latency` before each
answer and counts. Every contestant reads the regions of the same grid with two threads, in a process
of its own, in turns; the best of the rounds counts. (The tests count against moto's S3 as well.)
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import importlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

SIZE, BLOCK, BUCKET = 8192, 512, "imagery"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def scene(folder: Path) -> Path:
    """A deflate COG of smooth ground and noise, about 95 MB at full resolution."""
    import rasterio
    from affine import Affine
    from rasterio.shutil import copy

    path = folder / "cog.tif"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "count": 3, "height": SIZE, "width": SIZE, "dtype": "uint8", "tiled": True,
        "crs": "EPSG:32631", "transform": Affine(0.3, 0, 430_000, 0, -0.3, 5_780_000),
    }  # fmt: skip
    plain = folder / "plain.tif"
    with rasterio.open(plain, "w", **profile) as file:
        for y in range(0, SIZE, BLOCK):
            strip = rng.integers(60, 68, (3, BLOCK, SIZE), np.uint8) + np.linspace(0, 60, SIZE).astype(np.uint8)
            file.write(strip, window=rasterio.windows.Window(0, y, SIZE, BLOCK))
    copy(plain, path, driver="COG", compress="DEFLATE", predictor="YES", blocksize=BLOCK, num_threads="ALL_CPUS")
    plain.unlink()
    return path


def full_bytes(path: Path) -> int:
    """Bytes of the blocks of the full resolution."""
    import rasterio

    with rasterio.open(path) as file:
        blocks = range(SIZE // BLOCK)
        return sum(int(file.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)) for x in blocks for y in blocks)


# The store


class Store(BaseHTTPRequestHandler):
    """Ranges of one file, counted."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    path_on_disk, latency_s, refuse_every = "", 0.0, 0
    counts: dict[str, int] = {"requests": 0, "bytes": 0}  # noqa: RUF012 - of the process
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/counts":  # and start anew
            body = json.dumps(self.counts).encode()
            self.counts.update(requests=0, bytes=0)
            self._answer(200, {}, len(body))
            self.wfile.write(body)
            return
        self._serve(send=True)

    def do_HEAD(self) -> None:
        self._serve(send=False)

    def _serve(self, send: bool) -> None:
        time.sleep(self.latency_s)
        with self.lock:
            self.counts["requests"] += 1
            number = self.counts["requests"]
        size = os.path.getsize(self.path_on_disk)
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not self.path.split("?")[0].endswith("/cog.tif"):
            self._answer(404, {}, 0)
            return
        if self.refuse_every and number > 1 and number % self.refuse_every == 0:
            self._answer(503, {}, 0)
            return
        first, last = (int(asked[1]), min(size - 1, int(asked[2] or size - 1))) if asked else (0, size - 1)
        head = {"Accept-Ranges": "bytes", "ETag": '"1"', "Last-Modified": "Tue, 24 Nov 2026 09:14:43 GMT"}
        if asked:
            head["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._answer(206 if asked else 200, head, last - first + 1)
        if send:
            with open(self.path_on_disk, "rb") as file:
                while first <= last:
                    first += os.sendfile(self.connection.fileno(), file.fileno(), first, last - first + 1)
            with self.lock:
                self.counts["bytes"] += last + 1 - (int(asked[1]) if asked else 0)

    def _answer(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *args: object) -> None: ...


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *args: object) -> None: ...


def serve(path: str, latency_s: float, refuse_every: int) -> None:
    """Serve until the parent ends this process; print the port."""
    Store.path_on_disk, Store.latency_s, Store.refuse_every = path, latency_s, refuse_every
    server = Server(("127.0.0.1", 0), Store)
    print(server.server_port, flush=True)
    server.serve_forever()


# The contestants


def windows(tile: int, overlap: int) -> list[Any]:
    from geotile.grid.regions import plan_grid

    edges = np.arange(BLOCK, SIZE, BLOCK)
    grid = plan_grid((3, SIZE, SIZE), 1, (edges, edges), tile, overlap)
    return [grid.read_window(row, column) for row, column in np.ndindex(grid.regions_yx)]


def in_two_threads(read: Callable[[Any], float], tile: int, overlap: int) -> float:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(read, windows(tile, overlap)))


def by_gdal(url: str, tile: int, overlap: int, **more: str) -> float:
    import rasterio

    local = threading.local()
    settings = {
        "AWS_S3_ENDPOINT": url.partition("//")[2], "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": 64 * 2**20, **more,
    }  # fmt: skip

    def read(window: Any) -> float:
        with rasterio.Env(**settings):
            if not hasattr(local, "file"):
                local.file = rasterio.open(f"/vsis3/{BUCKET}/cog.tif")
            return float(local.file.read(window=rasterio.windows.Window.from_slices(*window.slices)).sum())

    return in_two_threads(read, tile, overlap)


def by_gdal_threads(url: str, tile: int, overlap: int) -> float:
    return by_gdal(url, tile, overlap, GDAL_NUM_THREADS="2")


def by_tiles(url: str, tile: int, overlap: int) -> float:
    """A reader tile by tile, as a loop over windows is."""
    import rasterio

    from geotile import TileGrid

    local = threading.local()
    settings = {
        "AWS_S3_ENDPOINT": url.partition("//")[2], "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    }  # fmt: skip

    def read(item: Any) -> float:
        with rasterio.Env(**settings):
            if not hasattr(local, "file"):
                local.file = rasterio.open(f"/vsis3/{BUCKET}/cog.tif")
            return float(local.file.read(window=rasterio.windows.Window.from_slices(*item.window.slices)).sum())

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(read, TileGrid((SIZE, SIZE), tile, overlap).tiles()))


def by_s3fs(url: str, tile: int, overlap: int) -> float:
    import rasterio
    import s3fs

    store, local = s3fs.S3FileSystem(endpoint_url=url), threading.local()

    def read(window: Any) -> float:
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_CACHEMAX=64 * 2**20):
            if not hasattr(local, "file"):
                local.file = rasterio.open(f"s3://{BUCKET}/cog.tif", opener=store)
            return float(local.file.read(window=rasterio.windows.Window.from_slices(*window.slices)).sum())

    return in_two_threads(read, tile, overlap)


def by_async_tiff(url: str, tile: int, overlap: int) -> float:
    from async_tiff import TIFF
    from async_tiff.store import S3Store

    keys = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    store = S3Store(BUCKET, endpoint=url, client_options={"allow_http": True}, **keys)

    async def every() -> float:
        tiff, two = await TIFF.open("cog.tif", store=store), asyncio.Semaphore(2)

        async def read(window: Any) -> float:
            async with two:
                rows = range(window.y0 // BLOCK, -(-window.y1 // BLOCK))
                columns = range(window.x0 // BLOCK, -(-window.x1 // BLOCK))
                at = [(x, y) for y in rows for x in columns]
                blocks = await asyncio.gather(*(block.decode() for block in await tiff.fetch_tiles(at, 0)))
                out = np.empty((3, len(rows) * BLOCK, len(columns) * BLOCK), np.uint8)
                for (x, y), block in zip(at, blocks, strict=True):
                    top, left = (y - rows[0]) * BLOCK, (x - columns[0]) * BLOCK
                    out[:, top : top + BLOCK, left : left + BLOCK] = np.moveaxis(np.asarray(block), -1, 0)
                y0, x0 = window.y0 - rows[0] * BLOCK, window.x0 - columns[0] * BLOCK
                height, width = window.shape_yx
                return float(out[:, y0 : y0 + height, x0 : x0 + width].sum())

        return sum(await asyncio.gather(*(read(window) for window in windows(tile, overlap))))

    return asyncio.run(every())


def by_geotile(url: str, tile: int, overlap: int) -> float:
    """The regions as `detect` reads them."""
    import geotile
    from geotile.imagery.block_cache import read_shared

    uri, how = f"s3://{BUCKET}/cog.tif", {"endpoint_url": url}
    work = geotile.plan(uri, tile_size=tile, overlap=overlap, storage_options=how)
    source, grid = work.source, work.grid
    assert source is not None
    return in_two_threads(lambda w: float(read_shared(source, grid, w, False, "run").values.sum()), tile, overlap)


def by_processes(url: str, tile: int, overlap: int) -> float:
    """The regions as the workers of a cluster of two processes read them; starting the cluster is timed too."""
    from distributed import Client, LocalCluster

    import geotile
    from geotile.imagery.overlap import map_overlap

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        how = {"endpoint_url": url}
        work = geotile.plan(f"s3://{BUCKET}/cog.tif", tile_size=tile, overlap=overlap, storage_options=how)
        regions = map_overlap(work.image, work.source, work.grid, "run")
        return float(regions.map_blocks(region_sum, grid=work.grid, dtype="float64").sum().compute())


def region_sum(region: Any, grid: Any, block_id: tuple[int, int, int]) -> np.ndarray:
    """Sum of a region's pixels, its halo included, (1, 1, 1) float64."""
    return np.full((1, 1, 1), float(region.read(grid.region_tiles(*block_id[1:]), False).values.sum()))


CONTESTANTS = {
    "tile by tile, /vsis3": by_tiles, "/vsis3": by_gdal, "/vsis3, 2 threads": by_gdal_threads,
    "s3fs as opener": by_s3fs, "async-tiff, obstore": by_async_tiff, "geotile": by_geotile,
}  # fmt: skip
PROCESSES = {"/vsis3": by_gdal, "geotile": by_geotile, "geotile, 2 processes": by_processes}


def one(name: str, url: str, tile: int, overlap: int) -> None:
    """Run a contestant in this process; print seconds, the sum of its pixels and peak memory as JSON."""
    os.environ.update(KEYS)
    import geotile

    assert geotile.plan
    # Imports that are put off are not timed, and count for everybody's memory.
    for module in ("geotile.imagery.block_cache", "botocore.session", "s3fs", "async_tiff.store"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)

    began = time.perf_counter()
    total: float | str
    try:
        total = (CONTESTANTS | PROCESSES)[name](url, tile, overlap)
    except Exception as error:
        total = type(error).__name__
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": time.perf_counter() - began, "sum": total, "peak_mb": peak}))


def measure(name: str, url: str, tile: int, overlap: int) -> dict[str, Any]:
    import urllib.request

    done = subprocess.run(
        [sys.executable, __file__, "--one", name, "--url", url, "--tile", str(tile), "--overlap", str(overlap)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    with urllib.request.urlopen(f"{url}/counts") as answer:
        return json.loads(done.stdout.splitlines()[-1]) | json.load(answer)


def compare(
    path: Path, tile: int, overlap: int, latency_s: float, rounds: int, refuse_every: int, names: Iterable[str]
) -> None:  # fmt: skip
    arguments = ["--serve", str(path), "--latency", str(latency_s * 1000), "--refuse-every", str(refuse_every)]
    store = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert store.stdout is not None
        url = f"http://127.0.0.1:{store.stdout.readline().strip()}"
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in results:
                results[name].append(measure(name, url, tile, overlap))
    finally:
        store.terminate()
        store.wait()
    full, reference = full_bytes(path), min(each["seconds"] for each in results["/vsis3"])
    faults = f", every {refuse_every}th request refused (503)" if refuse_every else ""
    print(f"\ntile {tile} / {overlap}, {latency_s * 1000:.0f} ms a request{faults}")
    print(f"{'':22}{'best s':>8}{'worst':>8}{'/ vsis3':>9}{'requests':>10}{'/ bytes':>9}{'peak MB':>9}  pixels")
    right = results["geotile"][0]["sum"]
    for name, runs in results.items():
        best = min(runs, key=lambda each: each["seconds"])
        same = best["sum"] if isinstance(best["sum"], str) else "as ours" if best["sum"] == right else "OTHER"
        same = "other windows" if name.startswith("tile by tile") and same == "OTHER" else same
        worst = max(each["seconds"] for each in runs)
        print(
            f"{name:22}{best['seconds']:8.2f}{worst:8.2f}{best['seconds'] / reference:9.2f}{best['requests']:10}"
            f"{best['bytes'] / full:9.2f}{best['peak_mb']:9.0f}  {same}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=30.0, help="milliseconds a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faults", action="store_true", help="refuse every fifth request")
    parser.add_argument("--processes", action="store_true", help="what a second process costs")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    for hidden in ("--one", "--url", "--serve"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--tile", "--overlap", "--refuse-every"):
        parser.add_argument(hidden, type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.latency / 1000, given.refuse_every)
    elif given.one:
        one(given.one, given.url, given.tile, given.overlap)
    else:
        import rasterio

        print(f"Python {platform.python_version()}, GDAL {rasterio.__gdal_version__}, {os.cpu_count()} cores")
        path = scene(given.folder)
        sizes = [(1024, 128)] if given.faults or given.processes else [(512, 64), (1024, 128), (2048, 1024)]
        for tile, overlap in sizes:
            names = PROCESSES if given.processes else CONTESTANTS
            compare(path, tile, overlap, given.latency / 1000, given.rounds, 5 if given.faults else 0, names)


if __name__ == "__main__":
    main()
