"""All benchmarks that speed is held against, one after the other, into one page: `RESULTS.md`, in less than an hour.

    python benchmarks/all.py                 # on a machine that does nothing else, two rounds
    python benchmarks/all.py --only storage  # those whose command contains a word; the others stay as they are

At the top stands what is wanted, beside the best, the median and the worst of what the rounds printed: how far these are apart
is the noise of the machine, and the median decides whether a limit is met. "not printed" means that a package of another
project is missing (`pip install -e '.[bench]'`). Below it each command, how long it took, the load of the machine before
it, and all that it printed in the last round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
BEFORE = "fb00c66"  # the commit before tiles were copied once into their request


_BUSY = 2.5  # load average of the minute before; the benchmark before it leaves two


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a benchmark, and where it says what is."""

    name: str
    limit: str
    patterns: tuple[str, ...]
    """One regular expression for each number, whose first group it is."""
    value: Callable[..., float] = lambda number: number

    def row(self, name: str, runs: Sequence[dict[str, Any]]) -> str:
        """Return the row of the table: wanted, and the best, the median and the worst of the runs."""
        values = [value for run in runs if (value := self.found(run["printed"])) is not None]
        found, texts, met = sorted(values, reverse="≥" in self.limit), ["not printed"] * 3, ""
        if found:
            texts = [f"{each:.3g}" for each in (found[0], statistics.median(found), found[-1])]
            met = self.is_met(statistics.median(found))
        command = name.replace("{before}", BEFORE)
        return f"| {self.name} | {self.limit} | {met} | {' | '.join(texts)} | `{command}` |"

    def is_met(self, value: float) -> str:
        """Return whether a value is within the limit, which is "≤ 1", "≥ 1", "< 1" or "0.9 to 1.1"."""
        numbers = [float(each) for each in re.findall(r"[\d.]+", self.limit)]
        match numbers, self.limit[:1]:
            case [], _:
                return ""
            case [low, high], _:
                met = low <= value <= high
            case [limit], "≥":
                met = value >= limit
            case [limit], _:
                met = value <= limit
        return "yes" if met else "no"

    def found(self, printed: str) -> float | None:
        """Return the value of what a benchmark printed; None if it is not there."""
        matches = [re.search(pattern, printed, re.MULTILINE | re.DOTALL) for pattern in self.patterns]
        numbers = [float(match[1].replace(",", "")) for match in matches if match]
        if len(numbers) < len(matches) or 0.0 in numbers[1:]:  # a contestant that is not installed takes no time
            return None
        return self.value(*numbers)


@dataclass(frozen=True)
class Benchmark:
    """A command, and what is wanted of it."""

    words: tuple[str, ...]
    wanted: tuple[Wanted, ...] = ()


def row(name: str, column: int) -> str:
    """Return the pattern of a column of the tables of `compare.py`, from 1."""
    columns = [r"[\d.]+"] * 5
    columns[column - 1] = r"([\d.]+)"
    return rf"^{name} +" + " +".join(columns)


BENCHMARKS = (
    Benchmark(
        ("compare.py", "local"),
        (
            Wanted("in process, 16,384²: time / hand-written loop", "≤ 0.65", (row("geotile", 4),)),
            Wanted(
                "the same / decoding each block once", "≤ 1.25", (row("geotile", 1), row("limit", 1)), lambda a, b: a / b
            ),
            Wanted("the same, SAHI / geotile", "≥ 4", (row("sahi", 1), row("geotile", 1)), lambda a, b: a / b),
            Wanted(
                "the same, CPU time beyond decoding and the model in %", "≤ 8",
                (r"geotile's CPU ([\d.]+)", r"geotile's CPU.*?decode ([\d.]+)", r"geotile's CPU.*?model ([\d.]+)"),
                lambda cpu, decode, model: 100 * (1 - (decode + model) / cpu),
            ),
            Wanted("the same, peak memory in MB", "< 500", (row("geotile", 5),)),
            Wanted(
                "peak memory at 16,384² / at 8,192²", "≤ 1.10", (row("geotile", 5), rf"half the side.*?{row('geotile', 5)[1:]}"),
                lambda a, b: a / b,
            ),
        ),
    ),
    Benchmark(
        ("compare.py", "http"),
        (Wanted("over HTTP, 20 ms, 32 in flight: time / hand-written loop", "≤ 0.45", (row("geotile", 4),)),),
    ),
    Benchmark(
        ("endpoints.py", "rate", "--rounds", "2", "--against", "{before}"),
        (
            Wanted(f"10,000 tiles over HTTP: rate / that of {BEFORE}, before work on it", "≥ 1.9", (r"^([\d.]+) x the rate",)),
            Wanted(
                "own CPU a tile beyond decoding, ms", "≤ 1.6", (r"^(?!before|checkout)\S+ +[\d.]+ +([\d.]+) ", r"^(?!before|checkout)\S+ +[\d.]+ +[\d.]+ +([\d.]+) "),
                lambda cpu, decode: cpu - decode,
            ),
        ),
    ),
    Benchmark(("endpoints.py", "tls", "--rounds", "2", "--tiles", "5000"),
              (Wanted("HTTPS: rate / that of a loop of requests", "", (r"([\d.]+) x that of a loop",)),)),
    Benchmark(("scale.py", "size", "--side", "102000"),
              (
                  Wanted("102,000 px, sparse: time / reading alone", "≤ 1.05", (r"^ *102,000" + r" +[\d.,]+" * 7 + r" +([\d.]+)",)),
                  Wanted("the same, tasks a region", "≤ 1.05", (r"^ *102,000 +[\d,]+ +([\d,]+)", r"^ *102,000 +([\d,]+)"), lambda a, b: a / b),
                  Wanted("the same, system's share of the CPU in %", "< 15", (r"^ *102,000.*?([\d.]+)% +[\d.]+%$",)),
              )),
    Benchmark(("scale.py", "predict", "--side", "102000"),
              (Wanted("class map of 102,000 px: time / reading and writing alone", "≤ 1.3",
                      (r"^ *102,000" + r" +[\d.,]+" * 6 + r" +([\d.]+)",)),)),
    Benchmark(("scale.py", "computed", "--side", "51200")),
    Benchmark(("scale.py", "simulate"),
              (Wanted("simulation, 300 workers, 50 ms: busy in %", "≥ 85", (r"of 50 ms.*?^ *300 .*?% +([\d.]+)%",)),)),
    Benchmark(("scale.py", "agree", "--rounds", "1"),
              (Wanted("8 real workers / the simulation", "0.9 to 1.1", (r"best ([\d.]+)",)),)),
    Benchmark(("adaptive.py",), (Wanted("workers come and go: more requests in %", "≤ 5", (r"\+([\d.]+)%",)),)),
    Benchmark(("writing.py", "--rows", "300000", "--rounds", "2"),
              (Wanted("GeoParquet: speed of pyarrow's own in %", "≥ 80", (r"([\d.]+)% of its speed",)),)),
    Benchmark(("storage.py",), (Wanted("S3, 512 px: time / async-tiff", "≤ 1", (r"tile 512.*?^geotile +([\d.]+)", r"tile 512.*?^async-tiff, obstore +([\d.]+)"), lambda a, b: a / b),)),
    Benchmark(("storage.py", "--faults", "--rounds", "2"),
              (Wanted("S3, every fifth request refused: time / async-tiff", "≤ 2", (r"^geotile +([\d.]+)", r"^async-tiff, obstore +([\d.]+)"), lambda a, b: a / b),)),
    Benchmark(("storage.py", "--processes", "--rounds", "1"),
              (Wanted("S3, two processes: bytes fetched / file", "≤ 1.1", (r"2 processes +[\d.]+ +[\d.]+ +[\d.]+ +\d+ +([\d.]+)",)),)),
    Benchmark(("serve.py", "burst", "--requests", "300"),
              (Wanted("burst: the fast jobs' wait beside slow ones / alone", "≤ 1.1", (r"against alone: ([\d.]+)",)),)),
    Benchmark(("serve.py", "job", "--rounds", "1"),
              (Wanted("a small job: ms of CPU", "≤ 20", (r"^a job ([\d.]+) ms of CPU",)),)),
    Benchmark(("startup.py",), (
        Wanted("import geotile: CPU time / importing its packages in %", "≤ 10", (r"import geotile ([\d.]+)%",)),
        Wanted("geotile --help: the same in %", "≤ 25", (r"--help ([\d.]+)%",)),
    )),
    Benchmark(("rasters.py", "--rounds", "2"),
              (Wanted("class scores, 8,192², hann: time / hand-written loop", "< 1", (r"\.zarr +[\d.]+ s +([\d.]+) x",)),)),
    Benchmark(("merging.py", "crowd", "--boxes", "250000")),
    Benchmark(("compare.py", "nms")),
    Benchmark(("compare.py", "encode")),
    Benchmark(("kills.py", "--rounds", "1")),
)  # fmt: skip


def run(benchmark: Benchmark, before: Path) -> dict[str, object]:
    """Run a benchmark; return what it printed, and under which load."""
    words = [word.replace("{before}", str(before)) for word in benchmark.words]
    load, began = os.getloadavg()[0], time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=HERE, capture_output=True, text=True)
    printed = done.stdout if done.returncode == 0 else f"{done.stdout}\nfailed: {done.stderr.strip().splitlines()[-1:]}"
    return {
        "seconds": time.monotonic() - began,
        "load": load,
        "printed": printed.replace(str(before), "before").strip(),
    }


def page(results: dict[str, list[dict[str, Any]]], commit: str) -> str:
    """Return the page of all results."""
    lines = [
        "# Results", "",
        f"Printed by `python benchmarks/all.py` on {time.strftime('%Y-%m-%d')} at commit {commit}: {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, numpy {np.__version__}. All took {sum(run['seconds'] for runs in results.values() for run in runs) / 60:.0f} minutes "
        f"({max(map(len, results.values()))} rounds).",
        "", "| what | wanted | met | best | median | worst | command |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for benchmark in BENCHMARKS:
        name = " ".join(benchmark.words)
        lines += [each.row(name, results.get(name, [])) for each in benchmark.wanted]
    for name, runs in results.items():
        loads = ", ".join(f"{run['load']:.1f}{' (busy)' if run['load'] > _BUSY else ''}" for run in runs)
        lines += [
            "", f"## {name.replace('{before}', BEFORE)}", "", f"{runs[-1]['seconds']:.0f} s; load before each run: {loads}", "", "```text",
            *runs[-1]["printed"].splitlines(), "```",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word of the commands to run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--to", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    kept = args.to.with_suffix(".json")
    results = json.loads(kept.read_text()) if kept.exists() else {}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
    )
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(before), BEFORE], cwd=HERE, check=True)
        try:
            for number in range(args.rounds):
                for benchmark in BENCHMARKS:
                    name = " ".join(benchmark.words)
                    if args.only in name:
                        results[name] = [*(results[name] if number else []), run(benchmark, before)]
                        kept.write_text(json.dumps(results))
                        args.to.write_text(page(results, commit.stdout.strip()))
                        print(f"{results[name][-1]['seconds']:6.0f} s  {name}", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=HERE, check=True)


if __name__ == "__main__":
    main()
