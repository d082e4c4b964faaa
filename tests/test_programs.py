"""Programs that take long: notebooks, benchmarks, mypy. Three run at a time, while the tests wait for them in turn."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import pytest
from site_builder import built_site, check_links

import geotile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # a test may wait for those that were started before

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import gallery  # noqa: E402 - of the documentation

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BENCHMARKS = {
    "local": ("compare.py", "local", "--size", "1024", "--rounds", "1"),
    "http": ("compare.py", "http", "--size", "1024", "--rounds", "1"),
    "kills": ("serve.py", "kills", "--kills", "1", "--kinds", "folder", "--size", "448"),
    "burst": ("serve.py", "burst", "--requests", "8", "--latency", "0.01"),
    "efficiency": ("endpoints.py", "efficiency", "--rounds", "1", "--sizes", "2048"),
    "scale": ("scale.py", "one", "--side", "8192", "--no-alone"),
    "adaptive": ("adaptive.py", "--size", "1024", "--every", "2", "--latency", "0.3"),
    "writing": ("writing.py", "--rows", "2_000", "--rounds", "1"),
    "chaos": ("chaos.py", "--seconds", "10"),
    "scale computed": ("scale.py", "one", "--side", "8192", "--computed"),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Futures of all programs by name: what a benchmark printed, or a notebook that was run."""
    programs = {path.name: partial(run_notebook, path, tmp_path_factory.mktemp(path.stem)) for path in NOTEBOOKS}
    programs["mypy"] = partial(run, "-m", "mypy")
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, (script, *words) in BENCHMARKS.items():
        more = ("--folder", folder / name) if script == "compare.py" else ()
        programs[name] = partial(run, ROOT / "benchmarks" / script, *words, *more)
    for name in ("local", "http"):
        (folder / name).mkdir()
    pool = ThreadPoolExecutor(3)  # one of them usually waits for a cluster to start
    yield {name: pool.submit(program) for name, program in programs.items()}
    pool.shutdown(cancel_futures=True)


def run(*words) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def run_notebook(path, folder):
    """Run a notebook as the build of the site does."""
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    return gallery.run(path, folder)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_and_end_in_a_picture(path, programs):
    notebook = programs[path.name].result()
    assert "image/png" in notebook.cells[-1].outputs[-1].get("data", {})
    said = [each["text"] for each in outputs(notebook) if each["output_type"] == "stream"]
    assert not [text for text in said if "Traceback" in text or "Warning: " in text]  # also of clusters that close


def test_the_notebooks_find_what_was_painted(programs):
    shapes = "".join(each.get("text", "") for each in outputs(programs["shapes.ipynb"].result()))
    assert re.search(r"seam: +90 detections, precision 1.00, recall 1.00", shapes)
    assert "3 roofs, 3 were painted" in shapes
    assert "68 vehicles, 68 were painted" in shapes
    first = "".join(each.get("text", "") for each in outputs(programs["first-steps.ipynb"].result()))
    assert "precision 1.000, recall 1.000" in first
    rasters = "".join(each.get("text", "") for each in outputs(programs["rasters.ipynb"].result()))
    apart, blended = re.findall(r"on average (\d+) of 255 beside the border", rasters)
    assert int(apart) < 0.6 * int(blended)  # there is a seam to see, and blending removes it
    service = outputs(programs["service.ipynb"].result())
    assert "SUCCESS north.tif" in "".join(each.get("text", "") for each in service)


def test_the_site_builds_and_shows_all_public_names_and_the_notebooks_that_were_run(programs, tmp_path):
    done = tmp_path / "done"
    done.mkdir()
    for path in NOTEBOOKS:
        nbformat.write(programs[path.name].result(), done / path.name)
    site = built_site(tmp_path, done)
    assert (site / "searchindex.js").stat().st_size > 10_000
    for name in geotile.__all__:
        page = (site / f"reference/generated/geotile.{name}.html").read_text(encoding="utf-8")
        assert f"geotile.{name}" in page
    shown = (site / "gallery.html").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f'src="_images/{path.stem}.png"' in shown
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert page.count('<div class="output') >= 2
    check_links(site)


def test_mypy_strict(programs):
    programs["mypy"].result()


@pytest.mark.parametrize("which", ["local", "http"])
def test_comparisons_run_small(which, programs):
    counts = re.findall(r"^(loop|geotile) .* (\d+)$", programs[which].result(), re.MULTILINE)
    assert {name for name, _ in counts[:2]} == {"loop", "geotile"}
    assert len({count for _, count in counts[:2]}) == 1


def test_the_service_benchmarks_run_small(programs):
    assert re.search(r"^folder +1 +1 +1 +[1-9]\d+ +0 ", programs["kills"].result(), re.MULTILINE)
    assert re.search(r"^fast, beside the slow ones +4 ", programs["burst"].result(), re.MULTILINE)


def test_workers_that_come_and_go_change_no_row(programs):
    assert re.match(r"SUCCESS: 121 tiles .* [1-9]\d* workers went, the same [1-9]", programs["adaptive"].result())


def test_the_benchmark_of_writing_runs_small(programs):
    printed = programs["writing"].result().splitlines()
    assert [line.split(",")[0] for line in printed] == ["GeoParquet", ".geojson", ".fgb"]
    assert re.search(r" \d+% of its speed; a part of 5 rows: [\d.]+ ms$", printed[0])


def test_no_request_is_lost_in_chaos(programs):
    assert re.search(r"^\d+ requests, none lost, none twice", programs["chaos"].result(), re.MULTILINE)


def test_the_efficiency_table_is_printed(programs):
    assert len(re.findall(r"^ +(?:50|5) ms +(?:1|8|64|auto) +25 ", programs["efficiency"].result(), re.MULTILINE)) == 8


@pytest.mark.parametrize("name", ["scale", "scale computed"])
def test_the_scale_benchmark_runs_small(name, programs):
    got = json.loads(programs[name].result().splitlines()[-1])
    assert got["tasks"] <= 12 * got["regions"]
    assert got["found"] == got["tiles"] > 0
    assert (got["moved_mb"] > 1) == (name == "scale computed")  # bytes between workers: a file's pixels never
