"""Each row of the table of faults names a test that exists, and options that exist."""

import re
from pathlib import Path

import pytest

from geotile.core.option import option_names
from geotile.options import DetectToKeywords, EndpointKeywords, HttpOptions, OnnxOptions, ServiceOptions

HERE = Path(__file__).parent
TEXT = (HERE.parent / "docs" / "faults.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| What goes")]
FLAGS = {"allow_endpoint", "allow_image", "allow_output", "option", "page_host"}
KNOWN = option_names(DetectToKeywords, EndpointKeywords, HttpOptions, OnnxOptions, ServiceOptions) | FLAGS
INSIDE = {"timeout", "total_timeout"}  # of storage_options


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_a_test_and_options(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 4
    assert all(cells)
    file, test = re.search(r"<!-- (test_\w+\.py)::(test_\w+) -->$", cells[3]).groups()
    assert re.search(rf"^def {test}\(", (HERE / file).read_text(), re.MULTILINE), row
    options = {name.removeprefix("--").replace("-", "_") for name in re.findall(r"`([\w-]+)`", cells[3])}
    assert options <= KNOWN | INSIDE, options - KNOWN


def test_each_part_of_the_system_has_rows():
    assert TEXT.count("\n## ") == 6
    assert len(ROWS) > 50
