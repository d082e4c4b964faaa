"""The vectors of finished regions, in the folder of a checkpoint: one small file of numpy's for each."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geotile.checkpoints.checkpoint import open_checkpoint
from geotile.checkpoints.identity import identity_of
from geotile.endpoints import Endpoint
from geotile.options.raster import EmbedOptions
from geotile.planning.plan import Plan
from geotile.results.failures import stored_failures
from geotile.running.embedding import EmbeddingJob, EmbeddingNode
from geotile.running.raster_start import tile_settings
from geotile.storage.folder import Folder

_PART = re.compile(r"(\d+)-(\d+)\.npz")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmbeddingCheckpoint:
    """The place where the vectors of finished regions are stored. Pickles: the workers write to it."""

    folder: Folder
    """Folder of the regions."""
    length: int
    """Length of a vector."""
    dtype: str
    """Dtype of the vectors."""
    retry_failed: bool

    @classmethod
    def of(
        cls, folder: Folder, plan: Plan, endpoint: Endpoint, options: EmbedOptions, length: int
    ) -> EmbeddingCheckpoint:  # fmt: skip
        """Create or continue the checkpoint of a run whose vectors have this length.

        Raises
        ------
        ArgumentError
            If the folder is the checkpoint of another job.
        OutputError
            If it cannot be read or written.
        """
        identity = identity_of(plan, endpoint, embedding_settings(plan, options, length))
        regions = list(plan.grid.regions_yx)
        opened = open_checkpoint(folder, identity, options.retry_failed, length=length, regions=regions)
        return cls(folder=opened.parts, length=length, dtype=options.dtype, retry_failed=options.retry_failed)

    @staticmethod
    def kept_length(job: Mapping[str, Any] | None) -> int | None:
        """Return the length of the vectors of a checkpoint, whose `stored_job` is given; None without one."""
        return None if job is None else job.get("length")

    def load(self, row: int, column: int) -> EmbeddingNode | None:
        """Return what is stored of a region; None if it is to be asked about, or what is stored is damaged.

        Raises
        ------
        OutputError
            If it cannot be read.
        """
        name = _name(row, column)
        data = self.folder.read(name)
        if data is None:
            return None
        try:
            node = self._node(data, row, column)
        except Exception as error:  # numpy, zipfile and json have many errors for damaged files; all mean the same here
            reason = str(error) or type(error).__name__
            _log.warning("%s/%s is damaged, so its region is run again: %s", self.folder.display_name, name, reason)
            return None
        return None if node.failures and self.retry_failed else node

    def _node(self, data: bytes, row: int, column: int) -> EmbeddingNode:
        """Return the region in a file, and raise any error if the file is damaged."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            more = json.loads(arrays["more"].tobytes())
            tiles, boxes, vectors = arrays["tiles"], arrays["boxes"], arrays["vectors"]
        n = len(tiles)
        wanted = {"tiles": (tiles, (n,), "int64"), "boxes": (boxes, (n, 4), "float64")}
        wanted["vectors"] = vectors, (n, self.length), self.dtype
        for name, (array, shape, dtype) in wanted.items():
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} must be {shape} {dtype}; got {array.shape} {array.dtype}")
        counts = [more["without_data"], more["asked"]]
        if not all(type(each) is int and each >= 0 for each in counts):
            raise ValueError(f"the numbers of its tiles must be integers; got {counts}")
        return EmbeddingNode(
            rows=(row, row + 1), columns=(column, column + 1), tiles=tiles, boxes=boxes, vectors=vectors, count=n,
            failures=stored_failures(more["failures"]), without_data=counts[0], resumed=counts[1],
        )  # fmt: skip

    def stored_tiles(self, job: EmbeddingJob) -> int:
        """Return the number of tiles of the regions that are stored."""
        places = [tuple(map(int, match.groups())) for name in self.folder.names() if (match := _PART.fullmatch(name))]
        rows, columns = job.grid.regions_yx
        return sum(len(job.wanted_tiles(*place)) for place in places if place[0] < rows and place[1] < columns)

    def save(self, node: EmbeddingNode, asked: int) -> None:
        """Store a region, and how many tiles it has.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        more = {
            "failures": [dict(each) for each in node.failures], "without_data": node.without_data, "asked": asked,
        }  # fmt: skip
        content = io.BytesIO()
        np.savez(
            content, tiles=node.tiles, boxes=node.boxes, vectors=node.vectors,
            more=np.frombuffer(json.dumps(more).encode(), np.uint8),
        )  # fmt: skip
        self.folder.write(_name(node.rows[0], node.columns[0]), content.getvalue())


def embedding_settings(plan: Plan, options: EmbedOptions, length: int) -> dict[str, Any]:
    """Return what the vectors of this length depend on besides the image and the model, as JSON."""
    own = {"prefix_tokens": options.prefix_tokens} if options.prefix_tokens else {}  # as in checkpoints without it
    return tile_settings(plan, options) | own | {"tokens": options.tokens, "dtype": options.dtype, "length": length}


def _name(row: int, column: int) -> str:
    return f"{row:05d}-{column:05d}.npz"
