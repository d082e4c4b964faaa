"""Python callables as endpoints: of a tile, of a batch, or built once a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import as_int
from geotile.core.registry import Registry
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError, GeotileError

_built = Registry[str, Callable[..., Any] | str](8)


class FunctionEndpoint(Endpoint):
    """A model in this process.

    It computes, so no more requests are under way than there are threads.

    Parameters
    ----------
    model : callable
        ``model(tile)``, tile an ndarray (band, y, x), returning what `detect` takes; with `batch_size`,
        ``model(tiles)``, tiles (n, band, y, x), n up to `batch_size`, returning a sequence of n of these.
    batch_size : int, optional
        Most tiles in a call.
    factory : bool
        The callable given is ``factory()`` and returns the model. It is called once in each process,
        before the first tile: for a model that takes long to load or does not pickle.

    Raises
    ------
    ArgumentError
        If the model cannot be called, or `batch_size` is no number of tiles.

    Examples
    --------
    >>> import numpy as np
    >>> model = FunctionEndpoint(lambda tiles: [([[0, 0, 2, 2]], [0.5]) for _ in tiles], batch_size=8)
    >>> len(model.invoke([np.zeros((1, 4, 4))] * 3, ""))
    3
    """

    wants_bytes = remote = False

    def __init__(self, model: Callable[..., Any], *, batch_size: int | None = None, factory: bool = False) -> None:
        if not callable(model):
            raise ArgumentError(f"the model is {type(model).__name__}; give a callable")
        self._given, self._is_factory, self._batched = model, factory, batch_size is not None
        self.batch_size = 1 if batch_size is None else as_int(batch_size, "batch_size", 1, unit="tiles")
        self._key = uuid4().hex

    def __repr__(self) -> str:
        return f"FunctionEndpoint({self})"

    def __str__(self) -> str:
        return getattr(self._given, "__qualname__", None) or type(self._given).__name__

    def identity(self) -> dict[str, Any]:
        """Return the callable's name, and its attribute ``version`` if it has one."""
        version = getattr(self._given, "version", None)
        module = getattr(self._given, "__module__", None) or type(self._given).__module__
        return {"model": f"{module}.{self}", "version": None if version is None else str(version)}

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Call the model."""
        model = self._model()
        try:
            answers = model(np.stack(tiles)) if self._batched else [model(tiles[0])]
            return answers if isinstance(answers, Sequence) else list(answers)
        except GeotileError:
            raise
        except Exception as error:  # whatever a user's model raises fails this request alone
            raise EndpointError(f"the model raised {type(error).__name__}: {error}") from error

    def _model(self) -> Callable[..., Any]:
        if not self._is_factory:
            return self._given
        model = _built.get(self._key, self._build)
        if isinstance(model, str):
            raise EndpointError(model)
        return model

    def _build(self) -> Callable[..., Any] | str:
        """Return the model, or what is wrong with it: it is not built again for every tile."""
        try:
            model = self._given()
        except Exception as error:  # whatever a user's factory raises
            return f"the factory {self} raised {type(error).__name__}: {error}"
        return model if callable(model) else f"the factory {self} returned {type(model).__name__}, no callable"
