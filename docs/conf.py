"""Settings of the documentation: ``sphinx-build -W docs site`` (``pip install -e '.[docs]'``)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import geotile

sys.path.insert(0, str(Path(__file__).parent))
import gallery  # in this folder

project = "geotile"
author = "The geotile authors"
version = release = geotile.__version__
extensions = [
    "myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_copybutton", "sphinx_design",
]  # fmt: skip
exclude_patterns = ["*.py"]
nb_execution_mode = "off"  # gallery.py has run them
nb_merge_streams = True
nb_ipywidgets_js: dict[str, Any] = {}  # nothing is loaded from elsewhere
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
    "design/architecture": "ARCHITECTURE.md", "from-oversightml": "deploy/from-oversightml.md",
    "security": "SECURITY.md",
}  # fmt: skip
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#:]+)(#[^)]*)?\)")


def _read(app: Any, page: str, source: list[str]) -> None:
    """Take the text of a page from where it lies, and make its links those of the site."""
    if page.startswith("notebooks/"):
        return
    path = _ROOT / _PAGES[page] if page in _PAGES else _ROOT / "docs" / f"{page}.md"
    if page == "gallery":
        source[0] = gallery.cards(source[0])
    if page in _PAGES:
        source[0] = path.read_text(encoding="utf-8")
    source[0] = _LINK.sub(lambda found: _link(found, path.parent), source[0])


def _link(found: re.Match[str], folder: Path) -> str:
    """Return a link to a page of the site; only the text of the link if its target is not a page."""
    text, target, anchor = found[1], (folder / found[2]).resolve(), found[3] or ""
    pages = {(_ROOT / path).resolve(): f"{page}.md" for page, path in _PAGES.items()}
    if target.parent == gallery.SOURCES and target.exists():
        return f"[{text}](/notebooks/{target.name})"
    if target in pages:
        return f"[{text}](/{pages[target]}{anchor})"
    inside = target.is_relative_to(_ROOT / "docs") and target.exists()
    return f"[{text}](/{target.relative_to(_ROOT / 'docs')}{anchor})" if inside else text


def setup(app: Any) -> None:
    """Connect the hooks."""
    gallery.prepare()
    app.connect("source-read", _read)
