"""The examples of the documentation run, in their order."""

import re
from pathlib import Path

import pytest

from geotile.core.choices import MERGE_NAMES

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["merging-and-shapes.md"])
def test_the_examples_of_a_page_run(page, capsys):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 2
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    shown = re.findall(r"^# (.+ ship 0)$", text, re.MULTILINE)
    assert capsys.readouterr().out.split("\n")[:-1] == shown
    row = names["ships"].iloc[0]
    assert (round(row.angle_deg, 1), round(row.length_m, 1), round(row.width_m, 1)) == (30.0, 9.0, 3.0)


def test_the_example_of_the_readme_prints_what_it_shows(capsys):
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    exec(compile(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1], "README.md", "exec"), {})
    assert capsys.readouterr().out == re.findall(r"```text\n(.*?)```", text, re.DOTALL)[0]


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code():
    """Each in one piece of a message, between what the message fills in."""
    code = "".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "geotile").rglob("*.py"))
    code = re.sub(r'"\s*f?"', "", re.sub(r"\{[^{}]*\}", "...", code))
    rows = re.findall(r"^\| `([^`]+)`", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 15
    for message in rows:
        pieces = [
            piece.strip(" :;?.") for piece in re.split(r"\.\.\.|scene\.tif|'tilesize'|'tile_size'|\d{3}", message)
        ]
        for piece in filter(None, pieces):
            assert piece in code, (message, piece)


def test_the_example_of_the_results_page_prints_what_it_shows(capsys):
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    exec(compile(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], "results.md", "exec"), {})
    assert capsys.readouterr().out == re.findall(r"```text\n(.*?)```", text, re.DOTALL)[0]


def test_the_table_of_merges_has_each_name():
    text = (DOCS / "merging-and-shapes.md").read_text(encoding="utf-8")
    for name in MERGE_NAMES:
        assert f'| `"{name}"`' in text


def test_the_examples_of_rasters_print_what_the_page_shows(capsys):
    text = (DOCS / "rasters-and-embeddings.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "rasters-and-embeddings.md", "exec"), names)
    assert capsys.readouterr().out == "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
