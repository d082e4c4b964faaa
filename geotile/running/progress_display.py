"""The progress of a run as its user sees it: a bar in a terminal, or in the cell of a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from geotile.running.progress import Progress, ProgressCallback


@contextmanager
def progress_display(progress: bool | ProgressCallback | None) -> Iterator[list[ProgressCallback]]:
    """Return the callbacks of a `progress` option: the callable, or for True a bar in a terminal or a notebook."""
    if not progress:
        yield []
    elif progress is not True:
        yield [progress]
    elif (cell := _notebook_cell()) is not None:
        yield [cell]
    else:
        with _bar() as bar:
            yield [bar]


def _notebook_cell() -> ProgressCallback | None:
    """Return a callback that shows progress in the cell of a notebook, None outside of notebooks."""
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    kinds = [kind.__name__ for kind in type(get_ipython()).__mro__]  # type: ignore[no-untyped-call]
    if "ZMQInteractiveShell" not in kinds:  # Jupyter's, of which Colab's is a subclass
        return None
    handle: Any = None

    def show(state: Progress) -> None:
        nonlocal handle
        if handle is None:
            handle = display(state, display_id=True)  # type: ignore[no-untyped-call]
        else:
            handle.update(state)

    return show


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    """Show a bar on standard error if it is a terminal; return its callback."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns: list[Any] = [TextColumn("tiles"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")]
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("tiles", total=None, text="")

        def show(state: Progress) -> None:
            text = str(state).partition("tiles, ")[2]
            bars.update(task, total=state.tiles, completed=state.done, text=text)

        yield show
