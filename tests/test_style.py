"""The documentation is written in one voice: short sentences, standard terms, and none of the words listed here."""

import re

import documentation_style as style
import pytest

_MOST_WORDS = 40
AVOIDED = {
    r"\bgo(?:es|ing|ne)? on\b|\bwent on\b": "resume, or continue",
    r"\bwaited for\b": "geotile waits for",
    r"\bpatience\b|\bborne\b": "retry policy",
    r"\bmay pass\b": "retryable",
    r"\bgrant(?:s|ed)?\b": "allowance",
    r"\bis told\b": "is inferred, or fails with an error",
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b)": "is not a",
    r"\b\w+n't\b": "the words in full",
    r"\be\.g\.|\bi\.e\.|\betc\.": "for example, that is, and so on",
    r"\b(?:simply|just|easily|obviously|of course)\b": "nothing",
    r"\b(?:we|our|ours)\b": "geotile",
}


@pytest.fixture(scope="module")
def texts():
    docstrings = [each for name, text in style.docstrings() for each in style.sentences(style.prose(text), name)]
    return style.pages() + docstrings


@pytest.fixture(scope="module")
def in_code():
    return [*style.messages(), *style.fields()]


def test_sentences_are_short(texts):
    assert len(texts) > 3000
    assert not [each for each in texts if len(each.words) > _MOST_WORDS]


@pytest.mark.parametrize("avoided", AVOIDED)
def test_standard_terms_are_used(avoided, texts, in_code):
    found = [each for each in texts + in_code if re.search(avoided, each.text)]
    assert not found, f"write: {AVOIDED[avoided]}"


def test_a_docstring_of_a_field_is_a_noun_phrase():
    found = list(style.fields())
    assert len(found) > 300
    assert not [each for each in found if re.match(r"(?:Of|That|Is|Has|It)\b", each.text)]


def test_nothing_installs_another_package_named_geotile():
    """geotile is not on PyPI, and another package there has its name."""
    paths = [*style.PAGES, *(style.ROOT / "notebooks").glob("*.ipynb"), *(style.ROOT / "geotile").rglob("*.py")]
    found = [path for path in paths if re.search(r"pip install '?geotile(?:\[|'|\Z|$)", path.read_text("utf-8"), re.M)]
    assert not found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "A *word*. See [the page](a.md) of\n`code`.\n\n```py\nno prose\n```\n",
            ["A *word*.", "See the page of CODE."],
        ),
        ("| a | b |\n|---|---|\n| One cell. | two |", ["a", "b", "---", "---", "One cell.", "two"]),
        ("- one\n- two <!-- not this -->", ["one", "two"]),
    ],
)
def test_sentences_are_found_in_markdown(text, said):
    assert [each.text for each in style.sentences(text, "page")] == said


def test_examples_and_types_are_not_prose():
    text = "Return it.\n\nParameters\n----------\na : int\n    Number.\n\nExamples\n--------\n>>> f(1)\n2\n"
    assert [each.text for each in style.sentences(style.prose(text), "f")] == ["Return it.", "Number."]
