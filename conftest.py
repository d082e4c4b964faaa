"""Tests whose packages are not installed are skipped; ``pip install -e '.[test]'`` installs all of them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import pytest

_PACKAGES = {  # modules of the extra `test` that `dev` does not install
    "PIL", "atheris", "boto3", "build", "check_jsonschema", "dask_gateway", "folium", "google_crc32c", "hatchling",
    "kserve", "matplotlib", "moto", "nbclient", "nbformat", "numpydoc", "onnx", "onnxruntime", "pystac", "sarkit",
    "sphinx", "trustme", "twine",
}  # fmt: skip
_EXTRAS = {"demo": "matplotlib", "map": "folium", "onnx": "onnxruntime", "sar": "sarkit", "stac": "pystac"}
_MISSING = re.compile(r"No module named '?(\w+)|pip install 'geotile\[(\w+)\]'")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Skip the module that imports a package that is not installed."""
    report = yield
    return _skipped_if_missing(report, collector.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Skip the test that needs a package that is not installed."""
    report = yield
    return _skipped_if_missing(report, item.path)


def _skipped_if_missing(report: Any, path: Any) -> Any:
    if report.outcome == "failed":
        named = {module or _EXTRAS.get(extra, "") for module, extra in _MISSING.findall(str(report.longrepr))}
        for name in sorted(named & _PACKAGES):
            if find_spec(name) is None:
                report.outcome = "skipped"
                report.longrepr = (str(path), 0, f"needs {name}: pip install -e '.[test]'")
    return report
