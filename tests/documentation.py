"""The blocks of code of the documentation: found, run in their order, or checked.

Blocks of ``python``, ``bash`` and ``sql`` run, those of a page in one folder and one namespace; a block of ``text``
right after one is what it prints. Blocks of ``py`` and ``sh`` need what the tests do not have, so they are checked:
Python is parsed and its calls are bound to the signatures of what they call, and commands of ``geotile`` are parsed by
its command line. Blocks of ``json`` and ``toml`` are parsed.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from helpers import cli

from geotile.cli.main import app

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("README.md", "SECURITY.md", "benchmarks/README.md", "deploy/README.md", "deploy/from-oversightml.md")
PAGES = [*(ROOT / name for name in ELSEWHERE), *sorted((ROOT / "docs").rglob("*.md"))]
RUN, CHECKED, DATA = ("python", "bash", "sql"), ("py", "sh"), ("json", "toml")
LANGUAGES = {*RUN, *CHECKED, *DATA, "dockerfile", "text"}
UsageError: Any = typer.BadParameter.__base__
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: str
    line: int
    language: str
    text: str
    printed: str | None
    """The text that follows it as its output."""


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page in their order; those of directives are left out."""
    text = path.read_text(encoding="utf-8")
    found = [each for each in _FENCE.finditer(text) if not each[1].startswith("{")]
    made = []
    for k, each in enumerate(found):
        following = found[k + 1] if k + 1 < len(found) else None
        is_output = (
            following is not None and following[1] == "text" and not text[each.end() : following.start()].strip()
        )
        printed = following[2] if is_output and each[1] != "text" else None
        made.append(Block(path.name, text.count("\n", 0, each.start()) + 1, each[1], each[2], printed))
    return made


def run(page: Path, replaced: dict[str, str]) -> dict[str, Any]:
    """Run the blocks of a page in the current folder and compare what they print; return the names that they made.

    `replaced` has what stands for the addresses on the page: those of servers of the test.
    """
    names: dict[str, Any] = {"__name__": page.stem}  # what follows `if __name__ == "__main__"` does not run
    for block in blocks(page):
        if block.language in RUN:
            shown = _run_block(block, _with(block.text, replaced), names)
            for given, put in replaced.items():
                shown = shown.replace(put, given)
            wanted = "" if block.printed is None else block.printed
            assert _agree(wanted, shown), f"{block.page}:{block.line} prints\n{shown}"
    return names


def _with(text: str, replaced: dict[str, str]) -> str:
    for given, put in replaced.items():
        text = text.replace(given, put)
    return text


def _agree(wanted: str, shown: str) -> bool:
    """Return whether an output is as the page has it; ``...`` there stands for any text, such as a time."""
    return doctest.OutputChecker().check_output(*map(_stripped, (wanted, shown)), optionflags=doctest.ELLIPSIS)


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def _run_block(block: Block, text: str, names: dict[str, Any]) -> str:
    if block.language == "bash":
        return "".join(_run_command(command) for command in commands(text))
    if block.language == "sql":
        import duckdb

        return "".join(str(found) for each in text.split(";") if each.strip() and (found := duckdb.sql(each)))
    out = io.StringIO()
    code = compile("\n" * block.line + text, str(block.page), "exec")
    with redirect_stdout(out):
        exec(code, names)
    return out.getvalue()


def _run_command(command: str) -> str:
    """Run a command: one of geotile in this process, since starting one takes two seconds, all others in bash."""
    words = shlex.split(command, comments=True)
    if words[:1] == ["geotile"]:
        return cli(*words[1:]).stdout
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def commands(text: str) -> list[str]:
    """Return the commands of a block: lines, with those that a backslash or a here-document continues."""
    found: list[str] = []
    end = None
    for line in text.splitlines():
        if end is not None or (found and found[-1].endswith("\\")):
            found[-1] = found[-1].removesuffix("\\") + ("\n" if end else "") + line
            end = None if line == end else end
        elif line.strip() and not line.startswith("#"):
            found.append(line)
            here = re.search(r"<<'?(\w+)'?", line)
            end = here[1] if here else None
    return found


def check(block: Block) -> None:
    """Check a block that is not run, as far as that is possible."""
    if block.language == "py":
        _Calls().visit(ast.parse(block.text))
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "dockerfile":
        _lint_dockerfile(block.text)
    elif block.language == "sh":
        assert subprocess.run(["bash", "-n"], input=block.text, text=True).returncode == 0, block
        for command in commands(block.text):
            _check_command(command.partition("<<")[0])


def _lint_dockerfile(text: str) -> None:
    if (hadolint := Path(sys.executable).with_name("hadolint")).exists():  # a binary for Linux on x86-64
        done = subprocess.run([hadolint, "-"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def _check_command(command: str) -> None:
    lexer = shlex.shlex(command, posix=True, punctuation_chars="&|;()<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word.strip("&|;()<>"):
            words.append(word)
            continue
        if words[:1] == ["geotile"]:
            _parse(words[1:])
        assert not re.search(r"(?<![\w/-])geotile\[", " ".join(words)), "geotile is not on PyPI; install '.[extra]'"
        for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
            assert set(extras.split(",")) <= _EXTRAS, extras
        words = []


def _parse(words: list[str]) -> None:
    """Parse arguments by geotile's own command line: unknown commands, flags and values raise a usage error."""
    group: Any = typer.main.get_command(app)
    if words[:1] and words[0].startswith("-"):
        assert words[0] in {flag for parameter in group.params for flag in parameter.opts}, words[0]
        return
    with group.make_context("geotile", list(words), resilient_parsing=True) as context:
        name, command, rest = group.resolve_command(context, list(words))
        assert command is not None, f"geotile has no command {words[0]}"
        with command.make_context(name, rest, parent=context):
            pass


class _Calls(ast.NodeVisitor):
    """Binds the arguments of calls to the signatures of the objects that names and attributes of modules lead to."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"geotile": importlib.import_module("geotile")}

    def visit_Import(self, node: ast.Import) -> None:
        for each in node.names:
            root = each.name.partition(".")[0]
            if importlib.util.find_spec(root):
                module = importlib.import_module(each.name)
                self.names[each.asname or root] = module if each.asname else importlib.import_module(root)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if importlib.util.find_spec(node.module.partition(".")[0]):
            module = importlib.import_module(node.module)
            self.names |= {each.asname or each.name: getattr(module, each.name) for each in node.names}

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called = self._object(node.func)
        if called is None:
            return
        unpacked = any(isinstance(each, ast.Starred) for each in node.args) or any(k.arg is None for k in node.keywords)
        signature = inspect.signature(called)
        bind = signature.bind_partial if unpacked else signature.bind
        bind(
            *[each for each in node.args if not isinstance(each, ast.Starred)],
            **{each.arg: each.value for each in node.keywords if each.arg},
        )

    def _object(self, node: ast.expr) -> Any:
        """Return what a name or an attribute of a module is; None where that is not known before it runs."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute) and inspect.ismodule(owner := self._object(node.value)):
            return getattr(owner, node.attr)  # an AttributeError is what the test looks for
        return None
