"""A run whose model answers vectors: a row for each tile or patch, written in parts where there are enough of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.core.choices import EmbeddingDtype, Tokens
from geotile.core.memory import Measured
from geotile.core.timing import Timing, sum_timings, take_timings
from geotile.endpoints.embedding import embedding_of
from geotile.errors import ResponseError
from geotile.grid.tile_grid import Tile, TileGrid
from geotile.imagery.region_pixels import Region
from geotile.results.dataset import PART_ROWS, Part, write_part
from geotile.results.failures import TileFailure
from geotile.running.embedding_table import EmbeddingTable, vectors_parquet
from geotile.running.progress import Counts, progress_reporter
from geotile.running.tile_job import TileContent, TileJob
from geotile.running.tiles import ask_model
from geotile.storage.folder import Folder

if TYPE_CHECKING:
    from geotile.running.embedding_checkpoint import EmbeddingCheckpoint


@dataclass(frozen=True)
class EmbeddingReader:
    """Reader of vectors."""

    tokens: Tokens
    prefix_tokens: int
    dtype: EmbeddingDtype
    length: int | None = None
    """Length of a vector; None before the first answer."""

    def read(self, tile: Tile, answer: Any, sent_yx: Pair) -> TileContent:
        """Return the vectors of an answer, (down, across, length)."""
        return TileContent(found=self.vectors(answer, sent_yx))

    def vectors(self, answer: Any, sent_yx: Pair) -> NDArray[Any]:
        """Return the vectors of an answer, (down, across, length).

        Raises
        ------
        EndpointError
            If there are none, or they are not as they should be.
        """
        given = embedding_of(answer, self.tokens, sent_yx, self.prefix_tokens).vectors
        if self.length is not None and given.shape[-1] != self.length:
            raise ResponseError(
                f"a vector must have {self.length} numbers, as that of the first tile; got {given.shape[-1]}"
            )
        with np.errstate(over="ignore"):
            vectors = np.array(given, self.dtype)  # a copy: the model may use its array again
        if not np.isfinite(vectors).all():
            raise ResponseError(f"a vector must fit {self.dtype}; got {np.abs(given).max():g}")
        return vectors


@dataclass(frozen=True, kw_only=True)
class EmbeddingJob:
    """Everything that the tasks need besides the pixels. Pickles."""

    run: str
    grid: TileGrid
    selected: NDArray[np.bool_] | None
    tiles: TileJob
    table: EmbeddingTable
    folder: Folder | None = None
    """Where parts are written; None to carry all rows to the root of the tree."""
    checkpoint: EmbeddingCheckpoint | None = None
    prefix: str = ""
    """Digest of all that the rows depend on, which distinguishes the run's parts from those of another run."""

    def wanted_tiles(self, row: int, column: int) -> list[Tile]:
        """Return a region's tiles that are to be read."""
        tiles = self.grid.region_tiles(row, column)
        return tiles if self.selected is None else [tile for tile in tiles if self.selected.flat[tile.number]]


@dataclass(frozen=True, kw_only=True)
class EmbeddingNode(Measured):
    """The rows of one region, or of a rectangle of regions."""

    rows: Pair
    columns: Pair
    tiles: NDArray[np.int64]
    boxes: NDArray[np.float64]
    vectors: NDArray[Any]
    parts: tuple[Part, ...] = ()
    failures: tuple[TileFailure, ...] = ()
    requests: int = 0
    retries: int = 0
    without_data: int = 0
    resumed: int = 0
    """Number of tiles of regions that an earlier run has finished."""
    count: int = 0
    """Number of rows, written or not."""
    timing: Timing = field(default_factory=dict)

    def written(self, job: EmbeddingJob, *, last: bool) -> EmbeddingNode:
        """Return the node with its rows written, if there are enough of them or it is the last node."""
        if job.folder is None or (len(self.tiles) < PART_ROWS and not last) or not (len(self.tiles) or not self.parts):
            return self
        place = f"r{self.rows[0]:05d}-{self.rows[1]:05d}-c{self.columns[0]:05d}-{self.columns[1]:05d}"
        encode = partial(vectors_parquet, like=self.vectors)
        part = write_part(
            job.folder,
            f"part-{job.prefix}-{place}.parquet",
            job.table.build(self.tiles, self.boxes, self.vectors),
            encode,
        )
        return replace(
            self, tiles=self.tiles[:0], boxes=self.boxes[:0], vectors=self.vectors[:0], parts=(*self.parts, part)
        )


def embedding_tree(regions: da.Array, job: EmbeddingJob) -> da.Array:
    """Return the root of the tree of all rows, 0-d, one `EmbeddingNode`."""
    name = job.run.rpartition("-")[2]
    shared = delayed(job, name=f"job-{job.run}", traverse=False)
    nodes = regions.map_blocks(
        _embed_region, job=shared, dtype=object, meta=np.empty((0, 0, 0), object), name=f"embed-region-{name}"
    )
    combine = partial(_combine, job=job)
    return da.reduction(
        nodes, chunk=_unchanged, combine=combine, aggregate=combine, axis=(0, 1, 2), concatenate=False,
        split_every={0: 2, 1: 4, 2: 4}, dtype=object, meta=np.empty((), object), name="embed-rows",
    )  # fmt: skip


def _embed_region(region: Region, job: EmbeddingJob, block_id: tuple[int, int, int]) -> EmbeddingNode:
    _, row, column = block_id
    kept = None if job.checkpoint is None else job.checkpoint.load(row, column)
    if kept is None:
        return _asked_region(region, job, row, column)
    reporter = progress_reporter(job.run)
    reporter(Counts(failures=len(kept.failures)))
    reporter.flush()
    return kept


def _asked_region(region: Region, job: EmbeddingJob, row: int, column: int) -> EmbeddingNode:
    """Ask the model for the tiles of a region, and keep its vectors in the checkpoint."""
    tiles = job.wanted_tiles(row, column)
    reader = job.tiles.reader
    assert isinstance(reader, EmbeddingReader)
    boxes, numbers, vectors = [np.zeros((0, 4))], [], [np.zeros((0, reader.length or 0), reader.dtype)]
    pixels = region.read(tiles, job.tiles.need_valid)
    answered = sorted(ask_model(pixels, job.tiles, tiles), key=lambda each: each[0].number)
    results = [result for _, result in answered]
    for tile, result in answered:
        if result.content is not None:
            grid: NDArray[Any] = result.content.found
            boxes.append(_patches(tile, job.tiles.sent_shape_yx(tile), grid.shape[:2]))
            numbers += [tile.number] * len(boxes[-1])
            vectors.append(grid.reshape(-1, grid.shape[-1]))
    node = EmbeddingNode(
        rows=(row, row + 1), columns=(column, column + 1), tiles=np.array(numbers, np.int64),
        boxes=np.concatenate(boxes), vectors=np.concatenate(vectors), count=len(numbers),
        failures=tuple(result.failure for result in results if result.failure),
        requests=sum(result.attempts for result in results), retries=sum(result.retries for result in results),
        without_data=sum(result.without_data for result in results),
        timing=sum_timings({"decode": pixels.read_s}, take_timings(), *(result.timing for result in results)),
    )  # fmt: skip
    if job.checkpoint is not None and not any(result.cancelled for result in results):
        job.checkpoint.save(node, len(tiles))
    return node


def _patches(tile: Tile, sent_yx: Pair, grid_yx: Pair) -> NDArray[np.float64]:
    """Return the footprints of a tile's patches, row by row, (n, 4) float64; of a padded tile, of what was sent."""
    (down, across), (y0, _, x0, _) = grid_yx, tile.window
    y = y0 + np.linspace(0, sent_yx[0], down + 1)
    x = x0 + np.linspace(0, sent_yx[1], across + 1)
    rows, columns = np.divmod(np.arange(down * across), across)
    return np.stack([x[columns], y[rows], x[columns + 1], y[rows + 1]], axis=1)


def _unchanged(node: EmbeddingNode, axis: Any, keepdims: bool) -> EmbeddingNode:
    return node


def _combine(nested: Any, axis: Any, keepdims: bool, *, job: EmbeddingJob) -> EmbeddingNode:
    nodes = sorted(_flat(nested), key=lambda node: (node.rows, node.columns))
    rows = min(node.rows[0] for node in nodes), max(node.rows[1] for node in nodes)
    columns = min(node.columns[0] for node in nodes), max(node.columns[1] for node in nodes)
    numbers = np.concatenate([node.tiles for node in nodes])
    order = np.argsort(numbers, kind="stable")
    return EmbeddingNode(
        rows=rows, columns=columns, tiles=numbers[order], boxes=np.concatenate([node.boxes for node in nodes])[order],
        vectors=np.concatenate([node.vectors for node in nodes])[order],
        parts=tuple(part for node in nodes for part in node.parts), count=sum(node.count for node in nodes),
        failures=tuple(failure for node in nodes for failure in node.failures),
        requests=sum(node.requests for node in nodes), retries=sum(node.retries for node in nodes),
        without_data=sum(node.without_data for node in nodes),
        resumed=sum(node.resumed for node in nodes), timing=sum_timings(*(node.timing for node in nodes)),
    ).written(job, last=(rows, columns) == tuple((0, n) for n in job.grid.regions_yx))  # fmt: skip


def _flat(nested: Any) -> Iterator[EmbeddingNode]:
    if isinstance(nested, EmbeddingNode):
        yield nested
    else:
        for each in nested:
            yield from _flat(each)
