"""``geotile help``: the how-to pages in the terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

import geotile
from geotile.cli.show import out, print_text, show
from geotile.errors import ArgumentError

_MOST_FOUND = 8
_INDEXES = ("start", "how-to")  # pages with a table of the others
_ROW = re.compile(r"^\| \[[^\]]+\]\(([\w-]+)\.md\) \| (.+) \|$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\((?!https?://)([^)\s]+)\)")
_PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n+", re.MULTILINE)
_DIRECTIVE = re.compile(r"^```\{[^`]*```\n*", re.MULTILINE)


def topics() -> dict[str, str]:
    """Return the pages that `geotile help` shows, in the order of the documentation.

    Returns
    -------
    dict of str to str
        What each page is about, by its name.

    Examples
    --------
    >>> topics()["images"]
    'lazily, from a path or a URL: bands, parts of it, coarser versions'
    """
    return {name: line for index in _INDEXES for name, line in _ROW.findall(_read(index))}


def page(topic: str) -> str:
    """Return a page as Markdown without what only the site can show.

    Parameters
    ----------
    topic : str
        One of `topics`.

    Returns
    -------
    str
        The page. Links to other pages name the command that shows them.

    Examples
    --------
    >>> page("images").splitlines()[0]
    '# Open an image'
    """
    known = topics()

    def link(found: re.Match[str]) -> str:
        name = Path(found[2].partition("#")[0]).stem
        return f"{found[1]} (`geotile help {name}`)" if name in known else found[1]

    return _LINK.sub(link, _PICTURE.sub("", _DIRECTIVE.sub("", _read(topic)))).rstrip() + "\n"


def pages_with(words: Sequence[str]) -> list[str]:
    """Return the pages that have some words one after the other, those that have them most often first.

    If no page has, they are the pages that have all of the words.

    Parameters
    ----------
    words : sequence of str
        Beginnings of words, in any case.

    Returns
    -------
    list of str
        Names of at most eight pages.

    Examples
    --------
    >>> pages_with(["class", "map"])[0]
    'rasters-and-embeddings'
    """
    texts = {name: page(name) for name in topics()}
    for patterns in (
        [r"\s+".join(rf"\b{re.escape(word)}" for word in words)],
        [rf"\b{re.escape(word)}" for word in words],
    ):
        counts = {
            name: min(len(re.findall(each, text, re.IGNORECASE)) for each in patterns) for name, text in texts.items()
        }
        if any(counts.values()):
            break
    return sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])[:_MOST_FOUND]


def _names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the pages and the commands that a name may become, each with a line."""
    commands: Any = getattr(context.find_root().command, "commands", {})
    lines = topics() | {name: command.get_short_help_str() for name, command in commands.items()}
    return [each for each in lines.items() if each[0].startswith(incomplete)]


def help_page(
    context: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(
            help="A page, a command, or words to look for in the pages. Default: a list of the pages.",
            autocompletion=_names,
        ),
    ] = None,
) -> None:
    """Show a page of the documentation: how to open images, use a model, run on a cluster ..."""
    known, words = topics(), topic or []
    commands = getattr(context.find_root().command, "commands", {})
    if not words:
        show(known.items())
        print_text("\nShow one with: geotile help TOPIC. Options of a command: geotile help COMMAND")
    elif (name := "-".join(words)) in known:
        _show_page(name)
    elif name in commands:
        _show_command(context, commands[name], name)
    elif found := pages_with(words):
        show((each, known[each]) for each in found)
        print_text(f"\nThese pages have the words {' '.join(words)!r}. Show one with: geotile help TOPIC")
    else:
        near = get_close_matches(name.lower(), [*known, *commands], n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
        raise ArgumentError(f"no help about '{' '.join(words)}'; {remedy}")


def _read(name: str) -> str:
    """Return the text of a page: from the installed package, or from `docs/` in a checkout."""
    package = Path(geotile.__file__).parent
    installed = package / "pages"
    return ((installed if installed.is_dir() else package.parent / "docs") / f"{name}.md").read_text(encoding="utf-8")


def _show_page(topic: str) -> None:
    """Show a page in a pager; print it as it was written where the output is not a terminal."""
    text = page(topic)
    if not out.is_terminal:
        print_text(text.rstrip("\n"))
        return
    from rich.markdown import Markdown

    os.environ.setdefault("LESS", "-FRX")  # keep colours, and do not wait at the end of a short page, as git does
    with out.pager(styles=True):
        out.print(Markdown(text, hyperlinks=False))


def _show_command(context: typer.Context, command: Any, name: str) -> None:
    """Show the options of a command."""
    with type(context)(command, info_name=name, parent=context.find_root()) as inner:
        typer.echo(inner.get_help())
