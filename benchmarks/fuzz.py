"""Run the fuzzers of the tests for minutes: answers, requests, redaction, Zarr metadata, bytes of HTTP responses.

``python benchmarks/fuzz.py --minutes 10`` repeats rounds with other seeds, and ends at the first failure with its status.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main() -> int:
    """Run rounds until the time is over; return the status of the last one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--examples", type=int, default=5000, help="of each fuzzer in a round")
    arguments = parser.parse_args()
    end, rounds = time.monotonic() + 60 * arguments.minutes, 0
    while time.monotonic() < end:
        rounds += 1
        seed = random.randrange(2**32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
        done = subprocess.run(
            [*command, *sorted(map(str, TESTS.glob("test_fuzz*.py")))], cwd=TESTS.parent,
            env={**os.environ, "GEOTILE_FUZZ_EXAMPLES": str(arguments.examples)}, check=False,
        )  # fmt: skip
        print(f"round {rounds}, seed {seed}: status {done.returncode}", flush=True)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
