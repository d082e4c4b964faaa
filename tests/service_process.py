"""``geotile serve`` as a process, and what its folder and its address tell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

TILES = {"imageProcessorTileSize": 128, "imageProcessorTileOverlap": 32, "imageProcessorTileFormat": "GTIFF"}


def request(job_id, image, url, outputs, **more):
    """A request in OversightML's words."""
    return {
        "jobId": job_id, "jobName": "a test", "imageUrls": [image] if isinstance(image, str) else image,
        "imageProcessor": {"name": url, "type": "HTTP_ENDPOINT"}, "outputs": outputs, **TILES, **more,
    }  # fmt: skip


def until(condition, seconds=30.0):
    """Wait until a condition holds; return what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


class ServiceProcess:
    """A running ``geotile serve`` with an address; killed at the end of a `with` block.

    `before` is code that the process runs first.
    """

    def __init__(self, folder, *words, before="", stdout=subprocess.DEVNULL, **more):
        code = f"{before}\nfrom geotile.cli.main import main\nif __name__ == '__main__': main()"
        command = [sys.executable, "-c", code, "serve", "--queue", str(folder), "--address", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, *map(str, words)], stdout=stdout, stderr=subprocess.PIPE, text=True, **more
        )
        self.logs: list[str] = []
        self._reader = threading.Thread(target=lambda: self.logs.extend(self.process.stderr), daemon=True)
        self._reader.start()
        self.folder = Path(folder)

    def __enter__(self):
        line = until(lambda: next((each for each in self.logs if "health and metrics" in each), None))
        self.url = re.search(r"http://127.0.0.1:\d+", line)[0]
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def get(self, what, timeout=10.0) -> tuple[int, str]:
        """Status and body of a path."""
        try:
            with urllib.request.urlopen(f"{self.url}/{what}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def failed(self) -> dict[str, str]:
        """Reason of each failed request, by the name of its file."""
        return reasons(self.folder, "failed")


def reasons(folder, kind="failed") -> dict[str, str]:
    """First reason of each request in ``failed/``, by the name of its file."""
    found = {}
    for path in sorted((Path(folder) / kind).glob("*.status.json")):
        if os.path.lexists(path.with_name(path.name.replace(".status.json", ".json"))):
            found[path.name.removesuffix(".status.json")] = json.loads(path.read_text())["reasons"][0]
    return found
