"""A service among everything that goes wrong at once, and what became of each request.

``python benchmarks/chaos.py --seconds 1800`` runs ``geotile serve`` on a folder, and at random

- submits good requests, some twice, some that are cancelled, and some that fail (a missing image, an output that cannot be written, a wrong field);
- puts files there that are no requests (named pipes, devices, folders, links, names that are not UTF-8, 100 kB of brackets);
- kills the service by SIGKILL, stops it by SIGTERM, takes its file descriptors away, and opens connections that say nothing.

It holds at the end that each file is done or failed with a reason, none is lost and none is there twice; that each good job has found what
an undisturbed run finds, and each feature once; and that ``/healthz`` said 200 whenever it was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from kills import crowd

import geotile
from geotile.testing import ModelServer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from service_process import ServiceProcess, request

WORDS = ("--max-attempts", 1000, "--deliveries", 1000, "--retry-delay-s", 0.2, "--region-size", 128, "--concurrency", 4,
         "--grace-s", 0.5, "--max-jobs", 4, "-O", "retries=0")  # fmt: skip
FAILING = ("--max-attempts", 3)  # at the end, so that jobs whose output fails are given up
SETTLE_S = 120.0


class Chaos:
    """A folder, a service, and a record of what was put into the folder."""

    def __init__(self, place: Path, url: str, seed: int) -> None:
        self.place, self.folder, self.url = place, place / "jobs", url
        self.random, self.counts = random.Random(seed), Counter[str]()
        self.files: dict[str, str] = {}
        """Kind of each file, by the beginning of its name in done/ or failed/."""
        self.idle: list[socket.socket] = []
        self.asked_late: list[str] = []
        self.folder.mkdir()
        self.image = str(place / "image.tif")
        pixels = np.random.default_rng(seed).integers(1, 255, (1, 320, 320), np.uint8)
        with rasterio.open(
            self.image,
            "w",
            driver="GTiff",
            width=320,
            height=320,
            count=1,
            dtype="uint8",
            crs="EPSG:32631",
            transform=rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6),
        ) as file:
            file.write(pixels)
        self.service = self._started()

    def run(self, seconds: float) -> None:
        """Act at random for some time, and then wait until the folder is empty."""
        acts: list[tuple[Callable[[], None], int]] = [
            (self._good, 10), (self._failing, 4), (self._hostile, 8), (self._twice, 2), (self._cancelled, 2),
            (self._kill, 2), (self._stop, 1), (self._crowd, 1), (self._no_descriptors, 1), (self._ask, 6),
        ]  # fmt: skip
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            (act,) = self.random.choices([each for each, _ in acts], [weight for _, weight in acts])
            act()
            self.counts[act.__name__.strip("_")] += 1
            time.sleep(self.random.uniform(0.05, 0.4))
        self._end()

    def _started(self, *words: Any) -> ServiceProcess:
        return ServiceProcess(self.folder, *WORDS, *words).__enter__()

    def _said(self, job_id: str, **more: Any) -> dict[str, Any]:
        return request(job_id, self.image, self.url, [{"type": "File", "path": str(self.place / "out")}], **more)

    def _name(self, kind: str) -> str:
        name = f"{kind}-{len(self.files):05}"
        self.files[name] = kind
        return name

    def _put(self, name: str, said: dict[str, Any]) -> None:
        draft = self.folder / f".{name}"
        draft.write_text(json.dumps(said))
        os.replace(draft, self.folder / f"{name}.json")

    def _good(self) -> None:
        name = self._name("good")
        self._put(name, self._said(name))

    def _twice(self) -> None:
        first, second = self._name("good"), self._name("good")
        self._put(first, self._said(first))
        self._put(second, self._said(first))

    def _cancelled(self) -> None:
        name = self._name("cancelled")
        self._put(name, self._said(name))
        time.sleep(self.random.uniform(0, 0.5))
        with suppress(geotile.ServiceError):  # it has ended already
            geotile.cancel(name, self.folder)

    def _failing(self) -> None:
        name = self._name("failing")
        change = self.random.choice([
            {"imageUrls": [f"{self.place}/none.tif"]}, {"imageProcessorTileSize": -1},
            {"outputs": [{"type": "File", "path": f"{self.image}/no-folder"}]},
        ])  # fmt: skip
        self._put(name, self._said(name) | change)

    def _hostile(self) -> None:
        path = self.folder / f"{self._name('hostile')}.json"
        self.random.choice([
            lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to("/none"), path.mkdir,
            lambda: path.write_bytes(100_000 * b"["), lambda: path.write_bytes(b"\xff{"), lambda: path.write_text('{"a'),
            lambda: open(os.fsencode(path).replace(b".json", b"\xff.json"), "wb").close(),
            lambda: (path.touch(), os.truncate(path, 2**32)),
        ])()  # fmt: skip

    def _kill(self) -> None:
        self.service.kill()
        self.service = self._started()

    def _stop(self) -> None:
        self.service.process.send_signal(signal.SIGTERM)
        assert self.service.process.wait(60) == 0, self.service.logs[-5:]
        self.service.kill()
        self.service = self._started()

    def _crowd(self) -> None:
        port = int(self.service.url.rpartition(":")[2])
        self.idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]

    def _no_descriptors(self) -> None:
        process = self.service.process.pid
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (8, before[1]))
        time.sleep(1.0)
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)

    def _ask(self) -> None:
        for each in self.idle:
            each.close()
        self.idle = []
        status, body = self.service.get("healthz", 30)
        if status != 200:
            self.asked_late.append(body)

    def _end(self) -> None:
        """Wait until everything has ended; the service then gives up what fails."""
        self._ask()
        self.service.kill()
        self.service = self._started(*FAILING)
        end, before = time.monotonic() + SETTLE_S, 0
        while left := [name for name in os.listdir(self.folder) if name.endswith(".json")]:
            if len(left) != before:  # a slow machine goes on
                end, before = time.monotonic() + SETTLE_S, len(left)
            assert time.monotonic() < end, (left, self.service.logs[-10:])
            time.sleep(0.2)
        self._ask()
        self.service.process.send_signal(signal.SIGTERM)
        assert self.service.process.wait(60) == 0
        self.service.kill()

    def check(self) -> None:
        """Hold what is said above."""
        assert not self.asked_late, self.asked_late
        ended: dict[str, list[dict[str, Any]]] = {}
        for kind in ("done", "failed"):
            for path in (self.folder / kind).glob("*.json"):
                if not path.name.endswith(".status.json"):
                    status = json.loads(path.with_name(path.stem + ".status.json").read_text())
                    ended.setdefault(path.stem[: path.stem.rindex("-") + 6], []).append(status | {"in": kind})
        assert set(ended) == set(self.files), set(ended) ^ set(self.files)
        want = self._features(
            geotile.detect(self.image, crowd, tile_size=128, overlap=32, merge=geotile.Nms(0.75, geometry="box"))
        )
        for name, kind in self.files.items():
            (status,) = ended[name]  # not twice
            self.counts[f"{kind}: {status['status']}"] += 1
            if kind == "good":
                assert status["in"] == "done", (name, status)
            if kind in ("failing", "hostile"):
                assert status["in"] == "failed", (name, status)
            if status["in"] == "failed":
                assert status["reasons"], (name, status)
            if status["status"] == "SUCCESS":
                content = json.loads((self.place / "out" / f"{status['job_id']}.geojson").read_text())["features"]
                assert len({each["id"] for each in content}) == len(content)
                assert sorted(self._scores(content)) == want, name

    @staticmethod
    def _scores(features: list[dict[str, Any]]) -> list[float]:
        return [each["properties"]["featureClasses"][0]["score"] for each in features]

    @staticmethod
    def _features(frame: Any) -> list[float]:
        return sorted(frame["score"].tolist())


def main() -> None:
    """Run what is asked for, and print what was done and what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="geotile-chaos-") as place,
        ModelServer(crowd, 0.02) as model,
    ):
        chaos = Chaos(Path(place), model.url, args.seed)
        try:
            chaos.run(args.seconds)
        finally:
            chaos.service.kill()
        chaos.check()
    for name, count in sorted(chaos.counts.items()):
        print(f"{name:<24} {count:>6}")
    print(f"{len(chaos.files)} requests, none lost, none twice, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
