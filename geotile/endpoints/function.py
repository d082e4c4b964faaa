"""Python callables as endpoints: called per tile or per batch, optionally built once per process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from geotile.core.digest import digest
from geotile.core.option import documents, with_options
from geotile.core.registry import Registry
from geotile.endpoints.base import Endpoint
from geotile.errors import ArgumentError, EndpointError, GeotileError
from geotile.options import FunctionOptions

_PLAIN = (str, bytes, int, float, bool, type(None))
_built = Registry[str, Callable[..., Any] | str](8)  # models of factories, or why a factory failed


@documents(FunctionOptions)
class FunctionEndpoint(Endpoint):
    """A Python callable that runs in this process.

    It computes rather than waits, so it is called at most once per Dask thread at the same time.

    Parameters
    ----------
    model : callable
        ``model(tile)`` with an ndarray of shape (band, y, x), which returns detections in any form that `detect`
        accepts. With `batch_size`, ``model(tiles)`` with an ndarray of shape (n, band, y, x), where n is at most
        `batch_size`, which returns a sequence of n such results.
    {options}

    Raises
    ------
    ArgumentError
        If the model is not callable, or `batch_size` is not a positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> model = FunctionEndpoint(lambda tiles: [([[0, 0, 2, 2]], [0.5]) for _ in tiles], batch_size=8)
    >>> len(model.invoke([np.zeros((1, 4, 4))] * 3, ""))
    3
    """

    wants_bytes = remote = False

    @with_options(FunctionOptions).on_init
    def __init__(self, model: Callable[..., Any], options: FunctionOptions) -> None:
        if not callable(model):
            raise ArgumentError(f"model must be callable; got {type(model).__name__}")
        size = options.batch_size
        self._callable, self._is_factory, self._batched = model, options.factory, size is not None
        self.batch_size = size or 1
        self._key = uuid4().hex

    def __repr__(self) -> str:
        return f"FunctionEndpoint({self})"

    def __str__(self) -> str:
        return _name(self._callable)

    def identity(self) -> dict[str, Any]:
        """Return the callable's name, and its ``version`` attribute if it has one.

        The name of a `functools.partial` has the function's name, the arguments that are numbers or text, and digests
        of the others, so that another argument is another model.
        """
        version = getattr(self._callable, "version", None)
        function = self._callable.func if isinstance(self._callable, partial) else self._callable
        module = getattr(function, "__module__", None) or type(function).__module__
        return {
            "model": f"{module}.{_name(self._callable, _content)}",
            "version": None if version is None else str(version),
        }

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Call the model with one tile, or with a batch."""
        model = self._model()
        try:
            answers = model(np.stack(tiles)) if self._batched else [model(tiles[0])]
            return answers if isinstance(answers, Sequence) else list(answers)
        except GeotileError:
            raise
        except Exception as error:  # a user's model can raise anything; only this request fails
            raise EndpointError(f"the model raised {type(error).__name__}: {error}") from error

    def _model(self) -> Callable[..., Any]:
        if not self._is_factory:
            return self._callable
        model = _built.get(self._key, self._build)
        if isinstance(model, str):
            raise EndpointError(model)
        return model

    def _build(self) -> Callable[..., Any] | str:
        """Build the model; return it, or an error message so that a failing factory is not called for every tile."""
        try:
            model = self._callable()
        except Exception as error:  # a user's factory can raise anything
            return f"the factory {self} raised {type(error).__name__}: {error}"
        return model if callable(model) else f"the factory {self} must return a callable; got {type(model).__name__}"


def _content(value: Any) -> str:
    """Return a digest of a value; a new one each time if it cannot be pickled, so that none is mistaken for another."""
    try:
        return digest(pickle.dumps(value), 8)
    except Exception:  # an object's own code decides what pickling raises
        return uuid4().hex[:8]


def _name(model: Any, content: Callable[[Any], str] = lambda value: "") -> str:
    """Return the name of a callable; a partial's has its arguments, with ``content(value)`` where they are no text."""
    if isinstance(model, partial):
        given = [("", each) for each in model.args] + [(f"{name}=", each) for name, each in model.keywords.items()]
        texts = [
            name + (repr(each) if isinstance(each, _PLAIN) else f"{type(each).__name__} {content(each)}".strip())
            for name, each in given
        ]
        return f"{_name(model.func, content)}({', '.join(['...', *texts])})"
    return getattr(model, "__qualname__", None) or type(model).__name__
