"""The progress of a run as its user sees it: a bar in a terminal or in the cell of a notebook, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from geotile.running.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from rich.console import Console

_LINE_S = 60.0  # between two lines of a log


@contextmanager
def progress_display(progress: bool | ProgressCallback | None) -> Iterator[list[ProgressCallback]]:
    """Return the callbacks of a `progress` option: the callable; for True a bar, or lines without a terminal."""
    if not progress:
        yield []
    elif progress is not True:
        yield [progress]
    elif (cell := _notebook_cell()) is not None:
        yield [_ending_no_run(cell)]
    elif sys.stderr is None:  # it was closed, and what is printed would go to standard output
        yield []
    else:
        from rich.console import Console

        console = Console(stderr=True)
        with _bar(console) if console.is_terminal else _lines() as show:
            yield [_ending_no_run(show)]


def _ending_no_run(show: ProgressCallback) -> ProgressCallback:
    """Return a display without its errors: the terminal may be gone, or the disk below a log full."""

    def shown(state: Progress) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            show(state)

    return shown


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
def _lines() -> Iterator[ProgressCallback]:
    """Print a line a minute to standard error, where a log may keep it, and the last state if the run takes longer."""
    printed_at, last, printed = time.monotonic(), None, None

    def show(state: Progress) -> None:
        nonlocal printed_at, last, printed
        last = state
        if time.monotonic() - printed_at >= _LINE_S:
            printed_at, printed = time.monotonic(), state
            print(time.strftime("%Y-%m-%d %H:%M:%S"), state, file=sys.stderr, flush=True)

    yield show
    if printed is not None and printed is not last:
        with suppress(OSError, ValueError):
            print(time.strftime("%Y-%m-%d %H:%M:%S"), last, file=sys.stderr, flush=True)


@contextmanager
def _bar(console: Console) -> Iterator[ProgressCallback]:
    """Show a bar on a terminal; return its callback."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns: list[Any] = [TextColumn("tiles"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")]
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("tiles", total=None, text="")

        def show(state: Progress) -> None:
            text = str(state).partition("tiles, ")[2]
            bars.update(task, total=state.tiles, completed=state.done, text=text)

        yield show
