"""The project's own rules: style, types, imports, docstrings, packaging."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import geotile

ROOT = Path(__file__).parents[1]


def run(*args):
    done = subprocess.run([sys.executable, "-m", *args], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff():
    run("ruff", "check", ".")
    run("ruff", "format", "--check", ".")


def test_hadolint():
    binary = Path(sys.executable).with_name("hadolint")
    if not binary.exists():
        pytest.skip("hadolint comes as a binary, for Linux on x86-64")
    done = subprocess.run([binary, ROOT / "deploy/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_typical_uses_have_their_types():
    run("mypy", "--strict", "tests/typical_uses.py")


def test_import_contracts():
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [n for n in geotile.__all__ if inspect.isfunction(getattr(geotile, n))])
def test_public_functions_have_whole_docstrings(name):
    from numpydoc.validate import validate

    ignored = {"SA01", "ES01", "EX01", "GL01", "GL02", "GL03", "SS06", "RT03", "RT02", "PR07", "PR08", "PR09", "RT05"}
    module = inspect.getmodule(getattr(geotile, name)).__name__
    found = [f"{code} {text}" for code, text in validate(f"{module}.{name}")["errors"] if code not in ignored]
    assert not found
    assert ">>>" in inspect.getdoc(getattr(geotile, name)) or name.startswith("plot_")


def test_environment_yml_is_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.split(r"[\[><= ]", d)[0]: d for d in project["dependencies"] + project["optional-dependencies"]["plot"]
    }
    lines = re.findall(r"^  - ([a-z0-9_-]+)(.*)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    listed = {name: name + version for name, version in lines if name not in ("python", "pip", "conda-forge")}
    other = {
        "dask-core": "dask",
        "matplotlib-base": "matplotlib",
        "prometheus_client": "prometheus-client",
        "lazy_loader": "lazy-loader",
    }
    assert {other.get(name, name) for name in listed} == set(wanted)
    for name, line in listed.items():
        key = other.get(name, name)
        assert line.split(">=")[1] == wanted[key].split(">=")[1]
    assert f"python{project['requires-python']}" in (ROOT / "environment.yml").read_text().replace(" ", "")


def test_types_are_shipped_and_versions_agree():
    assert (Path(geotile.__file__).parent / "py.typed").exists()
    assert f"## [{geotile.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_architecture_names_every_package():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in sorted((ROOT / "geotile").iterdir()):
        if (path / "__init__.py").exists():
            assert f"| `{path.name}/` |" in text
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"| `{path.name}` |" in text


@pytest.mark.parametrize(
    "path",
    [*(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "benchmarks/README.md")), *(ROOT / "docs").glob("*.md")],
    ids=lambda path: path.name,
)  # fmt: skip
def test_documents_name_files_that_exist(path):
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"`((?:geotile|tests|benchmarks|deploy|notebooks)/[\w./-]*)`", text)
    for link in links:
        assert (path.parent / link).exists(), link
    for place in named:
        assert (ROOT / place).exists(), place


def test_modules_import_alone():
    for path in sorted((ROOT / "geotile").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "geotile.__main__":
            importlib.import_module(name)


def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", text, re.MULTILINE)[1] == geotile.__version__


@pytest.mark.parametrize(
    ("schema", "path"),
    [("github-workflows", ".github/workflows/tests.yml"), ("citation-file-format", "CITATION.cff")],
)
def test_files_have_the_form_that_their_readers_expect(schema, path):
    run("check_jsonschema", "--builtin-schema", f"vendor.{schema}", path)


def test_the_workflow_runs_what_exists():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    said = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for path in re.findall(r"^\.ci/\w+", said, re.MULTILINE):
        assert os.access(ROOT / path, os.X_OK), path
    assert {".ci/run", ".ci/floors"} <= set(re.findall(r"^\.ci/\w+", said, re.MULTILINE))
    assert set(re.findall(r"\[(\w+)\]", said)) <= set(extras)
    assert jobs["newest"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert all("timeout-minutes" in job for job in jobs.values())


def test_the_hooks_before_a_commit_run():
    """Each is a command of the tools that the tests use; pre-commit itself only calls them."""
    yaml = pytest.importorskip("yaml")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert (Path(sys.executable).with_name(program)).exists(), program


def test_the_installation_page_has_each_extra():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/installation.md").read_text(), re.MULTILINE)
    assert extras - set(listed) == {"bench", "deploy", "docs"}  # of those who work on geotile
    assert len(listed) == len(set(listed) & extras)
