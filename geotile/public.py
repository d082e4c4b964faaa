"""The mark of the public face: an exported object says that it lives in `geotile`."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def public(exported: T) -> T:
    """Have an exported class or function report ``geotile`` as its module, as users import it.

    Examples
    --------
    >>> import geotile
    >>> geotile.detect.__module__
    'geotile'
    """
    named: Any = exported
    named.__module__ = "geotile"
    return exported
