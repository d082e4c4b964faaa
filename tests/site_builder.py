"""Builds of the documentation, in a copy of what it is made of: two builds of one folder would disturb each other."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LEFT_OUT = shutil.ignore_patterns("generated", "__pycache__")


def built_site(folder, notebooks):
    """Build the site in a folder, with the notebooks of another folder as they are, and return where it is."""
    copy, site = folder / "copy", folder / "site"
    for name in ("docs", "deploy", "benchmarks", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=_LEFT_OUT)
    shutil.rmtree(copy / "docs" / "notebooks", ignore_errors=True)
    for path in ROOT.glob("*.md"):
        shutil.copy(path, copy)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", copy / "docs", site]
    environment = os.environ | {"GEOTILE_NOTEBOOKS": str(notebooks), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return site


def check_links(site):
    """Check that links lead to files of the site, and that nothing is loaded from elsewhere."""
    for page in (each for each in site.rglob("*.html") if "_static" not in each.parts):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if "://" not in link and not link.startswith(("mailto:", "data:")):
                assert (page.parent / link).exists(), (page, link)
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+', text), page
