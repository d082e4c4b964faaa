"""Settings of the documentation: ``sphinx-build -W docs site`` (``pip install -e '.[docs]'``)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import geotile

project = "geotile"
author = "The geotile authors"
version = release = geotile.__version__
extensions = [
    "myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_copybutton", "sphinx_design",
]  # fmt: skip
exclude_patterns = ["conf.py"]
default_role = "autolink"  # a name in backticks is a link if there is such an object
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # numpydoc lists the types
numpydoc_show_class_members = False
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = f"geotile {version}"
html_theme_options = {
    "navigation_with_keys": True, "show_nav_level": 2, "navbar_align": "left", "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"], "footer_end": [],
}  # fmt: skip
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["geotile.css"]
copyright = "The geotile authors. Apache-2.0"

_ROOT = Path(__file__).resolve().parents[1]
_PAGES = {  # pages whose text lies elsewhere in the repository
    "benchmarks": "benchmarks/README.md", "changelog": "CHANGELOG.md", "deploy": "deploy/README.md",
    "from-oversightml": "deploy/from-oversightml.md", "security": "SECURITY.md",
}  # fmt: skip
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#:]+)(#[^)]*)?\)")


def _read(app: Any, page: str, source: list[str]) -> None:
    """Take the text of a page from where it lies, and make its links those of the site."""
    path = _ROOT / _PAGES[page] if page in _PAGES else _ROOT / "docs" / f"{page}.md"
    if page in _PAGES:
        source[0] = path.read_text(encoding="utf-8")
    source[0] = _LINK.sub(lambda found: _link(found, path.parent), source[0])


def _link(found: re.Match[str], folder: Path) -> str:
    """Return a link to a page of the site; only the text of the link if its target is not a page."""
    text, target, anchor = found[1], (folder / found[2]).resolve(), found[3] or ""
    pages = {(_ROOT / path).resolve(): f"{page}.md" for page, path in _PAGES.items()}
    if target in pages:
        return f"[{text}](/{pages[target]}{anchor})"
    inside = target.is_relative_to(_ROOT / "docs") and target.exists()
    return f"[{text}](/{target.relative_to(_ROOT / 'docs')}{anchor})" if inside else text


def setup(app: Any) -> None:
    """Connect the hooks."""
    app.connect("source-read", _read)
