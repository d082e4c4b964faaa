"""What `geotile serve` keeps when it is killed, and whom a burst of requests makes wait.

``python benchmarks/serve.py kills --kills 50`` submits jobs, kills ``geotile serve`` by SIGKILL at random moments, starts it
anew, and holds at the end

- the outputs: the features of an undisturbed service, in the same order, none twice;
- the model: it is asked at most once about each tile of a finished region, and about none after its region was finished;
- the queue: each job has left it, as a success.

Kinds: ``folder`` (a folder of requests, files), ``aws`` (SQS, SNS, S3 and Kinesis of moto's server), ``cluster`` (a folder, with the
work on a Dask cluster of two processes). In ``aws`` a dead process's requests come back after three seconds in place of sixty.

``python benchmarks/serve.py burst`` puts 1,000 requests for two endpoints, one ten times slower, into a folder, and prints how long the jobs of
each waited, beside those of the fast one alone.

``python benchmarks/serve.py job`` prints the CPU time of a job of four tiles in the service's process, beside that of opening the image by rasterio,
reading it and posting four tiles by requests.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import requests
from kills import Asked, Cluster, crowd
from rasterio.io import MemoryFile

import geotile
from geotile.testing import ModelServer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from aws import aws

KINDS = ("folder", "aws", "cluster")
TILE, OVERLAP, REGION, LATENCY_S = 128, 32, 256, 0.1
JOBS = {"one": 1, "two": 2, "three": 1}  # images
SERVE = """
import sys
from geotile.cli.main import main
if sys.argv.pop(1) == "soon":  # a dead process's requests come back soon
    import geotile.service.loop, geotile.service.sqs
    geotile.service.loop._EXTEND_INTERVAL_S, geotile.service.sqs.VISIBILITY_TIMEOUT_S = 0.75, 3
if __name__ == "__main__":
    main()
"""


def noise(path: str, size: int, seed: int) -> str:
    """Write an image of noise: no two tiles are alike."""
    pixels = np.random.default_rng(seed).integers(1, 255, (1, size, size), np.uint8)
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 128, "blockysize": 128, "crs": "EPSG:32631"}
    place = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
    with rasterio.open(path, "w", width=size, height=size, count=1, dtype="uint8", transform=place, **profile) as file:
        file.write(pixels)
    return path


def request(job_id: str, images: list[str], url: str, outputs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a request, in OversightML's words."""
    return {
        "jobId": job_id, "imageUrls": images, "imageProcessor": {"name": url, "type": "HTTP_ENDPOINT"},
        "imageProcessorTileSize": TILE, "imageProcessorTileOverlap": OVERLAP, "imageProcessorTileFormat": "GTIFF",
        "outputs": outputs,
    } | more  # fmt: skip


class Service:
    """``geotile serve`` as a process."""

    def __init__(self, soon: bool, *words: str) -> None:
        command = [sys.executable, "-c", SERVE, "soon" if soon else "", "serve", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        while not self.log or "serving " not in self.log[-1]:
            self.log.append(self.process.stderr.readline())
            assert self.log[-1], self.log
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def kill(self) -> float:
        """End it by SIGKILL; return when."""
        self.process.kill()
        moment = time.time()
        self.process.wait()
        return moment


class Scenes:
    """The images of all jobs; which tiles are in which region."""

    def __init__(self, folder: Path, size: int) -> None:
        self.images: dict[str, list[str]] = {}
        self.tiles: dict[tuple[str, int, int, int], list[bytes]] = {}
        for number, (job, count) in enumerate(JOBS.items()):
            self.images[job] = [noise(f"{folder}/{job}-{n}.tif", size, 10 * number + n) for n in range(count)]
            for n, path in enumerate(self.images[job]):
                self._note(job, n, path)

    def _note(self, job: str, n: int, path: str) -> None:
        grid = geotile.plan(path, tile_size=TILE, overlap=OVERLAP, region_size=REGION).grid
        with rasterio.open(path) as file:
            pixels = file.read()
        for row, column in np.ndindex(grid.regions_yx):
            windows = [tile.window.slices for tile in grid.region_tiles(row, column)]
            self.tiles[job, n, row, column] = [Asked.key(pixels[:, *each]) for each in windows]


class Parts:
    """Sees when the regions of running jobs are finished: their parts go when their job ends."""

    def __init__(self, state: Path) -> None:
        self.state, self.finished, self._over = state, {}, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Parts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for seen in glob.glob(f"{self.state}/work/*/*/checkpoint/*/*.parquet"):  # pathlib's fails where one goes
                path = Path(seen)
                job, n, _, _, name = path.parts[-5:]
                if (found := re.fullmatch(r"(\d+)-(\d+).parquet", name)) and path.exists():
                    key = job, int(n), int(found[1]), int(found[2])
                    if key not in self.finished:
                        try:
                            self.finished[key] = path.stat().st_mtime
                        except FileNotFoundError:  # its job has ended just now
                            self.finished[key] = time.time()


class Round:
    """Some jobs, a service that is killed, and what is left."""

    def __init__(self, kind: str, scenes: Scenes, asked: Asked, url: str, seed: int) -> None:
        self.kind, self.scenes, self.asked, self.url = kind, scenes, asked, url
        self.random, self.kills = random.Random(seed), []

    def run(self, folder: Path, kills: int, seconds: float) -> None:
        """Submit, kill, go on to the end; ``self.found`` is what came out."""
        self.asked.times.clear()
        with ExitStack() as stack:
            words = self._set_up(folder, stack)
            for job, images in self.scenes.images.items():
                geotile.submit(request(job, images, self.url, self._outputs(folder)), self.queue)
            watched = stack.enter_context(Parts(folder / "state"))
            for _ in range(kills):
                service = Service(self.kind == "aws", *words)
                stack.callback(service.kill)
                time.sleep(self.random.uniform(0, seconds))
                self.kills.append(service.kill())
            began = time.time()
            service = Service(self.kind == "aws", *words, "--once")
            stack.callback(service.kill)
            assert service.process.wait(300) == 0, service.log[-5:]
            self.seconds = time.time() - began
            self.found, self.repeated = self._results(folder)
            self.unseen = self._check(watched.finished) if kills else 0
            records = geotile.jobs(self.queue, folder / "state")
            assert [record.status for record in records] == len(JOBS) * ["SUCCESS"], records
            assert not list((folder / "state" / "work").iterdir())

    def _set_up(self, folder: Path, stack: ExitStack) -> list[str]:
        state = ["--state", str(folder / "state")]
        self.queue = str(folder / "jobs")
        more = []
        if self.kind == "aws":
            self.aws = stack.enter_context(aws())
            os.environ.update(self.aws.environment())
            self.aws.setup("kills")
            self.queue = f"sqs://{self.aws.queue}"
            more = ["--status", f"sns://{self.aws.topic}", "--allow-endpoint", self.url]
        if self.kind == "cluster":
            cluster = Cluster(folder, nanny=False)
            stack.callback(cluster.stop)
            more = ["--scheduler", cluster.address]
        limits = ["--concurrency", "8", "--region-size", str(REGION)]
        retries = ["--max-attempts", "1000", "--retry-delay-s", "0.2"]
        return ["--queue", self.queue, *state, *more, *limits, *retries]

    def _outputs(self, folder: Path) -> list[dict[str, Any]]:
        if self.kind == "aws":
            bucket = {"type": "S3", "bucket": self.aws.bucket, "prefix": "out"}
            return [bucket, bucket | {"format": "parquet"}, {"type": "Kinesis", "stream": self.aws.stream}]
        place = {"type": "File", "path": str(folder / "out")}
        return [place, place | {"format": "parquet"}]

    def _results(self, folder: Path) -> tuple[dict[str, list[Any]], int]:
        """Return the features of each output, without the time; and how many a stream has twice."""
        out, repeated = folder / "out", 0
        if self.kind == "aws":
            out.mkdir()
            for key in self.aws.stored():
                (out / Path(key).name).write_bytes(self.aws.object(key))
            streamed = Counter(record["features"][0]["id"] for record in self.aws.records())
            repeated = streamed.total() - len(streamed)
        found: dict[str, list[Any]] = {}
        for path in sorted(out.iterdir()):  # and nothing else: no draft
            if path.suffix == ".geojson":
                found[path.name] = json.loads(path.read_text())["features"]
            else:
                found[path.name] = [
                    {"geometry": row.geometry.wkt, "properties": json.loads(row.properties)}
                    for row in gpd.read_parquet(path).itertuples()
                ]
        if self.kind == "aws":
            wanted = {each["id"] for each in every(found)}
            assert set(streamed) == wanted, (sorted(wanted - set(streamed))[:5], sorted(set(streamed) - wanted)[:5])
        for each in [feature for features in found.values() for feature in features]:
            each["properties"]["inferenceMetadata"].pop("inferenceDT")
        return found, repeated

    def _check(self, finished: dict[tuple[str, int, int, int], float]) -> int:
        """Hold what the model was asked; return how many regions' ends nobody saw."""
        unseen = 0
        for region, tiles in self.scenes.tiles.items():
            end = finished.get(region)
            unseen += end is None
            allowed = 1 + sum(end is None or moment <= end for moment in self.kills)
            for tile in tiles:
                times = self.asked.times[tile]
                assert 1 <= len(times) <= allowed, (region, len(times), allowed)
                assert end is None or max(times) <= end, ("asked about a finished region", region)
        return unseen


def every(found: dict[str, list[Any]]) -> list[Any]:
    """Return the features of all GeoJSON files."""
    return [each for name, features in found.items() if name.endswith(".geojson") for each in features]


def kills(args: argparse.Namespace) -> None:
    """Print a row a kind."""
    asked = Asked()
    print(f"{'kind':<8} {'kills':>5} {'rounds':>6} {'alike':>6} {'features':>8} {'twice':>6} {'streamed again':>14} {'asked again':>11} "
          f"{'unseen':>6} {'s a round':>9}")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="geotile-serve-") as place, ModelServer(asked, LATENCY_S) as model:
        scenes = Scenes(Path(place), args.size)
        for kind in args.kinds:
            row: Counter[str] = Counter()
            with tempfile.TemporaryDirectory(dir=place) as folder:
                undisturbed = Round(kind, scenes, asked, model.url, 0)
                undisturbed.run(Path(folder), 0, 0.0)
            began, number = time.time(), 0
            while row["kills"] < args.kills:
                number += 1
                one = Round(kind, scenes, asked, model.url, args.seed * 1000 + number)
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    one.run(Path(folder), min(2, args.kills - row["kills"]), 0.8 * undisturbed.seconds)
                assert one.found == undisturbed.found
                ids = Counter(each["id"] for each in every(one.found))
                row.update(
                    kills=len(one.kills), twice=ids.total() - len(ids), streamed=one.repeated, unseen=one.unseen,
                    again=sum(len(times) > 1 for times in asked.times.values()), features=len(ids),
                )  # fmt: skip
            print(f"{kind:<8} {row['kills']:>5} {number:>6} {number:>6} {row['features']:>8} {row['twice']:>6} {row['streamed']:>14} {row['again']:>11} "
                  f"{row['unseen']:>6} {(time.time() - began) / number:>9.1f}", flush=True)  # fmt: skip


def burst(args: argparse.Namespace) -> None:
    """Print how long jobs waited."""
    print(
        f"{'jobs':<28} {'count':>5} {'started: median':>15} {'p95':>6} {'last':>6} {'finished: last':>14}  seconds after the start"
    )
    with (
        tempfile.TemporaryDirectory(prefix="geotile-serve-") as place,
        ModelServer(crowd, args.latency) as fast,
        ModelServer(crowd, 10 * args.latency) as slow,
    ):
        image = noise(f"{place}/image.tif", 2 * TILE - OVERLAP, 0)
        half = args.requests // 2
        alone = waits(Path(place) / "alone", image, {"fast": fast.url}, {"fast": half})
        both = waits(Path(place) / "both", image, {"fast": fast.url, "slow": slow.url}, {"fast": half, "slow": half})
    rows = {"fast, alone": alone["fast"], "fast, beside the slow ones": both["fast"], "slow": both["slow"]}
    for name, (started, finished) in rows.items():
        print(
            f"{name:<28} {len(started):>5} {np.median(started):>15.1f} {np.percentile(started, 95):>6.1f} {max(started):>6.1f} {max(finished):>14.1f}"
        )
    ratio = np.median(rows["fast, beside the slow ones"][0]) / np.median(rows["fast, alone"][0])
    print(f"\nmedian wait of the fast endpoint's jobs, beside the slow one's against alone: {ratio:.2f}")
    print(f"slow against fast, beside each other: {np.median(both['slow'][0]) / np.median(both['fast'][0]):.1f}")


def waits(
    queue: Path, image: str, urls: dict[str, str], counts: dict[str, int]
) -> dict[str, tuple[list[float], list[float]]]:
    """Serve a burst; return when jobs started and finished, by endpoint."""
    names = [name for name, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(names)
    out = [{"type": "File", "path": str(queue / "out")}]
    for number, name in enumerate(names):
        geotile.submit(request(f"{name}-{number}", [image], urls[name], out), queue)
    start = time.time()
    service = Service(False, "--queue", str(queue), "--once")
    assert service.process.wait(3600) == 0, service.log[-5:]
    records = geotile.jobs(queue)
    assert {record.status for record in records} == {"SUCCESS"}
    return {
        name: tuple([getattr(r, what) - start for r in records if r.job_id.startswith(name)] for what in ("started", "finished"))
        for name in counts
    }  # fmt: skip


def job(args: argparse.Namespace) -> None:
    """Print the CPU time of a job."""
    with tempfile.TemporaryDirectory(prefix="geotile-serve-") as place, ModelServer(crowd) as model:
        image = noise(f"{place}/image.tif", 2 * TILE - OVERLAP, 0)
        for number in range(args.rounds):
            queues = [(Path(place) / f"{number}-{count}", count) for count in (20, 20 + args.requests)]
            few, many = (cpu_s(queue, image, model.url, count) for queue, count in queues)
            own, by_hand = (many - few) / args.requests, np.median([by_hand_s(image, model.url) for _ in range(100)])
            print(f"a job {1e3 * own:.1f} ms of CPU, by hand {1e3 * by_hand:.1f} ms: {own / by_hand:.1f} x", flush=True)


def cpu_s(queue: Path, image: str, url: str, count: int) -> float:
    """Serve jobs in a process of its own; return its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    waits(queue, image, {"job": url}, {"job": count})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def by_hand_s(image: str, url: str) -> float:
    """Open and read the image and post its tiles; return the CPU time of this thread."""
    began, step = time.thread_time(), TILE - OVERLAP
    with rasterio.open(image) as file:
        pixels = file.read()
    for y, x in ((0, 0), (0, step), (step, 0), (step, step)):
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", count=1, height=TILE, width=TILE, dtype="uint8") as file:
                file.write(pixels[:, y : y + TILE, x : x + TILE])
            requests.post(url, data=memory.read(), headers={"Content-Type": "image/tiff"}).json()
    return time.thread_time() - began


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("kills")
    one.add_argument("--kills", type=int, default=50, help="of each kind")
    one.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--size", type=int, default=640, help="of each image, pixels")
    one.set_defaults(run=kills)
    other = parts.add_parser("burst")
    other.add_argument("--requests", type=int, default=1000)
    other.add_argument("--latency", type=float, default=0.1, help="of the fast endpoint, seconds a tile")
    other.set_defaults(run=burst)
    cost = parts.add_parser("job")
    cost.add_argument("--requests", type=int, default=100)
    cost.add_argument("--rounds", type=int, default=3)
    cost.set_defaults(run=job)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
