"""The prose of the documentation: the README, the pages and the public docstrings, as sentences with their places."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import geotile
import geotile.detectors
import geotile.errors
import geotile.testing

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_MARKUP = (
    (re.compile(r"^```.*?^```$|<!--.*?-->", re.DOTALL | re.MULTILINE), ""),  # code and comments
    (re.compile(r"^:::.*$|^:[a-z-]+:.*$", re.MULTILINE), "\n\n"),  # directives of the site
    (re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)"), r"\1"),  # links are their text
    (re.compile(r"``.+?``|`[^`]+`"), "CODE"),
    (re.compile(r"[*_]{2}|^#+ |^ *(?:[-*]|\d+\.) ", re.MULTILINE), "\n\n"),
)
_END = re.compile(r"(?<=[.?!:;])[\"')]*\s+|\n\s*\n|\s*\|\s*")
_SECTION = re.compile(r"^[A-Z][A-Za-z ]+\n-{3,}$", re.MULTILINE)


@dataclass(frozen=True)
class Sentence:
    """A sentence, and where it stands."""

    place: str
    text: str

    @property
    def words(self) -> list[str]:
        """Words, in their order."""
        return re.findall(r"[\w'-]+", self.text)


def sentences(text: str, place: str) -> list[Sentence]:
    """Return the sentences of Markdown or of a docstring; a part before a colon or a semicolon counts as one."""
    for pattern, put in _MARKUP:
        text = pattern.sub(put, text)
    return [Sentence(place, " ".join(each.split())) for each in _END.split(text) if each and each.strip()]


def pages() -> list[Sentence]:
    """Return the sentences of the README and the pages."""
    return [each for path in PAGES for each in sentences(path.read_text("utf-8"), str(path.relative_to(ROOT)))]


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield the public objects by name, with their docstrings; of classes also those of methods and properties."""
    for module in (geotile, geotile.errors, geotile.testing, geotile.detectors):
        for name in getattr(module, "__all__", None) or [n for n in vars(module) if n[0].isupper()]:
            value = getattr(module, name)
            yield f"{module.__name__}.{name}", inspect.getdoc(value) or ""
            for part, member in vars(value).items() if inspect.isclass(value) else ():
                if not part.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                    yield f"{module.__name__}.{name}.{part}", inspect.getdoc(member) or ""


def prose(docstring: str) -> str:
    """Return a docstring without its examples and the titles of its sections; descriptions of parameters stand alone."""
    text = re.sub(r"^ *(?:>>>|\.\.\. ).*(?:\n(?!\s*$).*)*", "", docstring, flags=re.MULTILINE)
    text = _SECTION.sub("", text)
    return re.sub(r"^(\*{0,2}\w[\w, *]*) : .*$|^(\w[\w. ]*)$(?=\n    )", "\n", text, flags=re.MULTILINE)


def messages() -> Iterator[Sentence]:
    """Yield the texts of the errors that geotile raises."""
    for path, node in _nodes(ast.Raise):
        parts = [
            each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        yield Sentence(f"{path}:{node.lineno}", " ".join(parts))


def fields() -> Iterator[Sentence]:
    """Yield the docstrings of the fields of classes."""
    for path, node in _nodes(ast.ClassDef):
        for before, each in itertools.pairwise(node.body):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
            ):
                yield Sentence(f"{path}:{each.lineno}", str(each.value.value))


def _nodes(kind: type[ast.AST]) -> Iterator[tuple[Path, Any]]:
    for path, tree in _trees():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, kind))


@cache
def _trees() -> list[tuple[Path, ast.Module]]:
    return [(p.relative_to(ROOT), ast.parse(p.read_text("utf-8"))) for p in sorted((ROOT / "geotile").rglob("*.py"))]
