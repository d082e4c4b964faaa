"""The documentation builds without a warning, and each public name has a page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import geotile

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_and_has_all_public_names(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "searchindex.js").stat().st_size > 10_000
    for name in geotile.__all__:
        page = (tmp_path / f"reference/generated/geotile.{name}.html").read_text(encoding="utf-8")
        assert f"geotile.{name}" in page
    _check_links(tmp_path)


def _check_links(site):
    """Check that links lead to files of the site, and that nothing is loaded from elsewhere."""
    for page in (each for each in site.rglob("*.html") if "_static" not in each.parts):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if "://" not in link and not link.startswith(("mailto:", "data:")):
                assert (page.parent / link).exists(), (page, link)
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+', text), page
