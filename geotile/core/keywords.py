"""Values that users build: keyword arguments that do not exist are refused with the nearest name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from geotile.core.option import refuse_unknown

C = TypeVar("C", bound=type)


def known_keywords(hints: Mapping[str, str] | None = None) -> Callable[[C], C]:
    """Return a decorator of a class whose constructor refuses unknown keyword arguments with an ArgumentError.

    Parameters
    ----------
    hints : mapping of str to str, optional
        Messages for names that are options elsewhere.

    Examples
    --------
    >>> import geotile
    >>> geotile.RetryPolicy(retry=3)
    Traceback (most recent call last):
    geotile.ArgumentError: unknown option 'retry'; did you mean 'retries'?
    """

    def decorate(cls: C) -> C:
        constructor: Callable[..., None] = vars(cls)["__init__"]
        known = [name for name in inspect.signature(constructor).parameters if name != "self"]

        @wraps(constructor)
        def init(self: Any, *args: Any, **given: Any) -> None:
            refuse_unknown(given, known, cls.__name__, hints)
            constructor(self, *args, **given)

        cls.__init__ = init  # type: ignore[misc]  # the constructor is replaced on purpose
        return cls

    return decorate
