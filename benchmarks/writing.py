"""What writing results costs, beside pyarrow and pyogrio with a table that is ready.

    python benchmarks/writing.py                     # 1,000,000 boxes
    python benchmarks/writing.py --rows 10_000_000   # 4 minutes, 10 GB of memory for the reference

geotile starts from detections in pixels, as the workers of a run do, and writes parts of 16,384 rows: their rows are built, placed on Earth
and written. The reference writes a table that has been built already, with the same columns, by `GeoDataFrame.to_parquet` (pyarrow), in parts
of the same size; GeoJSON and FlatGeobuf by pyogrio, in one file. Times are CPU seconds of the process, best of the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio

import geotile
from geotile.geometry.georeference import georeference_of
from geotile.merging.detections import Detections, detections
from geotile.results.dataset import PART_ROWS, PartWriter
from geotile.results.frame import FrameBuilder, with_text
from geotile.storage.folder import Folder
from geotile.testing import write_example


def boxes(rows: int) -> Iterator[Detections]:
    """Yield detections of three labels in parts."""
    rng = np.random.default_rng(0)
    for first in range(0, rows, PART_ROWS):
        n = min(PART_ROWS, rows - first)
        centre, size = rng.uniform(0, 100_000, (n, 2)), rng.uniform(5, 40, (n, 2))
        labels = rng.choice(np.array(["ship", "plane", "car"], object), n)
        yield detections(np.hstack([centre - size / 2, centre + size / 2]), rng.random(n), labels=labels)


def cpu_s(call: Callable[[], object], rounds: int) -> float:
    """Return the least CPU time of a call, in seconds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def parquet(rows: int, rounds: int, builder: FrameBuilder, folder: Path) -> None:
    """Print what a dataset of parts costs."""
    parts = list(boxes(rows))
    writer = PartWriter(folder=Folder(str(folder / "ours")), builder=builder, prefix="bench", min_rows=PART_ROWS)
    tables = [with_text(builder.build(part)) for part in parts]

    def ours() -> None:
        for number, part in enumerate(parts):
            writer.write(part, (number, number + 1), (0, 1), even_empty=False)

    def reference() -> None:
        for number, table in enumerate(tables):
            table.to_parquet(
                folder / f"{number}.parquet", schema_version="1.1.0", write_covering_bbox=True, compression="zstd"
            )

    one, other = cpu_s(ours, rounds), cpu_s(reference, rounds)
    small = next(boxes(5))
    few = cpu_s(lambda: [writer.write(small, (0, 1), (0, 1), even_empty=False) for _ in range(100)], rounds)
    print(
        f"GeoParquet, {rows:,} rows in {len(parts):,} parts: geotile {one:.2f} s, GeoDataFrame.to_parquet of tables that are ready {other:.2f} s: "
        f"{other / one:.0%} of its speed; a part of 5 rows: {few * 10:.1f} ms"
    )  # fmt: skip


def text(rows: int, rounds: int, builder: FrameBuilder, folder: Path) -> None:
    """Print what files of features cost."""
    table = pd.concat([builder.build(part) for part in boxes(rows)], ignore_index=True)
    table = gpd.GeoDataFrame(table, geometry="geometry", crs=builder.crs)
    for ending, ready in ((".geojson", with_text(table).to_crs(4326)), (".fgb", with_text(table))):
        one = cpu_s(lambda e=ending: geotile.write(table, folder / f"a{e}", overwrite=True), rounds)
        other = cpu_s(lambda e=ending, t=ready: pyogrio.write_dataframe(t, folder / f"b{e}"), rounds)
        print(
            f"{ending}, {len(table):,} rows: geotile {one:.2f} s, pyogrio with a table that is ready {other:.2f} s: {one / other:.2f} x"
        )


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    georeference = georeference_of(geotile.open_image(write_example()))
    builder = FrameBuilder(georeference=georeference, crs=georeference.crs)
    with tempfile.TemporaryDirectory(prefix="geotile-writing-") as folder:
        parquet(args.rows, args.rounds, builder, Path(folder))
        text(min(args.rows, 200_000), args.rounds, builder, Path(folder))


if __name__ == "__main__":
    main()
