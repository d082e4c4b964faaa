"""``geotile help``: the pages of the documentation in the terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import cli

from geotile.cli.help import page, pages_with, topics

DOCS = Path(__file__).parents[1] / "docs"


def test_each_page_of_the_site_is_a_topic_with_a_line():
    listed = cli("help").stdout
    for index in ("start", "how-to"):
        contents = re.search(r"```\{toctree\}\n(?::.*\n)*\n((?:[\w-]+\n)+)```", (DOCS / f"{index}.md").read_text())
        for name in contents[1].split():
            assert re.search(rf"^{name} +{re.escape(topics()[name])}$", listed, re.MULTILINE), name
    for name in topics():
        assert page(name).startswith("# ")
        assert "```{" not in page(name)


def test_a_page_is_printed_as_it_was_written_where_there_is_no_terminal():
    shown = cli("help", "results").stdout
    assert shown.startswith("# Read the result\n")
    assert (DOCS / "results.md").read_text().splitlines()[4] in shown  # a row of a table, unwrapped
    assert "\x1b" not in shown


def test_links_name_the_command_that_shows_the_page():
    assert "[the service]" not in page("command-line")
    assert "the service (`geotile help service`)" in page("command-line")
    assert "](" not in page("service")  # links to what is not a topic are their text
    assert "https://github.com/awslabs/osml-model-runner" in page("models")


def test_a_command_shows_its_options():
    shown = cli("help", "plan").stdout
    assert "geotile plan [OPTIONS]" in shown
    assert "--tile-size" in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [("imges", "did you mean 'images'?"), ("Clussters", "did you mean 'clusters'?"), ("xyzzy", "there are installation, first-run")],
)  # fmt: skip
def test_an_unknown_topic_names_the_nearest(given, said):
    assert f"no help about '{given}'; {said}" in cli("help", given, status=2).stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["segmentation"], "rasters-and-embeddings"), (["class", "maps"], "rasters-and-embeddings"),
        (["Image"], "images"), (["seam"], "merging-and-shapes"), (["SQS"], "queue"), (["bucket", "profile"], "object-storage"),
    ],
)  # fmt: skip
def test_words_are_looked_for_in_the_pages(words, found):
    pages = pages_with(words)
    assert 1 <= len(pages) <= 8
    assert found is None or found in pages
    listed = cli("help", *words).stdout
    assert all(re.search(rf"^{name} ", listed, re.MULTILINE) for name in pages)
    assert f"These pages have the words '{' '.join(words)}'" in listed


def test_a_page_is_found_by_the_words_of_its_name():
    assert cli("help", "object", "storage").stdout == cli("help", "object-storage").stdout


@pytest.mark.slow
def test_a_terminal_gets_the_page_in_a_pager(tmp_path):
    controller, terminal = pty.openpty()
    seen = tmp_path / "seen"
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "PAGER": f"cat > {seen}"}
    done = subprocess.run(
        [sys.executable, "-m", "geotile", "help", "models"], stdin=terminal, stdout=terminal, env=environment
    )
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 0
    text = seen.read_text()
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert plain != text  # it has colours
    assert "| endpoint |" not in plain  # tables are drawn
    assert max(map(len, plain.splitlines())) <= 80
