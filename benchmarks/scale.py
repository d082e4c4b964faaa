"""What a run costs as image and cluster grow.

``python benchmarks/scale.py size`` runs a sparse BigTIFF of 408,000 x 408,000 x 3 whole (500 GB as it is read, 2 MB on disk), and
ones of 1/4 and 1/16 of it, on a scheduler and two workers of one thread, each a process of its own.
``python benchmarks/scale.py predict`` writes class numbers of a model that costs nothing as Zarr, of the same images.
``python benchmarks/scale.py computed`` does the same with a computed array, through `map_overlap`, at 51,200 and 102,400.
``python benchmarks/scale.py workers`` compares one worker with two, before an endpoint of 50 ms that has room.
``python benchmarks/scale.py simulate`` plays 10, 100 and 1,000 workers, with the costs of a task measured here.
"""

from __future__ import annotations

import argparse
import heapq
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import dask.array
import numpy as np
import rasterio
import rioxarray
import zarr
from distributed import Client, get_task_stream
from distributed.protocol.pickle import dumps
from endpoints import Server
from kills import Cluster

import geotile
from geotile.grid.regions import auto_bytes
from geotile.imagery.file_array import source_of
from geotile.imagery.overlap import map_overlap

TILE_S = 0.0029  # of a worker's CPU, for a tile over HTTP: what `benchmarks/endpoints.py efficiency` prints
SIDE = 408_000
REGION = 3344  # pixels: 32 MiB of three bands of bytes
JOB = {"tile_size": 1024, "overlap": 128, "skip_nodata": False}


def cheap(tile: np.ndarray):
    """One box a tile: a model that costs nothing."""
    return [[10.0, 10, 20, 20]], [0.5 + float(tile[0, 0, 0]) / 512]


def sparse_image(folder: str, side: int) -> str:
    """Write a TIFF that holds no block."""
    path = f"{folder}/{side}.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(
        path, "w", width=side, height=side, compress="deflate", BIGTIFF="YES", SPARSE_OK=True, **profile
    ):
        pass
    return path


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_s() -> float:
    """Seconds of CPU of this process."""
    return time.process_time()


def user_system_s() -> tuple[float, float]:
    """Seconds of CPU of this process, its own and the system's."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


@contextmanager
def cluster_of(workers: int, folder: str) -> Iterator[Client]:
    """Start a scheduler and workers of one thread, each a process."""
    cluster = Cluster(Path(folder), nanny=False, workers=workers, threads=1)
    try:
        with Client(cluster.address) as client:
            client.wait_for_workers(workers)
            yield client
    finally:
        cluster.stop()


def read_only(client: Client, image) -> float:
    """Seconds to read all regions with their halos, and nothing else."""
    work = geotile.plan(image, **{name: JOB[name] for name in ("tile_size", "overlap")})
    regions = map_overlap(work.image, work.source, work.grid, "alone")
    nothing = regions.map_blocks(_read, grid=work.grid, dtype="uint8")
    began = time.perf_counter()
    nothing.sum().compute()
    return time.perf_counter() - began


def _read(region, grid, block_id) -> np.ndarray:
    region.read(grid.region_tiles(*block_id[1:]), False)
    return np.zeros((1, 1, 1), np.uint8)


def one(side: int, folder: str, computed: bool, alone: bool) -> dict[str, float]:
    """Run one image; return what it cost, and with `alone` what reading alone does. Called in a process of its own."""
    path, read = sparse_image(folder, side), {}
    if alone:
        with cluster_of(2, folder) as client:
            image = geotile.open_image(path)
            if computed:
                image = image + 0
                assert source_of(image.data) is None
            read["alone_s"] = read_only(client, image)
    with cluster_of(2, folder) as client:
        began = time.perf_counter()
        image = path if not computed else geotile.open_image(path) + 0
        lazy = geotile.detect(image, cheap, compute=False, **JOB)
        build = time.perf_counter() - began
        (graph,) = dask.optimize(lazy)
        tasks, sent = len(graph.__dask_graph__()), len(dumps(lazy.dask))
        before = client.run_on_scheduler(cpu_s)
        output = f"{folder}/found-{side}/"
        used = np.sum(list(client.run(user_system_s).values()), axis=0)
        began = time.perf_counter()
        with get_task_stream(client) as stream:
            report = geotile.detect_to(image, cheap, output, overwrite=True, **JOB)
        seconds = time.perf_counter() - began
        user, system = np.sum(list(client.run(user_system_s).values()), axis=0) - used
        busy = sum(
            span["stop"] - span["start"]
            for task in stream.data
            for span in task["startstops"]
            if span["action"] == "compute"
        )
        return {
            "side": side, "regions": report.regions, "tiles": report.tiles, "found": report.detections_after, "tasks": tasks,
            "graph_mb": sent / 1e6, "build_s": build, "seconds": seconds,
            "client_mb": peak_mb(), "scheduler_mb": client.run_on_scheduler(peak_mb),
            "worker_mb": max(client.run(peak_mb).values()),
            "moved_mb": sum(client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total).values()) / 1e6,
            "scheduler_cpu_s": client.run_on_scheduler(cpu_s) - before, "busy_s": busy / 2,
            "system": system / (user + system), **read,
        }  # fmt: skip


def classes(tile: np.ndarray) -> np.ndarray:
    """Class numbers: a model that costs nothing."""
    return tile[0] >> 7


def one_raster(side: int, folder: str) -> dict[str, float]:
    """Write the class map of one image; return what it cost. Called in a process of its own."""
    path, output = sparse_image(folder, side), f"{folder}/found.zarr"
    with cluster_of(2, folder) as client:
        lazy = geotile.predict(path, classes, **JOB)
        graph_mb, tasks, chunks = len(dumps(lazy.data.dask)) / 1e6, len(lazy.data.dask), lazy.data.chunks
        del lazy
        before, began = client.run_on_scheduler(cpu_s), time.perf_counter()
        report = geotile.predict_to(path, classes, output, **JOB)
        seconds = time.perf_counter() - began
        cost = {
            "side": side, "regions": report.regions, "tiles": report.tiles, "tasks": tasks, "graph_mb": graph_mb,
            "seconds": seconds, "client_mb": peak_mb(), "scheduler_mb": client.run_on_scheduler(peak_mb),
            "worker_mb": max(client.run(peak_mb).values()),
            "scheduler_cpu_s": client.run_on_scheduler(cpu_s) - before,
        }  # fmt: skip
    print(json.dumps(cost), file=sys.stderr, flush=True)
    with cluster_of(2, folder):
        return cost | {"alone_s": read_and_write(path, output, chunks, folder)}


def read_and_write(path: str, output: str, chunks: tuple[tuple[int, ...], ...], folder: str) -> float:
    """Seconds to read all bands by rioxarray and Dask, in blocks like the regions, and to write the same classes."""
    made = zarr.open_array(f"{output}/prediction", mode="r")
    side = max(chunks[0]) // made.chunks[0] * made.chunks[0]
    began = time.perf_counter()
    image = rioxarray.open_rasterio(path, chunks={"band": -1, "y": side, "x": side}, lock=False).data
    same = {"shape": made.shape, "chunks": made.chunks, "dtype": made.dtype, "fill_value": made.fill_value}
    made = zarr.create_array(f"{folder}/alone.zarr", **same)
    dask.array.store(image.map_blocks(classes, drop_axis=0, dtype="uint8"), made, lock=False)
    return time.perf_counter() - began


def raster_table(sides: list[int]) -> None:
    """Write the class map of each image in processes of its own; print a row for each."""
    print(
        f"{'side':>8} {'regions':>8} {'tiles':>8} {'tasks':>8} {'graph MB':>8} {'wall s':>8} {'Mpx/s':>6} {'/ alone':>7} "
        f"{'client':>7} {'sched.':>7} {'worker MB':>9} {'sched. CPU':>10}"
    )
    for side in sides:
        with tempfile.TemporaryDirectory(prefix="geotile-scale-") as folder:
            command = [sys.executable, __file__, "one-raster", "--side", str(side), "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            got = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{side:>8,} {got['regions']:>8,} {got['tiles']:>8,} {got['tasks']:>8,} {got['graph_mb']:>8.1f} "
            f"{got['seconds']:>8.1f} {side**2 / got['seconds'] / 1e6:>6.0f} {got['seconds'] / got['alone_s']:>7.2f} "
            f"{got['client_mb']:>7.0f} {got['scheduler_mb']:>7.0f} {got['worker_mb']:>9.0f} "
            f"{got['scheduler_cpu_s'] / got['seconds']:>10.1%}",
            flush=True,
        )


def table(sides: list[int], computed: bool) -> None:
    """Run each image in processes of its own; print a row for each."""
    print(
        f"{'side':>8} {'regions':>8} {'tasks':>7} {'a region':>8} {'graph MB':>8} {'build s':>8} {'wall s':>8} {'Mpx/s':>6} "
        f"{'/ read':>7} {'client':>7} {'sched.':>7} {'worker MB':>9} {'moved MB':>9} {'idle':>6} {'system':>6} {'sched. CPU':>10}"
    )
    for side in sides:
        with tempfile.TemporaryDirectory(prefix="geotile-scale-") as folder:
            command = [sys.executable, __file__, "one", "--side", str(side), "--folder", folder]
            done = subprocess.run(command + ["--computed"] * computed, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            got = json.loads(done.stdout.splitlines()[-1])
        idle = 1 - got["busy_s"] / got["seconds"]
        print(
            f"{side:>8,} {got['regions']:>8,} {got['tasks']:>7,} {got['tasks'] / got['regions']:>8.1f} {got['graph_mb']:>8.1f} "
            f"{got['build_s']:>8.2f} {got['seconds']:>8.1f} {side**2 / got['seconds'] / 1e6:>6.0f} "
            f"{got['seconds'] / got['alone_s']:>7.2f} {got['client_mb']:>7.0f} {got['scheduler_mb']:>7.0f} "
            f"{got['worker_mb']:>9.0f} {got['moved_mb']:>9.1f} {idle:>6.1%} {got['system']:>6.1%} {got['scheduler_cpu_s'] / got['seconds']:>10.1%}",
            flush=True,
        )


def strong_scaling(rounds: int) -> None:
    """Compare one worker with two; each may have four requests in flight."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="geotile-scale-") as folder, Server(0.05) as server:
        path = f"{folder}/noise.tif"
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "blockxsize": 256, "blockysize": 256}
        with rasterio.open(path, "w", width=8192, height=8192, **profile) as file:
            file.write(rng.integers(0, 255, (3, 8192, 8192), np.uint8))
        job = {"tile_size": 256, "overlap": 32, "region_size": 1024, "tile_format": "NPY"}
        best = {}
        for workers in (1, 2) * rounds:
            with cluster_of(workers, folder):
                geotile.detect(path, server.url, concurrency=4 * workers, **job)
                began = time.perf_counter()
                report = geotile.detect(path, server.url, concurrency=4 * workers, **job).attrs["report"]
                seconds = time.perf_counter() - began
            best[workers] = min(best.get(workers, 1e9), seconds)
            ideal = report.tiles * 0.05 / (4 * workers)
            print(
                f"{workers} worker(s): {seconds:.2f} s, {report.tiles} tiles, {ideal / seconds:.2f} of ideal",
                flush=True,
            )
        print(f"two workers are {best[1] / best[2]:.2f} x as fast as one (best of {rounds})")


def simulate(costs: dict[str, float]) -> None:
    """Play larger clusters with measured costs, of regions as region_size="auto" makes them; say how busy each part is."""
    print(
        "costs of a region of 32 MiB, measured here: "
        + ", ".join(f"{name} {value:.4g}" for name, value in costs.items())
        + "; a worker has 1 thread and 8 GiB\n"
        f"{'workers':>8} {'MiB':>5} {'regions':>8} {'wall s':>8} {'of ideal':>8} {'workers busy':>12} {'scheduler busy':>14} {'coordinator busy':>16}"
    )
    for model_s in (0.0, 0.05):
        print(f"a model of {model_s * 1000:.0f} ms, {costs['in_flight']:.0f} requests in flight a worker:")
        for workers in (10, 100, 300, 1000):
            size = auto_bytes(workers, 8 * 2**30) / 2**20
            regions = round(SIDE**2 * 3 / 2**20 / size)
            larger = costs | {name: costs[name] * size / 32 for name in ("read_s", "tiles")}
            played = play(workers, regions, model_s, larger)
            print(f"{workers:>8,} {size:>5.0f} {regions:>8,} {played['wall']:>8.1f} " + " ".join(
                f"{played[name]:>{width}.1%}" for name, width in (("ideal", 8), ("workers", 12), ("scheduler", 14), ("coordinator", 16))
            ), flush=True)  # fmt: skip


def play(workers: int, regions: int, model_s: float, costs: dict[str, float]) -> dict[str, float]:
    """Play one run: the scheduler handles one event at a time, gates speak ten times a second at most."""
    tiles = costs["tiles"]
    own = costs["read_s"] + tiles * costs["tile_s"]
    region_s = max(own, costs["read_s"] + tiles * model_s / costs["in_flight"]) if model_s else own
    tasks = regions * costs["tasks"]
    free, now_scheduler, busy, done = [(0.0, n) for n in range(workers)], 0.0, 0.0, 0
    heapq.heapify(free)
    wall = 0.0
    while done < regions:
        ready, worker = heapq.heappop(free)
        now_scheduler = max(now_scheduler, ready) + costs["scheduler_s"] * costs["tasks"]
        # a worker holds one more task than it runs (Dask's worker-saturation), so it waits only for a scheduler that lags
        begin = max(ready, now_scheduler - region_s)
        heapq.heappush(free, (begin + region_s, worker))
        busy, done, wall = busy + region_s, done + 1, max(wall, begin + region_s)
    wall = max(wall, tasks * costs["scheduler_s"])
    words = min(10.0 * workers, 500.0) if model_s else 0.0  # a second: with more than 50 gates each speaks less often
    return {
        "wall": wall, "ideal": regions * region_s / workers / wall, "workers": busy / workers / wall,
        "scheduler": tasks * costs["scheduler_s"] / wall, "coordinator": words * costs["word_s"],
    }  # fmt: skip


def sleeping(tile: np.ndarray):
    """Nothing, after 50 ms: a model that takes no processor."""
    time.sleep(0.05)
    return np.zeros((0, 4)), np.zeros(0)


def agree(side: int, rounds: int) -> None:
    """Hold the simulation against 8 worker processes of one thread, whose model sleeps, on this machine."""
    costs = measured(side) | {"in_flight": 1.0, "tile_s": 0.0}
    ratios = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="geotile-scale-") as folder, cluster_of(8, folder):
            path = sparse_image(folder, side)
            geotile.detect_to(sparse_image(folder, 8192), cheap, f"{folder}/first/", region_size=1024, **JOB)  # imports
            began = time.perf_counter()
            report = geotile.detect_to(path, sleeping, f"{folder}/found/", region_size=REGION, **JOB)
            real = time.perf_counter() - began
        played = play(8, report.regions, 0.05, costs | {"tiles": report.tiles / report.regions})
        ratios.append(real / played["wall"])
        print(
            f"8 workers, {report.regions} regions of {report.tiles / report.regions:.2f} tiles of 50 ms: real {real:.1f} s, "
            f"simulated {played['wall']:.1f} s, {ratios[-1]:.2f} x; workers busy {played['workers']:.0%} in the simulation",
            flush=True,
        )
    print(f"real / simulated: best {min(ratios):.2f}, worst {max(ratios):.2f}")


def measured(side: int) -> dict[str, float]:
    """Measure what a task costs: a run of this size on two workers; the coordinator's words in this process."""
    from geotile.traffic.coordinator import Coordinator, GateReport, TrafficSettings
    from geotile.traffic.limit import Tally

    with tempfile.TemporaryDirectory(prefix="geotile-scale-") as folder:
        command = [sys.executable, __file__, "one", "--side", str(side), "--folder", folder]
        got = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    coordinator = Coordinator(TrafficSettings(concurrency=10_000, ready_timeout_s=1, outage_timeout_s=1))
    words = [
        GateReport(process=str(n), worker=None, wanted=50, in_flight=8, tally=Tally(), consecutive_failures=0, last_failure="", models_fault=False,
             probe_result=None, suspects_outage=False)
        for n in range(1000)
    ]  # fmt: skip
    for word in words:
        coordinator.update(word, 0.0)
    began = time.perf_counter()
    for word in words:
        coordinator.update(word, 1.0)
    word_s = (time.perf_counter() - began) / len(words)
    tiles = got["tiles"] / got["regions"]
    return {
        "read_s": 2 * got["alone_s"] / got["regions"], "tile_s": TILE_S, "tiles": tiles, "in_flight": 8.0,
        "tasks": got["tasks"] / got["regions"], "scheduler_s": got["scheduler_cpu_s"] / got["tasks"], "word_s": word_s,
    }  # fmt: skip


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["size", "predict", "computed", "workers", "simulate", "agree", "one", "one-raster"]
    )
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder")
    parser.add_argument("--computed", action="store_true")
    parser.add_argument("--no-alone", action="store_true", help="do not measure what reading alone takes")
    parser.add_argument("--region", type=int, help="side of a region in pixels, of `one`")
    args = parser.parse_args()
    if args.region:
        JOB["region_size"] = args.region
    if args.what in ("one", "one-raster"):
        with tempfile.TemporaryDirectory() as folder:
            place = args.folder or folder
            raster = args.what == "one-raster"
            cost = one_raster(args.side, place) if raster else one(args.side, place, args.computed, not args.no_alone)
            print(json.dumps(cost))
    elif args.what == "predict":
        raster_table([args.side // 4, args.side // 2, args.side])
    elif args.what == "size":
        table([args.side // 4, args.side // 2, args.side], False)
    elif args.what == "computed":
        table([min(args.side, 51_200), min(args.side, 102_400)], True)
    elif args.what == "workers":
        strong_scaling(args.rounds)
    elif args.what == "agree":
        agree(min(args.side, SIDE // 8), args.rounds)
    else:
        simulate(measured(min(args.side, SIDE // 4)))


if __name__ == "__main__":
    main()
