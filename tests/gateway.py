"""A real dask-gateway on 127.0.0.1, its clusters processes of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

CONFIG = """
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.DaskGateway.address = "127.0.0.1:0"
c.Proxy.address = "127.0.0.1:0"
c.LocalClusterConfig.scheduler_cmd = [{python!r}, "-m", "distributed.cli.dask_scheduler"]
c.LocalClusterConfig.worker_cmd = [{python!r}, "-m", "distributed.cli.dask_worker"]
c.LocalClusterConfig.worker_cores = 1
"""


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=10).status_code
    except requests.ConnectionError:
        return None


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """Serve a gateway; yields its address."""
    config, log = folder / "gateway.py", folder / "gateway.log"
    config.write_text(CONFIG.format(python=sys.executable))
    script = Path(sys.executable).with_name("dask-gateway-server")
    with open(log, "w") as out:
        server = subprocess.Popen([script, "-f", config], cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            if found := re.search(r"HTTP routes listening at (http://\S+)", log.read_text()):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        address = re.sub(r"\x1b.*", "", found[1])
        while _status(f"{address}/api/v1/clusters/") in (None, 404):  # the proxy does not know its routes yet
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(30)
