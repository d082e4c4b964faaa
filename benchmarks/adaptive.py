"""A run on a cluster whose workers come and go: the rows are those of a quiet cluster, and hardly a tile is asked twice.

    python benchmarks/adaptive.py              # 4,096 x 4,096, a worker goes every 10 s: 2 minutes
    python benchmarks/adaptive.py --every 3    # more often

A local cluster of 1 to 3 workers of one thread adapts to its work (`cluster.adapt`), and every few seconds the oldest worker is retired, as
a cloud takes machines back: what it computes at that moment is computed again elsewhere. The model is a server in this process that counts.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster
from distributed.core import Status
from geopandas.testing import assert_geodataframe_equal
from kills import crowd
from serve import noise

import geotile
from geotile.testing import ModelServer

JOB = {"tile_size": 128, "overlap": 32, "region_size": 512, "concurrency": 8}


@contextmanager
def coming_and_going(cluster: LocalCluster, client: Client, every_s: float) -> Iterator[list[str]]:
    """Retire the oldest worker every few seconds while the block runs; yield the addresses of those that went."""
    gone: list[str] = []
    stopped = threading.Event()

    def retire() -> None:
        while not stopped.wait(every_s):
            running = [each.address for each in cluster.scheduler.workers.values() if each.status == Status.running]
            if len(running) > 1:  # Dask cannot retire the only one: its results have nowhere to go
                gone.extend(client.retire_workers(running[:1]))

    thread = threading.Thread(target=retire)
    thread.start()
    try:
        yield gone
    finally:
        stopped.set()
        thread.join()


def main() -> None:
    """Print what a restless cluster costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--every", type=float, default=10.0, help="seconds after which a worker goes")
    parser.add_argument("--latency", type=float, default=0.1, help="of the model, in seconds")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="geotile-adaptive-") as folder,
        ModelServer(crowd, latency_s=args.latency) as model,
    ):
        path = noise(f"{folder}/noise.tif", args.size, 0)
        want = geotile.detect(path, model.url, **JOB)
        quiet, model.requests = model.requests, 0
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            cluster.adapt(minimum=1, maximum=3, interval="500ms", wait_count=2)
            began = time.perf_counter()
            with coming_and_going(cluster, client, args.every) as gone:
                found = geotile.detect(path, model.url, **JOB)
            seconds = time.perf_counter() - began
    report = found.attrs["report"]
    found.attrs = want.attrs
    assert_geodataframe_equal(found, want)
    print(
        f"{report.status}: {report.tiles:,} tiles in {report.regions} regions, {seconds:.1f} s, {len(gone)} workers went, the same {len(found):,} "
        f"rows; {model.requests:,} requests, {model.requests / quiet - 1:+.1%}, "
        f"{(model.requests - quiet) / max(1, len(gone)):.1f} for each worker that went"
    )  # fmt: skip


if __name__ == "__main__":
    main()
