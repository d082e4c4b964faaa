"""The blocks of code on the README and on all pages run, or are checked; the pages have pictures of what they compute."""

import os
import re
from contextlib import ExitStack
from pathlib import Path

import dask
import documentation as docs
import documentation_parts as parts
import page_pictures
import pytest

from geotile.core.choices import MERGE_NAMES

DOCS = docs.ROOT / "docs"
PICTURES = Path(given).resolve() if (given := os.environ.get("PAGE_PICTURES")) else None  # draw them there
LOOK_UP = {"what-geotile-reads", "troubleshooting", "faults"}  # tables, without a picture


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with parts.store(tmp_path_factory.mktemp("store")) as environment:
        yield environment


@pytest.fixture
def around(request, tmp_path, monkeypatch):
    """Return a function that starts what a text names, in an empty current folder; it returns what replaces names."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack, dask.config.set(num_workers=2):  # pages do not depend on the number of processors

        def start(text):
            replaced = {}
            if "s3://" in text:
                given = request.getfixturevalue("store")
                for name, value in given.items():
                    monkeypatch.setenv(name, value)
                replaced[parts.PRIVATE] = given["AWS_ENDPOINT_URL"]
            for url in filter(text.__contains__, parts.MODELS):
                replaced[url] = stack.enter_context(parts.MODELS[url]()).url
            if parts.OIP in text:
                replaced[parts.OIP] = stack.enter_context(parts.triton())
            if "sagemaker://" in text:
                for name, value in stack.enter_context(parts.sagemaker()).items():
                    monkeypatch.setenv(name, value)
            if parts.SCHEDULER in text:
                replaced[parts.SCHEDULER] = request.getfixturevalue("workers").scheduler.address
            for name in filter(text.__contains__, parts.FILES):
                parts.FILES[name](tmp_path)
            return replaced

        yield start


RUNNING = [page for page in docs.PAGES if any(block.language in docs.RUN for block in docs.blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_and_print_what_it_shows(page, around, tmp_path):
    text = "".join(block.text for block in docs.blocks(page) if block.language in docs.RUN)
    names = docs.run(page, around(text))
    if page.stem in page_pictures.PICTURES:
        page_pictures.save(page.stem, names, PICTURES or tmp_path, dots_per_inch=110 if PICTURES else 20)


def test_pictures_are_small_and_drawn_from_pages():
    for page in page_pictures.PICTURES:
        assert (DOCS / "images" / f"{page}.jpg").stat().st_size < 150_000


@pytest.mark.parametrize("page", docs.PAGES, ids=lambda page: str(page.relative_to(docs.ROOT)))
def test_blocks_that_do_not_run_are_checked(page):
    assert not re.search(r"^ +```|^~~~", page.read_text(encoding="utf-8"), re.MULTILINE), (
        "a block that would not be found"
    )
    for block in docs.blocks(page):
        assert block.language in docs.LANGUAGES, f"{block.page}:{block.line}"
        docs.check(block)


@pytest.mark.parametrize(
    ("language", "wrong"),
    [
        ("py", "geotile.detect('a.tif', 'onnx:m', tilesize=3)"),
        ("py", "geotile.detekt('a.tif', 'onnx:m')"),
        ("py", "from geotile import Nms\nNms(threshhold=3)"),
        ("sh", "geotile detect a.tif onnx:m -o b.parquet --tilesize 3"),
        ("sh", "geotile detekt a.tif"),
        ("sh", "pip install '.[colour]'"),
        ("sh", "pip install 'geotile[demo]'"),
        ("sh", "for"),
        ("json", "{"),
    ],
)
def test_the_checks_find_what_is_wrong(language, wrong):
    with pytest.raises((AssertionError, AttributeError, TypeError, ValueError, docs.UsageError)):
        docs.check(docs.Block("page.md", 1, language, wrong, None))


HOW_TO = re.findall(r"^([\w-]+)$", (DOCS / "how-to.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", sorted({*HOW_TO} - LOOK_UP))
def test_a_page_of_a_task_runs_and_has_a_picture(name):
    page = DOCS / f"{name}.md"
    assert page in RUNNING
    assert re.search(r"^!\[\w[^\]]{20,}\]\(images/", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_page_is_in_the_contents():
    named = {*HOW_TO, "how-to"}
    for index in ("index.md", "start.md", "reference/index.md"):
        named |= set(re.findall(r"^([\w/-]+)$", (DOCS / index).read_text(encoding="utf-8"), re.MULTILINE))
    assert {path.stem for path in DOCS.glob("*.md")} - named <= {"index", "deploy", "security", "from-oversightml"}


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


def test_the_table_of_merges_has_each_name():
    text = (DOCS / "merging-and-shapes.md").read_text(encoding="utf-8")
    for name in MERGE_NAMES:
        assert f'| `"{name}"`' in text
