"""How busy endpoints are kept: the efficiency table, and "auto" against the best fixed number.

``python benchmarks/endpoints.py efficiency``, ``python benchmarks/endpoints.py auto``, and
``python benchmarks/endpoints.py rate --against CHECKOUT``: 10,000 tiles of a sparse image with this code and that of another
checkout of this repository, in turns, each run in a process of its own. ``python benchmarks/endpoints.py tls``: tiles
over HTTP, over HTTPS, and bodies of their size by a loop of ``requests.Session.post`` over HTTPS. The model is a server in a
process of its own on 127.0.0.1 that waits and finds nothing: k slots, a queue, refusals (503) beyond it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
import requests
import xarray as xr

import geotile

STEPS = ("decode", "cut", "encode", "send", "parse", "merge")
ANSWER = b'{"type": "FeatureCollection", "features": []}'


class Model:
    """k slots, a queue; what does not fit is refused at once."""

    def __init__(self, latency_s: float, slots: int, queue: int) -> None:
        self.latency_s, self.slots, self.queue = latency_s, slots, queue
        self.busy, self.waiting, self.answered, self.refused, self.connections = 0, [], 0, 0, 0

    async def reply(self) -> tuple[int, bytes]:
        if self.busy >= self.slots:
            if len(self.waiting) >= self.queue:
                self.refused += 1
                return 503, b"full"
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn  # who wakes it takes the slot for it
        else:
            self.busy += 1
        await asyncio.sleep(self.latency_s)
        self.busy -= 1
        self.answered += 1
        self.wake()
        return 200, ANSWER

    def wake(self) -> None:
        while self.waiting and self.busy < self.slots:
            self.busy += 1
            self.waiting.pop(0).set_result(None)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while line := await reader.readline():
                method, path, _ = line.split()
                length = 0
                while (header := await reader.readline()) != b"\r\n":
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                await reader.readexactly(length)
                counts = {"answered": self.answered, "refused": self.refused, "connections": self.connections}
                status, body = 200, json.dumps(counts).encode()
                if method == b"POST":
                    status, body = await self.reply()
                elif path.startswith(b"/slots/"):
                    self.slots = int(path.rsplit(b"/", 1)[1])
                    self.wake()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def serve(pipe, latency_s: float, slots: int, queue: int, certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    async def run() -> None:
        model = Model(latency_s, slots, queue)
        server = await asyncio.start_server(model.serve, "127.0.0.1", 0, backlog=1024, ssl=context)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class Server:
    def __init__(
        self,
        latency_s: float,
        slots: int = 10**6,
        queue: int = 0,
        certificate: str | None = None,
        verify: str | bool = True,
    ) -> None:
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(there, latency_s, slots, queue, certificate), daemon=True)
        self.process.start()
        self.root, self.verify = f"http{'s' if certificate else ''}://127.0.0.1:{here.recv()}", verify
        self.url = f"{self.root}/invocations"

    def ask(self, path: str) -> dict[str, int]:
        return requests.get(self.root + path, timeout=10, verify=self.verify).json()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.process.terminate()
        self.process.join()


def write_image(folder: Path, size: int) -> str:
    path = folder / f"{size}.tif"
    profile = {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "zlevel": 1,
    }
    block = np.random.default_rng(0).integers(0, 64, (3, 2048, 2048), np.uint8)
    with rasterio.open(path, "w", width=size, height=size, count=3, dtype="uint8", **profile) as file:
        for y in range(0, size, 2048):
            for x in range(0, size, 2048):
                file.write(block, window=rasterio.windows.Window(x, y, 2048, 2048))
    return str(path)


def efficiency(folder: Path, rounds: int, sizes: list[int]) -> None:
    images = [write_image(folder, size) for size in sizes]
    small, middle, large = images[0], images[len(images) // 2], images[-1]
    print("tiles of 512 x 512 x 3 uint8, overlap 64, GTIFF; own time in ms of CPU a tile")
    print("model    in flight  tiles  seconds  ideal  share   " + "".join(f"{name:>8}" for name in STEPS) + "     all")
    for latency_s in (0.05, 0.005):
        with Server(latency_s) as server:
            geotile.detect(small, server.url, tile_size=512, overlap=64, concurrency=8)
            for concurrency, image in (
                (1, small if latency_s > 0.01 else middle),
                (8, middle),
                (64, large),
                ("auto", large),
            ):
                runs = [
                    geotile.detect(image, server.url, tile_size=512, overlap=64, concurrency=concurrency).attrs[
                        "report"
                    ]
                    for _ in range(rounds)
                ]
                report = min(runs, key=lambda each: each.seconds)
                ideal = report.tiles * latency_s / concurrency if concurrency != "auto" else float("nan")
                own = [1000 * report.timing.get(name, 0) / report.tiles for name in STEPS]
                print(
                    f"{1000 * latency_s:3.0f} ms  {concurrency!s:>9} {report.tiles:7} {report.seconds:8.2f} {ideal:6.2f} "
                    f"{ideal / report.seconds:6.2f}   " + "".join(f"{each:8.2f}" for each in own) + f"{sum(own):8.2f}",
                    flush=True,
                )


def rate(folder: Path, rounds: int, checkouts: list[Path], tiles: int) -> None:
    """Compare this code with that of other checkouts: tiles a second, and CPU a tile, on a sparse image."""
    side = int(tiles**0.5 + 0.5) * 448 + 64
    path, best = folder / "sparse.tif", {}
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    with rasterio.open(path, "w", width=side, height=side, count=3, dtype="uint8", SPARSE_OK=True, **profile):
        pass
    here = Path(__file__).resolve().parents[1]
    print("checkout          tiles/s   CPU ms  " + "".join(f"{name:>8}" for name in STEPS) + "  a tile, in ms")
    for _ in range(rounds):
        for checkout in (here, *checkouts):
            with Server(0.0) as server:
                words = [sys.executable, __file__, "one-rate", "--url", server.url, "--image", str(path)]
                environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
                done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
            got = json.loads(done.stdout.splitlines()[-1])
            assert got["code"].startswith(f"{checkout.resolve()}/"), f"{got['code']} is not of {checkout}"
            best[checkout] = max(best.get(checkout, 0.0), got["rate"])
            print(
                f"{checkout.resolve().name:<16} {got['rate']:8.1f} {got['cpu']:8.2f}  "
                + "".join(f"{got[name]:8.2f}" for name in STEPS),
                flush=True,
            )
    for checkout in checkouts:
        print(f"{best[here] / best[checkout]:.2f} x the rate of {checkout.resolve().name}, best of {rounds}")


def tls(folder: Path, rounds: int, tiles: int) -> None:
    """Compare HTTP with HTTPS, and HTTPS with a loop of `requests`: tiles a second, CPU a tile, connections."""
    import trustme

    authority, side = trustme.CA(), int(tiles**0.5 + 0.5) * 448 + 64
    trusted, certificate, path = folder / "ca.pem", folder / "certificate.pem", folder / "sparse.tif"
    authority.cert_pem.write_to_path(trusted)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    with rasterio.open(path, "w", width=side, height=side, count=3, dtype="uint8", SPARSE_OK=True, **profile):
        pass
    best: dict[str, float] = {}
    print("                  tiles/s   CPU ms  connections")
    for _ in range(rounds):
        for name in ("http", "https", "requests, https"):
            secure = {"certificate": str(certificate), "verify": str(trusted)} if "https" in name else {}
            with Server(0.0, **secure) as server:
                words = [sys.executable, __file__, "one-rate" if name != "requests, https" else "one-loop"]
                words += ["--url", server.url, "--image", str(path), "--verify", str(trusted)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                got, connections = json.loads(done.stdout.splitlines()[-1]), server.ask("/count")["connections"] - 1
            best[name] = max(best.get(name, 0.0), got["rate"])
            print(f"{name:<16} {got['rate']:8.1f} {got['cpu']:8.2f} {connections:12}", flush=True)
    print(f"https: {best['https'] / best['http']:.2f} x the rate of http, ", end="")
    print(f"{best['https'] / best['requests, https']:.2f} x that of a loop of requests; best of {rounds}")


def one_loop(image: str, url: str, verify: str) -> None:
    """Post bodies of a tile's size from 32 threads, one session each; print what it took as JSON."""
    body, local = bytes(3 * 512 * 512 + 500), threading.local()
    with rasterio.open(image) as file:
        count = ((file.width - 64) // 448) * ((file.height - 64) // 448)

    def post(_: int) -> None:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        local.session.post(url, data=body, verify=verify).json()

    cpu, wall = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(post, range(count)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({"rate": count / wall, "cpu": 1000 * cpu / count}))


def one_rate(image: str, url: str, verify: str | None) -> None:
    """Run the code that is imported once; print what it took as JSON."""
    job = {"tile_size": 512, "overlap": 64, "concurrency": 32, "skip_nodata": False}
    if url.startswith("https"):
        job["verify"] = verify
    geotile.detect(xr.DataArray(np.zeros((3, 512, 512), np.uint8), dims=("band", "y", "x")), url, **job)
    cpu, wall = time.process_time(), time.perf_counter()
    report = geotile.detect(image, url, **job).attrs["report"]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    steps = {name: 1000 * report.timing.get(name, 0) / report.tiles for name in STEPS}
    print(
        json.dumps({"code": geotile.__file__, "rate": report.tiles / wall, "cpu": 1000 * cpu / report.tiles, **steps})
    )


STORIES = {"16": (16, 16), "8-24": (8, 24), "24-12": (24, 12)}


def auto(seconds: float, latency_s: float, stories: list[str], queues: list[int]) -> None:
    """Run one job on a server that changes; count what it answered and refused after a third of the time."""
    print(f"a model of {1000 * latency_s:.0f} ms; throughput and refusals after the first third of {seconds:.0f} s")
    print("capacity     queue  concurrency   answers/s  of best   refused  in flight at the end")
    for name, (first, then) in ((each, STORIES[each]) for each in stories):
        for queue in queues:
            best = 0.0
            for concurrency in (then, 2 * then, "auto"):
                rate, refused, end = _one(seconds, latency_s, first, then, queue, concurrency)
                best = max(best, rate) if concurrency != "auto" else best
                print(
                    f"{name:>9} {queue:8} {concurrency!s:>12} {rate:11.1f} {rate / best:8.2f} {refused:9.2%} {end:8}",
                    flush=True,
                )


def _one(seconds, latency_s, first, then, queue, concurrency):
    side = int((seconds * max(first, then) / latency_s * 1.6) ** 0.5) + 2
    image = xr.DataArray(np.zeros((1, 16 * side, 16 * side), np.uint8), dims=("band", "y", "x"))
    with Server(latency_s, first, queue) as server:
        counts, began = [], time.monotonic()

        def change() -> None:
            time.sleep(seconds / 3)
            counts.append((time.monotonic(), server.ask("/count")))
            time.sleep(seconds / 6)
            server.ask(f"/slots/{then}")
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            counts.append((time.monotonic(), server.ask("/count")))
            server.process.kill()  # the job has served its purpose

        thread = threading.Thread(target=change)
        thread.start()
        report = geotile.detect(
            image, server.url, tile_size=16, overlap=0, region_size=512, tile_format="NPY", concurrency=concurrency,
            outage_timeout_s=0.5, skip_nodata=False,
        ).attrs["report"]  # fmt: skip
        thread.join()
    (t0, a), (t1, b) = counts
    answered, refused = b["answered"] - a["answered"], b["refused"] - a["refused"]
    return answered / (t1 - t0), refused / max(1, answered + refused), report.concurrency


if __name__ == "__main__":
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger("geotile").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["efficiency", "auto", "rate", "tls", "one-rate", "one-loop"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--stories", nargs="+", choices=STORIES, default=list(STORIES))
    parser.add_argument("--queues", type=int, nargs="+", default=[0, 32])
    parser.add_argument("--against", type=Path, nargs="+", default=[], help="Other checkouts of this repository.")
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--url")
    parser.add_argument("--image")
    parser.add_argument("--verify")
    given = parser.parse_args()
    if given.which == "efficiency":
        with tempfile.TemporaryDirectory() as folder:
            efficiency(Path(folder), given.rounds, given.sizes)
    elif given.which == "rate":
        with tempfile.TemporaryDirectory() as folder:
            rate(Path(folder), given.rounds, given.against, given.tiles)
    elif given.which == "tls":
        with tempfile.TemporaryDirectory() as folder:
            tls(Path(folder), given.rounds, given.tiles)
    elif given.which == "one-rate":
        one_rate(given.image, given.url, given.verify)
    elif given.which == "one-loop":
        one_loop(given.image, given.url, given.verify)
    else:
        auto(given.seconds, given.latency, given.stories, given.queues)
