"""Interrupt a run that waits, say which threads it leaves, and end: ``python interrupted_run.py HOW IMAGE URL``."""

import os
import signal
import sys
import threading
import time

from stopped_run import geotile_threads, left_after

import geotile


def sleeps(tile):
    time.sleep(60)
    return [], []


def main(how: str, image: str, url: str) -> None:
    options = {"interrupt": {}, "raise": {"errors": "raise", "retries": 0, "concurrency": 64}, "callable": {}}[how]
    if how != "raise":
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        geotile.detect(image, sleeps if how == "callable" else url, tile_size=32, overlap=0, region_size=192, **options)
    except KeyboardInterrupt:
        print("interrupted")
    except geotile.TileError:
        print("raised")
    if how != "callable":
        print("left:", left_after(3, geotile_threads))
    print(time.time(), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    main(*sys.argv[1:])
