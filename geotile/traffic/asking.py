"""Asking a model whether it works, beside the tiles of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from geotile.core.cancellation import working_for
from geotile.errors import EndpointError, GeotileError
from geotile.printable import printable


def failure_of_probe(probe: Callable[[], None], run: str) -> str | None:
    """Return why a model is not ready; None if it is."""
    try:
        with working_for(run):
            probe()
    except EndpointError as error:
        return str(error)
    except Exception as error:  # a user's endpoint can raise anything; it counts as a model that is not ready
        return printable(f"{type(error).__name__}: {error}")
    return None


def failure_of_control(send: Callable[[Sequence[Any]], Any], tiles: Sequence[Any], run: str) -> EndpointError | None:
    """Return why a model fails for tiles that it has answered before; None if it responds in any way."""
    try:
        with working_for(run):
            send(tiles)
    except EndpointError as error:
        return error if error.retryable else None
    except GeotileError:
        pass  # it responded with what cannot be used
    return None
