"""Answers that are vectors: one for a tile, or one for each of its patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.core.choices import Tokens
from geotile.endpoints.raster import as_array
from geotile.errors import EndpointError, ResponseError

_FIELDS = ("embedding", "embeddings", "last_hidden_state")
_RASTER_NDIM = 3
_OF_PIXELS = ". If the model answers a value for each pixel, use geotile.predict"


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingAnswer:
    """A model's vectors for a tile."""

    vectors: NDArray[Any]
    """(down, across, length) floats; (1, 1, length) for one vector of the whole tile."""


def embedding_of(answer: Any, tokens: Tokens, tile_yx: Pair, prefix_tokens: int = 0) -> EmbeddingAnswer:
    """Return the vectors in what an endpoint returned for a tile.

    Parameters
    ----------
    answer : object
        An array or a tensor: (length,), or (token, length), with or without a leading axis of one; an object with
        ``last_hidden_state``, as those of transformers; or a mapping with such a value under ``"embedding"``.
    tokens : {"single", "class", "mean", "patches"}
        What to make of several vectors: refuse them, take the first (the class token), their mean, or each for its
        patch of the tile.
    tile_yx : tuple of int
        Height and width of the tile that was sent.
    prefix_tokens : int, default 0
        Number of vectors before those of the patches.

    Raises
    ------
    EndpointError
        If the endpoint returned an error for the tile.
    ResponseError
        If the answer is something else.
    """
    if isinstance(answer, EndpointError):
        raise answer
    for name in _FIELDS:
        if isinstance(answer, dict) and name in answer:
            answer = answer[name]
        elif hasattr(answer, name):
            answer = getattr(answer, name)
    values = as_array(answer)
    while values.ndim > 1 and values.shape[0] == 1:
        values = values[0]
    if values.dtype.kind not in "iuf" or values.ndim not in (1, 2) or 0 in values.shape:
        raise ResponseError(
            f"the model must return a vector (length,), or vectors (token, length); got {values.dtype} of the shape "
            f"{values.shape}" + (_OF_PIXELS if values.ndim == _RASTER_NDIM else "")
        )
    if not np.isfinite(values).all():
        raise ResponseError("a vector must be finite; the model returned NaN or infinite numbers")
    if values.ndim == 1:
        return EmbeddingAnswer(vectors=values[None, None])
    return EmbeddingAnswer(vectors=_of_tokens(values, tokens, tile_yx, prefix_tokens))


def _of_tokens(values: NDArray[Any], tokens: Tokens, tile_yx: Pair, prefix_tokens: int) -> NDArray[Any]:
    if tokens == "class":
        return values[None, :1]
    if len(values) <= prefix_tokens:
        raise ResponseError(f"the model returned {len(values)} vectors, no more than the {prefix_tokens} prefix_tokens")
    values = values[prefix_tokens:]
    if tokens == "mean":
        return np.asarray(values.astype(np.float64).mean(axis=0)[None, None])
    if tokens == "single":
        raise ResponseError(
            f"the model returned {len(values)} vectors for a tile. Say which with tokens: 'class' (the first), 'mean', "
            f"or 'patches' (a row for each patch){_OF_PIXELS}"
        )
    down = round((len(values) * tile_yx[0] / tile_yx[1]) ** 0.5)
    if down == 0 or len(values) % down or down * tile_yx[1] != len(values) // down * tile_yx[0]:
        raise ResponseError(
            f"{len(values)} vectors do not form a grid of square patches over a tile of {tile_yx[0]} x {tile_yx[1]} "
            "pixels. If the first ones are class or register tokens, say how many with prefix_tokens"
        )
    return values.reshape(down, -1, values.shape[1])
