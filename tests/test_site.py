"""What the documentation is made of; `test_programs.py` builds the site, with notebooks that were run."""

import re
import runpy

from site_builder import ROOT


def test_the_gallery_has_each_notebook():
    named = re.findall(r"\.\./notebooks/([\w-]+\.ipynb)", (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_the_diagrams_are_those_that_the_script_draws(tmp_path, monkeypatch):
    draw = runpy.run_path(str(ROOT / "docs" / "images" / "draw.py"))
    for name in ("tile_ownership", "halo", "exposed", "tree", "seams", "concurrency"):
        monkeypatch.setitem(draw[name].__globals__, "HERE", tmp_path)
        draw[name]()
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert len(drawn) == 6
    for name, text in drawn.items():
        assert text == (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")


def test_the_example_of_the_design_pages_prints_what_it_shows(capsys):
    text = (ROOT / "docs" / "design" / "tiles.md").read_text(encoding="utf-8")
    exec(compile(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], "tiles.md", "exec"), {})
    assert capsys.readouterr().out == re.findall(r"```text\n(.*?)```", text, re.DOTALL)[0]
