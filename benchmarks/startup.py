"""What starting costs: `import geotile` and `geotile --help`, beside importing the packages that geotile needs.

    python benchmarks/startup.py

CPU seconds of processes, beyond those of an empty one, the least of three.
"""

from __future__ import annotations

import subprocess
import sys

PACKAGES = "dask.array, rasterio, xarray, rioxarray, geopandas, shapely, pyproj, requests, pyarrow"
HELP = "import sys; sys.argv = ['geotile', '--help']\nfrom geotile.cli.main import app\ntry: app()\nexcept SystemExit: pass"
TIMER = "import resource; used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"


def cpu_s(code: str) -> float:
    """CPU seconds of a process that runs some code."""

    def once(code: str) -> float:
        done = subprocess.run([sys.executable, "-c", f"{code}\n{TIMER}"], capture_output=True, text=True, check=True)
        return float(done.stdout.splitlines()[-1])

    return min(once(code) for _ in range(3)) - min(once("") for _ in range(3))


def main() -> None:
    """Print the shares."""
    packages, imported, shown = (cpu_s(code) for code in (f"import {PACKAGES}", "import geotile", HELP))
    print(
        f"import geotile {imported / packages:.1%}, geotile --help {shown / packages:.1%} of importing {PACKAGES} ({packages:.2f} s)"
    )


if __name__ == "__main__":
    main()
