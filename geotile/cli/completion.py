"""Values that the shell completes, beside commands, flags, and flags with a fixed set of values."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

from geotile.core.choices import MERGE_NAMES
from geotile.core.option import described
from geotile.core.option_info import OptionInfo
from geotile.errors import ArgumentError
from geotile.options import EndpointKeywords

Completion = Callable[[str], list[str]]
_BREAKS = re.compile("[=:]+")  # where bash cuts words
_VARIABLE = "_GEOTILE_COMPLETE"  # in which the script that typer installs asks


def one_of(*values: str) -> Completion:
    """Return a completion of a fixed set of values.

    Examples
    --------
    >>> one_of("seam", "soft-nms", "nms")("s")
    ['seam', 'soft-nms']
    """
    return lambda incomplete: _that_start(values, incomplete)


def file_named(*suffixes: str) -> Completion:
    """Return a completion of the suffix of a file; without a dot the shell completes the path.

    Examples
    --------
    >>> file_named(".geojson", ".geojsonl", ".gpkg")("out/found.geo")
    ['out/found.geojson', 'out/found.geojsonl']
    >>> file_named(".geojson", ".geojsonl", ".gpkg")("out/fou")
    []
    """

    def complete(incomplete: str) -> list[str]:
        folder, slash, name = incomplete.rpartition("/")
        stem, dot, _ = name.partition(".")
        return _that_start([f"{folder}{slash}{stem}{each}" for each in suffixes], incomplete) if dot and stem else []

    return complete


def endpoint_option(incomplete: str) -> list[str]:
    """Complete ``NAME=VALUE`` of an option of the endpoint.

    Examples
    --------
    >>> endpoint_option("batch")
    ['batch_size=']
    >>> endpoint_option("family=yolov5")
    ['family=yolov5']
    """
    return _that_start([text for each in described(EndpointKeywords).items() for text in _given(*each)], incomplete)


VALUES: dict[str, Completion] = {"merge": one_of(*MERGE_NAMES)}
"""Completions of options whose values are written as text."""


@contextmanager
def whole_words() -> Iterator[None]:
    """Let words with = and : be completed in bash, which cuts them there: ``-O family=yolo``."""
    if os.environ.get(_VARIABLE) != "complete_bash":
        yield
        return
    given, at = os.environ.get("COMP_WORDS"), os.environ.get("COMP_CWORD", "")
    if given is None or not at.isdigit():
        raise ArgumentError(f"{_VARIABLE} must be set with COMP_WORDS and COMP_CWORD, as bash does it. Unset it")
    words, cut = _joined(given.split("\n")[: int(at) + 1])
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    finally:
        sys.stdout.writelines(line.removeprefix(cut) for line in said.getvalue().splitlines(keepends=True))


def _joined(parts: Iterable[str]) -> tuple[list[str], str]:
    """Return whole words of the parts that bash makes, and what of the last word lies before its last part."""
    words, cut, open_ = [""], "", False
    for part in parts:
        breaks = _BREAKS.fullmatch(part) is not None
        cut = words[-1] + (part if breaks else "") if breaks or open_ else ""
        words = [*words[:-1], words[-1] + part] if breaks or open_ else [*words, part]
        open_ = breaks
    return words[1:], cut


def _given(name: str, info: OptionInfo) -> Iterable[str]:
    """Return an option with each value that it takes, or without one."""
    if name == "family":
        from geotile.detectors import FAMILIES

        return [f"family={each}" for each in ("auto", *sorted(FAMILIES))]
    return [f"{name}={each}" for each in ("true", "false")] if info.type_text == "bool" else [f"{name}="]


def _that_start(values: Iterable[str], incomplete: str) -> list[str]:
    return [each for each in values if each.startswith(incomplete)]
