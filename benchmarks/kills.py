"""Kills parts of runs at random moments, and compares what comes out with an undisturbed run, byte for byte.

``python benchmarks/kills.py --rounds 25`` kills, in each round and for each kind, processes by SIGKILL while a run with a
checkpoint goes on: a worker, a nanny's worker again and again, the scheduler, the client, a client on threads. The model is
a server in this process that notes every tile that it is asked about. After the run, or its resumption, held are

- the output: the files of an undisturbed run, byte for byte;
- the model: nothing of a region was asked once the region was in the checkpoint, and of no tile more often than
  1 + the kills until its region was.

With ``--raster`` the runs are those of `predict_to`, to .tif and .zarr, and only the output is held: a block that is missing needs
tiles of regions beside it, which are asked about again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import rasterio
from distributed import Client

import geotile
from geotile.testing import ModelServer

KINDS = ("worker", "nanny", "scheduler", "client", "threads")
JOB = {"tile_size": 128, "overlap": 32, "region_size": 256, "tile_format": "NPY", "concurrency": 8}
LATENCY_S = 0.08
OUTPUTS = {False: ["/", ".parquet", ".geojson"], True: [".tif", ".zarr"]}

CLIENT = """
import json, sys, warnings
from contextlib import nullcontext
import geotile
if __name__ == "__main__":
    image, url, output, checkpoint, scheduler, job = sys.argv[1:]
    if scheduler:
        from distributed import Client
    with Client(scheduler, timeout=10) if scheduler else nullcontext():
        print("begun", flush=True)
        call = geotile.predict_to if output.endswith((".tif", ".zarr")) else geotile.detect_to
        report = call(image, url, output, checkpoint=checkpoint, **json.loads(job))
    print("requests", report.requests, "resumed", report.tiles_resumed, flush=True)
    assert report.status == "SUCCESS", report.failures[:3]
"""


def crowd(tile: np.ndarray):
    """Dense boxes, a pure function of the tile's pixels."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(tile.tobytes()).digest()[:8], "little"))
    corner = rng.uniform(0, 100, (20, 2)).round()
    return np.hstack([corner, corner + rng.integers(4, 24, (20, 2))]), rng.integers(1, 50, 20) / 50


class Asked:
    """A model that notes when it was asked about which tile."""

    def __init__(self, raster: bool = False) -> None:
        self.raster = raster
        self.times: dict[bytes, list[float]] = defaultdict(list)
        self.lock = threading.Lock()

    @staticmethod
    def key(tile: np.ndarray) -> bytes:
        return hashlib.sha256(tile.tobytes()).digest()

    def __call__(self, tile: np.ndarray):
        with self.lock:
            self.times[self.key(tile)].append(time.time())
        return tile[0] >> 6 if self.raster else crowd(tile)


class Cluster:
    """A scheduler and two workers, each a process of its own."""

    def __init__(self, folder: Path, nanny: bool, workers: int = 2, threads: int = 2) -> None:
        self.folder, self.nanny, self.threads, self.workers = folder, nanny, threads, []
        self.address_file = folder / f"scheduler-{time.time_ns()}.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file"
        )
        while not self.address_file.exists():
            time.sleep(0.02)
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> None:
        self.workers.append(
            self._start("worker", "--nthreads", str(self.threads), "--nanny" if self.nanny else "--no-nanny", "--no-dashboard",
                        "--local-directory", str(self.folder), "--scheduler-file")
        )  # fmt: skip

    def _start(self, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:], str(self.address_file)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def address(self) -> str:
        return json.loads(self.address_file.read_text())["address"]

    def stop(self) -> None:
        for process in [self.scheduler, *self.workers]:
            for each in [*children(process.pid), process.pid]:
                kill(each)
            process.wait()


def children(pid: int) -> list[int]:
    try:
        return [each.pid for each in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Round:
    """One run that is disturbed."""

    def __init__(self, image: str, folder: Path, asked: Asked, url: str, seed: int) -> None:
        self.image, self.folder, self.asked, self.url, self.random = image, folder, asked, url, random.Random(seed)
        self.output = f"{folder}/found" + self.random.choice(OUTPUTS[asked.raster])
        self.kills: list[float] = []
        self.seconds = UNDISTURBED[self.output.removeprefix(str(folder))]

    def client(self, scheduler: str) -> subprocess.Popen:
        words = [self.image, self.url, self.output, str(self.folder / "checkpoint"), scheduler, json.dumps(JOB)]
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begun\n", process.stderr.read()
        return process

    def some_time(self, share: float = 1.0) -> float:
        return self.random.uniform(0, share * self.seconds)

    def killed(self, pid: int) -> None:
        kill(pid)
        self.kills.append(time.time())

    def run(self, kind: str) -> str:
        with ExitStack() as stack:

            def started(nanny: bool = False) -> Cluster:
                cluster = Cluster(self.folder, nanny)
                stack.callback(cluster.stop)
                return cluster

            return getattr(self, f"kill_{kind}")(started)

    def kill_worker(self, started) -> str:
        cluster = started()
        client = self.client(cluster.address)
        for _ in range(2):
            time.sleep(self.some_time(0.5))
            self.killed(cluster.workers.pop(0).pid)
            cluster.add_worker()
        return self.end(client)

    def kill_nanny(self, started) -> str:
        cluster = started(nanny=True)
        client = self.client(cluster.address)
        with Client(cluster.address, timeout=10) as observer:
            for _ in range(6):
                time.sleep(self.some_time(0.3))
                pids = {}
                while not pids and client.poll() is None:  # a nanny gives up a worker that dies while it starts
                    pids = observer.run(os.getpid, on_error="ignore")
                    time.sleep(0 if pids else 0.05)
                if pids and client.poll() is None:
                    self.killed(self.random.choice(sorted(pids.values())))
        return self.end(client)

    def kill_scheduler(self, started) -> str:
        cluster = started()
        client = self.client(cluster.address)
        time.sleep(self.some_time())
        self.killed(cluster.scheduler.pid)
        said = self.end(client, may_fail=True)
        for worker in cluster.workers:
            self.killed(worker.pid)
        if said.startswith("requests"):
            return said
        assert "ClusterError" in said, said
        assert "the same call" in said, said
        return self.end(self.client(started().address))

    def kill_client(self, started) -> str:
        cluster = started()
        for _ in range(2):
            client = self.client(cluster.address)
            time.sleep(self.some_time(0.6))
            self.killed(client.pid)
            client.wait()
        return self.end(self.client(cluster.address), may_exist=True)

    def kill_threads(self, started) -> str:
        for _ in range(3):
            client = self.client("")
            time.sleep(self.some_time(0.6))
            self.killed(client.pid)
            client.wait()
        return self.end(self.client(""), may_exist=True)

    def end(self, client: subprocess.Popen, *, may_fail: bool = False, may_exist: bool = False) -> str:
        out, err = client.communicate(timeout=90)
        if client.returncode and may_exist and "exists. Pass overwrite=True" in err:
            return "the killed run had ended"
        if client.returncode and not may_fail:
            raise AssertionError(err[-3000:])
        return out or err[-2000:]

    def check(self) -> tuple[int, int]:
        """Hold the output and what was asked; return how many tiles were asked again, and how often."""
        want = files_of(REFERENCE / Path(self.output).name if not self.output.endswith("/") else REFERENCE / "found")
        got = files_of(Path(self.output))
        assert got == want, (sorted(got), sorted(want))
        left = sorted(each.name for each in self.folder.iterdir())
        assert not [name for name in left if name.startswith(".")], left
        if self.asked.raster:
            asked = [len(times) for times in self.asked.times.values()]
            return sum(n > 1 for n in asked), max(asked)
        again = most = 0
        for (row, column), tiles in TILES.items():
            part = next((self.folder / "checkpoint").glob(f"*/{row:05d}-{column:05d}.parquet"))
            finished = part.stat().st_mtime
            allowed = 1 + sum(moment <= finished for moment in self.kills)
            for tile in tiles:
                times = self.asked.times[tile]
                assert 1 <= len(times) <= allowed, (row, column, times, finished, self.kills)
                assert max(times) <= finished, "asked about a finished region"
                again, most = again + (len(times) > 1), max(most, len(times))
        return again, most


def files_of(path: Path) -> dict[str, bytes]:
    """Return what an output holds, by name."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


@contextmanager
def scene(size: int) -> Iterator[tuple[Path, str]]:
    """Write a square image of noise: no two tiles are alike."""
    with tempfile.TemporaryDirectory(prefix="geotile-kills-") as folder:
        path = f"{folder}/image.tif"
        pixels = np.random.default_rng(0).integers(0, 255, (1, size, size), np.uint8)
        profile = {"driver": "GTiff", "tiled": True, "blockxsize": 128, "blockysize": 128, "crs": "EPSG:32631"}
        transform = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
        with rasterio.open(
            path, "w", width=size, height=size, count=1, dtype="uint8", transform=transform, **profile
        ) as file:
            file.write(pixels)
        grid = geotile.plan(path, **{name: JOB[name] for name in ("tile_size", "overlap", "region_size")}).grid
        for row, column in np.ndindex(grid.regions_yx):
            windows = [tile.window.slices for tile in grid.region_tiles(row, column)]
            TILES[row, column] = [Asked.key(pixels[:, *each]) for each in windows]
        yield Path(folder), path


TILES: dict[tuple[int, int], list[bytes]] = {}
UNDISTURBED: dict[str, float] = {}
REFERENCE = Path()


def undisturbed(folder: Path, image: str, url: str, raster: bool) -> None:
    """Make the outputs to compare with, and take their time."""
    global REFERENCE
    REFERENCE = folder / "reference"
    REFERENCE.mkdir()
    for suffix in OUTPUTS[raster]:
        name, began = f"/found{suffix}", time.time()
        (geotile.predict_to if raster else geotile.detect_to)(image, url, f"{REFERENCE}{name}", **JOB)
        UNDISTURBED[name] = time.time() - began + 1.0  # a cluster takes longer


def main() -> None:
    """Print a row a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--raster", action="store_true", help="runs of predict_to")
    parser.add_argument("--size", type=int, default=1536, help="of the image, pixels")
    args = parser.parse_args()
    asked = Asked(args.raster)
    with scene(args.size) as (folder, image), ModelServer(asked, LATENCY_S, arrays=args.raster) as server:
        undisturbed(folder, image, server.url, args.raster)
        print(
            f"{'killed':<10} {'rounds':>6} {'kills':>6} {'alike':>6} {'tiles asked again':>18} {'most often':>10} {'s a round':>9}"
        )
        for kind in args.kinds:
            kills = again = most = 0
            began = time.time()
            for number in range(args.rounds):
                asked.times.clear()
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    seed = args.seed * 1_000_003 + number * 101 + KINDS.index(kind)
                    one = Round(image, Path(place), asked, server.url, seed)
                    one.run(kind)
                    counted = one.check()
                    kills, again, most = kills + len(one.kills), again + counted[0], max(most, counted[1])
            seconds = (time.time() - began) / args.rounds
            print(
                f"{kind:<10} {args.rounds:>6} {kills:>6} {args.rounds:>6} {again:>18} {most:>10} {seconds:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
