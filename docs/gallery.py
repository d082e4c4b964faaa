"""The notebooks of the site: each is run once, and the gallery shows the last picture of each.

A notebook is run when the site is built, and again only when it has changed. What was run lies in ``docs/notebooks/``;
remove that folder to run all of them again. The variable ``GEOTILE_NOTEBOOKS`` names a folder of notebooks that are
shown as they are.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import tempfile
from pathlib import Path

import nbformat

_ROOT = Path(__file__).resolve().parents[1]
SOURCES, RUN = _ROOT / "notebooks", _ROOT / "docs" / "notebooks"
_WIDTH_PX = 640  # of a picture of the gallery
_ITEM = re.compile(r"^- \[([^\]]+)\]\(\.\./notebooks/([\w-]+)\.ipynb\): ((?:.+\n)+?)(?=- |\n|\Z)", re.MULTILINE)


def prepare() -> None:
    """Put the notebooks, with their outputs and their pictures, where Sphinx finds them."""
    RUN.mkdir(exist_ok=True)
    for old in RUN.glob("*.ipynb"):
        if not (SOURCES / old.name).exists():
            old.unlink()
    given = os.environ.get("GEOTILE_NOTEBOOKS")
    for source in sorted(SOURCES.glob("*.ipynb")):
        target = RUN / source.name
        if given:
            notebook = nbformat.read(Path(given) / source.name, as_version=4)
        elif _was_run(source, target):
            continue
        else:
            notebook = run(source)
        nbformat.write(notebook, target)
        _draw(notebook, target.with_suffix(".png"))


def run(source: Path, folder: Path | None = None) -> nbformat.NotebookNode:
    """Return a notebook with its outputs, run in a folder, by default a temporary one."""
    from nbclient import NotebookClient

    notebook = nbformat.read(source, as_version=4)
    with tempfile.TemporaryDirectory() as place:
        resources = {"metadata": {"path": str(folder or place)}}
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    notebook.metadata["source_digest"] = _digest(source)
    return notebook


def cards(text: str) -> str:
    """Return the text of the gallery with a card in place of each item of its list, and a table of contents."""
    items = _ITEM.findall(text)
    grid = ["::::{grid} 1 2 2 3", ":gutter: 3", ""]
    for title, name, said in items:
        grid += [f":::{{grid-item-card}} {title}", f":link: notebooks/{name}", ":link-type: doc"]
        if (RUN / f"{name}.png").exists():
            grid += [f":img-top: notebooks/{name}.png", f":img-alt: last picture of the notebook {name}"]
        grid += ["", said.strip()[:1].upper() + said.strip()[1:], ":::"]
    toc = ["```{toctree}", ":hidden:", "", *(f"notebooks/{name}" for _, name, _ in items), "```"]
    first, last = text.index("- ["), list(_ITEM.finditer(text))[-1].end()
    return text[:first] + "\n".join([*grid, "::::", "", *toc, ""]) + text[last:]


def _digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _was_run(source: Path, target: Path) -> bool:
    if not target.exists():
        return False
    digest = nbformat.read(target, as_version=4).metadata.get("source_digest")
    return bool(digest == _digest(source))


def _draw(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the last picture of a notebook, smaller; none if it has no pictures, since it was not run."""
    from PIL import Image

    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [data["image/png"] for data in outputs if "image/png" in data]
    path.unlink(missing_ok=True)
    if pictures:
        with Image.open(io.BytesIO(base64.b64decode(pictures[-1]))) as picture:
            picture.thumbnail((_WIDTH_PX, 4 * _WIDTH_PX))
            picture.save(path)
