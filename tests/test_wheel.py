"""What strangers install: the wheel and the sdist are built, checked, and run outside of the checkout."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import geopandas as gpd
import pytest

import geotile
from geotile.cli.help import topics

ROOT = Path(__file__).parents[1]


def run(*args, cwd=None):
    done = subprocess.run([*map(str, args)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of an sdist, and of a wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.slow
def test_the_metadata_are_what_an_index_accepts(built):
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        text = wheel.read(f"geotile-{geotile.__version__}.dist-info/METADATA").decode()
    metadata = Parser().parsestr(text)
    assert (metadata["Name"], metadata["Version"]) == ("geotile", geotile.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "cp3" not in only(built, "*.whl").name  # one wheel for all


@pytest.mark.slow
def test_the_wheel_has_the_files_of_the_package_and_the_pages_and_nothing_else(built):
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "geotile").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"geotile/py.typed", "geotile/__init__.pyi", "geotile/detectors/__init__.pyi"} <= package
    pages = {f"geotile/pages/{name}.md" for name in ("start", "how-to", *topics())}
    assert {name for name in names if not name.startswith("geotile/pages/")} == package
    assert {name for name in names if name.startswith("geotile/pages/")} == pages


@pytest.mark.slow
def test_the_sdist_has_what_the_repository_has(built):
    with tarfile.open(only(built, "*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()} - {"PKG-INFO"}
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if tracked.returncode:
        pytest.skip("this is not a clone with git")
    wanted = {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()}
    assert wanted <= names
    assert {name.partition("/")[0] for name in names - wanted} <= {name.partition("/")[0] for name in wanted}


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo(built, tmp_path):
    """In an environment of its own, which sees the dependencies of this one and not the checkout."""
    pytest.importorskip("pip")
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    here = Path(run(venv / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin/python")
    run(*pip, "install", "--no-deps", "--no-index", only(built, "*.whl"))
    (here / "dependencies.pth").write_text(str(Path(gpd.__file__).parents[1]))
    where = run(venv / "bin/python", "-c", "import geotile; print(geotile.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(venv)
    shown = run(venv / "bin/geotile", "demo", "--size", 1024, cwd=tmp_path)
    assert float(re.search(r"recall +([\d.]+)", shown)[1]) > 0.9
    assert len(gpd.read_parquet(tmp_path / "geotile-demo/detections.parquet")) > 10
    assert run(venv / "bin/geotile", "help", "results", cwd=tmp_path).startswith("# Read the result")
    assert geotile.__version__ in run(venv / "bin/geotile", "--version", cwd=tmp_path)
