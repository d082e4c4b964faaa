"""Stop a run, and say which threads of geotile are left: ``python stopped_run.py WHERE IMAGE URL URL``."""

import os
import signal
import sys
import threading
import time

from distributed import Client, LocalCluster

import geotile


def geotile_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if "geotile" in each.name]


def left_after(seconds: float, ask) -> list[str]:
    """Return the threads that are left when none are, or after some time."""
    started = time.monotonic()
    while (left := ask()) and time.monotonic() - started < seconds:
        time.sleep(0.1)
    return left


def callable_model(tile):
    time.sleep(0.05)
    if int(tile[0, 0, 0]) == 5:
        raise ValueError("poisoned")
    return [], []


def stopped(how: str, image: str, model) -> None:
    if how == "interrupt":
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    options = {"concurrency": 4, "retries": 0} if isinstance(model, str) else {}
    try:
        geotile.detect(image, model, tile_size=32, overlap=0, region_size=64, errors="raise", **options)
    except KeyboardInterrupt:
        print("interrupted")
    except geotile.TileError:
        print("raised")


def main(where: str, image: str, raising: str, slow: str) -> None:
    if where == "threads":
        for how, model in (("raise", raising), ("interrupt", slow), ("raise", callable_model)):
            stopped(how, image, model)
            print("left:", left_after(6, geotile_threads))
        return
    processes = where == "processes"
    cluster = LocalCluster(
        2 if processes else 1, threads_per_worker=2, processes=processes, dashboard_address="127.0.0.1:0"
    )
    client = Client(cluster)
    for how, model in (("raise", raising), ("interrupt", slow)):
        stopped(how, image, model)
        print("left:", left_after(6, lambda: sum(client.run(geotile_threads).values(), geotile_threads())))
    print("closing", file=sys.stderr, flush=True)
    client.close()
    cluster.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    main(*sys.argv[1:])
